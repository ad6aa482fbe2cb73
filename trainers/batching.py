"""Trajectories to tensors: rows sorted by length and cut into microbatches of a bounded number of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainers.trajectories import Trajectory


@dataclass(frozen=True, slots=True)
class Microbatch:
    """B rows of T tokens, padded on the right; N of the tokens were sampled.

    A causal model never looks right, so right padding needs no attention mask.
    """

    tokens: Tensor
    """`[B, T]` int64."""
    is_action: Tensor
    """`[B, T]` bool; never True in column 0, where there is nothing to predict from."""
    sampled_logprobs: Tensor
    """`[N]` float32, in row-major order of `is_action`."""
    advantages: Tensor
    """`[N]` float32, likewise."""

    def to(self, device: torch.device) -> Microbatch:
        """The same rows on another device."""
        return Microbatch(
            self.tokens.to(device),
            self.is_action.to(device),
            self.sampled_logprobs.to(device),
            self.advantages.to(device),
        )


def microbatches(
    trajectories: Sequence[Trajectory], advantages: Sequence[Sequence[float]], *, tokens_per_microbatch: int
) -> Iterator[Microbatch]:
    """Cut trajectories into microbatches of at most `tokens_per_microbatch` tokens, padding included.

    Rows of like length stand together, so little is padding. A single row over the limit forms its own microbatch.

    Args:
        trajectories: the rows.
        advantages: for each of them, one number a turn: every token of the turn gets it.
        tokens_per_microbatch: the limit.
    """
    if len(trajectories) != len(advantages):
        raise ValueError(f"{len(trajectories)} trajectories but {len(advantages)} advantages")
    order = sorted(range(len(trajectories)), key=lambda i: len(trajectories[i].tokens), reverse=True)
    start = 0
    while start < len(order):
        longest = len(trajectories[order[start]].tokens)
        rows = max(1, tokens_per_microbatch // max(1, longest))
        chosen = order[start : start + rows]
        yield _pad([trajectories[i] for i in chosen], [advantages[i] for i in chosen])
        start += rows


def _pad(rows: Sequence[Trajectory], advantages: Sequence[Sequence[float]]) -> Microbatch:
    longest = max(len(row.tokens) for row in rows)
    tokens = torch.zeros(len(rows), longest, dtype=torch.int64)
    is_action = torch.zeros(len(rows), longest, dtype=torch.bool)
    sampled: list[float] = []
    spread: list[float] = []
    for i, (row, advantage) in enumerate(zip(rows, advantages, strict=True)):
        tokens[i, : len(row.tokens)] = torch.tensor(row.tokens)
        is_action[i, : len(row.tokens)] = torch.tensor(row.is_action)
        taken = [p for p, chosen in zip(row.logprobs, row.is_action, strict=True) if chosen]
        sampled += taken
        for turn, value in zip(row.turns, advantage, strict=True):
            spread += [value] * turn.num_tokens
    return Microbatch(tokens, is_action, torch.tensor(sampled), torch.tensor(spread))
