"""The whole loop on a model of a few thousand weights: what it writes, how it stops, goes on, and learns."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainers.toy_runs import (
    OTHER,
    TOY,
    Hook,
    Toy,
    adapter_bytes,
    assert_same_run,
    register_toys,
    rows_of,
    toy_config,
)
from trainers import learn as learn_module
from trainers.checkpoints import newest_checkpoint
from trainers.config import ConfigError, TrainConfig
from trainers.credit import Credit
from trainers.environments import BrokenEnvironmentError
from trainers.optimizer import MasterAdam
from trainers.policy import Policy
from trainers.train import train


@pytest.fixture(autouse=True)
def _toy(monkeypatch):
    monkeypatch.setattr(Toy, "hook", None)
    register_toys()


@pytest.fixture
def config(tiny_folder, tmp_path):
    return toy_config(tiny_folder, tmp_path / "run")


@pytest.fixture
def uninterrupted(config, tmp_path):
    """The folder of the run that nothing disturbs."""
    whole = dataclasses.replace(config, run_dir=tmp_path / "whole")
    train(whole)
    return whole.run_dir


def test_a_run_writes_what_it_promises(config):
    run = train(config)
    folder = config.run_dir
    assert run.updates_done == 4
    assert json.loads((folder / "config.json").read_text()) == json.loads(json.dumps(config.as_json()))
    [start] = rows_of(folder, "start")
    assert (start["update"], start["device"], start["references"]) == (0, "cpu", {})
    assert {"torch", "gymnasium"} < set(start["versions"])
    rows = rows_of(folder)
    order = [(row["kind"], row["update"]) for row in rows]
    assert order == [
        ("evaluation", 0), ("update", 1), ("update", 2), ("evaluation", 2), ("update", 3), ("update", 4),
        ("evaluation", 4),
    ]  # fmt: skip
    for row in rows:
        assert row["return_mean"] == row["part_small"] == pytest.approx(row.get("verdict_correct", 0.0))
        if row["kind"] == "update":
            assert 1 * 16 <= row["action_tokens"] <= 2 * 16
            assert row["action_tokens_mean"] == row["action_tokens"] / 16
            assert row["logprob_gap"] < 1e-5
            assert row["grad_norm"] > 0.0
            assert 0.0 < row["entropy"] < 5.0
            assert row["unscorable_share"] == 0.0
    episodes = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
    assert [(e["update"], e["seed"]) for e in episodes] == [(n + 1, 4 * n) for n in range(4) for _ in range(4)]
    for episode in episodes:
        words = episode["actions"][0].split()
        assert episode["return"] == float(bool(words) and words[0].isdigit() and int(words[0]) < 50)
    assert [path.name for path in sorted(folder.glob("checkpoints/*"))] == ["update_000002", "update_000004"]
    assert adapter_bytes(folder) == adapter_bytes(folder, "checkpoints/update_000004")
    assert adapter_bytes(folder) != adapter_bytes(folder, "checkpoints/update_000002")
    with pytest.raises(ConfigError, match="--resume"):
        train(config)


def test_the_same_seed_gives_the_same_run_and_another_another(config, uninterrupted, tmp_path):
    train(config)
    assert_same_run(config.run_dir, uninterrupted)
    other = dataclasses.replace(config, run_dir=tmp_path / "other", seed=1, updates=1)
    train(other)
    assert adapter_bytes(other.run_dir) != adapter_bytes(uninterrupted)


@pytest.fixture
def learnt_from(monkeypatch):
    """What every update was given to learn from."""
    found: list[Credit] = []
    inner = learn_module.learn

    def learn(policy, optimizer, credit, *arguments, **options):
        found.append(credit)
        return inner(policy, optimizer, credit, *arguments, **options)

    monkeypatch.setattr("trainers.train.learn", learn)
    return found


def test_the_gradient_of_an_update_by_hand(config, monkeypatch, learnt_from):
    """What the optimizer gets is the mean over all sampled tokens, however the episodes are cut and packed."""
    policies: list[Policy] = []
    inner_init, inner_step = Policy.__init__, MasterAdam.step

    def init(self, model, **options):
        inner_init(self, model, **options)
        policies.append(self)

    def step(self, **options):
        [policy], rows = policies, learnt_from[-1].trajectories
        ours = {name: master.grad.clone() for name, master in self._masters.items()}
        loss, count = torch.zeros(()), 0
        for row in rows:
            group = [other.total_reward for other in rows if other.seed == row.seed]
            assert len(group) == 4
            logprobs = policy.model(input_ids=torch.tensor([row.tokens])).logits[0].log_softmax(-1)
            for t, token in enumerate(row.tokens):
                if row.is_action[t]:
                    ratio = (logprobs[t - 1, token] - row.logprobs[t]).exp()
                    loss = loss - ratio * (row.total_reward - sum(group) / 4)
                    count += 1
        (loss / count).backward()  # type: ignore[no-untyped-call]
        assert count > 2 * len(rows)
        scale = max(float(gradient.abs().max()) for gradient in ours.values())
        for name, p in policy.trainable.items():
            assert p.grad is not None
            assert float((ours[name] - p.grad).abs().max()) < 1e-4 * scale, name
            p.grad = None
        return inner_step(self, **options)

    monkeypatch.setattr(Policy, "__init__", init)
    monkeypatch.setattr(MasterAdam, "step", step)
    train(dataclasses.replace(config, env_args='{"turns": 2}', updates=2, eval_every=0, max_tokens=3))
    assert len(learnt_from) == 2


def test_a_run_of_constant_groups_learns_nothing_and_goes_on(config):
    constant = dataclasses.replace(config, env_args='{"constant": true}', updates=2, eval_every=0)
    run = train(constant)
    assert run.updates_done == 2
    rows = rows_of(config.run_dir)
    assert [row["constant_groups_share"] for row in rows] == [1.0, 1.0]
    assert all("grad_norm" not in row and "loss" not in row for row in rows)
    for name, parameter in run.policy.trainable.items():
        if "lora_B" in name:
            assert not parameter.any()


def test_unscorable_episodes_take_no_part(config, learnt_from):
    train(dataclasses.replace(config, env_args='{"outage": true}', updates=3, eval_every=0))
    rows = rows_of(config.run_dir)
    assert any(0.0 < row["unscorable_share"] < 1.0 for row in rows)
    assert all(row["broken_share"] == 0.0 for row in rows)  # the environment did answer
    assert all(0.0 <= row["return_mean"] <= 1.0 for row in rows)  # none of the outages' 1000
    assert sum(len(credit.trajectories) for credit in learnt_from) > 12
    for credit in learnt_from:
        by_seed: dict[int, list[float]] = {}
        for trajectory, advantage in zip(credit.trajectories, credit.advantages, strict=True):
            assert trajectory.is_scorable
            by_seed.setdefault(trajectory.seed, []).append(advantage[0])
        for of_group in by_seed.values():
            assert sum(of_group) == pytest.approx(0.0, abs=1e-6)
            assert max(of_group) - min(of_group) == pytest.approx(1.0)


def test_an_environment_that_fails_now_and_then(config, capsys):
    """Errors in the middle, problems that never begin, a prompt that is too long: the run goes on, and counts them."""
    broken = dataclasses.replace(config, env_args='{"raises": true, "refuses": [5, 6], "turns": 2}', eval_every=0)
    train(broken)
    rows = rows_of(config.run_dir)
    assert [row["update"] for row in rows] == [1, 2, 3, 4]
    # Of update 2, seeds 4 to 7, two problems of four never began: 8 episodes of 16, and of the others a few broke off.
    in_second = rows[1]["broken_share"] * 16
    assert in_second == pytest.approx(8 + rows[1]["unscorable_share"] * 8)
    assert in_second > 8
    for row in (rows[0], rows[2], rows[3]):
        assert row.get("broken_share", 0.0) == row["unscorable_share"] < 0.9
    assert rows[1]["groups"] == 2
    said = capsys.readouterr().out
    assert "Toy-v0 failed with seed 5: LookupError: no task 5" in said
    assert said.count("OSError: the grader is gone") == 1 == said.count("LookupError")


def test_a_prompt_that_is_too_long_is_passed_over(config, monkeypatch):
    inner = Toy.reset

    def reset(self, *, seed=None, options=None):
        text, info = inner(self, seed=seed, options=options)
        return "1 " * 200 if seed == 34 else text, info  # preflight looks at the first 32

    monkeypatch.setattr(Toy, "reset", reset)
    train(dataclasses.replace(config, updates=3, groups_per_batch=16, group_size=2, eval_every=0))
    assert [row.get("broken_share", 0.0) for row in rows_of(config.run_dir)] == [0.0, 0.0, 1 / 16]
    assert [row["groups"] for row in rows_of(config.run_dir)] == [16, 16, 15]


def test_ten_broken_problems_in_a_row_end_it_with_the_reason(config):
    Toy.hook = Hook(17, lambda: setattr(Toy, "hook", staticmethod(fail)))
    with pytest.raises(BrokenEnvironmentError) as caught:
        train(dataclasses.replace(config, eval_every=0))
    assert str(caught.value).startswith("10 problems in a row could not be played, the last one Toy-v0 with seed 13: ")
    checkpoint = newest_checkpoint(config.run_dir)
    assert checkpoint is not None
    assert checkpoint.name == "update_000003"


def fail() -> None:
    raise OSError("the sandbox is down")


def test_through_the_command_line_that_is_one_line(config, capsys):
    from trainers.cli.running import run_command

    def main(_: Any) -> None:
        Toy.hook = Hook(17, lambda: setattr(Toy, "hook", staticmethod(fail)))
        train(dataclasses.replace(config, eval_every=0))

    assert run_command(TrainConfig, main, description="", arguments=["--model", "m", "--env", TOY]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == (
        "error: 10 problems in a row could not be played, the last one Toy-v0 with seed 13: "
        "OSError: the sandbox is down"
    )


def test_environments_are_mixed_by_weight(config):
    mixed = dataclasses.replace(
        config, env=(TOY, OTHER, TOY), env_weights=(2.0, 1.0, 1.0),
        env_args=("{}", '{"constant": true}', '{"turns": 2}'),
    )  # fmt: skip
    train(mixed)
    rows = rows_of(config.run_dir, "update")
    for row in rows:
        assert row["OtherToy-v0/return_mean"] == 1.0
        assert (row["Toy-v0#1/turns_mean"], row["Toy-v0#2/turns_mean"], row["turns_mean"]) == (1.0, 2.0, 1.25)
        parts = [row[f"{name}/return_mean"] for name in ("Toy-v0#1", "Toy-v0#1", "OtherToy-v0", "Toy-v0#2")]
        assert row["return_mean"] == pytest.approx(sum(parts) / 4)
        assert row["constant_groups_share"] >= 0.25
    assert {row["OtherToy-v0/return_mean"] for row in rows_of(config.run_dir, "evaluation")} == {1.0}
    checkpoint = newest_checkpoint(config.run_dir)
    assert checkpoint is not None
    state = torch.load(checkpoint / "trainer_state.pt", weights_only=True)
    assert state["drawn"] == {"drawn": {"Toy-v0#1": 8, "OtherToy-v0": 4, "Toy-v0#2": 4}}


def test_microbatches_and_waves_change_memory_not_results(config, uninterrupted, tmp_path):
    small = dataclasses.replace(config, tokens_per_microbatch=1)
    train(small)
    assert [row["action_tokens"] for row in rows_of(small.run_dir) if row["kind"] == "update"] == [
        row["action_tokens"] for row in rows_of(uninterrupted) if row["kind"] == "update"
    ]
    for a, b in zip(rows_of(small.run_dir), rows_of(uninterrupted), strict=True):
        assert (a.pop("kind"), a.keys()) == (b.pop("kind"), b.keys())
        assert a == pytest.approx(b, rel=1e-3, abs=1e-5)


@pytest.fixture
def never_loaded(monkeypatch):
    calls = []
    monkeypatch.setattr(Policy, "load", lambda *a, **k: calls.append((a, k)))
    return calls


def test_a_prompt_over_the_context_is_refused_before_the_weights_are_loaded(config, never_loaded):
    env_args = json.dumps({"opening": "1 " * 130})
    with pytest.raises(ConfigError) as caught:
        train(dataclasses.replace(config, env_args=env_args))
    assert str(caught.value) == (
        f"the prompt of seed 0 has 132 tokens; with max_tokens=2 that is over the context of {config.model}, 128"
    )
    assert not never_loaded
    assert not config.run_dir.exists()


@pytest.mark.parametrize("model", ["no-such-folder/at-all/here", "no_such_owner/no_such_model"])
def test_an_unknown_model_is_one_line(config, never_loaded, model, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        train(dataclasses.replace(config, model=model))
    assert model in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not never_loaded
    assert not config.run_dir.exists()


def test_a_folder_without_weights_is_one_line(config, tokenizer, tmp_path):
    folder = tmp_path / "no-weights"
    tokenizer.save_pretrained(str(folder))
    (folder / "config.json").write_text((Path(config.model) / "config.json").read_text())
    with pytest.raises(ConfigError) as caught:
        train(dataclasses.replace(config, model=str(folder)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("device", "abacus"), ("device", "cuda:99"), ("dtype", "float33"), ("attention", "no_such_kernel")],
)
def test_an_unknown_name_of_the_machinery_is_one_line(config, name, value):
    with pytest.raises(ConfigError, match=value) as caught:
        train(dataclasses.replace(config, **{name: value}))
    assert "\n" not in str(caught.value)


def test_it_learns(config):
    learning = dataclasses.replace(
        config,
        updates=16,
        groups_per_batch=8,
        group_size=16,
        max_tokens=1,
        learning_rate=2e-2,
        eval_every=0,
        tokens_per_microbatch=4096,
    )
    train(learning)
    returns = [row["return_mean"] for row in rows_of(config.run_dir)]
    assert sum(returns[:2]) / 2 < 0.6
    assert sum(returns[-4:]) / 4 > 0.75


@pytest.mark.parametrize("credit", ["trajectory", "turn"])
def test_it_learns_over_turns(config, credit):
    # Every turn is paid for by itself: three small numbers in a row.
    learning = dataclasses.replace(
        config, env_args='{"turns": 3}', updates=18, group_size=16, max_tokens=1, learning_rate=2e-2, eval_every=0,
        tokens_per_microbatch=4096, credit=credit,
    )  # fmt: skip
    train(learning)
    rows = rows_of(config.run_dir)
    assert all(row["turns_mean"] == 3.0 for row in rows)
    assert rows[0]["return_mean"] < 1.9
    assert sum(row["return_mean"] for row in rows[-3:]) / 3 > 2.1


def test_the_learning_rate_follows_the_schedule(config, monkeypatch):
    rates: list[float] = []
    inner = MasterAdam.set_learning_rate

    def record(self, rate):
        rates.append(rate)
        inner(self, rate)

    monkeypatch.setattr(MasterAdam, "set_learning_rate", record)
    train(dataclasses.replace(config, schedule="linear", warmup_updates=1, eval_every=0, env_args='{"turns": 2}'))
    assert rates == pytest.approx([0.005, 0.0075, 0.005, 0.0025])


def test_references_are_what_the_environments_solvers_earn(config):
    guessing = dataclasses.replace(
        config, env="llm_envs:GuessNumber-v0", env_args='{"low": 1, "high": 3, "max_guesses": 2}', updates=1
    )
    run = train(guessing)
    # Guess 2; the answer leaves one number: 2 for one secret, 1 for either of the others.
    assert run.log.references["optimal"] == pytest.approx((2 + 1 + 1) / 3)
    assert torch.isfinite(torch.tensor(run.log.returns)).all()
