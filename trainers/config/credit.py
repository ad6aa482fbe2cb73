"""From rewards to advantages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from trainers.config.checks import not_negative, one_of, positive
from trainers.config.errors import ConfigError

Advantage = Literal["mean", "grpo", "rloo", "global", "none"]
Credited = Literal["trajectory", "turn", "state"]
Overlong = Literal["keep", "mask", "penalize"]


@dataclass(frozen=True, kw_only=True)
class CreditOptions:
    """What a turn was worth."""

    advantage: Advantage = "mean"
    """What becomes of a return: the mean of its group is taken from it (mean); that, and it is divided by the group's
    deviation (grpo); the mean of the others in the group is taken from it (rloo); the group's mean is taken from it and
    it is divided by the deviation of the whole batch (global); it stays as it is (none)."""
    credit: Credited = "trajectory"
    """What is compared: whole trajectories; in games of many turns each turn, by what was still to come, with the same
    turn of those of the group that got as far (turn); or, where an observation shows all that matters, as a board does,
    with all turns of the batch that answered the same one (state, for advantage=mean)."""
    discount: float = 1.0
    """What a reward of the next turn counts for now."""
    overlong: Overlong = "keep"
    """Answers that were cut off at max_tokens: keep them as they are, take them out of training (mask), or take
    something from the reward of those that come near the limit (penalize)."""
    overlong_penalty: float = 1.0
    """With overlong=penalize: what an answer of max_tokens loses."""
    overlong_buffer: int = 64
    """With overlong=penalize: how many tokens before max_tokens the penalty begins to grow from 0; no more than
    max_tokens."""

    def check_credit(self, *, max_tokens: int) -> None:
        """Raises:
        ConfigError: naming the first setting that cannot work.
        """  # noqa: D205
        one_of(self, "advantage", get_args(Advantage))
        one_of(self, "credit", get_args(Credited))
        one_of(self, "overlong", get_args(Overlong))
        if self.credit == "state" and self.advantage != "mean":
            raise ConfigError(
                f"credit=state has a baseline of its own: it goes with advantage=mean, not {self.advantage}"
            )
        if not 0 < self.discount <= 1:
            raise ConfigError(f"discount must lie above 0 and not above 1, not {self.discount}")
        positive(self, ("overlong_buffer",))
        not_negative(self, ("overlong_penalty",))
        if self.overlong == "penalize" and self.overlong_buffer > max_tokens:
            raise ConfigError(f"overlong_buffer must not be above max_tokens, {max_tokens}, not {self.overlong_buffer}")
