"""What is written down of an update, by hand."""

import dataclasses
from typing import Any

import pytest
import torch

from trainers.collect import Batch
from trainers.config import CreditOptions, TrainConfig
from trainers.credit import assign_credit
from trainers.environments import Broken
from trainers.learn import Learned
from trainers.logs.metrics import evaluation_metrics, records_of, update_metrics
from trainers.rollouts import RolloutClock, unscorable_because
from trainers.trajectories import Completion, Group, Trajectory, Turn

CONFIG = TrainConfig(model="m", env=("A-v0", "m:B-v0"), env_args=("{}", '{"x": 1}'), record_groups=1)


def episode(*rewards: float, verdict: str = "wrong", stop: Any = "stop", logprob: float = -0.5) -> Trajectory:
    """Two tokens a turn, each of this logprob."""
    found = Trajectory(seed=0, observations=["o"] * (len(rewards) + 1))
    for reward in rewards:
        found.append_prompt([5])
        found.append_completion(Completion([7, 8], [logprob] * 2, stop))
        found.turns.append(Turn("an action", 2, reward, stop, verdict, {"format": reward / 2}))
    return found


def batch_of(*groups: Group, broken: list[Broken] | None = None, episodes: int = 8) -> Batch:
    credit = assign_credit(groups, CreditOptions(), max_tokens=2)
    return Batch(list(groups), credit, broken or [], RolloutClock(2.0, 0.5), {}, episodes)


FIRST = Group(0, [episode(1.0, verdict="correct"), episode(0.0, stop="length", logprob=-1.5)], task="A-v0")
SECOND = Group(0, [episode(3.0, 1.0), episode(4.0)], task="B-v0")  # its returns are equal


def test_figures_of_a_mix_by_hand():
    found = update_metrics(batch_of(FIRST, SECOND), Learned({"loss": 0.25}), group_size=2)
    assert found["return_mean"] == (1 + 0 + 4 + 4) / 4
    assert (found["A-v0/return_mean"], found["B-v0/return_mean"]) == (0.5, 4.0)
    assert (found["verdict_correct"], found["A-v0/verdict_correct"]) == (0.25, 0.5)
    assert "B-v0/verdict_correct" not in found
    assert (found["truncated_share"], found["A-v0/truncated_share"], found["B-v0/truncated_share"]) == (0.25, 0.5, 0.0)
    assert (found["turns_mean"], found["B-v0/turns_mean"]) == (1.25, 1.5)
    assert found["part_format"] == (0.5 + 0 + 2 + 2) / 4
    assert found["constant_groups_share"] == 0.5
    # Ten tokens: eight of half a nat, two of one and a half.
    assert (found["action_tokens"], found["entropy"], found["tokens_per_second"]) == (
        10.0,
        (8 * 0.5 + 2 * 1.5) / 10,
        5.0,
    )
    assert (found["loss"], found["groups"]) == (0.25, 2.0)
    assert found["broken_share"] == 0.0
    assert "masked_share" not in found


def test_one_environment_has_no_name():
    assert not any("/" in name for name in update_metrics(batch_of(FIRST), Learned(), group_size=2))
    assert evaluation_metrics({"A-v0": FIRST.trajectories})["return_mean"] == 0.5
    both = evaluation_metrics({"A-v0": FIRST.trajectories, "B-v0": SECOND.trajectories})
    assert (both["return_mean"], both["A-v0/return_mean"], both["B-v0/return_mean"]) == (2.25, 0.5, 4.0)


def test_only_what_ran_out_of_tokens_is_at_the_token_limit():
    group = Group(0, [episode(1.0), episode(0.0, stop="length"), episode(0.0, stop="env"), episode(1.0)], task="A-v0")
    found = update_metrics(batch_of(group), Learned(), group_size=4)
    assert (found["truncated_share"], found["token_limit_share"]) == (0.5, 0.25)


def test_what_broke():
    unscorable = unscorable_because({"reason": "the sandbox is down"})
    broken = [
        Broken("A-v0", 4, "OSError: gone", began=True),
        Broken("A-v0", 5, unscorable, began=True),  # the environment answered: that it cannot say
        Broken("A-v0", 6, "OSError: gone", began=False),  # a whole group of two
    ]
    found = update_metrics(batch_of(FIRST, broken=broken, episodes=6), Learned(), group_size=2)
    assert found["broken_share"] == 3 / 6
    found = update_metrics(batch_of(FIRST, broken=broken[1:2], episodes=6), Learned(), group_size=2)
    assert found["broken_share"] == 0.0


def test_a_batch_of_nothing():
    found = update_metrics(batch_of(broken=[Broken("A-v0", 4, "no", began=False)] * 4), Learned(), group_size=2)
    assert (found["broken_share"], found["constant_groups_share"], found["action_tokens"]) == (1.0, 1.0, 0.0)


def test_returns_against_each_kind_of_opponent():
    def against(opponent: str, *rewards: float, agent: str = "player_1") -> Group:
        return Group(0, [episode(reward) for reward in rewards], agent=agent, opponent=opponent, task="A-v0")

    silent = Group(0, [Trajectory(seed=0), episode(-1.0)], agent="player_2", opponent="self", task="A-v0")
    groups = [against("past 10", 1.0, 0.0), against("past 20", 1.0, 1.0), against("random", 1.0, -1.0), silent]
    found = update_metrics(batch_of(*groups), Learned(), group_size=2)
    assert (found["return_past"], found["return_random"], found["return_player_2"]) == (0.75, 0.0, -1.0)
    assert "return_player_1" not in found


@pytest.mark.parametrize(("groups", "expected"), [(0, 0), (1, 2), (5, 4)])
def test_as_many_groups_are_recorded_as_wanted(renderer, groups, expected):
    config = dataclasses.replace(CONFIG, record_groups=groups)
    learned = Learned({}, {0: torch.tensor([0.5, 0.25]), 1: torch.tensor([-0.5, -0.75])})
    records = records_of(batch_of(FIRST, SECOND), learned, renderer, config)
    assert len(records) == expected
    if records:
        first = records[0]
        assert (first["group"], first["env"], first["env_args"], first["return"]) == (0, "A-v0", {}, 1.0)
        assert (first["token_advantages"], first["advantages"]) == ([[0.5, 0.25]], [0.5])
        assert first["token_logprobs"] == [[-0.5, -0.5]]
        assert [len(texts) for texts in first["token_texts"]] == [2]
        assert records[1]["token_advantages"] == [[-0.5, -0.75]]
    for record in records[2:]:  # nothing was learnt from them
        assert (record["group"], record["env"], record["env_args"]) == (1, "m:B-v0", {"x": 1})
        assert not {"token_advantages", "advantages"} & record.keys()


def test_a_game_of_two_seats_is_recorded_once(renderer):
    def seats(number: int) -> list[Group]:
        games = [{"seed": number, "actions": [str(number)]}, {"seed": number, "actions": ["x"]}]
        return [
            Group(number, [episode(1.0), episode(0.0)], agent=agent, opponent="self", games=games, task="A-v0")
            for agent in ("player_1", "player_2")
        ]

    batch = batch_of(*seats(0), *seats(1), *seats(2))
    records = records_of(batch, Learned(), renderer, dataclasses.replace(CONFIG, record_groups=2))
    assert [(record["group"], record["seed"]) for record in records] == [(0, 0), (0, 0), (1, 1), (1, 1)]
