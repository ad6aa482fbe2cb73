"""Numbers worked out by hand."""

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from trainers.advantages import (
    EPSILON,
    ESTIMATORS,
    global_normalization,
    group_mean,
    group_mean_and_deviation,
    has_spread,
    leave_one_out,
    no_baseline,
    overlong_penalty,
    returns,
    state_advantages,
    with_kl_penalty,
)
from trainers.config import ConfigError
from trainers.config.credit import Advantage

# Three tries at one problem, of three turns, two and one. The last two entries are junk.
REWARDS = torch.tensor([[[1.0, 2.0, 1.0], [0.0, 2.0, 99.0], [6.0, math.nan, math.inf]]])
NUM_TURNS = torch.tensor([[3, 2, 1]])


def of_one_turn(how, rewards: Tensor, scorable: Tensor | None = None) -> Tensor:
    """Advantages `[P, G]` of episodes of one turn."""
    num_turns = torch.ones_like(rewards, dtype=torch.int64)
    advantages: Tensor = how(*returns(rewards[:, :, None], num_turns, scorable, credit="trajectory"))
    assert advantages.shape == (*rewards.shape, 1)
    return advantages[:, :, 0]


def test_the_return_of_a_trajectory():
    values, present = returns(REWARDS, NUM_TURNS, credit="trajectory")
    assert values.tolist() == [[[4.0], [2.0], [6.0]]]
    assert present.tolist() == [[[True], [True], [True]]]
    # Discounted by half: 1 + 2/2 + 1/4, 0 + 2/2, 6.
    assert returns(REWARDS, NUM_TURNS, credit="trajectory", discount=0.5)[0].tolist() == [[[2.25], [1.0], [6.0]]]


def test_what_was_still_to_come_in_each_turn():
    values, present = returns(REWARDS, NUM_TURNS, credit="turn")
    assert values.tolist() == [[[4.0, 3.0, 1.0], [2.0, 2.0, 0.0], [6.0, 0.0, 0.0]]]
    assert present.tolist() == [[[True, True, True], [True, True, False], [True, False, False]]]
    # Discounted by half: 1 + 2/2 + 1/4, 2 + 1/2, 1; 0 + 2/2, 2; 6.
    halved = returns(REWARDS, NUM_TURNS, credit="turn", discount=0.5)[0]
    assert halved.tolist() == [[[2.25, 2.5, 1.0], [1.0, 2.0, 0.0], [6.0, 0.0, 0.0]]]


def test_the_rewards_are_left_as_they_were():
    rewards = torch.ones(1, 2, 3)
    returns(rewards, torch.full((1, 2), 3), credit="turn")
    assert rewards.tolist() == [[[1.0] * 3] * 2]


@pytest.mark.parametrize("credit", ["trajectory", "turn"])
def test_without_a_turn_or_a_judgement_there_is_no_return(credit):
    values, present = returns(REWARDS, torch.tensor([[3, 0, 1]]), torch.tensor([[True, True, False]]), credit=credit)
    assert present.any(2).tolist() == [[True, False, False]]
    assert values[0, 1:].abs().sum() == 0


def test_reward_minus_the_mean_of_the_group():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [3.0, 0.0, 0.0, 0.0], [2.0, 2.0, 2.0, 2.0]])
    assert of_one_turn(group_mean, rewards).tolist() == [
        [0.5, -0.5, -0.5, 0.5],
        [2.25, -0.75, -0.75, -0.75],
        [0.0, 0.0, 0.0, 0.0],
    ]


def test_divided_by_the_deviation_of_the_group():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [3.0, 0.0, 0.0, 0.0], [0.1, 0.1, 0.1, 0.1]])
    found = of_one_turn(group_mean_and_deviation, rewards)
    # Squares of what is left after the mean: 4 * 1/4 = 1, and 81/16 + 3 * 9/16 = 27/4; divided by 4 - 1: 1/3 and 9/4.
    assert EPSILON == 1e-4
    assert found[0].tolist() == pytest.approx([0.5 / (math.sqrt(1 / 3) + 1e-4) * sign for sign in (1, -1, -1, 1)])
    assert found[1].tolist() == pytest.approx([2.25 / 1.5001, *[-0.75 / 1.5001] * 3])
    # Rounding makes the mean of three tenths not quite a tenth; no advantage comes of it.
    assert found[2].tolist() == pytest.approx([0.0] * 4, abs=1e-3)


def test_minus_the_mean_of_the_others():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [3.0, 0.0, 0.0, 0.0]])
    found = of_one_turn(leave_one_out, rewards)
    # 1 - (0 + 0 + 1)/3 and 0 - (1 + 0 + 1)/3; 3 - 0 and 0 - (3 + 0 + 0)/3.
    assert found[0].tolist() == pytest.approx([2 / 3, -2 / 3, -2 / 3, 2 / 3])
    assert found[1].tolist() == pytest.approx([3.0, -1.0, -1.0, -1.0])


def test_divided_by_the_deviation_of_the_batch():
    rewards = torch.tensor([[1.0, 0.0], [10.0, 20.0]])
    # After the means: 1/2, -1/2, -5, 5. Mean square (1/4 + 1/4 + 25 + 25) / 4 = 12.625.
    deviation = math.sqrt(12.625) + 1e-4
    found = of_one_turn(global_normalization, rewards)
    assert found.flatten().tolist() == pytest.approx([x / deviation for x in (0.5, -0.5, -5.0, 5.0)])
    assert of_one_turn(global_normalization, torch.ones(2, 3)).tolist() == [[0.0] * 3] * 2


def test_without_a_baseline():
    scorable = torch.tensor([[True, False, True]])
    assert of_one_turn(no_baseline, torch.tensor([[1.0, 5.0, -2.0]]), scorable).tolist() == [[1.0, 0.0, -2.0]]


def test_every_setting_has_an_estimator():
    assert set(ESTIMATORS) == set(get_args(Advantage))


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Values and which are there, of 6 groups of 5 and up to 4 turns; in the last group only one trajectory counts."""
    generator = torch.Generator().manual_seed(0)
    rewards = torch.randn(6, 5, 4, generator=generator, dtype=torch.float64)
    scorable = torch.rand(6, 5, generator=generator) < 0.7
    scorable[5] = torch.tensor([True, False, False, False, False])
    num_turns = torch.randint(1, 5, (6, 5), generator=generator)
    return returns(rewards, num_turns, scorable, credit="turn", discount=0.9)


def test_leaving_one_out_is_the_groups_mean_but_for_a_factor(batch):
    values, present = batch
    count = present.sum(1, keepdim=True)
    factor = torch.where(count > 1, count / (count - 1), 0.0)
    assert torch.allclose(leave_one_out(values, present), group_mean(values, present) * factor)


@pytest.mark.parametrize("how", ["mean", "grpo", "rloo", "global"])
def test_every_group_sums_to_nothing(batch, how):
    advantages = ESTIMATORS[how](*batch)
    assert advantages.sum(1).abs().max() < 1e-12
    assert advantages.abs().max() > 0.5


@pytest.mark.parametrize("how", ["mean", "grpo", "rloo", "global"])
def test_alone_there_is_nothing_to_be_compared_with(batch, how):
    assert ESTIMATORS[how](*batch)[5].tolist() == [[0.0] * 4] * 5


@pytest.mark.parametrize("how", ["grpo", "global"])
def test_the_scale_of_the_rewards_is_gone(batch, how):
    values, present = batch
    before, after = ESTIMATORS[how](values, present), ESTIMATORS[how](values * 1000, present)
    assert torch.allclose(before, after, rtol=1e-2)
    count = present.sum(1)  # [P, K]
    if how == "grpo":  # each group's mean square is 1, with n - 1 in the denominator
        assert torch.allclose(after.square().sum(1), (count - 1).clamp_min(0).double(), rtol=1e-4)
    else:
        assert after.square().sum() / count.sum() == pytest.approx(1.0, rel=1e-5)


def test_problems_share_one_deviation_or_have_their_own():
    rewards = torch.tensor([[1.0, 0.0], [10.0, 20.0]])
    alike, apart = of_one_turn(group_mean_and_deviation, rewards), of_one_turn(global_normalization, rewards)
    assert (alike[1, 1] / alike[0, 0]).item() == pytest.approx(1.0, abs=1e-3)
    assert (apart[1, 1] / apart[0, 0]).item() == pytest.approx(10.0)


@pytest.mark.parametrize("how", list(ESTIMATORS))
def test_the_unscorable_counts_nowhere(how):
    rewards = torch.tensor([[1.0, 0.0, 500.0, 0.5], [7.0, 7.0, 7.0, 7.0]])
    scorable = torch.tensor([[True, True, False, True], [False, False, False, False]])
    found = of_one_turn(ESTIMATORS[how], rewards, scorable)
    assert found[0, [0, 1, 3]].tolist() == pytest.approx(
        of_one_turn(ESTIMATORS[how], torch.tensor([[1.0, 0.0, 0.5]]))[0].tolist()
    )
    assert found[0, 2] == 0
    assert found[1].tolist() == [0.0] * 4


@pytest.mark.parametrize("junk", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("how", list(ESTIMATORS))
def test_the_reward_of_the_unscorable_may_be_anything(junk, how):
    rewards, scorable = torch.tensor([[1.0, 0.0, junk]]), torch.tensor([[True, True, False]])
    found = of_one_turn(ESTIMATORS[how], rewards, scorable)
    assert found.tolist() == of_one_turn(ESTIMATORS[how], torch.tensor([[1.0, 0.0, 7.0]]), scorable).tolist()
    assert has_spread(rewards, scorable).tolist() == [True]
    # Nor do the estimators read values that are not there.
    direct = ESTIMATORS[how](rewards[:, :, None], scorable[:, :, None])
    assert direct[:, :, 0].tolist() == found.tolist()


def test_each_turn_is_compared_with_its_like():
    # Rewards still to come: 4 3 1, 2 2, 6. Means of those that got there: 4, 2.5, 1.
    found = group_mean(*returns(REWARDS, NUM_TURNS, credit="turn"))
    assert found.tolist() == [[[0.0, 0.5, 0.0], [-2.0, -0.5, 0.0], [2.0, 0.0, 0.0]]]
    # Leaving the turn itself out: 4 - 8/2, 2 - 10/2, 6 - 6/2; 3 - 2, 2 - 3; nobody.
    found = leave_one_out(*returns(REWARDS, NUM_TURNS, credit="turn"))
    assert found.tolist() == [[[0.0, 1.0, 0.0], [-3.0, -1.0, 0.0], [3.0, 0.0, 0.0]]]


def test_each_turn_without_the_unscorable():
    found = group_mean(*returns(REWARDS, NUM_TURNS, torch.tensor([[True, True, False]]), credit="turn"))
    assert found.tolist() == [[[1.0, 0.5, 0.0], [-1.0, -0.5, 0.0], [0.0, 0.0, 0.0]]]


def test_groups_do_not_mix():
    found = of_one_turn(group_mean, torch.tensor([[1.0, 0.0], [10.0, 20.0]]))
    assert found.tolist() == [[0.5, -0.5], [-5.0, 5.0]]


def test_with_one_turn_there_is_one_way_of_credit():
    generator = torch.Generator().manual_seed(0)
    rewards = torch.randn(6, 5, 1, generator=generator)
    scorable = torch.rand(6, 5, generator=generator) < 0.7
    num_turns = torch.ones(6, 5, dtype=torch.int64)
    for how in ESTIMATORS.values():
        by_turn, whole = (
            how(*returns(rewards, num_turns, scorable, credit=credit, discount=0.5))
            for credit in ("turn", "trajectory")
        )
        assert torch.equal(by_turn, whole)
        assert (by_turn[~scorable] == 0).all()


def test_spread():
    rewards = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 1.0], [0.0, 0.0, 9.0], [0.0, 1.0, 9.0], [0.0, 1.0, 2.0]])
    assert has_spread(rewards).tolist() == [False, True, True, True, True]
    scorable = torch.tensor(
        [[True] * 3, [True] * 3, [True, True, False], [True, True, False], [False, False, True]]
    )  # fmt: skip
    assert has_spread(rewards, scorable).tolist() == [False, True, False, True, False]
    assert has_spread(rewards, torch.zeros_like(scorable)).tolist() == [False] * 5


def test_rounding_is_no_spread():
    tenths = torch.tensor([[0.1 + 0.2, 0.3], [-0.1 - 0.2, -0.3], [0.3, 0.3 + 1e-6]], dtype=torch.float64)
    assert tenths[0, 0] != tenths[0, 1]
    assert has_spread(tenths).tolist() == [False, False, True]


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"num_turns \[P, G\], not \[2, 3, 4\] and \[2, 4\]"):
        returns(torch.zeros(2, 3, 4), torch.zeros(2, 4, dtype=torch.int64), credit="turn")
    with pytest.raises(ValueError, match=r"rewards must be \[P, G, K\]"):
        returns(torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.int64), credit="turn")
    for how in ESTIMATORS.values():
        with pytest.raises(ValueError, match=r"both be \[P, G, K\], not \[2, 3\] and \[2, 3\]"):
            how(torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool))
        with pytest.raises(ValueError, match=r"both be \[P, G, K\]"):
            how(torch.zeros(2, 3, 1), torch.ones(2, 3, 4, dtype=torch.bool))


def test_each_state_is_compared_with_its_like():
    # State 0: 1, 3, 5; state 1: 7 alone; state 2: nobody; state 3: 2 and 2.
    to_go = torch.tensor([1.0, 7.0, 3.0, 2.0, 5.0, 2.0])
    states = torch.tensor([0, 1, 0, 3, 0, 3])
    prior = torch.tensor([2.0, 4.0, 2.0, 0.0, 2.0, 2.0])
    found = state_advantages(to_go, states, prior)
    # The turn itself is in no mean: (3 + 5 + 2) / 3 for the first; the lonely one has the prior alone.
    assert found.tolist() == pytest.approx([1 - 10 / 3, 3.0, 3 - 8 / 3, 2 - 1.0, 5 - 6 / 3, 2 - 2.0])
    heavy = state_advantages(to_go, states, prior, prior_weight=4.0)
    assert heavy.tolist() == pytest.approx([1 - 16 / 6, 3.0, 3 - 14 / 6, 2 - 2 / 5, 5 - 12 / 6, 0.0])


def test_the_turn_itself_is_not_in_its_baseline():
    states, prior = torch.tensor([0, 0, 0, 1]), torch.zeros(4)
    before = state_advantages(torch.tensor([1.0, 2.0, 3.0, 4.0]), states, prior)
    after = state_advantages(torch.tensor([11.0, 2.0, 3.0, 14.0]), states, prior)
    assert (after - before).tolist() == pytest.approx([10.0, -10 / 3, -10 / 3, 10.0])


def test_no_turns_no_advantages():
    nothing = torch.zeros(0)
    assert state_advantages(nothing, torch.zeros(0, dtype=torch.int64), nothing).shape == (0,)


def test_wrong_shapes_of_states_are_refused():
    numbers, states = torch.zeros(3), torch.zeros(3, dtype=torch.int64)
    for arguments in (
        (numbers, states[:2], numbers),
        (numbers, states, numbers[:2]),
        (numbers[None], states[None], numbers[None]),
    ):
        with pytest.raises(ValueError, match=r"all three must be \[N\]"):
            state_advantages(*arguments)
    for weight in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="prior_weight must be positive"):
            state_advantages(numbers, states, numbers, prior_weight=weight)


def test_what_it_costs_to_leave_the_base():
    # Log-ratios 1, -1 and 0.5 nats; the batch, of which this is a part, has a mean of 0.25.
    sampled, base = torch.tensor([-1.0, -2.0, -0.5]), torch.tensor([-2.0, -1.0, -1.0])
    advantages = torch.tensor([10.0, 20.0, 30.0])
    found = with_kl_penalty(advantages, sampled, base, 2.0, mean=0.25)
    assert found.tolist() == pytest.approx([10 - 1.5, 20 + 2.5, 30 - 0.5])
    # k2: 1/2, 1/2, 1/8.
    found = with_kl_penalty(advantages, sampled, base, 2.0, mean=0.25, estimator="k2")
    assert found.tolist() == pytest.approx([10 - 0.5, 20 - 0.5, 30 + 0.25])
    # k3: 1/e - 1 + 1, e - 1 - 1, e^-0.5 - 1 + 0.5.
    found = with_kl_penalty(advantages, sampled, base, 2.0, mean=0.0, estimator="k3")
    assert found.tolist() == pytest.approx([10 - 2 / math.e, 20 - 2 * (math.e - 2), 30 - 2 * (math.exp(-0.5) - 0.5)])


def test_no_gradient_flows_through_a_reward():
    logprobs = torch.zeros(2, requires_grad=True)
    assert not with_kl_penalty(torch.ones(2), logprobs, torch.zeros(2), 1.0, mean=0.0).requires_grad


def test_what_long_answers_lose():
    lengths = torch.tensor([[0, 75, 80], [85, 100, 101]])
    # Nothing up to 100 - 20 = 80; 5 of 20 steps at 85; all at 100.
    assert overlong_penalty(lengths, 100, 20, 2.0).tolist() == [[0.0, 0.0, 0.0], [0.5, 2.0, 2.0]]
    assert overlong_penalty(torch.tensor([0, 5, 10]), 10, 10, 1.0).tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("buffer", [0, -1, 101])
def test_a_buffer_that_does_not_fit(buffer):
    with pytest.raises(
        ConfigError, match=f"overlong_buffer must be at least 1 and at most max_tokens, 100, not {buffer}"
    ):
        overlong_penalty(torch.tensor([1]), 100, buffer, 1.0)
