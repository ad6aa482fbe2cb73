"""GuessNumber: a tiny language model of random weights learns to halve the range, on a laptop's CPU, in minutes.

python -m trainers.recipes.guess_number                 # the preset cpu; `make demo` is a shorter one
python -m trainers.recipes.guess_number --preset gpu    # Qwen3-4B-Instruct, or --model NAME

The tiny model first reads transcripts of a careless player, who guesses anywhere inside the range still possible. Then
its weights are frozen and LoRA policy gradient takes over: nothing but the reward tells it to halve the range.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym

from trainers.config import TrainConfig
from trainers.recipes.cli import python_command, run_recipe
from trainers.recipes.games import (
    GameOptions,
    choose_run_dir,
    in_words,
    list_files,
    read_and_train,
    read_transcripts,
    save_result,
    shared_settings,
    show_games,
    time_taken,
)

if TYPE_CHECKING:
    from trainers.train import Run

ENV = "llm_envs:GuessNumber-v0"
PLAYER = "careless"
SHOWN_SECRET = 68
UPDATES = {"cpu": 150, "gpu": 60}


@dataclass(frozen=True, kw_only=True)
class Config(GameOptions):
    """Options of the recipe."""

    read_steps: int = 1500
    """Steps of reading (cpu)."""
    read_batch: int = 64
    """Games a step (cpu)."""


def main(config: Config) -> None:
    """Read, train, and show what was learned."""
    run_dir = choose_run_dir("guess_number", config)
    run, seconds = read_and_train(
        config, _settings(config, run_dir), partial(_read, config, run_dir), references=(PLAYER, "optimal")
    )
    env: Any = gym.make(ENV).unwrapped
    show_games(
        run,
        SHOWN_SECRET - env.low,
        title=f"One game {{when}} policy gradient (the number is {SHOWN_SECRET}):",
        line="  {action:>8}  {reply}",
    )
    _show_result(run, seconds, config)


def _settings(config: Config, run_dir: Path) -> TrainConfig:
    shared = shared_settings(config, run_dir, env=ENV, updates=UPDATES)
    common = dataclasses.replace(shared, credit="turn", eval_size=100)
    if config.preset == "gpu":
        return dataclasses.replace(common, max_tokens=64)
    return dataclasses.replace(
        common,
        groups_per_batch=64,
        max_tokens=4,
        # A guess outside the range is nearly always the tail of a distribution that is right elsewhere: a lower
        # temperature samples fewer of them, so that what the reward says of the good guesses is less drowned.
        temperature=0.4,
        learning_rate=3e-3,
        max_rows=1024,
    )


def _read(config: Config, run_dir: Path) -> None:
    from trainers.reading import play
    from trainers.rendering import Renderer
    from trainers.tiny_model import build_tiny_model

    env = gym.make(ENV)
    known: Any = env.unwrapped

    def transcripts(renderer: Renderer, step: int) -> list[Any]:
        first = config.seed * 10_000_000 + step * config.read_batch
        player = known.solver(PLAYER, seed=first)
        return [play(env, player, renderer, seed=first + i) for i in range(config.read_batch)]

    read_transcripts(
        run_dir,
        lambda: build_tiny_model(known.vocabulary(), seed=config.seed),
        transcripts,
        steps=config.read_steps,
        title=f"A model of {{size}} random weights reads games of the {PLAYER} player.",
    )


def _show_result(run: Run, seconds: dict[str, float], config: Config) -> None:
    """Write the curve and a summary; say where everything is and what to try next."""
    result, references = run.log.evaluations[-1][1], run.log.references
    title = f"GuessNumber-v0: policy gradient on {config.learner}"
    save_result(run, {"greedy_return": result, **references, **seconds}, title=title)
    print(
        f"\nGreedy return over all 100 numbers: {result:.2f}; the optimum is {references['optimal']:.2f}. "
        f"{time_taken(seconds)}"
    )
    list_files(run.config.run_dir)
    print(
        "\nNext, a real model on real problems:\n"
        f"  {python_command()} -m trainers.recipes.rl_basic "
        "--model HuggingFaceTB/SmolLM2-135M-Instruct --env llm_envs:GSM8K-v0"
    )


if __name__ == "__main__":
    run_recipe(Config, main, description=f"A model learns to guess a number; {in_words(UPDATES)}.")
