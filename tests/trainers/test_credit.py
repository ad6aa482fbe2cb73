"""What is learned from, and what every turn is given: by hand, and against the rule in other words."""

import random
from collections.abc import Sequence
from typing import Any

import pytest

from trainers.credit import assign_credit
from trainers.trajectories import Completion, Group, Trajectory, Turn


def episode(*turns: tuple[str, float], verdict: str = "wrong") -> Trajectory:
    """A trajectory out of (what was seen, what was earned); the last thing seen is "over"."""
    found = Trajectory(seed=0, observations=[*(seen for seen, _ in turns), "over"])
    for _, reward in turns:
        found.append_completion(Completion([1], [-1.0], "stop"))
        found.turns.append(Turn("x", 1, reward, "stop", verdict, {}))
    return found


def credited(groups: Sequence[Group], baseline: Any) -> dict[int, list[float]]:
    """The advantages of each trajectory that is learned from, by its number in the batch."""
    credit = assign_credit(groups, baseline)
    number = {id(t): i for i, t in enumerate(t for group in groups for t in group.trajectories)}
    assert len(credit.trajectories) == len(credit.advantages)
    found = {number[id(t)]: advantages for t, advantages in zip(credit.trajectories, credit.advantages, strict=True)}
    for i, advantages in found.items():
        trajectory = credit.trajectories[list(found).index(i)]
        assert len(advantages) == len(trajectory.turns)
    return found


# One board is "s" for both tries; then they part ways. Rewards still to come: 3 2, 1 1 1, and 4, 0.
FIRST = Group(0, [episode(("s", 1.0), ("t", 2.0)), episode(("s", 0.0), ("u", 0.0), ("v", 1.0))], "a", "self")
SECOND = Group(1, [episode(("s", 4.0)), episode(("s", 0.0))], "a", "self")


def test_by_group():
    assert credited([FIRST, SECOND], "group") == {0: [1.0, 1.0], 1: [-1.0] * 3, 2: [2.0], 3: [-2.0]}


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


@pytest.mark.parametrize("baseline", ["group", "turn", "state"])
def test_the_unscorable_and_the_empty_are_as_if_they_were_not_there(baseline):
    def batch(*more: Trajectory) -> list[Group]:
        return [
            Group(0, [*FIRST.trajectories, *more], "a", "self"),
            Group(1, [*SECOND.trajectories, *more], "a", "self"),
            Group(2, [*more, *SECOND.trajectories], "b", "self"),
        ]

    outages = episode(("s", 1e9), ("t", float("nan")), verdict="unscorable"), episode()
    without, found = assign_credit(batch(), baseline), assign_credit(batch(*outages), baseline)
    assert found.advantages == without.advantages
    assert [id(t) for t in found.trajectories] == [id(t) for t in without.trajectories]
    assert found.spread_share == without.spread_share == 1.0


@pytest.mark.parametrize("baseline", ["group", "turn", "state"])
def test_there_may_be_nothing_to_learn_from(baseline):
    groups = [Group(0, [episode(), episode()]), Group(1, [episode(("s", 5.0), verdict="unscorable")] * 2)]
    credit = assign_credit(groups, baseline)
    assert (credit.trajectories, credit.advantages, credit.spread_share) == ([], [], 0.0)


def test_a_group_without_spread_is_left_out_unless_states_are_compared():
    lost = Group(0, [episode(("s", -1.0)), episode(("s", -1.0))], "a", "self")
    won = Group(1, [episode(("s", 1.0)), episode(("s", 1.0))], "a", "self")
    for baseline in ("group", "turn"):
        assert credited([lost, won], baseline) == {}
    assert assign_credit([lost, won], "state").spread_share == 0.0
    # In s: -1 -1 1 1, priors -1 -1 1 1.
    assert credited([lost, won], "state") == {0: [-1.0], 1: [-1.0], 2: [1.0], 3: [1.0]}
    assert credited([lost, lost], "state") == {}
    assert assign_credit([lost, FIRST], "turn").spread_share == 0.5


def naive(groups: Sequence[Group], baseline: str) -> dict[int, list[float]]:
    """The rule of `group` and `turn` in other words, one number at a time."""
    found: dict[int, list[float]] = {}
    number = -1
    for group in groups:
        counted = [t for t in group.trajectories if t.turns and all(turn.verdict != "unscorable" for turn in t.turns)]
        returns = [sum(turn.reward for turn in t.turns) for t in counted]
        for trajectory in group.trajectories:
            number += 1
            if not any(trajectory is t for t in counted) or len(set(returns)) == 1:
                continue
            found[number] = []
            for k in range(len(trajectory.turns)):
                first = 0 if baseline == "group" else k
                as_far = [sum(turn.reward for turn in t.turns[first:]) for t in counted if len(t.turns) > first]
                mine = sum(turn.reward for turn in trajectory.turns[first:])
                found[number].append(mine - sum(as_far) / len(as_far))
    return found


@pytest.mark.parametrize("baseline", ["group", "turn"])
def test_against_the_rule_in_other_words(baseline):
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
    found, expected = credited(groups, baseline), naive(groups, baseline)
    assert found.keys() == expected.keys()
    assert 20 < len(expected) < 120
    for number, advantages in expected.items():
        assert found[number] == pytest.approx(advantages, abs=1e-5)
