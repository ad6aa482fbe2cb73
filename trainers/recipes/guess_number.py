"""GuessNumber: a tiny language model of random weights learns to halve the range, on a laptop's CPU, in minutes.

python -m trainers.recipes.guess_number                 # the preset cpu; `make demo` is a shorter one
python -m trainers.recipes.guess_number --preset gpu    # Qwen3-4B-Instruct, or --model NAME

The tiny model first reads transcripts of a careless player, who guesses anywhere inside the range still possible. Then
its weights are frozen and LoRA policy gradient takes over: nothing but the reward tells it to halve the range.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym

from trainers.config import TrainConfig
from trainers.recipes.cli import python_command, run_recipe
from trainers.recipes.warm_start import choose_run_dir, read_transcripts

ENV = "llm_envs:GuessNumber-v0"
PLAYER = "careless"
SHOWN_SECRET = 68
UPDATES = {"cpu": 150, "gpu": 60}


@dataclass(frozen=True)
class Config:
    """Options of the recipe."""

    preset: Literal["cpu", "gpu"] = "cpu"
    """cpu: a tiny model that is made here; gpu: a real one."""
    model: str = "Qwen/Qwen3-4B-Instruct-2507"
    """Of the preset gpu: a hub id or a transformers folder."""
    run_dir: Path | None = None
    """Where everything goes; default: a new folder under runs/."""
    read_steps: int = 1500
    """Steps of reading (cpu)."""
    read_batch: int = 64
    """Transcripts a step (cpu)."""
    updates: int | None = None
    """Updates of policy gradient; default: 150 on the CPU, 60 on the GPU."""
    seed: int = 0
    """Of the model's weights, the transcripts, and training."""
    device: str = "auto"
    """Of the policy gradient: auto, cpu or cuda."""
    resume: bool = False
    """Go on with the run in run_dir."""


def main(config: Config) -> None:
    """Read, train, and show what was learned."""
    from trainers.run_log import RunLog
    from trainers.train import train

    started = time.perf_counter()
    run_dir = choose_run_dir("guess_number", config.run_dir, resume=config.resume)
    train_config = _cpu(config, run_dir) if config.preset == "cpu" else _gpu(config, run_dir)
    train_config.validate()
    if config.preset == "cpu":
        _read(config, run_dir)
    reading_seconds = time.perf_counter() - started
    log = RunLog(train_config, references=(PLAYER, "optimal"), chart=True)
    run = train(train_config, log=log)
    seconds = time.perf_counter() - started
    _show_games(run)
    _show_result(run, {"reading_seconds": reading_seconds, "seconds": seconds}, config)


def _cpu(config: Config, run_dir: Path) -> TrainConfig:
    return TrainConfig(
        model=str(run_dir / "base"),
        env=ENV,
        run_dir=run_dir,
        updates=UPDATES["cpu"] if config.updates is None else config.updates,
        groups_per_batch=64,
        group_size=16,
        credit="turn",
        max_tokens=4,
        # A guess outside the range is nearly always the tail of a distribution that is right elsewhere: a lower
        # temperature samples fewer of them, so that what the reward says of the good guesses is less drowned.
        temperature=0.4,
        learning_rate=3e-3,
        warmup_updates=8,
        schedule="linear",
        eval_every=10,
        eval_size=100,
        save_every=10,
        seed=config.seed,
        device=config.device,
        attention="eager",
        tokens_per_microbatch=2048,
        max_rows=1024,
        resume=config.resume,
    )


def _gpu(config: Config, run_dir: Path) -> TrainConfig:
    return TrainConfig(
        model=config.model,
        env=ENV,
        run_dir=run_dir,
        updates=UPDATES["gpu"] if config.updates is None else config.updates,
        groups_per_batch=32,
        group_size=16,
        credit="turn",
        max_tokens=64,
        learning_rate=4e-5,
        warmup_updates=3,
        eval_every=10,
        eval_size=100,
        save_every=10,
        seed=config.seed,
        device=config.device,
        resume=config.resume,
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


def _show_games(run: Any) -> None:
    """One game before policy gradient and one after."""
    with run.policy.model.disable_adapter():
        before = _game(run)
    for title, trajectory in (("before", before), ("after", _game(run))):
        print(f"\nOne game {title} policy gradient (the number is {SHOWN_SECRET}):")
        for turn, reply in zip(trajectory.turns, trajectory.observations[1:], strict=True):
            print(f"  {turn.action:>8}  {reply}")
        print(f"  return {trajectory.total_reward:g}")


def _show_result(run: Any, seconds: dict[str, float], config: Config) -> None:
    """Write the curve and a summary; say where everything is and what to try next."""
    from trainers.charts import save_curve

    run_dir: Path = run.config.run_dir
    result = run.log.evaluations[-1][1]
    summary = {"seed": run.config.seed, "greedy_return": result, **run.log.references, **seconds}
    (run_dir / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    title = f"GuessNumber-v0: policy gradient on {'a tiny model' if config.preset == 'cpu' else config.model}"
    save_curve(run_dir / "curve.png", run.log.returns, run.log.evaluations, run.log.references, title=title)
    print(
        f"\nGreedy return over all 100 numbers: {result:.2f}; the optimum is {run.log.references['optimal']:.2f}. "
        f"It took {seconds['seconds']:.0f} s, {seconds['reading_seconds']:.0f} of them for reading transcripts."
    )
    files = {"curve": "curve.png", "adapter": "adapter", "metrics": "metrics.jsonl", "episodes": "episodes.jsonl"}
    for what, name in (files | ({"base model": "base"} if config.preset == "cpu" else {})).items():
        print(f"  {what:<11}{run_dir / name}")
    print(
        "\nNext, a real model on real problems:\n"
        f"  {python_command()} -m trainers.recipes.rl_basic "
        "--model HuggingFaceTB/SmolLM2-135M-Instruct --env llm_envs:GSM8K-v0"
    )


def _game(run: Any) -> Any:
    from trainers.evaluate import play_greedily

    low = run.eval_pool.take(1)[0].unwrapped.low
    [trajectory] = play_greedily(
        run.eval_pool, run.sampler, run.renderer, options=[{"index": SHOWN_SECRET - low}], settings=run.settings
    )
    return trajectory


if __name__ == "__main__":
    run_recipe(Config, main, description="A model learns to guess a number.")
