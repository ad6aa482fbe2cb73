"""What is learned from, and what every turn is given: by hand, and against the rule in other words."""

import random
from collections.abc import Sequence
from typing import Any

import pytest

from trainers.advantages import EPSILON
from trainers.config import ConfigError, CreditOptions
from trainers.credit import Credit, assign_credit
from trainers.trajectories import Completion, Group, StopReason, Trajectory, Turn


def episode(
    *turns: tuple[str, float],
    verdict: str = "wrong",
    lengths: Sequence[int] = (),
    stop_reasons: Sequence[StopReason] = (),
) -> Trajectory:
    """A trajectory out of (what was seen, what was earned); the last thing seen is "over"."""
    found = Trajectory(seed=0, observations=[*(seen for seen, _ in turns), "over"])
    for k, (_, reward) in enumerate(turns):
        length = lengths[k] if lengths else 1
        stop_reason = stop_reasons[k] if stop_reasons else "stop"
        found.append_completion(Completion([1] * length, [-1.0] * length, stop_reason))
        found.turns.append(Turn("x", length, reward, stop_reason, verdict, {}))
    return found


def assigned(groups: Sequence[Group], credit: Any, *, keep_all: bool = False, **options: Any) -> Credit:
    return assign_credit(groups, CreditOptions(credit=credit, **options), max_tokens=100, keep_all=keep_all)


def credited(groups: Sequence[Group], how: Any, **options: Any) -> dict[int, list[float]]:
    """The advantages of each trajectory that is learned from, by its number in the batch."""
    credit = assigned(groups, how, **options)
    number = {id(t): i for i, t in enumerate(t for group in groups for t in group.trajectories)}
    assert len(credit.trajectories) == len(credit.advantages) == len(credit.group_numbers)
    for trajectory, p in zip(credit.trajectories, credit.group_numbers, strict=True):
        assert any(trajectory is t for t in groups[p].trajectories)
    assert len(credit.has_spread) == len(groups)
    found = {number[id(t)]: advantages for t, advantages in zip(credit.trajectories, credit.advantages, strict=True)}
    for i, advantages in found.items():
        trajectory = credit.trajectories[list(found).index(i)]
        assert len(advantages) == len(trajectory.turns)
    return found


# One board is "s" for both tries; then they part ways. Rewards still to come: 3 2, 1 1 1, and 4, 0.
FIRST = Group(0, [episode(("s", 1.0), ("t", 2.0)), episode(("s", 0.0), ("u", 0.0), ("v", 1.0))], "a", "self")
SECOND = Group(1, [episode(("s", 4.0)), episode(("s", 0.0))], "a", "self")


def test_by_trajectory():
    assert credited([FIRST, SECOND], "trajectory") == {0: [1.0, 1.0], 1: [-1.0] * 3, 2: [2.0], 3: [-2.0]}


def test_by_turn():
    # Means: 2 over the first turns, 1.5 over the second ones, 1 over the third.
    assert credited([FIRST, SECOND], "turn") == {0: [1.0, 0.5], 1: [-1.0, -0.5, 0.0], 2: [2.0], 3: [-2.0]}


def test_by_state():
    # In s: 3, 1, 4 and 0, with priors 2 2 2 2 (the means of the turn). The other three and the prior are four.
    expected = {
        0: [3 - (1 + 4 + 0 + 2) / 4, 2 - 1.5],
        1: [1 - (3 + 4 + 0 + 2) / 4, 1 - 1.5, 0.0],
        2: [4 - (3 + 1 + 0 + 2) / 4],
        3: [0 - (3 + 1 + 4 + 2) / 4],
    }
    found = credited([FIRST, SECOND], "state")
    assert found.keys() == expected.keys()
    for number, advantages in expected.items():
        assert found[number] == pytest.approx(advantages)


@pytest.mark.parametrize("other", [{"agent": "b", "opponent": "self"}, {"agent": "a", "opponent": "past 10"}])
def test_another_seat_or_opponent_is_another_state(other):
    elsewhere = Group(1, SECOND.trajectories, **other)
    found = credited([FIRST, elsewhere], "state")
    assert found[0] == pytest.approx([3 - (1 + 2) / 2, 0.5])
    assert found[1] == pytest.approx([1 - (3 + 2) / 2, -0.5, 0.0])
    assert found[2] == pytest.approx([4 - (0 + 2) / 2])
    assert found[3] == pytest.approx([0 - (4 + 2) / 2])


@pytest.mark.parametrize("how", ["trajectory", "turn", "state"])
def test_the_unscorable_and_the_empty_are_as_if_they_were_not_there(how):
    def batch(*more: Trajectory) -> list[Group]:
        return [
            Group(0, [*FIRST.trajectories, *more], "a", "self"),
            Group(1, [*SECOND.trajectories, *more], "a", "self"),
            Group(2, [*more, *SECOND.trajectories], "b", "self"),
        ]

    outages = episode(("s", 1e9), ("t", float("nan")), verdict="unscorable"), episode()
    for advantage in ("mean",) if how == "state" else ("mean", "grpo", "rloo", "global", "none"):
        without, found = (assigned(groups, how, advantage=advantage) for groups in (batch(), batch(*outages)))
        assert len(found.advantages) == 6
        for ours, theirs in zip(found.advantages, without.advantages, strict=True):
            assert ours == pytest.approx(theirs)
        assert [id(t) for t in found.trajectories] == [id(t) for t in without.trajectories]
        assert found.group_numbers == without.group_numbers == [0, 0, 1, 1, 2, 2]
        assert found.has_spread == without.has_spread == [True] * 3
        kept = assigned(batch(*outages), how, advantage=advantage, keep_all=True)
        assert len(kept.trajectories) == 6


@pytest.mark.parametrize("how", ["trajectory", "turn", "state"])
def test_there_may_be_nothing_to_learn_from(how):
    groups = [Group(0, [episode(), episode()]), Group(1, [episode(("s", 5.0), verdict="unscorable")] * 2)]
    for keep_all in (False, True):
        assert assigned(groups, how, keep_all=keep_all) == Credit([], [], [], [False, False], 0)
        assert assigned([], how, keep_all=keep_all) == Credit([], [], [], [], 0)


def test_a_group_without_spread_is_left_out_unless_states_are_compared():
    lost = Group(0, [episode(("s", -1.0)), episode(("s", -1.0))], "a", "self")
    won = Group(1, [episode(("s", 1.0)), episode(("s", 1.0))], "a", "self")
    for how in ("trajectory", "turn"):
        assert credited([lost, won], how) == {}
    assert assigned([lost, won], "state").has_spread == [False, False]
    # In s: -1 -1 1 1, priors -1 -1 1 1.
    assert credited([lost, won], "state") == {0: [-1.0], 1: [-1.0], 2: [1.0], 3: [1.0]}
    assert credited([lost, lost], "state") == {}
    mixed = assigned([lost, FIRST], "turn")
    assert mixed.has_spread == [False, True]
    assert mixed.group_numbers == [1, 1]
    kept = assigned([lost, FIRST], "turn", keep_all=True)
    assert kept.has_spread == [False, True]
    assert kept.group_numbers == [0, 0, 1, 1]
    assert kept.advantages == [[0.0], [0.0], [1.0, 0.5], [-1.0, -0.5, 0.0]]


def naive(groups: Sequence[Group], how: str) -> dict[int, list[float]]:
    """The rule of `trajectory` and `turn` in other words, one number at a time."""
    found: dict[int, list[float]] = {}
    number = -1
    for group in groups:
        counted = [t for t in group.trajectories if t.turns and all(turn.verdict != "unscorable" for turn in t.turns)]
        differ = False
        for k in range(1 if how == "trajectory" else 5):
            to_come = {sum(turn.reward for turn in t.turns[k:]) for t in counted if len(t.turns) > k}
            differ = differ or len(to_come) > 1
        for trajectory in group.trajectories:
            number += 1
            if not any(trajectory is t for t in counted) or not differ:
                continue
            found[number] = []
            for k in range(len(trajectory.turns)):
                first = 0 if how == "trajectory" else k
                as_far = [sum(turn.reward for turn in t.turns[first:]) for t in counted if len(t.turns) > first]
                mine = sum(turn.reward for turn in trajectory.turns[first:])
                found[number].append(mine - sum(as_far) / len(as_far))
    return found


def test_equal_returns_may_differ_by_turn():
    parted = Group(0, [episode(("s", 1.0), ("t", 0.0)), episode(("s", 0.0), ("t", 1.0))])
    assert credited([parted], "trajectory") == {}
    # Still to come: 1 0 and 1 1.
    for keep_all in (False, True):
        assert credited([parted], "turn", keep_all=keep_all) == {0: [0.0, -0.5], 1: [0.0, 0.5]}
    assert [assigned([parted], how).has_spread for how in ("trajectory", "turn")] == [[False], [True]]


def test_the_same_words_in_another_environment_are_another_state():
    first = Group(0, [episode(("go", 0.0)), episode(("go", 1.0))], task="A")
    second = Group(1, [episode(("go", 10.0)), episode(("go", 20.0))], task="B")
    both = credited([first, second], "state")
    assert {n: both[n] for n in (0, 1)} == credited([first], "state")


def test_rounding_teaches_nothing():
    same = [Group(p, [episode(("s", 0.1)) for _ in range(3)]) for p in range(2)]
    assert credited(same, "state") == {}


def test_how_many_were_compared():
    unjudged = Group(2, [episode(("s", 1.0), verdict="unscorable"), episode(("s", 2.0))])
    equal = Group(3, [episode(("s", 1.0)), episode(("s", 1.0))])
    credit = assigned([FIRST, unjudged, equal], "trajectory")
    assert (len(credit.trajectories), credit.compared) == (2, 5)


@pytest.mark.parametrize("how", ["trajectory", "turn"])
def test_against_the_rule_in_other_words(how):
    chance = random.Random(0)
    groups = [
        Group(p, [
            episode(
                *((f"o{chance.randrange(3)}", float(chance.randrange(-2, 3))) for _ in range(chance.randrange(5))),
                verdict=chance.choice(["wrong", "wrong", "wrong", "unscorable"]),
            )
            for _ in range(4)
        ])
        for p in range(40)
    ]  # fmt: skip
    found, expected = credited(groups, how), naive(groups, how)
    assert found.keys() == expected.keys()
    assert 20 < len(expected) < 120
    for number, advantages in expected.items():
        assert found[number] == pytest.approx(advantages, abs=1e-5)


def test_without_a_baseline_equal_returns_teach_too():
    lost = Group(0, [episode(("s", 0.0)), episode(("s", 0.0))])
    won = Group(1, [episode(("s", 1.0)), episode(("s", 1.0))])
    assert credited([lost, won, FIRST], "trajectory", advantage="none") == {
        2: [1.0], 3: [1.0], 4: [3.0, 3.0], 5: [1.0] * 3,
    }  # fmt: skip
    assert credited([FIRST], "turn", advantage="none") == {0: [3.0, 2.0], 1: [1.0, 1.0, 1.0]}
    assert assigned([lost, won], "trajectory", advantage="none").has_spread == [False, False]
    # It evens out: nothing as a whole, but its turns were worth something.
    even = Group(0, [episode(("s", 1.0), ("t", -1.0))] * 2)
    assert credited([even], "trajectory", advantage="none") == {}
    assert assigned([even], "turn", advantage="none").advantages == [[0.0, -1.0]] * 2


def test_leaving_one_out():
    # Against the other one of two: 3 - 1, 1 - 3, 4 - 0, 0 - 4.
    assert credited([FIRST, SECOND], "trajectory", advantage="rloo") == {
        0: [2.0] * 2,
        1: [-2.0] * 3,
        2: [4.0],
        3: [-4.0],
    }
    # By turn: 3 - 1 and 2 - 1; nobody else got to the third.
    assert credited([FIRST], "turn", advantage="rloo") == {0: [2.0, 1.0], 1: [-2.0, -1.0, 0.0]}


def test_divided_by_the_groups_deviation():
    # Two numbers a apart have the deviation a / sqrt 2: of 3 and 1 it is sqrt 2, of 4 and 0 it is 2 sqrt 2.
    found = credited([FIRST, SECOND], "trajectory", advantage="grpo")
    assert found[1] == pytest.approx([-1 / (2**0.5 + EPSILON)] * 3)
    assert found[2] == pytest.approx([2 / (8**0.5 + EPSILON)])


@pytest.mark.parametrize("keep_all", [False, True])
def test_the_deviation_of_the_batch_is_of_what_is_trained(keep_all):
    constant = Group(2, [episode(("s", 1.0))] * 2)
    found = assigned([FIRST, constant, SECOND], "trajectory", advantage="global", keep_all=keep_all)
    # 1, -1, 2, -2 after the means, and twice 0 where the group without spread is trained on, too: 10/4 or 10/6.
    deviation = (10 / 6 if keep_all else 10 / 4) ** 0.5 + EPSILON
    assert found.has_spread == [True, False, True]
    expected = [1, -1, 0, 0, 2, -2] if keep_all else [1, -1, 2, -2]
    assert [a[0] for a in found.advantages] == pytest.approx([x / deviation for x in expected])


def test_later_rewards_count_for_less():
    # Half of what comes a turn later: 1 + 2/2, 1/4; a half each way from their mean 9/8.
    assert credited([FIRST], "trajectory", discount=0.5) == {0: [0.875] * 2, 1: [-0.875] * 3}
    # By turn: 2 2 and 1/4 1/2 1, with the means 9/8, 5/4, 1.
    by_turn = {0: [0.875, 0.75], 1: [-0.875, -0.75, 0.0]}
    assert credited([FIRST], "turn", discount=0.5) == by_turn
    # By state: in s the other one and the prior 9/8 are two; the rest is alone with its prior.
    found = credited([FIRST], "state", discount=0.5)
    assert found[0] == pytest.approx([2 - (1 / 4 + 9 / 8) / 2, 0.75])
    assert found[1] == pytest.approx([1 / 4 - (2 + 9 / 8) / 2, -0.75, 0.0])


def test_the_same_reward_later_is_less():
    group = Group(0, [episode(("s", 1.0), ("t", 0.0)), episode(("s", 0.0), ("t", 1.0))])
    assert credited([group], "trajectory") == {}
    assert credited([group], "trajectory", discount=0.5) == {0: [0.25] * 2, 1: [-0.25] * 2}


CUT = Group(0, [
    episode(("s", 1.0)),
    episode(("s", 0.0)),
    episode(("s", 5.0), ("t", 5.0), stop_reasons=("length", "stop")),
    episode(("s", 5.0), stop_reasons=("env",)),
])  # fmt: skip


def test_cut_answers_are_kept():
    # The mean of 1, 0, 10 and 5 is 4.
    assert credited([CUT], "trajectory") == {0: [-3.0], 1: [-4.0], 2: [6.0, 6.0], 3: [1.0]}
    assert assigned([CUT], "trajectory").masked == 0


@pytest.mark.parametrize("keep_all", [False, True])
def test_cut_answers_are_masked(keep_all):
    outage = episode(("s", 3.0), verdict="unscorable", stop_reasons=("length",))  # has another reason to be left out
    both = [Group(0, [*CUT.trajectories, outage]), Group(1, [*CUT.trajectories[1:3] * 2, episode(("s", 0.0))])]
    found = assigned(both, "trajectory", overlong="mask", keep_all=keep_all)
    # The mean of 1, 0 and 5 is 2. In the second group 0, 0 and 0 are left.
    constant = [[0.0]] * 3 if keep_all else []
    assert found.advantages == [[-1.0], [-2.0], [3.0], *constant]
    assert found.has_spread == [True, False]
    assert found.masked == 3
    assert not any(turn.stop_reason == "length" for t in found.trajectories for turn in t.turns)


def test_masked_by_turn_and_by_state():
    assert credited([CUT], "turn", overlong="mask") == {0: [-1.0], 1: [-2.0], 3: [3.0]}
    # In s: 1, 0 and 5 with the prior 2: (0 + 5 + 2) / 3, (1 + 5 + 2) / 3, (1 + 0 + 2) / 3.
    found = credited([CUT], "state", overlong="mask")
    assert [found[i][0] for i in (0, 1, 3)] == pytest.approx([1 - 7 / 3, 0 - 8 / 3, 5 - 3 / 3])


def test_long_answers_are_penalized():
    group = Group(0, [
        episode(("s", 1.0), lengths=(80,)),
        episode(("s", 1.0), lengths=(90,)),
        episode(("s", 1.0), lengths=(100,), stop_reasons=("length",)),
        episode(("s", 1.0), ("t", 1.0), lengths=(95, 7), stop_reasons=("stop", "length")),  # the context was full
    ])  # fmt: skip
    options: Any = {"overlong": "penalize", "overlong_buffer": 20, "overlong_penalty": 2.0}
    # 0, half, and all of 2; and 3/4 and all of it. Returns: 1, 0, -1, 1 - 1.5 + 1 - 2 = -1.5. Their mean is -0.375.
    assert credited([group], "trajectory", **options) == {0: [1.375], 1: [0.375], 2: [-0.625], 3: [-1.125] * 2}
    # By turn: 1, 0, -1, -1.5, and in the second turn -1 alone.
    assert credited([group], "turn", **options) == {0: [1.375], 1: [0.375], 2: [-0.625], 3: [-1.125, 0.0]}
    assert [t.total_reward for t in group.trajectories] == [1.0, 1.0, 1.0, 2.0]
    assert assigned([group], "trajectory", **options).masked == 0
    # Without it the first three are equal.
    first = Group(0, group.trajectories[:3])
    assert assigned([first], "trajectory").has_spread == [False]
    assert assigned([first], "trajectory", **options).has_spread == [True]


def test_settings_and_groups_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="overlong_buffer must be at least 1 and at most max_tokens, 100, not 101"):
        assigned([FIRST], "turn", overlong="penalize", overlong_buffer=101)
    with pytest.raises(ValueError, match=r"groups must be of one size, not \[2, 4\]"):
        assigned([FIRST, CUT], "turn")
