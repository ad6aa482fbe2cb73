"""How long a run goes on, and what is kept of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

from trainers.config.checks import at_least_one, not_negative
from trainers.config.errors import ConfigError
from trainers.config.tasks import Repeated

TrackerName = Literal["tensorboard", "wandb", "trackio"]

_SEEDS = 2**31


@dataclass(frozen=True, kw_only=True)
class RunningOptions:
    """Length, evaluation, checkpoints and logs."""

    run_dir: Path = Path("runs/rl_basic")
    """Where metrics, checkpoints and the final adapter go."""
    updates: int = 58
    """How many batches (58 of 128 problems are one epoch of GSM8K)."""
    eval_every: int = 20
    """Evaluate (greedily) every so many updates, and at the end; 0: never. A game of several players is evaluated as
    the Gymnasium environment of the same id, with eval_env_args."""
    eval_size: int = 128
    """Problems an evaluation, of each environment: the first of a finite set of tasks, or held-out seeds of an endless
    one."""
    save_every: int = 20
    """Checkpoint every so many updates; 0: only at the end."""
    checkpoints_kept: int = 3
    """How many checkpoints are kept: the newest."""
    record_groups: int = 1
    """Of so many groups an update everything that was said goes to episodes.jsonl, for the report."""
    save_merged: bool = False
    """At the end also write merged/: the base model with the adapter in its weights, for what reads no adapters."""
    track: Annotated[tuple[TrackerName, ...], Repeated] = ()
    """Send metrics to tensorboard, wandb or trackio, too; give the option again for several."""
    seed: int = 0
    """Of the adapter's first weights, of sampling, and of where in the order of problems training starts."""
    resume: bool = False
    """Go on from the newest checkpoint in run_dir."""
    overwrite: bool = False
    """Throw away what is in run_dir."""

    def check_running(self) -> None:
        """Raises:
        ConfigError: naming the first setting that cannot work.
        """  # noqa: D205
        at_least_one(self, ("updates", "eval_size", "checkpoints_kept"))
        not_negative(self, ("eval_every", "save_every", "seed", "record_groups"))
        if self.seed >= _SEEDS:
            raise ConfigError(f"seed must be below {_SEEDS}, not {self.seed}: runs of larger ones would share problems")
        unknown = [name for name in self.track if name not in get_args(TrackerName)]
        if unknown:
            raise ConfigError(f"track must be one of {', '.join(get_args(TrackerName))}, not {unknown[0]!r}")
        if self.resume and self.overwrite:
            raise ConfigError("resume and overwrite exclude each other")
