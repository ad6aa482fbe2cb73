"""Whatever stops a run, it goes on as if nothing had happened, and leaves nothing open."""

import dataclasses
import errno
import gc
import os
import signal
from typing import Any

import pytest
import torch

from tests.trainers.toy_runs import Hook, Toy, adapter_bytes, assert_same_run, register_toys, rows_of, toy_config
from trainers import checkpoints, collect, credit
from trainers import learn as learn_module
from trainers import run as run_module
from trainers import train as train_module
from trainers.checkpoints import CheckpointError, newest_checkpoint
from trainers.config import ConfigError, Interrupted
from trainers.environments import EnvMix
from trainers.logs import trackers
from trainers.logs.run_log import RunLog
from trainers.optimizer import MasterAdam
from trainers.policy import Policy
from trainers.sampling import TorchSampler
from trainers.train import train


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def _toy(monkeypatch):
    """Every run closes the environments that it opened, however it ends."""
    monkeypatch.setattr(Toy, "hook", None)
    register_toys()
    gc.collect()
    before = Toy.open_now
    made = Toy.made
    yield
    assert Toy.made > made
    assert Toy.open_now == before


@pytest.fixture
def config(tiny_folder, tmp_path):
    return toy_config(tiny_folder, tmp_path / "run")


@pytest.fixture
def uninterrupted(config, tmp_path):
    """The folder of the run that nothing disturbs."""
    whole = dataclasses.replace(config, run_dir=tmp_path / "whole")
    train(whole)
    return whole.run_dir


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
    assert (config.run_dir / "report.html").exists()
    assert not (config.run_dir / "adapter").exists()
    Toy.hook = None
    run = train(dataclasses.replace(config, resume=True))
    assert run.updates_done == 4
    assert_same_run(config.run_dir, uninterrupted)


def test_an_error_is_raised_as_it_is_after_a_checkpoint(config, uninterrupted, monkeypatch):
    calls = 0
    inner = credit.assign_credit

    def fail(*arguments, **options):
        nonlocal calls
        calls += 1
        if calls == 2:
            raise ZeroDivisionError("a mistake of ours")
        return inner(*arguments, **options)

    monkeypatch.setattr(collect, "assign_credit", fail)
    with pytest.raises(ZeroDivisionError, match="a mistake of ours"):
        train(config)
    checkpoint = newest_checkpoint(config.run_dir)
    assert checkpoint is not None
    assert checkpoint.name == "update_000001"
    monkeypatch.undo()
    train(dataclasses.replace(config, resume=True))
    assert_same_run(config.run_dir, uninterrupted)


@pytest.mark.usefixtures("_ctrl_c_arrives")
@pytest.mark.parametrize(
    ("where", "method", "counted"),
    [
        (learn_module._Step, "backward", False),  # the gradient is there, and no step was taken: it is made again
        (torch.optim.Adam, "step", True),  # the masters have moved, the model has not
        (MasterAdam, "step", True),
        (RunLog, "update", True),
    ],
)
@pytest.mark.parametrize("minibatches", [1, 2])
def test_ctrl_c_around_the_optimizer_step(config, tmp_path, monkeypatch, where, method, counted, minibatches):
    # A step that was taken must be counted and logged: else the resumed run takes it twice.
    config = dataclasses.replace(config, minibatches=minibatches, updates=3)
    whole = dataclasses.replace(config, run_dir=tmp_path / "whole")
    train(whole)
    inner = getattr(where, method)
    updates_done, pressed = 0, False

    def interrupted(*arguments, **options):
        nonlocal pressed
        found = inner(*arguments, **options)
        if updates_done == 1 and not pressed:
            pressed = True
            os.kill(os.getpid(), signal.SIGINT)
        return found

    inner_collect = collect.Collector.collect

    def collecting(self, update, **options):
        nonlocal updates_done
        updates_done = update
        return inner_collect(self, update, **options)

    monkeypatch.setattr(where, method, interrupted)
    monkeypatch.setattr(collect.Collector, "collect", collecting)
    with pytest.raises(Interrupted):
        train(config)
    monkeypatch.undo()
    checkpoint = newest_checkpoint(config.run_dir)
    assert checkpoint is not None
    assert checkpoint.name == ("update_000002" if counted else "update_000001")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert [row["update"] for row in rows_of(config.run_dir, "update")] == [1, 2][: 1 + counted]
    train(dataclasses.replace(config, resume=True))
    assert_same_run(config.run_dir, whole.run_dir)


def test_an_error_between_two_steps_takes_the_first_back(config, tmp_path, monkeypatch):
    """Memory may run out in the second minibatch; what is saved then is the last whole update."""
    config = dataclasses.replace(config, minibatches=2, epochs=2, updates=2, eval_every=0)
    train(dataclasses.replace(config, run_dir=tmp_path / "whole"))
    inner, calls = MasterAdam.step, 0

    def step(self, **options):
        nonlocal calls
        calls += 1
        if calls == 4 + 3:
            raise torch.OutOfMemoryError("no memory")
        return inner(self, **options)

    monkeypatch.setattr(MasterAdam, "step", step)
    with pytest.raises(torch.OutOfMemoryError):
        train(config)
    monkeypatch.undo()
    checkpoint = newest_checkpoint(config.run_dir)
    assert checkpoint is not None
    assert checkpoint.name == "update_000001"
    train(dataclasses.replace(config, resume=True))
    assert_same_run(config.run_dir, tmp_path / "whole")


@pytest.mark.parametrize("max_staleness", [0, 1])
def test_more_updates_can_be_added_to_a_finished_run(config, tmp_path, max_staleness):
    config = dataclasses.replace(config, max_staleness=max_staleness)
    train(config)
    run = train(dataclasses.replace(config, resume=True, updates=6))
    assert run.updates_done == 6
    whole = dataclasses.replace(config, run_dir=tmp_path / "whole", updates=6)
    train(whole)
    assert adapter_bytes(config.run_dir) == adapter_bytes(whole.run_dir)
    assert rows_of(config.run_dir) == rows_of(whole.run_dir)


# --- A disk that is full ---


def disk_full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_training_goes_on_when_a_checkpoint_cannot_be_written(config, uninterrupted, monkeypatch, capsys):
    inner, saves = checkpoints._seal, 0

    def seal(folder):
        nonlocal saves
        saves += 1
        if saves == 2:  # that of update 2, of 1, 2, 3 and 4
            disk_full()
        inner(folder)

    monkeypatch.setattr(checkpoints, "_seal", seal)
    train(dataclasses.replace(config, save_every=1))
    assert_same_run(config.run_dir, uninterrupted)
    found = sorted(path.name for path in config.run_dir.glob("checkpoints/*"))
    assert found == ["update_000001", "update_000003", "update_000004"]
    said = capsys.readouterr().out
    assert said.count("could not be written") == 1
    assert "update_000002 could not be written: No space left on device; the checkpoints before it are kept" in said


def test_an_adapter_that_cannot_be_written_is_one_line(config, monkeypatch):
    inner = Policy.save_adapter

    def save(self, folder):
        if folder.name == "adapter":
            disk_full()
        inner(self, folder)

    monkeypatch.setattr(Policy, "save_adapter", save)
    with pytest.raises(CheckpointError) as caught:
        train(config)
    assert str(caught.value) == (
        f"{config.run_dir / 'adapter'} could not be written: [Errno {errno.ENOSPC}] No space left on device"
    )
    checkpoint = newest_checkpoint(config.run_dir)
    assert checkpoint is not None
    assert checkpoint.name == "update_000004"


@pytest.mark.parametrize("error", [ConfigError("report.html cannot be written: No space left"), KeyError("mistake")])
def test_a_report_that_cannot_be_written_is_a_line(config, monkeypatch, capsys, error):
    def fail(_):
        raise error

    monkeypatch.setattr(train_module, "write_report", fail)
    assert train(config).updates_done == 4  # no traceback at the end of a good run
    told = "There is no report: " + (
        "ConfigError: report.html cannot be written: No space left" if "No" in str(error) else "KeyError: 'mistake'"
    )
    assert told in capsys.readouterr().out
    Toy.hook = Hook(5, interrupt)
    with pytest.raises(Interrupted):  # and it hides nothing
        train(dataclasses.replace(config, overwrite=True))
    assert told in capsys.readouterr().out


# --- What is left open ---


@pytest.mark.parametrize("fails", ["trackers", "begin", "known_returns"])
def test_an_error_before_the_first_update_leaves_nothing_open(config, monkeypatch, fails):
    closed: list[str] = []

    class Tracking:
        name = "a tracker"

        def log(self, *_: Any) -> None: ...

        def close(self) -> None:
            closed.append("tracker")

    def open_trackers(*_: Any, **__: Any) -> list[Any]:
        if fails == "trackers":
            raise ConfigError("no account")
        return [Tracking()]

    def fail(*_: Any, **__: Any) -> None:
        raise ConfigError("no account")

    assert trackers.open_trackers is not open_trackers
    monkeypatch.setattr("trainers.logs.run_log.open_trackers", open_trackers)
    monkeypatch.setattr(TorchSampler, "close", lambda _: closed.append("sampler"))
    if fails == "begin":
        monkeypatch.setattr(RunLog, "_resume", fail)
    if fails == "known_returns":
        monkeypatch.setattr(train_module, "known_returns", fail)
    with pytest.raises(ConfigError, match="no account"):
        train(config)
    assert closed == (["sampler", "tracker"] if fails == "begin" else ["sampler"])  # which is the order, too
    assert not list(config.run_dir.glob("checkpoints/*"))
    monkeypatch.undo()
    train(config)  # the folder is as good as new


def test_a_part_that_cannot_be_closed_keeps_no_other_open(config, monkeypatch, capsys):
    closed: list[str] = []
    inner = EnvMix.close

    def fail(_: object) -> None:
        raise ZeroDivisionError("stuck")

    def close(self: EnvMix) -> None:
        closed.append("environments")
        inner(self)

    monkeypatch.setattr(TorchSampler, "close", fail)
    monkeypatch.setattr(EnvMix, "close", close)
    stopped = []
    monkeypatch.setattr(RunLog, "stop", lambda _: stopped.append(list(closed)))
    assert train(config).updates_done == 4
    assert "environments" in stopped[-1]
    assert "Not everything could be closed: ZeroDivisionError: stuck" in capsys.readouterr().out
    assert (config.run_dir / "report.html").exists()


@pytest.mark.parametrize("max_staleness", [0, 1])
def test_a_run_closes_each_sampler_once(config, monkeypatch, max_staleness):
    closed: list[int] = []
    monkeypatch.setattr(TorchSampler, "close", lambda self: closed.append(id(self)))
    run = train(dataclasses.replace(config, max_staleness=max_staleness, updates=2))
    assert sorted(closed) == sorted({id(run.sampler), id(run.eval_sampler)})
    assert len(closed) == 1 + max_staleness
    assert run_module.Run is type(run)


@pytest.mark.parametrize("changes", [{"device": "cuda:99"}, {"model": "nowhere"}, {"max_rows": 1, "lora_rank": 0}])
def test_a_run_that_cannot_begin_overwrites_nothing(config, uninterrupted, changes):
    before = {path: path.read_bytes() for path in uninterrupted.rglob("*") if path.is_file()}
    Toy.made += 1  # the fixture wants to see one
    with pytest.raises(ConfigError):
        train(dataclasses.replace(config, run_dir=uninterrupted, overwrite=True, **changes))
    assert {path: path.read_bytes() for path in uninterrupted.rglob("*") if path.is_file()} == before


def test_one_that_can_does(config, uninterrupted):
    train(dataclasses.replace(config, run_dir=uninterrupted, overwrite=True, updates=2))
    assert [row["update"] for row in rows_of(uninterrupted, "update")] == [1, 2]


def test_nothing_to_go_on_with_is_said(config, capsys):
    train(dataclasses.replace(config, resume=True, updates=1))
    assert f"There is no checkpoint in {config.run_dir}: the run begins at its first update" in capsys.readouterr().out


def test_exit_outside_an_episode_leaves_a_checkpoint(config, monkeypatch):
    """What runs programs may run exit() where nobody watches."""
    calls = 0
    inner = learn_module.learn

    def leave(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise SystemExit(3)
        return inner(*args, **options)

    monkeypatch.setattr(train_module, "learn", leave)
    with pytest.raises(SystemExit):
        train(config)
    assert newest_checkpoint(config.run_dir) == config.run_dir / "checkpoints" / "update_000001"
