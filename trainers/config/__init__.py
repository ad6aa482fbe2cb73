"""Everything that one can set about a run, with its reason; checked before anything is loaded.

The settings of a stage are a dataclass of their own, and `TrainConfig` is all of them: a stage's functions take the
part that they read.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainers.config.credit import CreditOptions
from trainers.config.errors import ConfigError, Interrupted
from trainers.config.learning import LearningOptions
from trainers.config.loss import LossOptions
from trainers.config.running import RunningOptions
from trainers.config.sampling import SamplingOptions
from trainers.config.tasks import Task, TaskOptions

__all__ = [
    "ConfigError",
    "CreditOptions",
    "Interrupted",
    "LearningOptions",
    "LossOptions",
    "RunningOptions",
    "SamplingOptions",
    "Task",
    "TaskOptions",
    "TrainConfig",
]


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunningOptions, LearningOptions, LossOptions, CreditOptions, SamplingOptions, TaskOptions):
    """Grouped rollouts and LoRA policy gradient: the defaults are those of the recipe `rl_basic`."""

    # The bases stand in reverse, so that the fields come in the order of the stages.

    def validate(self) -> None:
        """Check all that can be checked without the model.

        Raises:
            ConfigError: naming the first setting that cannot work.
        """
        self.check_sampling()
        self.check_credit(max_tokens=self.max_tokens)
        self.check_loss(has_full_support=self.has_full_support)
        self.check_learning()
        self.check_running()
        if self.max_staleness and self.opponent_shares():
            raise ConfigError(
                "max_staleness: a game of several players is sampled by models in turn, not beside training"
            )
        if self.sampler != "torch" and self.opponent_shares():
            raise ConfigError(
                f"sampler={self.sampler}: a game of several players is sampled by several models; use torch"
            )
        self.check_tasks(evaluates=self.eval_every > 0)

    def learning_rate_at(self, update: int) -> float:
        """The learning rate of update number `update`, counted from 0."""
        warmup = min(1.0, (update + 1) / (self.warmup_updates + 1))
        decay = 1.0 if self.schedule == "constant" else 1.0 - update / self.updates
        return self.learning_rate * min(warmup, decay)

    def as_json(self) -> dict[str, Any]:
        """All settings as JSON values."""
        return {name: str(v) if isinstance(v, Path) else v for name, v in dataclasses.asdict(self).items()}
