"""What a run's files say: its settings, how it went, and whatever of it is missing or broken."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeGuard

from trainers.config import TrainConfig
from trainers.logs.shares import filled

_SHOWN_ELSEWHERE = ("model", "env", "run_dir", "resume", "overwrite", "updates", "track")


def read_lines(path: Path, broken: list[int]) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file, a line each; the numbers of other lines go to `broken`.

    A last line that breaks off is still being written, or never will be: it is left out and not counted.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:  # bytes, because U+2028 ends no line
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict) and is_number(row.get("update")):
                yield row
            elif line.endswith(b"\n") and line.strip():
                broken.append(number)


def is_number(value: object) -> TypeGuard[float]:
    """A finite number; True and False are none."""
    return type(value) in (int, float) and -1e300 < value < 1e300  # type: ignore[operator]


def read_run(run_dir: Path) -> dict[str, Any]:
    """All of a run but its trajectories, as JSON values for the page.

    Keys: `title`, `model`, `tasks` (names), `facts` (name, value), `settings` (name, value: those that are not the
    defaults), `references` (task -> solver -> return), `updates_wanted`, `updates` and `evaluations` (key -> column of
    numbers or null; the column `update` rises), `notes` (sentences).
    """
    broken: list[int] = []
    config = read_object(run_dir / "config.json")
    rows: dict[str, dict[int, dict[str, Any]]] = {"start": {}, "update": {}, "evaluation": {}}
    starts = []
    for row in read_lines(run_dir / "metrics.jsonl", broken):
        if row.get("kind") == "start":
            starts.append(row)
        elif row.get("kind") in rows:
            rows[row["kind"]][int(row["update"])] = row  # made again after a resume: the later one holds
    tasks, model = task_names(config), model_of(config)
    updates = _columns(rows["update"])
    notes = [] if not broken else [f"metrics.jsonl: {lines(broken)} could not be read"]
    return {
        "title": f"{model} on {', '.join(tasks) or 'an environment'}",
        "model": model,
        "facts": _facts(run_dir, starts, updates),
        "settings": settings_of(config, TrainConfig, shown_elsewhere=_SHOWN_ELSEWHERE),
        "references": _references(starts, tasks),
        "tasks": tasks,
        "updates_wanted": config["updates"] if is_number(config.get("updates")) else None,
        "updates": updates,
        "evaluations": _columns(rows["evaluation"]),
        "notes": notes,
    }


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; an empty one where there is none."""
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


def model_of(config: Mapping[str, Any]) -> str:
    """The model's name, without the folder that it is in."""
    return Path(str(config.get("model", "model"))).name or "model"


def task_names(config: Mapping[str, Any]) -> list[str]:
    """The names that metrics call the environments by, as `TaskOptions.tasks` gives them."""
    env = config.get("env", [])
    ids = [str(name) for name in env] if isinstance(env, list) else [str(env)]
    named = []
    for i, env_id in enumerate(ids):
        number = f"#{ids[: i + 1].count(env_id)}" if ids.count(env_id) > 1 else ""
        named.append(env_id.rpartition(":")[2] + number)
    return named


def settings_of(
    config: Mapping[str, Any], options: type[Any], *, shown_elsewhere: Sequence[str]
) -> list[tuple[str, str]]:
    """What was set otherwise than by default, in the order of `options`; then what this version does not know."""
    found = []
    known = {field.name: field.default for field in dataclasses.fields(options)}
    for name in [*known, *(name for name in config if name not in known)]:
        if name in shown_elsewhere or name not in config:
            continue
        value, default = config[name], known.get(name)
        if isinstance(value, list) and isinstance(default, tuple):
            default = list(default)
        if value != default and value not in ("{}", ["{}"]):
            found.append((name, value if isinstance(value, str) else json.dumps(value)))
    return found


def _references(starts: list[dict[str, Any]], tasks: list[str]) -> dict[str, dict[str, float]]:
    """Task -> solver -> expected return, of the latest start that says so."""
    found: dict[str, dict[str, float]] = {}
    for row in starts:
        given = row.get("references")
        for task, solvers in given.items() if isinstance(given, dict) else ():
            if isinstance(solvers, dict):
                found[str(task)] = {str(name): value for name, value in solvers.items() if is_number(value)}
    return {task: found[task] for task in [*tasks, *(t for t in found if t not in tasks)] if found.get(task)}


def _columns(rows: Mapping[int, Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Rows by update as columns: rounded to six digits, null where a row has no number."""
    order = sorted(rows)
    whole = filled([rows[number] for number in order])
    names = {name: None for row in whole for name, value in row.items() if is_number(value)}
    columns: dict[str, list[Any]] = {"update": order}
    for name in names:
        if name not in ("kind", "update", "time"):
            values = [row.get(name) for row in whole]
            columns[name] = [float(f"{value:.6g}") if is_number(value) else None for value in values]
    return columns


def _facts(run_dir: Path, starts: list[dict[str, Any]], updates: Mapping[str, list[Any]]) -> list[tuple[str, str]]:
    facts = [("run", run_dir.resolve().name)]
    commits = list(dict.fromkeys(str(row["commit"]) for row in starts if row.get("commit")))
    if commits:
        facts.append(("commit", ", ".join(commit[:12] for commit in commits)))
    if starts and starts[-1].get("device"):
        facts.append(("device", str(starts[-1]["device"])))
    began, ended = _when(run_dir, starts)
    if began:
        facts.append(("started", began))
    if ended:
        facts.append(("last written", ended))
    seconds = sum(filter(is_number, updates.get("seconds", [])))
    if seconds:
        facts.append(("time in updates", f"{seconds / 3600:.1f} h" if seconds >= 5400 else f"{seconds / 60:.1f} min"))
    if len(starts) > 1:
        facts.append(("resumed", f"{len(starts) - 1} times" if len(starts) > 2 else "once"))
    versions = starts[-1].get("versions") if starts else None
    if isinstance(versions, dict):
        facts.append(("versions", ", ".join(f"{name} {version}" for name, version in versions.items())))
    return facts


def _when(run_dir: Path, starts: list[dict[str, Any]]) -> tuple[str, str]:
    """When the run began, where it says so, and when its metrics were last written."""
    began = starts[0].get("time") if starts else None
    path = run_dir / "metrics.jsonl"
    return date(began), date(path.stat().st_mtime if path.is_file() else None)


def date(seconds: Any) -> str:
    """Seconds since 1970 as a date, in UTC so that a report reads the same everywhere."""
    if not is_number(seconds) or not 0 < seconds < 4e9:
        return ""
    return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%d %H:%M UTC")


def lines(numbers: list[int]) -> str:
    """Name a few lines of a file by their numbers."""
    if len(numbers) == 1:
        return f"line {numbers[0]}"
    shown = ", ".join(map(str, numbers[:5]))
    return f"{len(numbers)} lines ({shown}{', …' if len(numbers) > 5 else ''})"
