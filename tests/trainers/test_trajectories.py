"""The ledger."""

import json
from typing import Any

import pytest

from trainers.trajectories import Completion, Group, Trajectory, Turn


def turn(**changes: Any) -> Turn:
    found: dict[str, Any] = {
        "action": "50", "num_tokens": 2, "reward": 1.0, "stop_reason": "stop", "verdict": "wrong",
        "reward_parts": {"found": 1.0},
    }  # fmt: skip
    return Turn(**{**found, **changes})


def test_the_ledger_only_grows():
    trajectory = Trajectory(seed=7)
    trajectory.append_prompt([5, 6])
    trajectory.append_completion(Completion([8, 9], [-0.1, -0.2], "stop"))
    trajectory.append_prompt((7,))
    trajectory.append_completion(Completion([3], [-0.3], "length"))
    assert trajectory.tokens == [5, 6, 8, 9, 7, 3]
    assert trajectory.logprobs == [0.0, 0.0, -0.1, -0.2, 0.0, -0.3]
    assert trajectory.is_action == [False, False, True, True, False, True]
    assert trajectory.num_action_tokens == 3


def test_a_completion_has_one_logprob_a_token():
    with pytest.raises(ValueError, match="2 tokens but 1 logprobs"):
        Completion([1, 2], [-0.5], "stop")


def test_sums_over_turns():
    trajectory = Trajectory(seed=0)
    assert (trajectory.total_reward, trajectory.verdict, trajectory.is_scorable) == (0.0, "", True)
    trajectory.turns = [
        turn(reward=0.5, reward_parts={"found": 0.75, "format": -0.25}),
        turn(reward=2.0, reward_parts={"found": 2.0}, verdict="correct"),
    ]
    assert trajectory.total_reward == 2.5
    assert trajectory.reward_part("found") == 2.75
    assert trajectory.reward_part("format") == -0.25
    assert trajectory.reward_part("speed") == 0.0
    assert trajectory.verdict == "correct"


def test_one_unscorable_turn_makes_the_episode_unscorable():
    trajectory = Trajectory(seed=0, turns=[turn(verdict="unscorable"), turn()])
    assert not trajectory.is_scorable
    assert Trajectory(seed=0, turns=[turn(), turn()]).is_scorable


@pytest.mark.parametrize(("reason", "truncated"), [("stop", False), ("length", True), ("env", True)])
def test_truncated_where_a_turn_did_not_end_by_itself(reason, truncated):
    assert Trajectory(seed=0, turns=[turn(), turn(stop_reason=reason), turn()]).is_truncated is truncated


def test_the_record_is_json():
    trajectory = Trajectory(seed=3, observations=["Guess!", "Higher! \ud800"], turns=[turn()])
    trajectory.append_completion(Completion([1, 2], [-1.0, -1.0], "stop"))
    assert json.loads(json.dumps(trajectory.as_record())) == {
        "seed": 3,
        "return": 1.0,
        "observations": ["Guess!", "Higher! \ud800"],
        "actions": ["50"],
        "rewards": [1.0],
        "verdicts": ["wrong"],
        "stop_reasons": ["stop"],
        "action_tokens": 2,
    }


def test_a_groups_records_are_its_episodes_or_the_whole_games():
    rows = [Trajectory(seed=3, observations=[f"try {i}"]) for i in range(2)]
    assert Group(3, rows).as_records() == [row.as_record() for row in rows]
    games = [{"seed": 3, "agents": ["a"]}, {"seed": 3, "agents": ["b"]}]
    assert Group(3, rows, agent="a", opponent="self", games=games).as_records() == games
