"""What the games' recipes have in common: options, presets, the warm start of a tiny model, and what they leave behind.

A recipe has a preset for CPUs, where a tiny model of random weights first reads what a scripted player did and then
learns by policy gradient, and one for GPUs, where a real model learns as it is.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trainers.config import ConfigError, Interrupted, TrainConfig
from trainers.recipes.cli import make_run_dir

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from trainers.rendering import Renderer
    from trainers.train import Run
    from trainers.trajectories import Trajectory

    Transcripts = Callable[[Renderer, int], list[Trajectory]]
    TinyModel = tuple[Any, PreTrainedTokenizerFast]

_BASE = "base"
_READING = "reading.pt"
_UNFINISHED = "base_interrupted"
_FILES = {
    "table": "scores.csv",
    "report": "report.html",
    "curve": "curve.png",
    "adapter": "adapter",
    "metrics": "metrics.jsonl",
    "episodes": "episodes.jsonl",
    "base model": _BASE,
}


# --- Options and presets ---


@dataclass(frozen=True, kw_only=True)
class GameOptions:
    """What every game's recipe can be told."""

    preset: Literal["cpu", "gpu"] = "cpu"
    """cpu: a tiny model that is made here; gpu: a real one."""
    model: str = "Qwen/Qwen3-4B-Instruct-2507"
    """Of the preset gpu: a hub id or a transformers folder."""
    run_dir: Path | None = None
    """Where everything goes; default: a new folder under runs/."""
    updates: int | None = None
    """Updates of policy gradient; default: as many as the preset needs."""
    seed: int = 0
    """Of the model's weights, the games read, and training."""
    device: str = "auto"
    """Of the policy gradient: auto, cpu or cuda."""
    resume: bool = False
    """Go on with the run in run_dir."""

    @property
    def learner(self) -> str:
        """What a picture's title calls the model."""
        return "a tiny model" if self.preset == "cpu" else self.model


def shared_settings(config: GameOptions, run_dir: Path, *, env: str, updates: Mapping[str, int]) -> TrainConfig:
    """The settings of a preset that are the same in every recipe, to be replaced where a game needs others.

    Args:
        config: the recipe's options.
        run_dir: from `choose_run_dir`.
        env: the game's id.
        updates: how many a preset has, where the options do not say.
    """
    common = TrainConfig(
        model=str(run_dir / _BASE) if config.preset == "cpu" else config.model,
        env=(env,),
        run_dir=run_dir,
        updates=updates[config.preset] if config.updates is None else config.updates,
        group_size=16,
        eval_every=10,
        save_every=10,
        seed=config.seed,
        device=config.device,
        resume=config.resume,
    )
    if config.preset == "gpu":
        return dataclasses.replace(common, groups_per_batch=32, learning_rate=4e-5, warmup_updates=3)
    return dataclasses.replace(common, warmup_updates=8, schedule="linear", attention="eager")


def in_words(updates: Mapping[str, int]) -> str:
    """How many updates a preset has, for `--help`."""
    return f"{updates['cpu']} updates with the preset cpu, {updates['gpu']} with gpu"


def choose_run_dir(recipe: str, config: GameOptions) -> Path:
    """The folder of this run: the one that was named, or a new one under runs/.

    Raises:
        ConfigError: when the folder is in use and is not to be gone on with, when it cannot be looked into, or when
            there is none to go on with.
    """
    if config.run_dir is not None:
        try:
            is_used = config.run_dir.exists() and any(config.run_dir.iterdir())
        except OSError as error:
            raise ConfigError(f"run_dir {config.run_dir} cannot be used: {error.strerror}") from error
        if is_used and not config.resume:
            raise ConfigError(f"{config.run_dir} is not empty: add --resume to go on with it, or name another")
        return config.run_dir
    if config.resume:
        raise ConfigError("--resume needs --run-dir")
    return Path("runs") / f"{recipe}-{time.strftime('%Y%m%d-%H%M%S')}"


# --- The run ---


def read_and_train(
    config: GameOptions, settings: TrainConfig, read: Callable[[], object], *, references: Sequence[str]
) -> tuple[Run, dict[str, float]]:
    """Read (cpu) and train; the finished run, and how many seconds reading and everything took.

    Args:
        config: the recipe's options.
        settings: of the policy gradient.
        read: makes `run_dir/base`; called for the preset cpu alone.
        references: the game's own players that the curve is compared with.

    Raises:
        ConfigError: before anything is read, when a setting cannot work, the folder cannot be made or there is no such
            device.
        Interrupted: on Ctrl-C.
    """
    from trainers.logs.run_log import RunLog
    from trainers.train import train

    started = time.perf_counter()
    settings.validate()
    if config.preset == "cpu":
        # Training would say so itself, but only after minutes of reading.
        from trainers.run import usable_device

        usable_device(settings.device, "device")
        make_run_dir(settings.run_dir)
        read()
    reading_seconds = time.perf_counter() - started
    run = train(settings, log=RunLog(settings, references=references, chart=True))
    return run, {"reading_seconds": reading_seconds, "seconds": time.perf_counter() - started}


def read_transcripts(
    run_dir: Path,
    build: Callable[[], TinyModel],
    transcripts: Transcripts,
    *,
    steps: int,
    title: str,
    learning_rate: float = 2e-3,
) -> Path:
    """Train a fresh model on transcripts and save it as an ordinary transformers folder, `run_dir/base`.

    Does nothing where that folder is there already; goes on where Ctrl-C stopped it.

    Args:
        run_dir: the run's folder; it is made.
        build: makes the model, in float32, and its tokenizer; called again it must make the same ones.
        transcripts: gives the transcripts of a step, which depend on nothing but the step's number.
        steps: how many steps.
        title: what reads what, for the screen; `{size}` becomes the number of weights.
        learning_rate: the highest of the reading.

    Raises:
        Interrupted: on Ctrl-C; what was read so far is saved.
    """
    from trainers.policy import choose_device, choose_dtype
    from trainers.reading import Reader
    from trainers.rendering import Renderer
    from trainers.tiny_model import save_model

    base = run_dir / _BASE
    if (base / "config.json").exists():
        return base
    model, tokenizer = build()
    model.set_attn_implementation("eager")
    dtype = choose_dtype("auto", choose_device("cpu"))
    for parameter in model.parameters():  # the weights alone: rotary frequencies stay exact, as in a loaded model
        parameter.data = parameter.data.to(dtype)
    renderer = Renderer(tokenizer)
    reader = Reader(model, lambda step: transcripts(renderer, step), steps=steps, learning_rate=learning_rate)
    run_dir.mkdir(parents=True, exist_ok=True)
    if (run_dir / _READING).exists():
        reader.restore(run_dir / _READING)
    print(title.format(size=f"{model.num_parameters():,}"))
    try:
        _read(reader)
    except KeyboardInterrupt:
        reader.save(run_dir / _READING)
        save_model(model, tokenizer, run_dir / _UNFINISHED)
        print(f"Interrupted after {reader.steps_done} steps of reading. Model so far: {run_dir / _UNFINISHED}")
        raise Interrupted(run_dir) from None
    save_model(model, tokenizer, run_dir / "base_partial")
    (run_dir / "base_partial").rename(base)
    (run_dir / _READING).unlink(missing_ok=True)
    return base


def _read(reader: Any) -> None:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        task = progress.add_task("reading", total=reader.steps, completed=reader.steps_done)
        while reader.steps_done < reader.steps:
            loss = reader.step()
            progress.update(task, completed=reader.steps_done, description=f"reading, loss {loss:.2f}")


# --- What came of it ---


def show_games(run: Run, index: int, *, title: str, line: str) -> None:
    """Print a game before policy gradient and one after, both with the most probable tokens.

    Args:
        run: finished.
        index: of the task: `reset(options={"index": index})`.
        title: above each game; `{when}` becomes before or after.
        line: of a turn; `{action}` and `{reply}` become what was said.
    """
    with run.policy.playing_as(None):
        before = _game(run, index)
    for when, trajectory in (("before", before), ("after", _game(run, index))):
        print("\n" + title.format(when=when))
        for turn, reply in zip(trajectory.turns, trajectory.observations[1:], strict=True):
            print(line.format(action=turn.action, reply=reply))
        print(f"  return {trajectory.total_reward:g}")


def _game(run: Run, index: int) -> Trajectory:
    import gymnasium as gym

    from trainers.evaluation.greedy import play_greedily
    from trainers.rollouts import EnvPool

    [task] = run.config.tasks()
    pool = EnvPool(lambda: gym.make(task.env_id, **task.eval_args))
    try:
        [trajectory] = play_greedily(pool, run.sampler, run.renderer, options=[{"index": index}], settings=run.settings)
    finally:
        pool.close()
    return trajectory


def save_result(run: Run, summary: Mapping[str, Any], *, title: str) -> None:
    """Write `summary.json`, the seed and then `summary`, and `curve.png`."""
    from trainers.logs.charts import save_curve

    run_dir = run.config.run_dir
    (run_dir / "summary.json").write_text(json.dumps({"seed": run.config.seed, **summary}, indent=2) + "\n")
    save_curve(run_dir / "curve.png", run.log.returns, run.log.evaluations, run.log.references, title=title)


def time_taken(seconds: Mapping[str, float]) -> str:
    """A sentence of what `read_and_train` measured."""
    return f"It took {seconds['seconds']:.0f} s, {seconds['reading_seconds']:.0f} of them for reading transcripts."


def list_files(run_dir: Path) -> None:
    """Print where everything is."""
    for what, name in _FILES.items():
        if (run_dir / name).exists():
            print(f"  {what:<11}{run_dir / name}")
