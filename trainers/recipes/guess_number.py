"""The demo: a tiny language model of random weights learns to play GuessNumber on a laptop's CPU, in minutes.

python -m trainers.recipes.guess_number

First it reads transcripts of a careless player, who guesses anywhere inside the range still possible. Then its weights
are frozen and LoRA policy gradient takes over: nothing but the reward tells it to halve the range.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym

from trainers.config import ConfigError, Interrupted, TrainConfig
from trainers.recipes.cli import python_command, run_recipe

ENV = "llm_envs:GuessNumber-v0"
PLAYER = "careless"
SHOWN_SECRET = 68


@dataclass(frozen=True)
class Config:
    """Options of the demo."""

    run_dir: Path | None = None
    """Where everything goes; default: a new folder under runs/."""
    read_steps: int = 1500
    """Steps of reading."""
    read_batch: int = 64
    """Transcripts a step."""
    updates: int = 80
    """Updates of policy gradient."""
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
    run_dir = _run_dir(config)
    base = run_dir / "base"
    train_config = TrainConfig(
        model=str(base),
        env=ENV,
        run_dir=run_dir,
        updates=config.updates,
        groups_per_batch=64,
        group_size=16,
        baseline="turn",
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
    train_config.validate()
    if not (base / "config.json").exists():
        _read_transcripts(config, run_dir, base)
    reading_seconds = time.perf_counter() - started
    log = RunLog(train_config, references=(PLAYER, "optimal"), chart=True)
    run = train(train_config, log=log)
    seconds = time.perf_counter() - started
    _show_games(run)
    _show_result(run, {"reading_seconds": reading_seconds, "seconds": seconds})


def _run_dir(config: Config) -> Path:
    if config.run_dir is not None:
        if config.run_dir.exists() and any(config.run_dir.iterdir()) and not config.resume:
            raise ConfigError(f"{config.run_dir} is not empty: add --resume to go on with it, or name another")
        return config.run_dir
    if config.resume:
        raise ConfigError("--resume needs --run-dir")
    return Path("runs") / f"guess_number-{time.strftime('%Y%m%d-%H%M%S')}"


def _read_transcripts(config: Config, run_dir: Path, base: Path) -> None:
    """Train a fresh model on the careless player's games and save it as an ordinary transformers folder."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from trainers.policy import choose_device, choose_dtype
    from trainers.reading import Reader, play
    from trainers.rendering import Renderer
    from trainers.tiny_model import build_tiny_model, save_model

    env = gym.make(ENV)
    known: Any = env.unwrapped
    model, tokenizer = build_tiny_model(known.vocabulary(), seed=config.seed)
    model.set_attn_implementation("eager")
    dtype = choose_dtype("auto", choose_device("cpu"))
    for parameter in model.parameters():  # the weights alone: rotary frequencies stay exact, as in a loaded model
        parameter.data = parameter.data.to(dtype)
    renderer = Renderer(tokenizer)

    def transcripts(step: int) -> list[Any]:
        first = config.seed * 10_000_000 + step * config.read_batch
        player = known.solver(PLAYER, seed=first)
        return [play(env, player, renderer, seed=first + i) for i in range(config.read_batch)]

    reader = Reader(model, transcripts, steps=config.read_steps, learning_rate=2e-3)
    run_dir.mkdir(parents=True, exist_ok=True)
    stopped_reading = run_dir / "reading.pt"
    if stopped_reading.exists():
        reader.restore(stopped_reading)
    print(f"A model of {model.num_parameters():,} random weights reads games of the {PLAYER} player.")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    try:
        with Progress(*columns) as progress:
            task = progress.add_task("reading", total=config.read_steps, completed=reader.steps_done)
            while reader.steps_done < config.read_steps:
                loss = reader.step()
                progress.update(task, completed=reader.steps_done, description=f"reading, loss {loss:.2f}")
    except KeyboardInterrupt:
        reader.save(stopped_reading)
        save_model(model, tokenizer, run_dir / "base_interrupted")
        print(f"Interrupted after {reader.steps_done} steps of reading. Model so far: {run_dir / 'base_interrupted'}")
        raise Interrupted(run_dir) from None
    save_model(model, tokenizer, run_dir / "base_partial")
    (run_dir / "base_partial").rename(base)
    stopped_reading.unlink(missing_ok=True)


def _show_games(run: Any) -> None:
    """One game before policy gradient and one after."""
    with run.policy.model.disable_adapter():
        before = _game(run)
    for title, trajectory in (("before", before), ("after", _game(run))):
        print(f"\nOne game {title} policy gradient (the number is {SHOWN_SECRET}):")
        for turn, reply in zip(trajectory.turns, trajectory.observations[1:], strict=True):
            print(f"  {turn.action:>8}  {reply}")
        print(f"  return {trajectory.total_reward:g}")


def _show_result(run: Any, seconds: dict[str, float]) -> None:
    """Write the curve and a summary; say where everything is and what to try next."""
    from trainers.charts import save_curve

    run_dir: Path = run.config.run_dir
    result = run.log.evaluations[-1][1]
    summary = {"seed": run.config.seed, "greedy_return": result, **run.log.references, **seconds}
    (run_dir / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    title = "GuessNumber-v0: policy gradient on a tiny model"
    save_curve(run_dir / "curve.png", run.log.returns, run.log.evaluations, run.log.references, title=title)
    print(
        f"\nGreedy return over all 100 numbers: {result:.2f}; the optimum is {run.log.references['optimal']:.2f}. "
        f"It took {seconds['seconds']:.0f} s, {seconds['reading_seconds']:.0f} of them for reading."
    )
    for what, name in (("curve", "curve.png"), ("adapter", "adapter"), ("base model", "base"),
                       ("metrics", "metrics.jsonl"), ("episodes", "episodes.jsonl")):  # fmt: skip
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
    run_recipe(Config, main, description="The demo: a tiny model learns to guess a number.")
