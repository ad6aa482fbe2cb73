"""The record of one episode: the ledger of tokens is the truth, decoded text is a view of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

StopReason = Literal["stop", "length", "env"]
"""Why a turn ended: a stop token was sampled, the token limit or the end of the context was reached, or the environment
cut the episode off from outside (`truncated`) at this turn."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What the sampler returns for one row: sampled tokens, each with its logprob under the sampler.

    A sampled stop token is part of `tokens`: it was a choice of the policy and is trained like any other.
    """

    tokens: list[int]
    logprobs: list[float]
    stop_reason: StopReason

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.logprobs):
            raise ValueError(f"{len(self.tokens)} tokens but {len(self.logprobs)} logprobs")


@dataclass(frozen=True, slots=True)
class Turn:
    """One `env.step`: the action as text, its number of tokens, why sampling stopped, and what came of it."""

    action: str
    num_tokens: int
    reward: float
    stop_reason: StopReason
    verdict: str
    reward_parts: Mapping[str, float]


@dataclass(slots=True)
class Trajectory:
    """One episode of one policy, as tokens.

    `tokens`, `logprobs` and `is_action` have equal length. `logprobs[t]` is the sampler's log probability of
    `tokens[t]` given `tokens[:t]`; it is 0.0 where `is_action[t]` is False (prompt and environment text).
    Tokens are only ever appended, so every prompt of a later turn begins with the whole earlier ledger.
    """

    seed: int
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    is_action: list[bool] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    observations: list[str] = field(default_factory=list)

    def append_prompt(self, tokens: Sequence[int]) -> None:
        """Append text that the policy did not choose."""
        self.tokens += tokens
        self.logprobs += [0.0] * len(tokens)
        self.is_action += [False] * len(tokens)

    def append_completion(self, completion: Completion) -> None:
        """Append what the policy sampled."""
        self.tokens += completion.tokens
        self.logprobs += completion.logprobs
        self.is_action += [True] * len(completion.tokens)

    @property
    def total_reward(self) -> float:
        """The undiscounted return of the episode."""
        return sum(turn.reward for turn in self.turns)

    @property
    def verdict(self) -> str:
        """The verdict of the last turn; empty before the first."""
        return self.turns[-1].verdict if self.turns else ""

    @property
    def is_scorable(self) -> bool:
        """False when the environment failed to judge: an outage is never the policy's mistake."""
        return all(turn.verdict != "unscorable" for turn in self.turns)

    @property
    def is_truncated(self) -> bool:
        """True when a turn ran into the token limit or the context, or the environment truncated the episode."""
        return any(turn.stop_reason != "stop" for turn in self.turns)

    @property
    def num_action_tokens(self) -> int:
        """Number of sampled tokens."""
        return sum(self.is_action)

    def reward_part(self, name: str) -> float:
        """Sum of one part of the reward over the turns; 0.0 where the environment does not report it."""
        return sum(turn.reward_parts.get(name, 0.0) for turn in self.turns)

    def as_record(self) -> dict[str, Any]:
        """The episode as a JSON-able dictionary, readable without the tokenizer."""
        return {
            "seed": self.seed,
            "return": self.total_reward,
            "observations": self.observations,
            "actions": [turn.action for turn in self.turns],
            "rewards": [turn.reward for turn in self.turns],
            "verdicts": [turn.verdict for turn in self.turns],
            "stop_reasons": [turn.stop_reason for turn in self.turns],
            "action_tokens": self.num_action_tokens,
        }


@dataclass(frozen=True, slots=True)
class Group:
    """The G trajectories of one seed: the same problem, tried G times.

    In a game of several players: those of one seat, against one opponent.
    """

    seed: int
    trajectories: list[Trajectory]
    agent: str = ""
    """Whose seat it was."""
    opponent: str = ""
    """Who else played."""
    games: list[dict[str, Any]] = field(default_factory=list)
    """The whole games as records, where a trajectory is only one side of them."""

    def as_records(self) -> list[dict[str, Any]]:
        """The group's episodes as JSON-able dictionaries."""
        return self.games or [trajectory.as_record() for trajectory in self.trajectories]
