"""Rows to microbatches."""

import pytest
import torch

from trainers.batching import Microbatch, microbatches
from trainers.trajectories import Trajectory


def cut(trajectories: list[Trajectory], advantages: list[list[float]], limit: int) -> list[Microbatch]:
    return list(microbatches(trajectories, advantages, tokens_per_microbatch=limit))


def test_one_microbatch_by_hand(make_trajectory):
    rows = [
        make_trajectory([5], [6, 7], logprobs=[-1.0, -2.0]),
        make_trajectory([8, 9], [10], [11], [12, 13], logprobs=[-3.0, -4.0, -5.0]),
    ]
    [batch] = cut(rows, [[0.5], [1.5, -2.5]], 12)
    assert batch.tokens.tolist() == [[8, 9, 10, 11, 12, 13], [5, 6, 7, 0, 0, 0]]
    assert batch.is_action.int().tolist() == [[0, 0, 1, 0, 1, 1], [0, 1, 1, 0, 0, 0]]
    assert batch.sampled_logprobs.tolist() == [-3.0, -4.0, -5.0, -1.0, -2.0]
    assert batch.advantages.tolist() == [1.5, -2.5, -2.5, 0.5, 0.5]
    assert (batch.tokens.dtype, batch.is_action.dtype) == (torch.int64, torch.bool)
    assert (batch.sampled_logprobs.dtype, batch.advantages.dtype) == (torch.float32, torch.float32)
    assert batch.to(torch.device("cpu")).tokens.equal(batch.tokens)


@pytest.mark.parametrize("limit", [1, 7, 16, 30, 31, 1000])
def test_no_row_is_lost_and_none_exceeds_the_limit(make_trajectory, limit):
    lengths = [3, 10, 2, 10, 7, 7, 1, 15, 4]
    rows = [make_trajectory([100 + i], [100 + i] * n, logprobs=[-float(i)] * n) for i, n in enumerate(lengths)]
    batches = cut(rows, [[float(i)] for i in range(len(rows))], limit)
    seen = []
    for batch in batches:
        assert batch.tokens.numel() <= limit or len(batch.tokens) == 1
        assert batch.tokens.shape[1] == int((batch.tokens > 0).sum(1).max())  # no needless padding
        n = batch.is_action.sum(1)
        owner = batch.tokens[:, 0] - 100
        seen += list(zip(owner.tolist(), n.tolist(), strict=True))
        expected = owner.repeat_interleave(n).float()
        assert batch.advantages.equal(expected)
        assert batch.sampled_logprobs.equal(-expected)
    assert sorted(seen) == list(enumerate(lengths))
    if limit == 1000:
        assert len(batches) == 1
    if limit == 1:
        assert len(batches) == len(rows)


def test_like_stands_with_like(make_trajectory):
    rows = [make_trajectory([1], [2] * n) for n in (1, 9, 1, 9, 1, 9)]
    batches = cut(rows, [[0.0]] * 6, 30)
    assert [batch.tokens.shape for batch in batches] == [(3, 10), (3, 2)]


def test_mismatches_are_refused(make_trajectory):
    row = make_trajectory([1], [2])
    with pytest.raises(ValueError, match="1 trajectories but 2 advantages"):
        cut([row], [[0.0], [0.0]], 10)
    with pytest.raises(ValueError, match="zip"):
        cut([row], [[0.0, 1.0]], 10)


def test_nothing_gives_nothing():
    assert cut([], [], 10) == []
