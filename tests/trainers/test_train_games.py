"""The whole loop on a game of two players: what it writes, and that stopping it changes nothing."""

import dataclasses
import io
import json
from typing import Any

import pytest
import torch
from rich.console import Console

from tests.trainers.toy_runs import assert_same_run, rows_of
from trainers.checkpoints import newest_checkpoint
from trainers.config import ConfigError, Interrupted, TrainConfig
from trainers.games import make_game
from trainers.logs.run_log import RunLog
from trainers.opponents import OpponentPool
from trainers.policy import Policy
from trainers.sampling.torch_sampler import TorchSession
from trainers.train import train


@pytest.fixture
def config(ttt_folder, tmp_path):
    return TrainConfig(
        model=str(ttt_folder), env=("llm_envs:TicTacToe-v0",), run_dir=tmp_path / "run", updates=4, groups_per_batch=6,
        group_size=8, max_tokens=2, learning_rate=1e-2, lora_rank=4, lora_alpha=4, eval_every=2, eval_size=3,
        save_every=2, device="cpu", dtype="float32", tokens_per_microbatch=256, credit="state",
        opponents='{"self": 1, "past": 2, "base": 1, "random": 1}', past_every=1, past_kept=2,
        env_args=('{"illegal_penalty": -0.75, "opening_moves": 2}',), eval_env_args=('{"opponent": "optimal"}',),
    )  # fmt: skip


@pytest.fixture
def uninterrupted(config, tmp_path):
    whole = dataclasses.replace(config, run_dir=tmp_path / "whole")
    train(whole)
    return whole.run_dir


def test_a_run_writes_what_it_promises(config, monkeypatch):
    met: list[list[str]] = []
    inner = OpponentPool.draw

    def draw(self, seeds, **options):
        found = inner(self, seeds, **options)
        met.append([lineup.opponent for lineup in found])
        assert [lineup.seed for lineup in found] == [6 * (len(met) - 1) + i for i in range(6)]
        return found

    monkeypatch.setattr(OpponentPool, "draw", draw)
    log = RunLog(config, console=Console(file=io.StringIO()))
    stages: list[tuple[str, int, list[int]]] = []
    monkeypatch.setattr(log, "stage", lambda name, total, unit: stages.append((name, total, [])))
    monkeypatch.setattr(log, "advance", lambda done: stages[-1][2].append(done))  # noqa: PLW0108 (the last one then)
    run = train(config, log=log)
    assert not any(name.startswith("past") for name in met[0])
    assert {name for names in met[2:] for name in names if name.startswith("past")} <= {f"past {n}" for n in (1, 2, 3)}
    rows = rows_of(config.run_dir)
    updates = [row for row in rows if row["kind"] == "update"]
    assert [row["update"] for row in updates] == [1, 2, 3, 4]
    for row, names in zip(updates, met, strict=True):
        expected = {f"return_{name.partition(' ')[0]}" for name in names if name != "self"}
        expected |= {"return_player_1", "return_player_2"} if "self" in names else set()
        assert {name for name in row if name.startswith("return_")} == expected | {"return_mean"}
        assert all(-1.0 <= row[name] <= 1.0 for name in expected)
        assert row["logprob_gap"] < 1e-5
    assert [row["update"] for row in rows if row["kind"] == "evaluation"] == [0, 2, 4]
    # What is under way is shown, game by game, until all 6 lineups of 8 are over.
    assert {(name, total) for name, total, _ in stages} == {
        ("sampling", 48), ("grading", 48), ("training", 100), ("evaluating", 1)
    }  # fmt: skip
    ends = [
        done[-1] for i, (name, _, done) in enumerate(stages[1:]) if name == "grading" and stages[i + 2][0] == "training"
    ]
    assert ends == [48] * 4
    assert [done[-1] for name, _, done in stages if name == "training"] == [100] * 4
    checkpoint = newest_checkpoint(config.run_dir)
    assert checkpoint is not None
    state = torch.load(checkpoint / "trainer_state.pt", weights_only=True)
    assert list(state["opponents"]["past"]) == [3, 4]  # the newest two
    for name, tensor in state["opponents"]["past"][4].items():
        assert torch.equal(tensor, run.policy.trainable[name])
    assert run.log.references == pytest.approx({"random": -0.5, "minimax": 0.0, "best_response": 0.0}, abs=0.4)


def test_episodes_can_be_played_again(config):
    train(dataclasses.replace(config, eval_every=0))
    episodes = [json.loads(line) for line in (config.run_dir / "episodes.jsonl").read_text().splitlines()]
    assert [(e["update"], e["seed"]) for e in episodes] == [(n + 1, 6 * n) for n in range(4) for _ in range(8)]
    for episode in episodes:
        game = make_game(episode["env"], **episode["env_args"])
        game.reset(seed=episode["seed"])
        assert game.unwrapped.illegal_penalty == -0.75
        returns = dict.fromkeys(game.possible_agents, 0.0)
        moves = list(zip(episode["agents"], episode["observations"], episode["actions"], strict=True))
        while game.agents:
            agent, seen = game.agent_selection, game.observe(game.agent_selection)["text"]
            _, reward, terminated, truncated, _ = game.last()
            returns[agent] += reward
            if terminated or truncated:
                assert episode["endings"][agent] == seen
                game.step(None)
            else:
                mover, observation, action = moves.pop(0)
                assert (mover, observation) == (agent, seen)
                game.step(action)
        assert moves == []
        assert episode["returns"] == returns


class Killed(BaseException):
    """Stands for what no handler sees: the process is gone."""


@pytest.mark.parametrize("calls", [2, 9, 14, 20, 26])
@pytest.mark.parametrize("stop", [KeyboardInterrupt, Killed])
def test_stopped_and_resumed_equals_uninterrupted(config, uninterrupted, monkeypatch, stop, calls):
    """Stopped while somebody speaks, whoever it is: the policy, what it was, or the base model."""
    inner, count = TorchSession.sample, 0

    def sample(self, feeds, **options):
        nonlocal count
        count += 1
        if count == calls:
            raise stop
        return inner(self, feeds, **options)

    monkeypatch.setattr(TorchSession, "sample", sample)
    with pytest.raises(Interrupted if stop is KeyboardInterrupt else Killed):
        train(config)
    monkeypatch.undo()
    assert not (config.run_dir / "adapter").exists()
    train(dataclasses.replace(config, resume=True))
    assert_same_run(config.run_dir, uninterrupted)


@pytest.mark.parametrize("kl_coef", [0.0, 0.2])
def test_microbatches_change_memory_not_results(config, tmp_path, kl_coef):
    runs = {}
    for tokens in (1, 16_384):
        folder = tmp_path / str(tokens)
        train(dataclasses.replace(config, tokens_per_microbatch=tokens, kl_coef=kl_coef, run_dir=folder))
        runs[tokens] = rows_of(folder)
    for a, b in zip(runs[1], runs[16_384], strict=True):
        assert (a.pop("kind"), a.keys()) == (b.pop("kind"), b.keys())
        assert a == pytest.approx(b, rel=1e-3, abs=1e-5)


def test_it_is_told_how_far_the_policy_is_from_the_base(config):
    far: dict[float, list[float]] = {}
    for kl_coef in (1e-9, 3.0):
        folder = config.run_dir / str(kl_coef)
        train(dataclasses.replace(config, kl_coef=kl_coef, run_dir=folder, updates=8, eval_every=0, past_every=9))
        far[kl_coef] = [row["kl"] for row in rows_of(folder)]
    for kls in far.values():
        assert abs(kls[0]) < 1e-5  # a fresh adapter says what the base says
    assert far[1e-9][-1] > 0.05
    assert far[3.0][-1] < far[1e-9][-1] / 2


def test_other_opponents_are_another_run(config, uninterrupted):
    checkpoint = newest_checkpoint(uninterrupted)
    assert checkpoint is not None
    for name, value in (("opponents", '{"self": 1}'), ("past_every", 3), ("past_kept", 3), ("credit", "turn")):
        other = dataclasses.replace(config, run_dir=uninterrupted, resume=True, updates=5, **{name: value})
        with pytest.raises(ConfigError, match=f"was written with {name}="):
            train(other)


def test_in_training_the_learner_learns_and_the_others_do_not(config, monkeypatch):
    """What is kept of update 1 is, after two more updates, still what the policy was then."""
    kept: dict[int, dict[str, torch.Tensor]] = {}
    inner = OpponentPool.remember

    def remember(self, updates_done):
        inner(self, updates_done)
        kept[updates_done] = {name: p.detach().clone() for name, p in self._policy.trainable.items()}

    monkeypatch.setattr(OpponentPool, "remember", remember)
    run = train(dataclasses.replace(config, updates=3, past_kept=9, eval_every=0))
    assert run.opponents is not None
    past = run.opponents.state_dict()["past"]
    assert list(past) == [1, 2, 3]
    for number, adapter in past.items():
        for name, tensor in adapter.items():
            assert torch.equal(tensor, kept[number][name])
    assert any(not torch.equal(past[1][name], past[3][name]) for name in past[1])


def test_it_learns_to_name_a_cell(config):
    """From random words to moves, against itself and against what it was."""
    learning = dataclasses.replace(
        config, updates=8, groups_per_batch=8, group_size=16, max_tokens=1, learning_rate=2e-2, eval_every=0,
        env_args=("{}",), opponents='{"self": 1, "past": 1}',
    )  # fmt: skip
    train(learning)
    junk = [row["verdict_unparsed"] for row in rows_of(config.run_dir)]
    assert junk[0] > 0.85
    assert sum(junk[-3:]) / 3 < junk[0] - 0.15


def test_a_game_needs_no_single_player_form_when_nothing_is_evaluated(config, monkeypatch):
    """And none is made."""
    import gymnasium as gym

    monkeypatch.setattr(gym, "make", lambda *a, **k: pytest.fail("an environment of one agent was made"))
    train(dataclasses.replace(config, eval_every=0, updates=1))


def test_the_adapter_is_loaded_with_the_checkpoint(config, monkeypatch):
    train(dataclasses.replace(config, updates=2))
    loaded: list[Any] = []
    inner = OpponentPool.load_state_dict

    def load(self: OpponentPool, state: Any) -> None:
        loaded.append(list(state["past"]))
        inner(self, state)

    monkeypatch.setattr(OpponentPool, "load_state_dict", load)
    run = train(dataclasses.replace(config, updates=3, resume=True))
    assert loaded == [[1, 2]]
    assert isinstance(run.policy, Policy)
    assert run.opponents is not None
    assert list(run.opponents.state_dict()["past"]) == [2, 3]
