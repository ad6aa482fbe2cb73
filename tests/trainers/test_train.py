"""The whole loop on a model of a few thousand weights: what it writes, how it stops, goes on, and learns."""

import dataclasses
import json
import os
import signal
import string
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import pytest
import torch

from trainers import batching
from trainers import train as train_module
from trainers.checkpoints import newest_checkpoint
from trainers.config import ConfigError, Interrupted, TrainConfig
from trainers.optimizer import MasterAdam
from trainers.policy import Policy
from trainers.run_log import RunLog
from trainers.train import train

TIMES = ("seconds", "sampling_seconds", "env_seconds", "training_seconds")


class Toy(gym.Env[str, str]):
    """Say `wanted` words that are numbers below 50; any number of turns. Not from llm_envs."""

    observation_space = gym.spaces.Text(max_length=1000, min_length=0, charset=string.printable)
    action_space = gym.spaces.Text(max_length=1000, min_length=0, charset=string.printable)
    hook: Any = None

    def __init__(self, *, turns: int = 1, opening: str = "1", constant: bool = False, outage: bool = False) -> None:
        self.turns, self.opening, self.constant, self.outage = turns, opening, constant, outage

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.turn = 0
        return f"{self.opening} {int(self.np_random.integers(1, 100))}", {}

    def step(self, action):
        if Toy.hook is not None:
            Toy.hook()
        self.turn += 1
        words = action.split()
        reward = 1.0 if self.constant else float(bool(words) and words[0].isdigit() and int(words[0]) < 50)
        verdict = "correct" if reward else "wrong"
        if self.outage and words and words[0].isdigit() and int(words[0]) % 3 == 0:
            reward, verdict = 1000.0, "unscorable"
        return "Lower!", reward, self.turn == self.turns, False, {"verdict": verdict, "reward_parts": {"small": reward}}


class Hook:
    """Does something in the n-th `Toy.step` from now on."""

    def __init__(self, after: int, act) -> None:
        self.left, self.act = after, act

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.act()


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def _toy(monkeypatch):
    monkeypatch.setattr(Toy, "hook", None)
    if "trainers_tests/Toy-v0" not in gym.registry:
        gym.register("trainers_tests/Toy-v0", entry_point=cast("Any", Toy))


@pytest.fixture
def config(tiny_folder, tmp_path):
    return TrainConfig(
        model=str(tiny_folder),
        env="trainers_tests/Toy-v0",
        run_dir=tmp_path / "run",
        updates=4,
        groups_per_batch=4,
        group_size=4,
        max_tokens=2,
        learning_rate=1e-2,
        lora_rank=4,
        lora_alpha=4,
        eval_every=2,
        eval_size=3,
        save_every=2,
        device="cpu",
        dtype="float32",
        tokens_per_microbatch=64,
    )


def rows_of(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what depends on the clock."""
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def adapter_bytes(run_dir: Path, folder: str = "adapter") -> bytes:
    return (run_dir / folder / "adapter_model.safetensors").read_bytes()


def assert_same_run(a: Path, b: Path) -> None:
    assert rows_of(a) == rows_of(b)
    assert (a / "episodes.jsonl").read_text() == (b / "episodes.jsonl").read_text()
    assert adapter_bytes(a) == adapter_bytes(b)


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


class Killed(BaseException):
    """Stands for what no handler sees: the process is gone."""


@pytest.mark.parametrize("after", [3 + 16 * 3 + 3 + 5, 3 + 16 + 9])
def test_killed_and_resumed_equals_uninterrupted(config, uninterrupted, after):
    # Killed in update 4 (the checkpoint of update 2 is there) or in update 2 (there is none).
    def kill():
        raise Killed

    Toy.hook = Hook(after, kill)
    with pytest.raises(Killed):
        train(config)
    with (config.run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "upd')  # the line that was being written
    Toy.hook = None
    train(dataclasses.replace(config, resume=True))
    assert_same_run(config.run_dir, uninterrupted)


@pytest.mark.parametrize(
    ("after", "updates_done"),
    [
        (2, 0),  # the evaluation before the first update
        (3 + 7, 0),  # update 1
        (3 + 16 + 7, 1),  # update 2
        (3 + 32 + 2, 2),  # the evaluation after update 2
        (3 + 32 + 3 + 9, 2),  # update 3
        (3 + 64 + 3 + 2, 4),  # the last evaluation
    ],
)
def test_interrupted_and_resumed_equals_uninterrupted(config, uninterrupted, after, updates_done):
    Toy.hook = Hook(after, interrupt)
    with pytest.raises(Interrupted) as caught:
        train(config)
    assert caught.value.run_dir == config.run_dir
    checkpoint = newest_checkpoint(config.run_dir)
    assert checkpoint is not None
    assert checkpoint.name == f"update_{updates_done:06d}"
    assert (checkpoint / "adapter_model.safetensors").exists()
    assert not (config.run_dir / "adapter").exists()
    Toy.hook = None
    run = train(dataclasses.replace(config, resume=True))
    assert run.updates_done == 4
    assert_same_run(config.run_dir, uninterrupted)


def test_an_error_is_raised_as_it_is_after_a_checkpoint(config, uninterrupted):
    def fail():
        raise ZeroDivisionError("the environment is broken")

    Toy.hook = Hook(3 + 16 + 7, fail)  # in update 2
    with pytest.raises(ZeroDivisionError, match="the environment is broken"):
        train(config)
    checkpoint = newest_checkpoint(config.run_dir)
    assert checkpoint is not None
    assert checkpoint.name == "update_000001"
    Toy.hook = None
    train(dataclasses.replace(config, resume=True))
    assert_same_run(config.run_dir, uninterrupted)


@pytest.mark.usefixtures("_ctrl_c_arrives")
@pytest.mark.parametrize(
    ("where", "method", "counted"),
    [
        (MasterAdam, "set_learning_rate", True),  # before the step, but in the part that is not interrupted
        (torch.optim.Adam, "step", True),  # the masters have moved, the model has not
        (MasterAdam, "step", True),
        (RunLog, "update", True),
        (Policy, "logprobs", False),  # the gradient is half there: the update is made again
    ],
)
def test_ctrl_c_around_the_optimizer_step(config, uninterrupted, monkeypatch, where, method, counted):
    # A step that was taken must be counted and logged: else the resumed run takes it twice.
    inner = getattr(where, method)
    calls = 0

    def interrupted(*arguments, **options):
        nonlocal calls
        found = inner(*arguments, **options)
        done = len([row for row in rows_of(config.run_dir) if row["kind"] == "update"])
        if done == 1 + (method == "update"):
            calls += 1
        if calls == 1:
            calls += 1
            os.kill(os.getpid(), signal.SIGINT)
        return found

    monkeypatch.setattr(where, method, interrupted)
    with pytest.raises(Interrupted):
        train(config)
    monkeypatch.undo()
    checkpoint = newest_checkpoint(config.run_dir)
    assert checkpoint is not None
    assert checkpoint.name == ("update_000002" if counted else "update_000001")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert [row["update"] for row in rows_of(config.run_dir) if row["kind"] == "update"] == [1, 2][: 1 + counted]
    train(dataclasses.replace(config, resume=True))
    assert_same_run(config.run_dir, uninterrupted)


def test_the_gradient_of_an_update_by_hand(config, monkeypatch):
    """What the optimizer gets is the mean over all sampled tokens, however the episodes are cut and padded."""
    policies: list[Policy] = []
    chosen: list[list[Any]] = []
    inner_init, inner_batches, inner_step = Policy.__init__, batching.microbatches, MasterAdam.step

    def init(self, model):
        inner_init(self, model)
        policies.append(self)

    def batches(trajectories, advantages, **options):
        chosen.append(list(trajectories))
        return inner_batches(trajectories, advantages, **options)

    def step(self, **options):
        [policy], rows = policies, chosen[-1]
        ours = {name: _take_gradient(p) for name, p in policy.trainable.items()}
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
        return inner_step(self, **options)

    monkeypatch.setattr(Policy, "__init__", init)
    monkeypatch.setattr(train_module, "microbatches", batches)
    monkeypatch.setattr(MasterAdam, "step", step)
    train(dataclasses.replace(config, env_args='{"turns": 2}', updates=2, eval_every=0, max_tokens=3))
    assert len(chosen) == 2


def _take_gradient(parameter: torch.nn.Parameter) -> torch.Tensor:
    assert parameter.grad is not None
    gradient, parameter.grad = parameter.grad, None
    return gradient


def test_more_updates_can_be_added_to_a_finished_run(config, tmp_path):
    train(config)
    run = train(dataclasses.replace(config, resume=True, updates=6))
    assert run.updates_done == 6
    whole = dataclasses.replace(config, run_dir=tmp_path / "whole", updates=6)
    train(whole)
    assert adapter_bytes(config.run_dir) == adapter_bytes(whole.run_dir)
    kinds = [(row["kind"], row["update"]) for row in rows_of(config.run_dir)]
    assert len(kinds) == len(set(kinds))


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


def test_unscorable_episodes_take_no_part(config, monkeypatch):
    seen: list[Any] = []
    inner = batching.microbatches

    def watch(trajectories, advantages, **options):
        seen.append((trajectories, advantages))
        return inner(trajectories, advantages, **options)

    monkeypatch.setattr(train_module, "microbatches", watch)
    train(dataclasses.replace(config, env_args='{"outage": true}', updates=3, eval_every=0))
    rows = rows_of(config.run_dir)
    assert any(0.0 < row["unscorable_share"] < 1.0 for row in rows)
    assert all(0.0 <= row["return_mean"] <= 1.0 for row in rows)  # none of the outages' 1000
    assert seen
    for trajectories, advantages in seen:
        by_seed: dict[int, list[float]] = {}
        for trajectory, advantage in zip(trajectories, advantages, strict=True):
            assert trajectory.is_scorable
            by_seed.setdefault(trajectory.seed, []).append(advantage[0])
        for of_group in by_seed.values():
            assert sum(of_group) == pytest.approx(0.0, abs=1e-6)
            assert max(of_group) - min(of_group) == pytest.approx(1.0)


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
    ("name", "value"), [("device", "abacus"), ("dtype", "float33"), ("attention", "no_such_kernel")]
)
def test_an_unknown_name_of_the_machinery_is_one_line(config, name, value):
    with pytest.raises(ConfigError, match=value) as caught:
        train(dataclasses.replace(config, **{name: value}))
    assert "\n" not in str(caught.value)


def test_it_learns(config):
    learning = dataclasses.replace(
        config, updates=16, groups_per_batch=8, group_size=16, max_tokens=1, learning_rate=2e-2, eval_every=0
    )
    train(learning)
    returns = [row["return_mean"] for row in rows_of(config.run_dir)]
    assert sum(returns[:2]) / 2 < 0.6
    assert sum(returns[-4:]) / 4 > 0.75


@pytest.mark.parametrize("credit", ["trajectory", "turn"])
def test_it_learns_over_turns(config, credit):
    # Every turn is paid for by itself: three small numbers in a row.
    learning = dataclasses.replace(
        config, env_args='{"turns": 3}', updates=14, group_size=16, max_tokens=1, learning_rate=2e-2, eval_every=0,
        credit=credit,
    )  # fmt: skip
    train(learning)
    rows = rows_of(config.run_dir)
    assert all(row["turns_mean"] == 3.0 for row in rows)
    assert rows[0]["return_mean"] < 1.9
    assert rows[-1]["return_mean"] > 2.2


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
