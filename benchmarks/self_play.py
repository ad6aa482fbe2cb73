"""Does self-play collapse, and what keeps it from it? Tic-tac-toe, a tiny model, two ways.

python -m benchmarks.self_play --seed 0

- `pure`: from random weights, both seats the policy, one mean a seat as the baseline, nothing else.
- `recipe`: what the recipe does: a warm start, baselines by position, a cost of leaving the base model, and a pool of
  opponents.

Appends every update to `results/self_play.csv` and draws `docs/self_play.png`: the share of episodes that end with an
illegal or unreadable move, and the greedy return against the random player.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.results import FOLDER, append_row

WAYS = {
    "pure": ("--read-steps", "0", "--opponents", '{"self": 1}', "--credit", "trajectory", "--kl-coef", "0",
             "--opening-moves", "0", "0"),
    "recipe": (),
}  # fmt: skip
_NAME = "self_play"
_PICTURE = FOLDER.parents[1] / "docs" / f"{_NAME}.png"


@dataclass(frozen=True)
class Config:
    """Options of the benchmark."""

    ways: tuple[str, ...] = tuple(WAYS)
    """Which to train: pure, recipe."""
    seed: int = 0
    updates: int = 600
    draw_only: bool = False
    """Draw what was measured before."""


def main(config: Config) -> None:
    """Train both ways, write and draw."""
    if not config.draw_only:
        for way in config.ways:
            print(f"{way}: begun", flush=True)
            with tempfile.TemporaryDirectory() as folder:
                run_dir = Path(folder) / "run"
                command = [sys.executable, "-m", "trainers.recipes.tic_tac_toe", "--run-dir", str(run_dir)]
                options = ["--seed", str(config.seed), "--updates", str(config.updates), "--eval-games", "10"]
                subprocess.run([*command, *options, *WAYS[way]], check=True, stdout=subprocess.DEVNULL)
                record(way, config.seed, run_dir / "metrics.jsonl")
    draw(FOLDER / f"{_NAME}.csv", _PICTURE)
    print(f"Curves: {_PICTURE}")


def record(way: str, seed: int, metrics: Path, *, folder: Path = FOLDER) -> None:
    """Write down a run's curves."""
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    greedy = {row["update"]: row["return_mean"] for row in rows if row["kind"] == "evaluation"}
    for row in rows:
        if row["kind"] == "update":
            point = {
                "way": way,
                "seed": seed,
                "update": row["update"],
                "illegal_share": row.get("verdict_illegal", 0.0) + row.get("verdict_unparsed", 0.0),
                "entropy": row["entropy"],
                "greedy_return_against_random": greedy.get(row["update"], ""),
            }
            append_row(_NAME, point, folder=folder)


def draw(table: Path, picture: Path) -> None:
    """Two panels, a line for each way."""
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    figure = Figure(figsize=(9, 3.6), dpi=140, layout="constrained")
    illegal, greedy = figure.subplots(1, 2)
    for way, color in zip(WAYS, ("tab:red", "tab:blue"), strict=True):
        mine = [row for row in rows if row["way"] == way]
        updates = [int(row["update"]) for row in mine]
        illegal.plot(updates, [float(row["illegal_share"]) for row in mine], color=color, label=way)
        points = [(int(r["update"]), float(r["greedy_return_against_random"])) for r in mine
                  if r["greedy_return_against_random"]]  # fmt: skip
        greedy.plot(*zip(*points, strict=True), "o-", markersize=3, color=color, label=way)
    illegal.set(title="episodes that end with an illegal move", xlabel="update", ylim=(-0.02, 1.02))
    greedy.set(title="greedy return against the random player", xlabel="update", ylim=(-1.05, 1.05))
    for axes in (illegal, greedy):
        axes.spines[["top", "right"]].set_visible(False)
    illegal.legend(frameon=False)
    figure.savefig(picture)


if __name__ == "__main__":
    main(tyro.cli(Config, description="Does self-play collapse, and what keeps it from it?"))
