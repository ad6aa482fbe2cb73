"""Trajectories to tensors: the prompt of a group once, its answers behind it, no padding, few enough tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainers.trajectories import Trajectory


@dataclass(frozen=True, slots=True)
class Segment:
    """A shared prefix and the branches that go on from it, as places in a microbatch's row of N tokens.

    Args:
        start: where the prefix begins.
        length: of the prefix, P; 0 where nothing is shared.
        places: `[b, L]` int64, where the tokens of the b branches stand; after the end of a shorter branch its last
            place again, which no earlier token of it attends to.
    """

    start: int
    length: int
    places: Tensor


@dataclass(frozen=True, slots=True)
class Microbatch:
    """N tokens of several groups in one row; M of them were sampled.

    Every linear layer reads the row as it is. Attention knows the segments: a token sees its prefix, and its own branch
    up to itself.
    """

    tokens: Tensor
    """`[N]` int64."""
    positions: Tensor
    """`[N]` int64: each token's place in its own trajectory."""
    segments: tuple[Segment, ...]
    order: Tensor
    """`[N]` int64: where a token stands when, segment by segment, the prefix is followed by the padded branches."""
    predicts: Tensor
    """`[M]` int64: the token from whose last hidden state a sampled token is predicted. The last token of a prefix
    predicts the first of every branch."""
    targets: Tensor
    """`[M]` int64: the sampled tokens."""
    rows: Tensor
    """`[M]` int64: the trajectory that a sampled token belongs to, counted in the microbatch from 0."""
    sampled_logprobs: Tensor
    """`[M]` float32, under the sampler."""
    advantages: Tensor
    """`[M]` float32."""
    weights: Tensor
    """`[M]` float32: what a token's term counts for in the loss."""
    numbers: tuple[int, ...]
    """Which of the given trajectories each row is."""

    def of(self, numbers: Sequence[int]) -> Microbatch:
        """The same, with `numbers` that say which entry of `numbers` each row was."""
        return dataclasses.replace(self, numbers=tuple(numbers[n] for n in self.numbers))

    def to(self, device: torch.device) -> Microbatch:
        """The same on another device."""
        moved: dict[str, Any] = {
            field.name: value.to(device)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        segments = tuple(dataclasses.replace(s, places=s.places.to(device)) for s in self.segments)
        return dataclasses.replace(self, segments=segments, **moved)


@dataclass(frozen=True, slots=True)
class Row:
    """A trajectory as it is trained.

    Args:
        trajectory: its tokens.
        advantages: one number a turn: every token of the turn gets it.
        weight: what each of its tokens counts for in the loss.
        group: trajectories of one number may share a prompt.
    """

    trajectory: Trajectory
    advantages: Sequence[float]
    weight: float
    group: int


def microbatches(rows: Sequence[Row], *, tokens_per_microbatch: int, share_prefix: bool = True) -> Iterator[Microbatch]:
    """Cut rows into microbatches of at most `tokens_per_microbatch` tokens.

    Members of a group stay together as far as they fit, so that their prompt is computed once. The longest come first:
    if memory does not suffice, it runs out at once. A single row over the limit forms its own microbatch.
    """
    bundles = sorted(_bundles(rows, tokens_per_microbatch, share_prefix), key=lambda b: b.size, reverse=True)
    while bundles:
        room = tokens_per_microbatch
        taken: list[_Bundle] = []
        left: list[_Bundle] = []
        for bundle in bundles:  # the largest that still fits, again and again
            if bundle.size <= room or not taken:
                taken.append(bundle)
                room -= bundle.size
            else:
                left.append(bundle)
        bundles = left
        yield _pack(rows, taken)


@dataclass(frozen=True, slots=True)
class _Bundle:
    """Rows that share their first `prefix` tokens."""

    numbers: list[int]
    prefix: int
    size: int


def _bundles(rows: Sequence[Row], limit: int, share_prefix: bool) -> Iterator[_Bundle]:
    groups: dict[int, list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(row.group if share_prefix else -1 - number, []).append(number)
    for numbers in groups.values():
        prefix = common_prefix([rows[n].trajectory for n in numbers]) if len(numbers) > 1 else 0
        numbers.sort(key=lambda n: len(rows[n].trajectory.tokens), reverse=True)
        taken: list[int] = []
        size = prefix
        for number in numbers:
            own = len(rows[number].trajectory.tokens) - prefix
            if taken and size + own > limit:
                yield _Bundle(taken, prefix, size)
                taken, size = [], prefix
            taken.append(number)
            size += own
        yield _Bundle(taken, prefix, size)


def common_prefix(trajectories: Sequence[Trajectory]) -> int:
    """How many first tokens are the same in all trajectories, and sampled in none."""
    length = min(t.is_action.index(True) if True in t.is_action else len(t.tokens) for t in trajectories)
    first = trajectories[0].tokens
    for other in trajectories[1:]:
        if other.tokens[:length] != first[:length]:
            length = next(i for i in range(length) if other.tokens[i] != first[i])
    return length


def _pack(rows: Sequence[Row], bundles: Iterable[_Bundle]) -> Microbatch:
    tokens: list[int] = []
    positions: list[int] = []
    segments: list[Segment] = []
    order: list[int] = []
    predicts: list[int] = []
    numbers: list[int] = []
    padded = 0  # how many places the segments before this one have
    for bundle in bundles:
        prefix, start = bundle.prefix, len(tokens)
        tokens += rows[bundle.numbers[0]].trajectory.tokens[:prefix]
        positions += range(prefix)
        order += range(padded, padded + prefix)
        padded += prefix
        longest = max(len(rows[n].trajectory.tokens) for n in bundle.numbers) - prefix
        places = []
        for number in bundle.numbers:
            row = rows[number].trajectory
            length, first = len(row.tokens) - prefix, len(tokens)
            tokens += row.tokens[prefix:]
            positions += range(prefix, len(row.tokens))
            order += range(padded, padded + length)
            padded += longest
            places.append([first + min(i, length - 1) for i in range(longest)])
            # Token t is predicted from token t - 1, which for the first of a branch is the last of the prefix.
            predicts += [
                first + t - prefix - 1 if t > prefix else start + prefix - 1
                for t, chosen in enumerate(row.is_action)
                if chosen
            ]
            numbers.append(number)
        segments.append(Segment(start, prefix, torch.tensor(places)))
    chosen = [rows[number] for number in numbers]
    return Microbatch(
        tokens=torch.tensor(tokens),
        positions=torch.tensor(positions),
        segments=tuple(segments),
        order=torch.tensor(order),
        predicts=torch.tensor(predicts),
        targets=torch.tensor(_sampled([row.trajectory.tokens for row in chosen], chosen)),
        rows=torch.tensor([i for i, row in enumerate(chosen) for _ in range(row.trajectory.num_action_tokens)]),
        sampled_logprobs=torch.tensor(_sampled([row.trajectory.logprobs for row in chosen], chosen)),
        advantages=torch.tensor(
            [
                value
                for row in chosen
                for turn, value in zip(row.trajectory.turns, row.advantages, strict=True)
                for _ in range(turn.num_tokens)
            ]
        ),
        weights=torch.tensor([row.weight for row in chosen for _ in range(row.trajectory.num_action_tokens)]),
        numbers=tuple(numbers),
    )


def _sampled(values: Sequence[Sequence[float]], rows: Sequence[Row]) -> list[float]:
    """The entries of sampled tokens, row after row."""
    return [
        value
        for row, row_values in zip(rows, values, strict=True)
        for value, chosen in zip(row_values, row.trajectory.is_action, strict=True)
        if chosen
    ]
