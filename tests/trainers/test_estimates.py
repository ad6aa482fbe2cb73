"""Estimates and their intervals, by hand."""

import itertools

import pytest

from trainers.evaluation.estimates import (
    Estimate,
    Mean,
    ks_up_to,
    mean_over_problems,
    pass_at_k,
    ratio_over_problems,
    wilson,
)


def test_pass_at_k_by_hand():
    assert pass_at_k(4, 2, 1) == pytest.approx(1 / 2)
    assert pass_at_k(4, 2, 2) == pytest.approx(5 / 6)
    assert pass_at_k(5, 1, 3) == pytest.approx(3 / 5)
    assert pass_at_k(4, 2, 3) == 1.0
    assert pass_at_k(7, 0, 7) == 0.0
    assert pass_at_k(1000, 1, 500) == pytest.approx(0.5)


@pytest.mark.parametrize(("n", "correct"), [(6, c) for c in range(7)])
def test_pass_at_k_is_the_share_of_all_choices(n: int, correct: int):
    answers = [i < correct for i in range(n)]
    for k in range(1, n + 1):
        choices = list(itertools.combinations(answers, k))
        assert pass_at_k(n, correct, k) == pytest.approx(sum(map(any, choices)) / len(choices))


@pytest.mark.parametrize(("n", "correct", "k"), [(4, 5, 1), (4, -1, 1), (4, 2, 0), (4, 2, 5)])
def test_pass_at_k_refuses_nonsense(n: int, correct: int, k: int):
    with pytest.raises(ValueError, match="pass@"):
        pass_at_k(n, correct, k)


@pytest.mark.parametrize(
    ("successes", "n", "value", "low", "high"),
    [
        (8, 10, 0.8, 0.4902, 0.9433), (0, 10, 0.0, 0.0, 0.2775), (10, 10, 1.0, 0.7225, 1.0),
        (50, 100, 0.5, 0.4038, 0.5962),
    ],
)  # fmt: skip
def test_wilson(successes: int, n: int, value: float, low: float, high: float):
    found = wilson(successes, n)
    assert (found.value, found.low, found.high) == pytest.approx((value, low, high), abs=5e-5)


def test_wilson_refuses_nonsense():
    with pytest.raises(ValueError, match="1 successes of 0"):
        wilson(1, 0)
    with pytest.raises(ValueError, match="3 successes of 2"):
        wilson(3, 2)


def test_the_bootstrap_draws_problems():
    # Of two problems, one always solved: a quarter of the draws has it never, a quarter twice.
    assert ratio_over_problems([0, 4], [4, 4]) == Estimate(0.5, 0.0, 1.0)
    # 100 problems: the normal approximation gives 0.5 +- 0.098, however often each is answered alike.
    for size in (1, 4):
        found = ratio_over_problems([0] * 50 + [size] * 50, [size] * 100)
        assert found.value == 0.5
        assert (found.low, found.high) == pytest.approx((0.402, 0.598), abs=0.012)
    # Answers weigh alike, not problems.
    assert ratio_over_problems([1, 0], [1, 3]).value == 0.25
    assert ratio_over_problems([1, 0, 1], [2, 2, 2]) == ratio_over_problems([1, 0, 1], [2, 2, 2])


def test_the_bootstrap_of_no_variation_is_wilson_over_problems():
    assert ratio_over_problems([0] * 10, [4] * 10) == wilson(0, 10)
    assert ratio_over_problems([4] * 10, [4] * 10) == wilson(10, 10)
    # Half of every problem's are right, so nothing varies from draw to draw; nor with one problem.
    assert ratio_over_problems([2] * 100, [4] * 100) == wilson(50, 100)
    assert ratio_over_problems([1, 2, 4, 1], [2, 4, 8, 2]) == wilson(2, 4)
    # With z = 1.96: 1/2 +- z sqrt(1/4 + z^2 / 4) / (1 + z^2); (1/3 + z^2 / 2 +- z sqrt(2/9 + z^2 / 4)) / (1 + z^2).
    one = ratio_over_problems([8], [16])
    assert (one.value, one.low, one.high) == pytest.approx((0.5, 0.0546, 0.9454), abs=5e-5)
    third = ratio_over_problems([1], [3])
    assert (third.value, third.low, third.high) == pytest.approx((1 / 3, 0.0253, 0.9058), abs=5e-5)
    with pytest.raises(ValueError, match="at least one answer"):
        ratio_over_problems([], [])


def test_ks():
    assert ks_up_to(1) == [1]
    assert ks_up_to(4) == [1, 2, 4]
    assert ks_up_to(6) == [1, 2, 4, 6]


def test_a_mean_of_any_numbers():
    # Of two problems, whose means are 0 and 6: a quarter of the draws has the one twice, a quarter the other.
    assert mean_over_problems([[0.0, 0.0], [5.0, 7.0]]) == Mean(3.0, 0.0, 6.0)
    # 100 problems, half of them 10 and half -10: the normal approximation gives 0 +- 1.96.
    found = mean_over_problems([[-10.0]] * 50 + [[10.0]] * 50)
    assert (found.value, found.low, found.high) == pytest.approx((0.0, -1.96, 1.96), abs=0.25)
    # Answers weigh alike, not problems.
    assert mean_over_problems([[4.0], [0.0, 0.0, 0.0]]).value == 1.0


def test_a_mean_without_variation_has_no_interval():
    assert mean_over_problems([[1.0], [1.0]]) == Mean(1.0, None, None)
    assert mean_over_problems([[5.0, 5.4]]) == Mean(5.2, None, None)
    # 0.1 + 0.2 is not 0.3 to the last bit, but for all that two problems agree.
    assert mean_over_problems([[0.1 + 0.2], [0.3]]).low is None
    with pytest.raises(ValueError, match="at least one value"):
        mean_over_problems([[1.0], []])
    with pytest.raises(ValueError, match="at least one value"):
        mean_over_problems([])


def test_below_the_best():
    assert Mean(3.0, 2.0, 5.0).below(6.0) == Mean(3.0, 1.0, 4.0)
    assert Mean(3.0, 2.0, 5.0).below(3.0) == Mean(0.0, -2.0, 1.0)
    assert Mean(3.0, None, None).below(6.0) == Mean(3.0, None, None)


def test_in_words():
    assert str(Estimate(0.125, 0.0, 0.5)) == "12.5% (0.0% to 50.0%)"
    assert str(Mean(5.2, -1.0, 6.0)) == "5.200 (-1.000 to 6.000)"
    assert str(Mean(5.2, None, None)) == "5.200 (no interval)"
