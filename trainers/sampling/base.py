"""The protocol that every sampler keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from trainers.trajectories import Completion

if TYPE_CHECKING:
    from trainers.policy import Policy


class Session(Protocol):
    """The rows of one rollout, from their prompts to the end of their last turn."""

    def add(self, prompts: Sequence[Sequence[int]], *, group_size: int = 1) -> range:
        """Begin `len(prompts) * group_size` more rows, in the order of `Sampler.open`; their numbers.

        In a game of two, a player's prompt is known only when the other has moved.
        """
        ...

    def sample(
        self,
        feeds: Mapping[int, Sequence[int]],
        *,
        max_tokens: int,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        progress: Callable[[float], None] | None = None,
    ) -> dict[int, Completion]:
        """Append tokens to rows, then sample one completion for each of them.

        Args:
            feeds: row number to the tokens that follow its last completion; empty on the first turn. A row that is
                left out has ended, or waits while others speak.
            max_tokens: most tokens sampled for a row in this turn.
            temperature: 1.0 samples from the policy; 0.0 takes the most probable token.
            top_p: sample from the most probable tokens that together have at least this probability.
            top_k: sample from so many of the most probable tokens; 0: from all.
            progress: is told now and then how many rows are done, those under way by the share of `max_tokens` that
                they have. What it raises ends the sampling.

        Returns:
            One completion a row in `feeds`. Their logprobs are those at the temperature sampled at (at 1.0 for 0.0),
            before `top_p` and `top_k`.
        """
        ...


class Sampler(Protocol):
    """Turns prompt tokens into completions."""

    shares_weights: bool
    """True where its logprobs are the trainer's own but for rounding."""

    def open(self, prompts: Sequence[Sequence[int]], *, group_size: int = 1, seed: int = 0) -> Session:
        """Start `len(prompts) * group_size` rows; row `p * group_size + g` is the g-th try at prompt p.

        Equal prompts are computed once.
        """
        ...

    def load_adapter(self, policy: Policy) -> None:
        """From now on sample from the policy as it is now."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...
