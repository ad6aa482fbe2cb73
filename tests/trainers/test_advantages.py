"""Numbers worked out by hand."""

import pytest
import torch

from trainers.advantages import group_mean_advantages, has_spread, state_advantages, turn_advantages, with_kl_penalty


def test_reward_minus_the_mean_of_the_group():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [3.0, 0.0, 0.0, 0.0], [2.0, 2.0, 2.0, 2.0]])
    assert group_mean_advantages(rewards).tolist() == [
        [0.5, -0.5, -0.5, 0.5],
        [2.25, -0.75, -0.75, -0.75],
        [0.0, 0.0, 0.0, 0.0],
    ]


def test_the_unscorable_counts_in_no_mean():
    rewards = torch.tensor([[1.0, 0.0, 500.0, 0.5], [7.0, 7.0, 7.0, 7.0]])
    scorable = torch.tensor([[True, True, False, True], [False, False, False, False]])
    assert group_mean_advantages(rewards, scorable).tolist() == [[0.5, -0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]


@pytest.mark.parametrize("junk", [float("nan"), float("inf"), -float("inf")])
def test_the_reward_of_the_unscorable_may_be_anything(junk):
    rewards, scorable = torch.tensor([[1.0, 0.0, junk]]), torch.tensor([[True, True, False]])
    assert group_mean_advantages(rewards, scorable).tolist() == [[0.5, -0.5, 0.0]]
    turns = turn_advantages(rewards[:, :, None], torch.ones(1, 3, dtype=torch.int64), scorable)
    assert turns.tolist() == [[[0.5], [-0.5], [0.0]]]
    assert has_spread(rewards, scorable).tolist() == [True]


def test_each_turn_is_compared_with_its_like():
    # Rewards still to come: 4 3 1, 2 2, 6. Means of those that got there: 4, 2.5, 1.
    rewards = torch.tensor([[[1.0, 2.0, 1.0], [0.0, 2.0, 0.0], [6.0, 0.0, 0.0]]])
    num_turns = torch.tensor([[3, 2, 1]])
    assert turn_advantages(rewards, num_turns).tolist() == [[[0.0, 0.5, 0.0], [-2.0, -0.5, 0.0], [2.0, 0.0, 0.0]]]


def test_each_turn_without_the_unscorable():
    rewards = torch.tensor([[[1.0, 2.0, 1.0], [0.0, 2.0, 0.0], [6.0, 0.0, 0.0]]])
    scorable = torch.tensor([[True, True, False]])
    found = turn_advantages(rewards, torch.tensor([[3, 2, 1]]), scorable)
    assert found.tolist() == [[[1.0, 0.5, 0.0], [-1.0, -0.5, 0.0], [0.0, 0.0, 0.0]]]


def test_groups_do_not_mix():
    rewards = torch.tensor([[[1.0], [0.0]], [[10.0], [20.0]]])
    assert turn_advantages(rewards, torch.ones(2, 2, dtype=torch.int64)).tolist() == [
        [[0.5], [-0.5]],
        [[-5.0], [5.0]],
    ]


def test_with_one_turn_it_is_the_groups_mean():
    generator = torch.Generator().manual_seed(0)
    rewards = torch.randn(6, 5, generator=generator)
    scorable = torch.rand(6, 5, generator=generator) < 0.7
    by_turn = turn_advantages(rewards[:, :, None], torch.ones(6, 5, dtype=torch.int64), scorable)[:, :, 0]
    assert torch.equal(by_turn, group_mean_advantages(rewards, scorable))
    assert (by_turn.sum(1).abs() < 1e-6).all()
    assert (by_turn[~scorable] == 0).all()


def test_spread():
    rewards = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 1.0], [0.0, 0.0, 9.0], [0.0, 1.0, 9.0], [0.0, 1.0, 2.0]])
    assert has_spread(rewards).tolist() == [False, True, True, True, True]
    scorable = torch.tensor(
        [[True] * 3, [True] * 3, [True, True, False], [True, True, False], [False, False, True]]
    )  # fmt: skip
    assert has_spread(rewards, scorable).tolist() == [False, True, False, True, False]
    assert has_spread(rewards, torch.zeros_like(scorable)).tolist() == [False] * 5


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"rewards must be \[P, G\], not \[4\]"):
        group_mean_advantages(torch.zeros(4))
    with pytest.raises(ValueError, match=r"num_turns \[P, G\]"):
        turn_advantages(torch.zeros(2, 3, 4), torch.zeros(2, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"rewards must be \[P, G, K\]"):
        turn_advantages(torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.int64))


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
    found = with_kl_penalty(torch.tensor([10.0, 20.0, 30.0]), sampled, base, 2.0, mean=0.25)
    assert found.tolist() == pytest.approx([10 - 1.5, 20 + 2.5, 30 - 0.5])
