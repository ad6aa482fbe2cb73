"""Tic-tac-toe with a real model in every seat: what is trained on is what was sampled, by whomever it was."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from pettingzoo.utils import BaseWrapper

from trainers import games as games_module
from trainers.batching import Row, microbatches
from trainers.games import SELF, Lineup, make_game, play_games
from trainers.opponents import OpponentPool
from trainers.policy import Policy
from trainers.rendering import Renderer
from trainers.rollouts import EnvPool, RolloutSettings
from trainers.sampling import TorchSampler
from trainers.sampling.torch_sampler import TorchSession
from trainers.trajectories import Group, Trajectory

SETTINGS = RolloutSettings(group_size=4, max_tokens=3, temperature=0.8, context_length=128)
LINEUPS = [
    Lineup(0, SELF), Lineup(1, "base", 0), Lineup(2, "base", 1), Lineup(3, "past 10", 0), Lineup(4, "past 20", 1),
    Lineup(5, "random", 0), Lineup(6, "minimax", 1), Lineup(7, SELF),
]  # fmt: skip


class Lenient(BaseWrapper):  # type: ignore[misc]
    """Takes anything for some legal move, so that a model of random weights plays games to their end."""

    def step(self, action: str | None) -> None:
        if action is not None:
            free = np.flatnonzero(self.observe(self.agent_selection)["action_mask"]) + 1
            action = str(free[sum(map(ord, action)) % len(free)])
        super().step(action)


def lenient() -> Lenient:
    return Lenient(make_game("llm_envs:TicTacToe-v0", illegal_other=0.5))


@dataclass
class Match:
    """A policy at the table, and everything that was said there, by its opponents, too."""

    policy: Policy
    renderer: Renderer
    opponents: OpponentPool
    seats: list[Any]

    def play(self, *, seed: int = 3, make: Any = lenient, **options: Any) -> list[Group]:
        self.seats.clear()
        sampler = TorchSampler(self.policy, stop_tokens=self.renderer.stop_tokens)
        options = {"lineups": LINEUPS, "settings": SETTINGS, **options}
        pool: EnvPool[Any] = EnvPool(make)
        return list(play_games(pool, sampler, self.renderer, self.opponents, sampling_seed=seed, **options))


def change(policy: Policy, *, seed: int) -> None:
    """Another adapter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in policy.trainable.items():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)


@pytest.fixture
def match(ttt_folder, load_policy, monkeypatch):
    policy = load_policy(ttt_folder)
    pool = OpponentPool(policy, {SELF: 1.0, "past": 1.0}, kept=2)
    for updates_done in (10, 20):
        change(policy, seed=updates_done)
        pool.remember(updates_done)
    change(policy, seed=99)
    found = Match(policy, Renderer.from_pretrained(str(ttt_folder)), pool, [])
    inner = games_module._groups

    def watch(lineup, games):
        found.seats += [seat for game in games for seat in game.seats.values()]
        yield from inner(lineup, games)

    monkeypatch.setattr(games_module, "_groups", watch)
    return found


def gaps(policy: Policy, trajectories: list[Trajectory]) -> list[float]:
    """By how much each trajectory's logprobs differ from those of the policy as it computes now."""
    found = []
    for trajectory in trajectories:
        [batch] = microbatches([Row(trajectory, [0.0] * len(trajectory.turns), 1.0, 0)], tokens_per_microbatch=1)
        with torch.no_grad():
            logprobs = policy.logprobs(batch, temperature=SETTINGS.temperature)
        sampled = batch.sampled_logprobs
        found.append(float((logprobs - sampled).abs().max()))
    return found


@pytest.mark.parametrize("max_rows", [16, 512])
def test_whoever_speaks_its_logprobs_are_its_own(match, max_rows):
    groups = match.play(settings=replace(SETTINGS, max_rows=max_rows))
    assert len(groups) == 2 * 2 + 6
    by_model: dict[str, list[Trajectory]] = {}
    for seat in match.seats:
        if seat.player is None:
            by_model.setdefault(seat.model, []).append(seat.trajectory)
    assert {name: len(rows) for name, rows in by_model.items()} == {
        SELF: 4 * 10, "base": 8, "past 10": 4, "past 20": 4,
    }  # fmt: skip
    assert sum(len(row.turns) for row in by_model["base"]) > 20  # games of several moves
    playing = {name: match.opponents.playing(name) for name in ("base", "past 10", "past 20")}
    assert max(gaps(match.policy, by_model[SELF])) < 1e-4
    for name, context in playing.items():
        with context:
            assert max(gaps(match.policy, by_model[name])) < 1e-4
            assert min(gaps(match.policy, by_model[SELF])) > 1e-3  # the test can tell models apart
        assert min(gaps(match.policy, by_model[name])) > 1e-3


def test_the_policy_is_what_it_was_bit_for_bit(match):
    before = {name: (p.data_ptr(), p.detach().clone()) for name, p in match.policy.trainable.items()}
    kept = {number: {k: v.clone() for k, v in a.items()} for number, a in match.opponents.state_dict()["past"].items()}
    groups = match.play()
    assert match.policy.trainable.keys() == before.keys()
    for name, parameter in match.policy.trainable.items():
        pointer, value = before[name]
        assert parameter.data_ptr() == pointer
        assert torch.equal(parameter, value)
        assert parameter.grad is None
    for number, adapter in match.opponents.state_dict()["past"].items():
        for name, tensor in adapter.items():
            assert torch.equal(tensor, kept[number][name])
    # And it can be trained: every parameter that matters gets a gradient.
    row = groups[0].trajectories[0]
    [batch] = microbatches([Row(row, [0.0] * len(row.turns), 1.0, 0)], tokens_per_microbatch=1)
    match.policy.logprobs(batch).sum().backward()
    assert all(parameter.grad is not None for parameter in match.policy.trainable.values())


def test_the_same_seed_gives_the_same_games(match):
    first, again, other = match.play(), match.play(), match.play(seed=4)
    assert first == again
    assert [g.games for g in first] != [g.games for g in other]
    assert len({str(record["actions"]) for group in first for record in group.games}) > 12  # tries differ


def test_every_game_is_scored_for_both(match):
    for group in match.play():
        for record, trajectory in zip(group.games, group.trajectories, strict=True):
            assert sum(record["returns"].values()) == 0.0
            assert trajectory.total_reward == record["returns"][group.agent]
            assert record["endings"][group.agent].startswith(
                {1.0: "You win.", 0.0: "A draw.", -1.0: "You lose."}[trajectory.total_reward]
            )
            least = 3 if group.agent == "player_1" else 2  # the shortest game has five moves
            assert len(trajectory.turns) == record["agents"].count(group.agent) >= least
            assert [turn.reward for turn in trajectory.turns[:-1]] == [0.0] * (len(trajectory.turns) - 1)


def test_the_real_rules_end_a_game_at_the_first_word_that_is_no_move(match):
    """A model of random weights hardly ever names a cell: X loses, and O has never been asked."""
    groups = match.play(make=lambda: make_game("llm_envs:TicTacToe-v0"), lineups=[Lineup(s) for s in range(8)])
    assert len(groups) == 16
    lengths = set()
    for first, second in zip(groups[::2], groups[1::2], strict=True):
        assert (first.agent, second.agent) == ("player_1", "player_2")
        for record, x, o in zip(first.games, first.trajectories, second.trajectories, strict=True):
            lengths.add(len(o.turns))
            loser, other = (x, o) if len(x.turns) > len(o.turns) else (o, x)
            assert loser.verdict in ("illegal", "unparsed")
            assert (loser.total_reward, other.total_reward) == (-1.0, 0.0)
            assert record["agents"] == ["player_1", "player_2"] * len(o.turns) + ["player_1"] * (
                len(x.turns) - len(o.turns)
            )
            if not o.turns:
                assert (o.tokens, o.observations) == ([], ["X made no legal move."])
    assert {0, 1} <= lengths


def test_equal_prompts_are_computed_once_for_both_seats(match, monkeypatch):
    prompts: list[int] = []
    inner = TorchSession._prefill

    def prefill(self: TorchSession, texts: Any) -> Any:
        prompts.append(len(texts))
        return inner(self, texts)

    monkeypatch.setattr(TorchSession, "_prefill", prefill)
    groups = match.play(lineups=[Lineup(0)], settings=replace(SETTINGS, group_size=32))
    boards = {record["observations"][1] for record in groups[0].games}
    assert 1 < len(boards) <= 9
    assert prompts == [1, len(boards)]


@pytest.mark.parametrize("snapshot", [True, False])
def test_whatever_happens_the_policy_comes_back(match, snapshot):
    name = "past 10" if snapshot else "base"
    row = match.play(lineups=[Lineup(0)])[0].trajectories
    seen = []

    def play_until_ctrl_c() -> None:
        with match.opponents.playing(name):
            seen.append(max(gaps(match.policy, row)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        play_until_ctrl_c()
    assert seen[0] > 1e-3
    assert max(gaps(match.policy, row)) < 1e-4
    assert all(parameter.requires_grad for parameter in match.policy.trainable.values())
    assert len(match.policy.trainable) > 0


def test_a_snapshot_is_a_copy(ttt_folder, load_policy):
    policy = load_policy(ttt_folder)
    kept = policy.snapshot()
    before = {name: tensor.clone() for name, tensor in kept.items()}
    change(policy, seed=5)
    assert any(not torch.equal(policy.trainable[name], tensor) for name, tensor in kept.items())
    for name, tensor in kept.items():
        assert not tensor.requires_grad
        assert torch.equal(tensor, before[name])
