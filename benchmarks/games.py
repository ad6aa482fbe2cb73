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
_SMOOTHED = 10
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
    curves = FOLDER / "games_curves.csv"
    if not curves.exists():
        raise SystemExit(f"nothing was measured yet: there is no {curves}")
    draw(curves, FOLDER / "games.csv", _PICTURE)
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
    reached, meets = judge(summary, scores)
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


def judge(summary: Mapping[str, Any], scores: Sequence[Mapping[str, Any]]) -> tuple[str, bool]:
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
    """One panel a recipe, one colour a seed: the newest run of each."""
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    rows, reached = list(_rows(curves)), {(row["recipe"], row["seed"]): row for row in _rows(runs)}
    recipes = [recipe for recipe in RECIPES if any(row["recipe"] == recipe for row in rows)]
    seeds = sorted({row["seed"] for row in rows}, key=int)
    figure = Figure(figsize=(4.4 * len(recipes), 3.9), dpi=140, layout="constrained")
    panels = figure.subplots(1, len(recipes), squeeze=False)[0]
    for axes, recipe in zip(panels, recipes, strict=True):
        for number, seed in enumerate(seeds):
            points = last_run([row for row in rows if (row["recipe"], row["seed"]) == (recipe, seed)])
            if points:
                _draw_run(axes, points, float(reached[recipe, seed]["untrained"]), color=f"C{number}")
        _draw_references(axes, recipe)
        axes.set(title=recipe, xlabel="update", ylabel="mean return" if axes is panels[0] else "")
        axes.spines[["top", "right"]].set_visible(False)
    for number, seed in enumerate(seeds):
        panels[0].plot([], [], "o-", color=f"C{number}", markersize=3, label=f"seed {seed}")
    title = f"points: greedy evaluation; pale: sampled episodes, mean of {_SMOOTHED} updates"
    if "tic_tac_toe" in recipes:
        title += "; tic_tac_toe: points against the random player, pale against the whole pool"
    figure.legend(
        loc="outside lower center", ncols=len(seeds), frameon=False, fontsize=8, title=title, title_fontsize=8
    )
    figure.savefig(picture)


def last_run(rows: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """The newest of one recipe's runs with one seed: a run's rows stand together, and its updates only ever rise."""
    begun = [number for number in range(1, len(rows)) if _update(rows[number]) <= _update(rows[number - 1])]
    return list(rows[max(begun, default=0) :])


def _update(row: Mapping[str, str]) -> int:
    return int(row["update"])


def _draw_run(axes: Any, points: Sequence[Mapping[str, str]], untrained: float, *, color: str) -> None:
    sampled = [float(row["sampled"]) for row in points]
    windows = [sampled[max(0, end - _SMOOTHED) : end] for end in range(1, len(sampled) + 1)]
    means = [sum(window) / len(window) for window in windows]
    axes.plot([_update(row) for row in points], means, color=color, linewidth=0.9, alpha=0.45)
    greedy = [(0, untrained)] + [(_update(row), float(row["greedy"])) for row in points if row["greedy"]]
    axes.plot(*zip(*greedy, strict=True), "o-", color=color, linewidth=1.1, markersize=2.5)


def _draw_references(axes: Any, recipe: str) -> None:
    """Lines to compare with; their names stand beside the panel, where they hide nothing."""
    for name, value in _references(recipe).items():
        axes.axhline(value, color="0.35", linestyle="--", linewidth=0.8)
        axes.annotate(
            f"{name}\n{value:.2f}", (1.01, value), xycoords=("axes fraction", "data"), va="center", fontsize=7,
            color="0.35",
        )  # fmt: skip


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
