"""What do the games' recipes reach on a CPU? Every recipe with its preset for CPUs, several seeds.

python -m benchmarks.games --seeds 0 1 2            # one run after the other
python -m benchmarks.games --seeds 0 1 2 --jobs 2   # two at once, each held to a core of its own

Appends a row a run to `results/games.csv`, its curve to `results/games_curves.csv` and tic-tac-toe's table to
`results/tic_tac_toe.csv`, and draws all curves into `docs/games.png`. The seconds are the recipe's own: making and
warming up the model, training and evaluations.

The bars: within 15 minutes; GuessNumber 98 % of the optimal return; TwentyQuestions 60 % of the greedy player's;
TicTacToe no illegal move in any game, no loss to the optimal player as first mover, 85 % wins against the random one.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import tyro

from benchmarks.results import FOLDER, append_row

RECIPES = ("guess_number", "tic_tac_toe", "twenty_questions")
BAR_SECONDS = 900.0
_WHOLE = ("optimal", 0.98), ("greedy", 0.6)
_PICTURE = FOLDER.parents[1] / "docs" / "games.png"


@dataclass(frozen=True)
class Config:
    """Options of the benchmark."""

    recipes: tuple[str, ...] = RECIPES
    seeds: tuple[int, ...] = (0, 1, 2)
    jobs: int = 1
    """Runs at a time; more than one: each gets one core to itself."""
    keep: Path | None = None
    """Keep the runs' folders here."""
    draw_only: bool = False
    """Draw what was measured before."""


def main(config: Config) -> None:
    """Run, write and print everything."""
    if not config.draw_only:
        with tempfile.TemporaryDirectory() as folder:
            _run_all(config, config.keep or Path(folder))
    draw(FOLDER / "games_curves.csv", FOLDER / "games.csv", _PICTURE)
    print(f"Curves: {_PICTURE}")


def _run_all(config: Config, folder: Path) -> None:
    cores: SimpleQueue[int | None] = SimpleQueue()
    for core in sorted(os.sched_getaffinity(0))[: config.jobs] if config.jobs > 1 else [None]:
        cores.put(core)

    def job(task: tuple[str, int]) -> tuple[str, Path]:
        core = cores.get()
        try:
            return task[0], _run(*task, folder, core)
        finally:
            cores.put(core)

    tasks = [(recipe, seed) for recipe in config.recipes for seed in config.seeds]
    with ThreadPoolExecutor(cores.qsize()) as pool:
        for recipe, run_dir in pool.map(job, tasks):
            row = record(recipe, run_dir, cores=1 if config.jobs > 1 else len(os.sched_getaffinity(0)))
            print(row, flush=True)


def _run(recipe: str, seed: int, folder: Path, core: int | None) -> Path:
    run_dir = folder / f"{recipe}-{seed}"
    command = [sys.executable, "-m", f"trainers.recipes.{recipe}", "--seed", str(seed), "--run-dir", str(run_dir)]
    print(f"{recipe}, seed {seed}: begun", flush=True)
    env = os.environ if core is None else {**os.environ, "OMP_NUM_THREADS": "1"}
    bound = [] if core is None else ["taskset", "-c", str(core)]
    done = subprocess.run([*bound, *command], env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return run_dir


def record(recipe: str, run_dir: Path, *, cores: int, folder: Path = FOLDER) -> dict[str, object]:
    """Write down what a run reached; the row of `games.csv`."""
    summary = json.loads((run_dir / "summary.json").read_text())
    metrics = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    greedy = {row["update"]: row["return_mean"] for row in metrics if row["kind"] == "evaluation"}
    for row in metrics:
        if row["kind"] == "update":
            point = {"recipe": recipe, "seed": summary["seed"], "update": row["update"]}
            greedy_return = greedy.get(row["update"], "")
            append_row("games_curves", {**point, "sampled": row["return_mean"], "greedy": greedy_return}, folder=folder)
    scores = summary.get("scores", [])
    for score in scores:
        append_row("tic_tac_toe", {"seed": summary["seed"], **score}, folder=folder)
    reached, meets = _verdict(summary, scores)
    row = {
        "recipe": recipe,
        "seed": summary["seed"],
        "cores": cores,
        "untrained": round(greedy[0], 3),
        "greedy_return": round(greedy[max(greedy)], 3),
        "reached": reached,
        "seconds": round(summary["seconds"], 1),
        "within_bar": meets and summary["seconds"] <= BAR_SECONDS,
    }
    append_row("games", row, folder=folder)
    return row


def _verdict(summary: Mapping[str, Any], scores: Sequence[Mapping[str, Any]]) -> tuple[str, bool]:
    """What is compared with the bar, in words, and whether it is met."""
    if not scores:
        reference, bar = next((name, bar) for name, bar in _WHOLE if name in summary)
        share = summary["greedy_return"] / summary[reference]
        return f"{share:.1%} of {reference}", share >= bar
    games, illegal = sum(score["games"] for score in scores), sum(score["illegal"] for score in scores)
    [lost] = [s["lost"] for s in scores if (s["opponent"], s["seat"]) == ("optimal", "first")]
    random = [score for score in scores if score["opponent"] == "random"]
    won = sum(score["won"] for score in random) / sum(score["games"] for score in random)
    text = f"{illegal} of {games} illegal, {lost} lost to optimal as first, {won:.1%} won against random"
    return text, illegal == 0 and lost == 0 and won >= 0.85


# --- The picture ---


def draw(curves: Path, runs: Path, picture: Path) -> None:
    """One panel a recipe, one line a seed: the return of sampled episodes, and points for the greedy evaluations."""
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    rows, last = list(_rows(curves)), {(row["recipe"], row["seed"]): row for row in _rows(runs)}
    recipes = [recipe for recipe in RECIPES if any(row["recipe"] == recipe for row in rows)]
    figure = Figure(figsize=(4.2 * len(recipes), 3.6), dpi=140, layout="constrained")
    for number, recipe in enumerate(recipes):
        axes = figure.add_subplot(1, len(recipes), number + 1)
        for color, seed in zip(("tab:blue", "tab:orange", "tab:green"), "012", strict=False):
            points = [row for row in rows if (row["recipe"], row["seed"]) == (recipe, seed)]
            if not points:
                continue
            points = [row for row in points if row["commit"] == last[recipe, seed]["commit"]]
            updates = [int(row["update"]) for row in points]
            axes.plot(updates, [float(row["sampled"]) for row in points], color=color, linewidth=0.8, alpha=0.5)
            greedy = [(int(row["update"]), float(row["greedy"])) for row in points if row["greedy"]]
            greedy.insert(0, (0, float(last[recipe, seed]["untrained"])))
            axes.plot(*zip(*greedy, strict=True), "o-", color=color, markersize=3, label=f"seed {seed}")
        for name, value in _references(recipe).items():
            axes.axhline(value, color="0.35", linestyle="--", linewidth=0.8)
            axes.annotate(
                f"{name} {value:.2f}", (0.99, value), xycoords=("axes fraction", "data"), ha="right", va="bottom",
                fontsize=7, color="0.35",
            )  # fmt: skip
        axes.set(title=recipe, xlabel="update", ylabel="mean return" if number == 0 else "")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=7, loc="lower right")
    figure.savefig(picture)


def _references(recipe: str) -> dict[str, float]:
    import gymnasium as gym

    env_id, names = {
        "guess_number": ("GuessNumber-v0", ("careless", "optimal")),
        "tic_tac_toe": ("TicTacToe-v0", ("random", "best_response")),
        "twenty_questions": ("TwentyQuestions-v0", ("random", "greedy")),
    }[recipe]
    env: Any = gym.make(f"llm_envs:{env_id}").unwrapped
    return {name: env.solver_return(name) for name in names}


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


if __name__ == "__main__":
    main(tyro.cli(Config, description="What do the games' recipes reach on a CPU?"))
