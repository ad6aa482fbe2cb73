"""Weights of trainer over sampler, by hand."""

import math
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from trainers.config import ConfigError
from trainers.config.loss import Level
from trainers.corrections import importance_weights, is_bounded

SAMPLED = torch.tensor([-1.0, -2.0, -0.5, -3.0, -0.7])
# Of the tokens. Row 0 has 4, 1/2 and 1.5: product 3. Row 1 has 1/4 and 1.6: product 0.4.
RATIOS = torch.tensor([4.0, 0.25, 0.5, 1.5, 1.6])
TRAINED = SAMPLED + RATIOS.log()
ROWS = torch.tensor([0, 1, 0, 0, 1])


def weights(**options: Any) -> list[float]:
    return importance_weights(TRAINED, SAMPLED, ROWS, **options).tolist()


def test_tokens():
    assert weights(how="truncate", level="token", limit=2.0) == pytest.approx([2.0, 0.25, 0.5, 1.5, 1.6])
    # Outside 1/2.1 ... 2.1 nothing counts.
    assert weights(how="mask", level="token", limit=2.1) == pytest.approx([0.0, 0.0, 0.5, 1.5, 1.6])
    assert weights(how="mask", level="token", limit=1.55) == pytest.approx([0.0, 0.0, 0.0, 1.5, 0.0])


def test_sequences():
    assert weights(how="truncate", level="sequence", limit=2.0) == pytest.approx([2.0, 0.4, 2.0, 2.0, 0.4])
    assert weights(how="mask", level="sequence", limit=2.6) == pytest.approx([0.0, 0.4, 0.0, 0.0, 0.4])
    assert weights(how="mask", level="sequence", limit=2.4) == [0.0] * 5
    assert weights(how="mask", level="sequence", limit=3.1) == pytest.approx([3.0, 0.4, 3.0, 3.0, 0.4])


@pytest.mark.parametrize("how", ["truncate", "mask"])
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_where_both_agree_nothing_happens(how, level):
    found = importance_weights(SAMPLED, SAMPLED, ROWS, how=how, level=level, limit=2.0)
    assert found.tolist() == [1.0] * 5
    assert not is_bounded(found, limit=2.0).any()


@pytest.mark.parametrize("how", ["truncate", "mask"])
@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("far", [30.0, 1000.0, 1e30])
def test_policies_far_apart_give_numbers(how, level, far):
    found = importance_weights(
        torch.tensor([-far, -1.0]), torch.tensor([-1.0, -far]), torch.tensor([0, 1]), how=how, level=level, limit=2.0
    )
    assert found.tolist() == pytest.approx([0.0, 2.0 if how == "truncate" else 0.0], abs=1e-8)


def test_which_were_changed():
    def changed(**options: Any) -> list[bool]:
        return is_bounded(importance_weights(TRAINED, SAMPLED, ROWS, **options), limit=options["limit"]).tolist()

    assert changed(how="truncate", level="token", limit=2.1) == [True, False, False, False, False]
    assert changed(how="mask", level="token", limit=2.1) == [True, True, False, False, False]
    assert changed(how="truncate", level="sequence", limit=2.1) == [True, False, True, True, False]
    assert changed(how="mask", level="sequence", limit=2.1) == [True] * 5
    share: Tensor = is_bounded(torch.tensor([2.0, 1.0, 0.0, 0.5]), limit=2.0).float().mean()
    assert share == 0.5


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_in_expectation_nothing_is_lost_below_the_limit(level):
    # Three words sampled by q and trained as p: sum of q * w * f is the mean of f under p, as long as no w is cut.
    q, p, f = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.4, 0.3, 0.3]), torch.tensor([1.0, -2.0, 5.0])
    found = importance_weights(p.log(), q.log(), torch.arange(3), how="truncate", level=level, limit=2.0)
    assert (q * found * f).sum().item() == pytest.approx(0.4 - 0.6 + 1.5)
    cut = importance_weights(p.log(), q.log(), torch.arange(3), how="truncate", level=level, limit=1.2)
    assert (q * cut * f).sum().item() == pytest.approx(0.4 - 0.6 + 0.2 * 1.2 * 5)


def test_no_gradient_flows_and_nothing_is_nothing():
    trained = TRAINED.clone().requires_grad_()
    assert not importance_weights(trained, SAMPLED, ROWS, how="truncate", level="sequence", limit=2.0).requires_grad
    for level in get_args(Level):
        empty = importance_weights(TRAINED[:0], SAMPLED[:0], ROWS[:0], how="mask", level=level, limit=2.0)
        assert empty.shape == is_bounded(empty, limit=2.0).shape == (0,)


def test_what_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match="correction must be truncate or mask here, not 'auto'"):
        weights(how="auto", level="token", limit=2.0)
    with pytest.raises(ConfigError, match="correction_level must be token or sequence, not 'turn'"):
        weights(how="mask", level="turn", limit=2.0)
    for limit in (0.5, math.nan):
        with pytest.raises(ConfigError, match=f"correction_limit must be at least 1, not {limit}"):
            weights(how="mask", level="token", limit=limit)
    with pytest.raises(ValueError, match=r"must all be \[N\], not \[\[5\], \[4\], \[5\]\]"):
        importance_weights(TRAINED, SAMPLED[:4], ROWS, how="mask", level="token", limit=2.0)
