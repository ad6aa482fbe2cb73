"""Rows to microbatches: a prompt once, no padding, and every number beside its token."""

import pytest
import torch

from trainers.batching import Microbatch, Row, common_prefix, microbatches


def cut(rows: list[Row], limit: int, *, share_prefix: bool = True) -> list[Microbatch]:
    return list(microbatches(rows, tokens_per_microbatch=limit, share_prefix=share_prefix))


@pytest.fixture
def three_rows(make_trajectory):
    """Two answers to one prompt, the first in two turns, and a row of another group."""
    return [
        Row(make_trajectory([5, 6], [7], [8], [9, 10], logprobs=[-1.0, -2.0, -3.0]), [0.5, -1.5], 0.25, group=4),
        Row(make_trajectory([20], [21, 22], logprobs=[-6.0, -7.0]), [3.0], 0.125, group=9),
        Row(make_trajectory([5, 6], [11, 12], logprobs=[-4.0, -5.0]), [2.5], 0.5, group=4),
    ]


def test_one_microbatch_by_hand(three_rows):
    [batch] = cut(three_rows, 100)
    # The prompt 5 6, then its answers, the longer first; then the other group.
    assert batch.tokens.tolist() == [5, 6, 7, 8, 9, 10, 11, 12, 20, 21, 22]
    assert batch.positions.tolist() == [0, 1, 2, 3, 4, 5, 2, 3, 0, 1, 2]
    assert batch.numbers == (0, 2, 1)
    assert [(s.start, s.length, s.places.tolist()) for s in batch.segments] == [
        (0, 2, [[2, 3, 4, 5], [6, 7, 7, 7]]),
        (8, 0, [[8, 9, 10]]),
    ]
    # Attention gives 2 places of the prefix, 4 for each answer, and 3.
    assert batch.order.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12]
    assert batch.predicts.tolist() == [1, 3, 4, 1, 6, 8, 9]
    assert batch.targets.tolist() == [7, 9, 10, 11, 12, 21, 22]
    assert batch.rows.tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert batch.sampled_logprobs.tolist() == [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0]
    assert batch.advantages.tolist() == [0.5, -1.5, -1.5, 2.5, 2.5, 3.0, 3.0]
    assert batch.weights.tolist() == [0.25, 0.25, 0.25, 0.5, 0.5, 0.125, 0.125]
    for name in ("tokens", "positions", "order", "predicts", "targets", "rows"):
        assert getattr(batch, name).dtype == torch.int64
    for name in ("sampled_logprobs", "advantages", "weights"):
        assert getattr(batch, name).dtype == torch.float32


def test_it_moves_as_a_whole(three_rows):
    [batch] = cut(three_rows, 100)
    moved = batch.to(torch.device("meta"))
    tensors = [value for name in batch.__slots__ if isinstance(value := getattr(moved, name), torch.Tensor)]
    assert len(tensors) == 9
    assert {t.device.type for t in [*tensors, *(s.places for s in moved.segments)]} == {"meta"}
    assert moved.numbers == batch.numbers


def test_without_sharing_every_row_stands_alone(three_rows):
    [batch] = cut(three_rows, 100, share_prefix=False)
    assert [segment.length for segment in batch.segments] == [0, 0, 0]
    assert len(batch.tokens) == 6 + 4 + 3
    assert batch.numbers == (0, 2, 1)
    assert batch.targets.tolist() == [7, 9, 10, 11, 12, 21, 22]


def test_what_is_shared_ends_before_the_first_sampled_token(make_trajectory):
    same = [make_trajectory([1, 2, 3], [4, 5]), make_trajectory([1, 2, 3], [4, 5])]
    assert common_prefix(same) == 3
    # An opening that goes on in the other row: [1 2 3] of a row is shared as far as the shorter prompt goes.
    assert common_prefix([make_trajectory([1, 2], [3]), make_trajectory([1, 2, 3], [4])]) == 2
    assert common_prefix([make_trajectory([1, 2, 3], [4]), make_trajectory([1, 9, 3], [4])]) == 1
    assert common_prefix([make_trajectory([1], [4]), make_trajectory([2], [4])]) == 0


@pytest.mark.parametrize("share_prefix", [True, False])
@pytest.mark.parametrize("limit", [1, 7, 16, 30, 31, 1000])
def test_no_row_is_lost_and_no_microbatch_exceeds_the_limit(make_trajectory, limit, share_prefix):
    lengths = [3, 10, 2, 10, 7, 7, 1, 15, 4]
    rows = [
        Row(make_trajectory([50 + i // 3] * 4, [100 + i] * n, logprobs=[-float(i)] * n), [float(i)], i / 8, i // 3)
        for i, n in enumerate(lengths)
    ]
    batches = cut(rows, limit, share_prefix=share_prefix)
    seen: list[int] = []
    for batch in batches:
        assert len(batch.tokens) <= limit or len(batch.numbers) == 1
        own = [lengths[number] for number in batch.numbers]
        shared = sum(4 if s.length else 0 for s in batch.segments)
        alone = sum(4 * len(s.places) for s in batch.segments if not s.length)
        assert len(batch.tokens) == sum(own) + shared + alone  # nothing is padded
        owner = torch.tensor(batch.numbers).repeat_interleave(torch.tensor(own))
        assert batch.targets.equal(owner + 100)
        assert batch.advantages.equal(owner.float())
        assert batch.sampled_logprobs.equal(-owner.float())
        assert batch.weights.equal(owner / 8)
        seen += batch.numbers
    assert sorted(seen) == list(range(9))
    if limit == 1000:
        assert len(batches) == 1
        assert len(batches[0].tokens) == sum(lengths) + (12 if share_prefix else 36)
    if limit == 1:
        assert len(batches) == 9


def test_a_group_that_is_cut_shares_its_prompt_in_each_part(make_trajectory):
    rows = [Row(make_trajectory([1] * 10, [2] * 4), [0.0], 1.0, group=0) for _ in range(5)]
    batches = cut(rows, 18)
    assert [[(s.length, len(s.places)) for s in batch.segments] for batch in batches] == [
        [(10, 2)],
        [(10, 2)],
        [(10, 1)],
    ]
    assert [len(batch.tokens) for batch in batches] == [18, 18, 14]


def test_the_largest_comes_first(make_trajectory):
    rows = [Row(make_trajectory([1], [2] * n), [0.0], 1.0, group=n) for n in (1, 9, 2, 8, 3, 5)]
    assert [len(batch.tokens) for batch in cut(rows, 12)] == [10 + 2, 9 + 3, 6 + 4]


def test_mismatches_are_refused(make_trajectory):
    with pytest.raises(ValueError, match="zip"):
        cut([Row(make_trajectory([1], [2]), [0.0, 1.0], 1.0, 0)], 10)


def test_nothing_gives_nothing():
    assert cut([], 10) == []
