"""Where measurements are kept: CSV files with the commit, the device and the date of every row."""

from __future__ import annotations

import csv
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

FOLDER = Path(__file__).parent / "results"


def append_row(name: str, row: Mapping[str, object], *, folder: Path = FOLDER) -> None:
    """Append a measurement to `results/NAME.csv`.

    Raises:
        ValueError: when the file has other columns: results of different questions do not mix.
    """
    full = {"date": datetime.now(UTC).strftime("%Y-%m-%d"), "commit": commit(), "device": device(), **row}
    path = folder / f"{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            header = next(csv.reader(file))
        if header != list(full):
            raise ValueError(f"{path} has the columns {header}, not {list(full)}")
    is_new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(full), lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(full)


def commit() -> str:
    """The checked-out commit, with a + where files differ from it; `unknown` outside a checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        found = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no", "--", ":!results"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip() + ("+" if changed.stdout.strip() else "")


def device() -> str:
    """The GPU if torch sees one, else the processor and how many cores there are."""
    try:
        import torch

        if torch.cuda.is_available():
            return torch.cuda.get_device_name()
    except ImportError:
        pass
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    return f"{model}, {os.cpu_count()} cores"
