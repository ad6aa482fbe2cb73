"""Other places that a run's metrics go to: TensorBoard, Weights & Biases, trackio."""

from __future__ import annotations

import importlib.util
import json
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from trainers.config.checks import one_line
from trainers.config.errors import ConfigError

PROJECT = "llm-envs"
"""Where runs are collected; W&B's WANDB_PROJECT names another place."""

_IDS = "trackers.json"
_HINTS = {"wandb": "; with WANDB_MODE=offline it needs neither an account nor a network"}


class Tracker(Protocol):
    """Somebody who draws curves. Any of the methods may raise."""

    name: str

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Take finite figures, named SECTION/NAME, of update number `step`; steps never fall, but may repeat."""

    def close(self) -> None:
        """Write what is still to be written."""


def check_trackers(names: Sequence[str]) -> None:
    """Look whether the libraries are installed, without importing them.

    Raises:
        ConfigError: with the command that installs what is missing.
    """
    for name in names:
        spec = importlib.util.find_spec(name)
        # W&B leaves a folder `wandb` where it runs, and Python takes any such folder for an empty package.
        if spec is None or spec.origin is None:
            raise ConfigError(f"track={name} needs a package that is not installed: pip install 'llm-envs[{name}]'")


def open_trackers(
    names: Sequence[str], run_dir: Path, config_json: Mapping[str, Any], *, updates_done: int = 0
) -> list[Tracker]:
    """Begin to track a run, or go on with it.

    W&B and trackio go on with the run of the same folder: its id there is kept in `run_dir/trackers.json`. Updates that
    a resumed run makes again appear twice in them (with the same values on a CPU); TensorBoard forgets the older ones.

    Args:
        names: of tensorboard, wandb, trackio.
        run_dir: the run's folder. TensorBoard writes to `tensorboard` in it, W&B its own copy to `wandb`.
        config_json: the run's settings, to be shown beside its curves.
        updates_done: what a resumed run has done before.

    Raises:
        ConfigError: when one of them cannot start.
    """
    check_trackers(names)
    opened: list[Tracker] = []
    for name in dict.fromkeys(names):
        try:
            opened.append(_open(name, run_dir, dict(config_json), updates_done))
        except Exception as error:
            for tracker in opened:
                tracker.close()
            raise ConfigError(f"track={name} cannot start: {one_line(error)}{_HINTS.get(name, '')}") from error
    return opened


def send(trackers: list[Tracker], metrics: Mapping[str, float], step: int) -> list[str]:
    """Give all trackers the metrics. Those that fail leave the list, with a sentence each: no run ends for a curve."""
    return _each(trackers, lambda tracker: tracker.log(metrics, step), "it gets no more of this run")


def close_all(trackers: list[Tracker]) -> list[str]:
    """Close the trackers and empty the list; a sentence for each that fails."""
    said = _each(trackers, lambda tracker: tracker.close(), "its last figures may be missing")
    trackers.clear()
    return said


def _each(trackers: list[Tracker], action: Callable[[Tracker], None], consequence: str) -> list[str]:
    said = []
    for tracker in list(trackers):
        try:
            action(tracker)
        except Exception as error:  # whatever a network and somebody else's library may raise
            trackers.remove(tracker)
            said.append(f"{tracker.name} failed ({type(error).__name__}: {one_line(error)}): {consequence}")
    return said


class TensorBoard:
    """Event files in a folder of the run."""

    name = "tensorboard"

    def __init__(self, folder: Path, config: Mapping[str, Any], *, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Whatever stands there of this step and later ones was of a run that was stopped.
        self._writer = SummaryWriter(str(folder), purge_step=first_step)
        lines = json.dumps(config, indent=2).splitlines()
        # Four spaces are code in Markdown.
        self._writer.add_text("config", "\n".join("    " + line for line in lines), first_step)
        self._writer.flush()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """See `Tracker`."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """See `Tracker`."""
        self._writer.close()


class WandB:
    """Weights & Biases."""

    name = "wandb"

    def __init__(self, run_dir: Path, config: dict[str, Any], *, run_id: str) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run_id,
            name=run_dir.resolve().name,
            resume="allow",
            dir=str(run_dir),
            config=config,
            allow_val_change=True,  # a resumed run may go on for longer
            settings=wandb.Settings(console="off"),  # the live panel is no log
        )
        # With W&B's own steps everything that a resumed run does again would be dropped, silently.
        self._run.define_metric("update")
        self._run.define_metric("*", step_metric="update")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """See `Tracker`."""
        self._run.log({**metrics, "update": step})

    def close(self) -> None:
        """See `Tracker`."""
        self._run.finish()


class Trackio:
    """trackio: curves on this machine, or in a Space of the hub (TRACKIO_SPACE_ID)."""

    name = "trackio"

    def __init__(self, run_dir: Path, config: dict[str, Any], *, run_id: str) -> None:
        import trackio

        self._run = trackio.init(
            PROJECT,
            name=f"{run_dir.resolve().name}-{run_id}",  # its runs are known by their names
            config=config,
            resume="allow",
        )

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """See `Tracker`."""
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        """See `Tracker`."""
        self._run.finish()


def _open(name: str, run_dir: Path, config: dict[str, Any], updates_done: int) -> Tracker:
    if name == "tensorboard":
        # The evaluation before the first update is step 0, and is made again with it.
        return TensorBoard(run_dir / "tensorboard", config, first_step=updates_done + 1 if updates_done else 0)
    run_id = _run_id(run_dir, name)
    return WandB(run_dir, config, run_id=run_id) if name == "wandb" else Trackio(run_dir, config, run_id=run_id)


def _run_id(run_dir: Path, name: str) -> str:
    """What a tracker calls this run: made up once, kept in the run's folder."""
    path = run_dir / _IDS
    ids: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    if name not in ids:
        ids[name] = uuid.uuid4().hex[:8]
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(ids) + "\n")
        partial.replace(path)
    return ids[name]
