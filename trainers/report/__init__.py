"""A run as one page: `report.html` holds its curves and everything that was said, and needs nothing but a browser."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import html
import json
import os
import re
from importlib import resources
from pathlib import Path
from typing import Any

from trainers.config.errors import ConfigError
from trainers.report.evaluations import is_evaluation, read_evaluation
from trainers.report.groups import pack_groups
from trainers.report.reading import read_run

__all__ = ["write_report"]

MAX_BYTES = 32_000_000
"""Most bytes of trajectories in a page. Of a longer run groups are left out, evenly."""

_SCRIPTS = (
    "data.js",
    "charts.js",
    "curves.js",
    "tables.js",
    "tokens.js",
    "cards.js",
    "filters.js",
    "browser.js",
    "main.js",
)


def write_report(run_dir: Path, out: Path | None = None, *, max_bytes: int = MAX_BYTES) -> Path:
    """Write the report of a run or an evaluation, finished or still under way, and return where it is.

    Reads `config.json`, `metrics.jsonl` (of an evaluation `summary.json`) and `episodes.jsonl`; whatever of them is
    missing or half-written is missing in the page. What models said is never interpreted: it stands in the page as
    base64 of compressed JSON, a block for each group, which the page decodes when the group is looked at and shows as
    text only. The page's content security policy allows its own script alone, and no network.

    Args:
        run_dir: the run's folder, or the evaluation's.
        out: the file to write; None: `report.html` in the run's folder.
        max_bytes: most bytes of trajectories, as they stand in the page.

    Raises:
        ConfigError: if the folder holds no run, or the report cannot be written.
    """
    if not any((run_dir / name).is_file() for name in ("metrics.jsonl", "config.json")):
        raise ConfigError(f"{run_dir} holds no run: there is no metrics.jsonl")
    run = read_evaluation(run_dir) if is_evaluation(run_dir) else read_run(run_dir)
    index, blocks, notes = pack_groups(run_dir / "episodes.jsonl", max_bytes=max_bytes, encode=_encoded)
    run["groups"] = index
    run["notes"] += notes
    out = run_dir / "report.html" if out is None else out
    if out.is_dir():
        raise ConfigError(f"{out} is a folder: name a file for the report")
    partial = out.with_name(f"{out.name}.{os.getpid()}.partial")
    try:
        partial.write_text(_page(run, blocks), encoding="utf-8")
        partial.replace(out)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):  # it may be the folder that is not there
            partial.unlink(missing_ok=True)
    return out


def _page(run: dict[str, Any], blocks: list[str]) -> str:
    script = '"use strict";\n(() => {\n' + "\n".join(map(_asset, _SCRIPTS)) + "})();\n"
    style = _asset("page.css")
    data = "\n".join(
        f'<script type="text/plain" id="{name}">{text}</script>'
        for name, text in [("run", _encoded(run)), *((f"group-{i}", block) for i, block in enumerate(blocks))]
    )
    parts = {
        "title": html.escape(_without_surrogates(run["title"])),
        "script-hash": _hash(script),
        "style-hash": _hash(style),
        "style": style,
        "data": data,
        "script": script,
    }
    # All at once: a model may be named like one of them.
    return re.sub(r"%%([a-z-]+)%%", lambda found: parts[found[1]], _asset("page.html"))


def _without_surrogates(text: str) -> str:
    """What UTF-8 cannot write becomes a replacement character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _asset(name: str) -> str:
    return resources.files(__name__).joinpath(name).read_text(encoding="utf-8")


def _encoded(value: Any) -> str:
    """JSON, compressed, as base64. ASCII throughout, so that a lone surrogate is no trouble."""
    packed = gzip.compress(json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii"), 6, mtime=0)
    return base64.b64encode(packed).decode("ascii")


def _hash(text: str) -> str:
    """What a content security policy calls an inline script or style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
