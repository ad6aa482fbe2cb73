"""Sampling one update ahead: from which policy, the same whoever is faster, and how it ends."""

import dataclasses
import os
import signal
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.trainers.toy_runs import Hook, Toy, assert_same_run, register_toys, rows_of, toy_config
from trainers import learn as learn_module
from trainers.checkpoints import newest_checkpoint
from trainers.config import Interrupted
from trainers.environments import BrokenEnvironmentError
from trainers.policy import Policy
from trainers.sampling import TorchSampler
from trainers.schedule import Ahead, InTurn
from trainers.train import train


def version_of(policy: Policy) -> float:
    return float(next(iter(policy.trainable.values())).detach().flatten()[0])


class Sampling:
    """Stands for sampler and collector: a batch says from which version of the policy it was sampled, and where."""

    def __init__(self, *, seconds: float = 0.0, fails_at: int | None = None) -> None:
        self.sampler: Any = self
        self.seconds, self.fails_at = seconds, fails_at
        self.loaded = -1.0
        self.loads: list[float] = []
        self.threads: list[str] = []
        self.told = 0

    def load_adapter(self, policy: Policy) -> None:
        self.loaded = version_of(policy)
        self.loads.append(self.loaded)

    def collect(self, update: int, *, progress: Any = None) -> Any:
        self.threads.append(threading.current_thread().name)
        version = self.loaded
        until = time.monotonic() + self.seconds
        while time.monotonic() < until:
            time.sleep(0.01)
            if progress is not None:
                self.told += 1
                progress("sampling", self.told, 1000)
        if update == self.fails_at:
            raise BrokenEnvironmentError("ten in a row")
        assert self.loaded == version  # nobody loads another one meanwhile
        return SimpleNamespace(update=update, version=version)


@pytest.fixture
def policy(tiny_folder, load_policy):
    found = load_policy(tiny_folder)
    set_version(found, 0)
    return found


def set_version(policy: Policy, number: int) -> None:
    with torch.no_grad():
        next(iter(policy.trainable.values())).fill_(float(number))


def staleness(
    schedule: Ahead | InTurn, policy: Policy, *, updates: int, first: int = 0, seconds: float = 0.0
) -> list[float]:
    """Train by counting: how many updates older the policy that sampled was than the one that is trained."""
    found = []
    for update in range(first, updates):
        batch: Any = schedule.collect(update)
        assert batch.update == update
        time.sleep(seconds)
        found.append(update - batch.version)
        set_version(policy, update + 1)
    return found


@pytest.mark.parametrize(("sampling", "training"), [(0.0, 0.0), (0.05, 0.0), (0.0, 0.05)])
def test_every_batch_but_the_first_is_one_update_old(policy, sampling, training):
    collector: Any = Sampling(seconds=sampling)
    schedule = Ahead(collector, policy, updates=6)
    assert staleness(schedule, policy, updates=6, seconds=training) == [0, 1, 1, 1, 1, 1]
    assert collector.threads == ["MainThread"] + ["sampling"] * 5
    schedule.close()
    assert "sampling" not in [thread.name for thread in threading.enumerate()]


def test_in_turn_no_batch_is_old(policy):
    collector: Any = Sampling()
    schedule = InTurn(collector, policy)
    assert staleness(schedule, policy, updates=3) == [0, 0, 0]
    assert (collector.threads, schedule.state_dict(3)) == (["MainThread"] * 3, {})
    schedule.close()


@pytest.mark.parametrize("updates_done", range(6))
def test_it_goes_on_from_what_sampled(policy, updates_done):
    """Stopped after any update, also after the last, when there is nothing to sample yet."""
    first: Any = Sampling()
    schedule = Ahead(first, policy, updates=max(1, updates_done))
    staleness(schedule, policy, updates=updates_done)
    state = schedule.state_dict(updates_done)
    schedule.close()
    again: Any = Sampling()
    resumed = Ahead(again, policy, updates=6, adapter=state["adapter"])
    expected = [0, 1, 1, 1, 1, 1]
    assert staleness(resumed, policy, updates=6, first=updates_done) == expected[updates_done:]
    assert version_of(policy) == 6.0  # it is still the policy that is trained
    resumed.close()


def test_stopped_within_an_update_it_samples_that_batch_again(policy):
    collector: Any = Sampling()
    schedule = Ahead(collector, policy, updates=9)
    staleness(schedule, policy, updates=3)
    assert schedule.collect(3) is not None  # and then something stops it before the update is done
    state = schedule.state_dict(3)
    schedule.close()
    assert float(next(iter(state["adapter"].values())).flatten()[0]) == 2.0


def test_an_error_of_the_thread_is_raised_where_the_batch_is_wanted(policy):
    collector: Any = Sampling(fails_at=2)
    schedule = Ahead(collector, policy, updates=6)
    assert staleness(schedule, policy, updates=2) == [0, 1]
    with pytest.raises(BrokenEnvironmentError, match="ten in a row"):
        schedule.collect(2)
    schedule.close()
    assert "sampling" not in [thread.name for thread in threading.enumerate()]


def test_closing_does_not_wait_for_the_batch(policy):
    collector: Any = Sampling()
    schedule = Ahead(collector, policy, updates=6)
    schedule.collect(0)
    schedule._join(None)
    collector.seconds = 600.0
    schedule._load(1)
    schedule._thread = threading.Thread(target=schedule._run, args=(1,), name="sampling", daemon=True)
    schedule._thread.start()
    while not collector.told:
        time.sleep(0.01)
    started = time.monotonic()
    schedule.close()
    schedule.close()  # twice does no harm
    assert time.monotonic() - started < 5.0
    assert "sampling" not in [thread.name for thread in threading.enumerate()]


def test_whoever_waits_is_told_how_far_it_is(policy):
    collector: Any = Sampling(seconds=0.5)
    schedule = Ahead(collector, policy, updates=2)
    schedule.collect(0)
    told: list[tuple[str, int, int]] = []
    schedule.collect(1, progress=lambda *what: told.append(what))
    assert told
    assert {(stage, total) for stage, _, total in told} == {("sampling", 1000)}
    schedule.close()


# --- In a run ---


@pytest.fixture(autouse=True)
def _toy(monkeypatch):
    monkeypatch.setattr(Toy, "hook", None)
    register_toys()


@pytest.fixture
def config(tiny_folder, tmp_path):
    return toy_config(tiny_folder, tmp_path / "run", max_staleness=1, updates=5)


@pytest.fixture
def uninterrupted(config, tmp_path):
    whole = dataclasses.replace(config, run_dir=tmp_path / "whole")
    run = train(whole)
    assert run.corrects
    assert all("correction_share" in row for row in rows_of(whole.run_dir, "update") if "loss" in row)
    return whole.run_dir


def test_the_numbers_do_not_depend_on_who_is_faster(config, uninterrupted, monkeypatch):
    monkeypatch.setattr(Toy, "hook", staticmethod(lambda: time.sleep(0.005)))
    train(config)
    assert_same_run(config.run_dir, uninterrupted)
    monkeypatch.setattr(Toy, "hook", None)
    inner = learn_module.learn

    def slowly(*arguments: Any, **options: Any) -> Any:
        time.sleep(0.2)
        return inner(*arguments, **options)

    monkeypatch.setattr("trainers.train.learn", slowly)
    train(dataclasses.replace(config, overwrite=True))
    assert_same_run(config.run_dir, uninterrupted)


def test_they_are_others_than_those_in_turn(config, uninterrupted, tmp_path):
    in_turn = dataclasses.replace(config, max_staleness=0, run_dir=tmp_path / "turn")
    run = train(in_turn)
    assert not run.corrects
    ahead, turn = (rows_of(folder, "update") for folder in (uninterrupted, in_turn.run_dir))
    assert ahead[0]["return_mean"] == turn[0]["return_mean"]  # the first batch is sampled from the same policy
    assert [row["entropy"] for row in ahead[1:]] != [row["entropy"] for row in turn[1:]]
    assert all("correction_share" not in row for row in turn)
    # The gap is what the update between them did.
    assert max(row.get("logprob_gap", 0.0) for row in turn) < 1e-4 < min(row["logprob_gap"] for row in ahead[1:3])


@pytest.mark.usefixtures("_ctrl_c_arrives")
@pytest.mark.parametrize("after", [5, 3 + 16 + 8, 3 + 3 * 16 + 3 + 12])
def test_ctrl_c_and_on_again_equals_uninterrupted(config, uninterrupted, after):
    Toy.hook = Hook(after, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted):
        train(config)
    assert "sampling" not in [thread.name for thread in threading.enumerate()]
    Toy.hook = None
    train(dataclasses.replace(config, resume=True))
    assert_same_run(config.run_dir, uninterrupted)


def test_an_error_while_it_samples_ends_the_run_after_a_checkpoint(config, tmp_path):
    def fail() -> None:
        raise OSError("the sandbox is down")

    config = dataclasses.replace(config, groups_per_batch=12, group_size=2, eval_every=0)
    train(dataclasses.replace(config, run_dir=tmp_path / "whole"))
    Toy.hook = Hook(2 * 24, lambda: setattr(Toy, "hook", staticmethod(fail)))  # from the third batch on
    with pytest.raises(BrokenEnvironmentError, match="the sandbox is down"):
        train(config)
    assert "sampling" not in [thread.name for thread in threading.enumerate()]
    checkpoint = newest_checkpoint(config.run_dir)
    assert checkpoint is not None
    assert checkpoint.name == "update_000002"
    Toy.hook = None
    train(dataclasses.replace(config, resume=True))
    assert_same_run(config.run_dir, tmp_path / "whole")


def test_the_sampler_has_weights_of_its_own(config):
    run = train(dataclasses.replace(config, updates=1))
    assert isinstance(run.sampler, TorchSampler)
    assert run.sampler.policy is not run.policy
    assert isinstance(run.eval_sampler, TorchSampler)
    assert run.eval_sampler.policy is run.policy
    theirs = {id(p) for p in run.sampler.policy.trainable.values()}
    assert not theirs & {id(p) for p in run.policy.trainable.values()}
