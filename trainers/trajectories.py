"""The record of one episode: the ledger of tokens is the truth, decoded text is a view of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

StopReason = Literal["stop", "length", "env"]
"""Why a turn ended: a stop token was sampled, the token limit or the end of the context was reached, or, though a stop
token was sampled, the environment cut the episode off from outside (`truncated`) at this turn."""

# Of so many tokens the text is decoded again and again to see what one more adds.
_DECODED_AT_ONCE = 32


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
    messages: Sequence[Mapping[str, str]] = ()
    """The opening as chat messages."""
    failure: str = ""
    """Why the episode broke or could not be judged, in one line; empty where it was played well or badly."""

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

    def break_off(self, action: str, num_tokens: int, failure: str) -> None:
        """End the episode with an action that the environment failed to answer."""
        self.observations.append("")
        self.turns.append(Turn(action, num_tokens, 0.0, "env", "unscorable", {}))
        self.failure = failure

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
        return not self.failure and all(turn.verdict != "unscorable" for turn in self.turns)

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
        record = {
            "seed": self.seed,
            "return": self.total_reward,
            "prompt": [dict(message) for message in self.messages],
            "observations": self.observations,
            "actions": [turn.action for turn in self.turns],
            "rewards": [turn.reward for turn in self.turns],
            "verdicts": [turn.verdict for turn in self.turns],
            "stop_reasons": [turn.stop_reason for turn in self.turns],
            "reward_parts": [dict(turn.reward_parts) for turn in self.turns],
            "action_tokens": self.num_action_tokens,
        }
        return record | ({"failure": self.failure} if self.failure else {})


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
    task: str = ""
    """What metrics call the environment, where several are mixed."""

    def as_records(self) -> list[dict[str, Any]]:
        """The group's episodes as JSON-able dictionaries."""
        return self.games or [trajectory.as_record() for trajectory in self.trajectories]


def token_record(
    trajectory: Trajectory,
    decode: Callable[[list[int]], str],
    *,
    token_advantages: Sequence[float] | None = None,
    turn_advantages: Sequence[float] | None = None,
) -> dict[str, Any]:
    """What was sampled, token by token, as a JSON-able dictionary to put beside `Trajectory.as_record`.

    Args:
        trajectory: one whose every completion is a turn, as when the episode is over.
        decode: tokens to text, with special tokens, as they are to be shown.
        token_advantages: one number for every sampled token; None where nothing was learnt from the trajectory.
        turn_advantages: one number a turn; None as well.

    Returns:
        `token_texts`, `token_logprobs` and with `token_advantages` these: a list a turn with an entry a token; with
        `turn_advantages` `advantages`.
    """
    sampled = [i for i, is_action in enumerate(trajectory.is_action) if is_action]
    if token_advantages is not None and len(token_advantages) != len(sampled):
        raise ValueError(f"{len(token_advantages)} advantages for {len(sampled)} sampled tokens")
    turns, start = [], 0
    for turn in trajectory.turns:
        turns.append(range(start, start + turn.num_tokens))
        start += turn.num_tokens
    record: dict[str, Any] = {
        "token_texts": [token_texts([trajectory.tokens[sampled[n]] for n in turn], decode) for turn in turns],
        "token_logprobs": [[trajectory.logprobs[sampled[n]] for n in turn] for turn in turns],
    }
    if token_advantages is not None:
        record["token_advantages"] = [[float(token_advantages[n]) for n in turn] for turn in turns]
    if turn_advantages is not None:
        record["advantages"] = [float(advantage) for advantage in turn_advantages]
    return record


def token_texts(tokens: Sequence[int], decode: Callable[[list[int]], str]) -> list[str]:
    """Cut the text of some tokens into a piece for each of them; joined, the pieces are the text.

    A token's piece is what it adds to the part of the text that later tokens leave as it is. So where a character is
    spread over several tokens, as bytes may be, it goes to the one that completes it, and the others are empty.
    """
    tokens = list(tokens)
    whole = decode(tokens)
    ends = []
    first, offset, rest = 0, 0, whole  # from token `first` on, whose text begins at `offset`, `rest` is decoded
    end = 0
    for number in range(1, len(tokens) + 1):
        text = decode(tokens[first:number])
        shared = len(text)
        if not rest.startswith(text):
            shared = next((n for n, (a, b) in enumerate(zip(text, rest, strict=False)) if a != b), len(rest))
        end = max(end, offset + shared)
        ends.append(end)
        # Decoding ever longer beginnings takes a time that grows with the square of the length: begin anew where the
        # tokenizer decodes the rest of the tokens to the rest of the text.
        if number - first >= _DECODED_AT_ONCE and decode(tokens[number:]) == whole[end:]:
            first, offset, rest = number, end, whole[end:]
    if ends:
        ends[-1] = len(whole)
    return [whole[a:b] for a, b in zip([0, *ends], ends, strict=False)]
