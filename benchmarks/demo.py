"""Does the demo reach its bar? Mean greedy return over all 100 numbers, and the time it took, for several seeds.

python -m benchmarks.demo --seeds 0 1 2

Runs the recipe once a seed, one after the other, as a user would, and appends a row each to `results/demo.csv`. The
seconds are the recipe's own: reading, training and its evaluations. Run it on a quiet machine.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.results import append_row

BAR = 5.0
BAR_SECONDS = 300.0


@dataclass(frozen=True)
class Config:
    """Options of the benchmark."""

    seeds: tuple[int, ...] = (0, 1, 2)


def main(config: Config) -> None:
    """Run every seed and print a table."""
    for seed in config.seeds:
        with tempfile.TemporaryDirectory() as folder:
            run_dir = Path(folder) / "run"
            command = [sys.executable, "-m", "trainers.recipes.guess_number", "--updates", "80", "--seed", str(seed)]
            started = time.perf_counter()
            subprocess.run([*command, "--run-dir", str(run_dir)], check=True, stdout=subprocess.DEVNULL)
            whole = time.perf_counter() - started
            summary = json.loads((run_dir / "summary.json").read_text())
        row = {
            "seed": seed,
            "greedy_return": round(summary["greedy_return"], 3),
            "optimal_return": round(summary["optimal"], 3),
            "reading_seconds": round(summary["reading_seconds"], 1),
            "seconds": round(summary["seconds"], 1),
            "process_seconds": round(whole, 1),
            "within_bar": summary["greedy_return"] >= BAR and summary["seconds"] <= BAR_SECONDS,
        }
        append_row("demo", row)
        print(row, flush=True)


if __name__ == "__main__":
    main(tyro.cli(Config, description="Does the demo reach its bar?"))
