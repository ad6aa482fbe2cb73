"""`kill -9` at random moments, `--resume`, and in the end the same bits as if nothing had happened."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainers.toy_runs import OTHER, TOY, adapter_bytes, rows_of, toy_config

UNSET = ("run_dir", "resume")


def assert_equal_states(a: Any, b: Any, where: str = "state") -> None:
    """To the bit, in every corner of two states of a trainer."""
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for name, value in a.items():
            assert_equal_states(value, b[name], f"{where}[{name!r}]")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for number, (value, other) in enumerate(zip(a, b, strict=True)):
            assert_equal_states(value, other, f"{where}[{number}]")
    else:
        assert a == b, where


def state_of(run_dir: Path, updates: int) -> dict[str, Any]:
    path = run_dir / "checkpoints" / f"update_{updates:06d}" / "trainer_state.pt"
    state: dict[str, Any] = torch.load(path, weights_only=True)
    for name in UNSET:
        del state["config"][name]
    return state


@pytest.fixture
def kill(run_python, tmp_path):
    def run(model: Path, *, kills: int, **changes: Any) -> dict[str, Any]:
        config = toy_config(model, tmp_path, **{"save_every": 1, "eval_every": 5, **changes})
        settings = {name: value for name, value in config.as_json().items() if name not in UNSET}
        orders = (json.dumps(settings), str(tmp_path), str(kills), "1")
        done = run_python("-m", "tests.trainers.killing", *orders, cwd=tmp_path, timeout=170)
        assert done.returncode == 0, done.stderr + (tmp_path / "output.txt").read_text()[-3000:]
        told: dict[str, Any] = json.loads(done.stdout)
        whole, killed = tmp_path / "whole", tmp_path / "killed"
        assert rows_of(killed) == rows_of(whole)
        assert [row["update"] for row in rows_of(killed, "update")] == list(range(1, config.updates + 1))
        assert (killed / "episodes.jsonl").read_text() == (whole / "episodes.jsonl").read_text()
        assert adapter_bytes(killed) == adapter_bytes(whole)
        state = state_of(whole, config.updates)
        assert_equal_states(state_of(killed, config.updates), state)
        assert any(moments["exp_avg"].any() for moments in state["optimizer"]["adam"]["state"].values())
        return told

    return run


@pytest.mark.slow
def test_at_twenty_moments(kill, tiny_folder):
    told = kill(tiny_folder, kills=20, updates=40)
    assert told["all_hit"]
    assert len(told["killed_at"]) == 20
    assert len(set(told["killed_at"])) >= 15
    assert told["partial"] >= 3


@pytest.mark.slow
def test_a_mix_with_everything_that_keeps_a_state(kill, tiny_folder):
    told = kill(
        tiny_folder, kills=6, updates=12, env=(TOY, OTHER), env_weights=(2.0, 1.0),
        env_args=('{"spread_every": 2}', '{"turns": 2}'), dynamic_sampling=2, minibatches=2, epochs=2, kl_coef=0.1,
        gradient_checkpointing=True, schedule="linear", warmup_updates=2,
    )  # fmt: skip
    assert len(set(told["killed_at"])) >= 4


@pytest.mark.slow
def test_a_game_against_the_past(kill, ttt_folder):
    told = kill(
        ttt_folder, kills=6, updates=12, env="llm_envs:TicTacToe-v0", credit="state", past_every=2, past_kept=2,
        opponents='{"self": 1, "past": 2, "base": 1, "random": 1}', eval_env_args='{"opponent": "optimal"}',
    )  # fmt: skip
    assert len(set(told["killed_at"])) >= 4


@pytest.mark.slow
def test_sampling_one_update_ahead(kill, tiny_folder):
    told = kill(tiny_folder, kills=6, updates=12, max_staleness=1, minibatches=2)
    assert len(set(told["killed_at"])) >= 4
