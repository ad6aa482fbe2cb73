"""What the games' recipes do before policy gradient on a tiny model: read what a scripted player did."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainers.config import ConfigError, Interrupted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from trainers.rendering import Renderer
    from trainers.trajectories import Trajectory

    Transcripts = Callable[[Renderer, int], list[Trajectory]]
    TinyModel = tuple[Any, PreTrainedTokenizerFast]

_READING = "reading.pt"
_UNFINISHED = "base_interrupted"


def choose_run_dir(recipe: str, run_dir: Path | None, *, resume: bool) -> Path:
    """The folder of this run: the one that was named, or a new one under runs/.

    Raises:
        ConfigError: when the folder is in use and is not to be gone on with, or there is none to go on with.
    """
    if run_dir is not None:
        if run_dir.exists() and any(run_dir.iterdir()) and not resume:
            raise ConfigError(f"{run_dir} is not empty: add --resume to go on with it, or name another")
        return run_dir
    if resume:
        raise ConfigError("--resume needs --run-dir")
    return Path("runs") / f"{recipe}-{time.strftime('%Y%m%d-%H%M%S')}"


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

    base = run_dir / "base"
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
