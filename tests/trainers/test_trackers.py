"""Curves elsewhere: TensorBoard for real; of the others, what they are told."""

import importlib.machinery
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trainers.config import ConfigError
from trainers.logs.trackers import check_trackers, close_all, open_trackers, send

CONFIG = {"model": "m", "learning_rate": 4e-5, "env": ["e"]}


class FakeRun:
    def __init__(self) -> None:
        self.said: list[Any] = []
        self.finished = 0

    def log(self, metrics, **options):
        self.said.append((metrics, options))

    def define_metric(self, *names, **options):
        self.said.append((names, options))

    def finish(self):
        self.finished += 1


@pytest.fixture
def fakes(monkeypatch):
    """Both libraries, each of which remembers how it was started."""
    found: dict[str, list[Any]] = {}
    for name in ("wandb", "trackio"):

        def init(*args, fake_name=name, **options):
            found[fake_name].append((args, options, FakeRun()))
            return found[fake_name][-1][-1]

        module = SimpleNamespace(init=init, Settings=dict)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None, origin=f"{name}/__init__.py")
        monkeypatch.setitem(sys.modules, name, module)
        found[name] = []
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return found


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return [(event.step, event.value) for event in accumulator.Scalars(tag)]


def test_tensorboard_forgets_what_is_made_again(tmp_path):
    pytest.importorskip("tensorboard")
    [tracker] = open_trackers(["tensorboard"], tmp_path, CONFIG)
    for step in (1, 2, 3):
        tracker.log({"train/return_mean": step / 4, "train/kl": 0.5}, step)
    assert scalars(tmp_path / "tensorboard", "train/return_mean") == [(1, 0.25), (2, 0.5), (3, 0.75)]  # written at once
    tracker.close()
    [tracker] = open_trackers(["tensorboard"], tmp_path, CONFIG, updates_done=1)
    tracker.log({"train/return_mean": 2.0}, 2)
    tracker.close()
    assert scalars(tmp_path / "tensorboard", "train/return_mean") == [(1, 0.25), (2, 2.0)]
    assert scalars(tmp_path / "tensorboard", "train/kl") == [(1, 0.5)]


def test_tensorboard_forgets_all_of_a_run_that_begins_anew(tmp_path):
    pytest.importorskip("tensorboard")
    for value in (1.0, 2.0):
        [tracker] = open_trackers(["tensorboard"], tmp_path, CONFIG)
        tracker.log({"evaluation/return_mean": value}, 0)
        tracker.close()
    assert scalars(tmp_path / "tensorboard", "evaluation/return_mean") == [(0, 2.0)]


def test_wandb(tmp_path, fakes):
    run_dir = tmp_path / "my_run"
    run_dir.mkdir()
    [tracker] = open_trackers(["wandb"], run_dir, CONFIG)
    tracker.log({"train/return_mean": 0.5}, 7)
    tracker.close()
    [((), options, run)] = fakes["wandb"]
    assert (options["project"], options["name"], options["resume"]) == ("llm-envs", "my_run", "allow")
    assert (options["config"], options["dir"], options["settings"]) == (CONFIG, str(run_dir), {"console": "off"})
    assert re.fullmatch(r"[0-9a-f]{8}", options["id"])
    assert run.said == [
        (("update",), {}),
        (("*",), {"step_metric": "update"}),
        ({"train/return_mean": 0.5, "update": 7}, {}),
    ]
    assert run.finished == 1


def test_the_project_of_the_environment_variable(tmp_path, fakes, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    open_trackers(["wandb"], tmp_path, CONFIG)
    assert fakes["wandb"][0][1]["project"] == "mine"


def test_trackio(tmp_path, fakes):
    run_dir = tmp_path / "my_run"
    run_dir.mkdir()
    [tracker] = open_trackers(["trackio"], run_dir, CONFIG)
    tracker.log({"train/return_mean": 0.5}, 7)
    tracker.close()
    [(args, options, run)] = fakes["trackio"]
    assert (args, options["resume"], options["config"]) == (("llm-envs",), "allow", CONFIG)
    assert re.fullmatch(r"my_run-[0-9a-f]{8}", options["name"])
    assert (run.said, run.finished) == ([({"train/return_mean": 0.5}, {"step": 7})], 1)


def test_a_resumed_run_is_the_same_one(tmp_path, fakes):
    other = tmp_path / "other"
    other.mkdir()
    for folder in (tmp_path, tmp_path, other):
        open_trackers(["trackio", "wandb"], folder, CONFIG)
    for name, key in (("wandb", "id"), ("trackio", "name")):
        first, again, elsewhere = (options[key] for _, options, _ in fakes[name])
        assert first == again != elsewhere
    assert set(json.loads((tmp_path / "trackers.json").read_text())) == {"wandb", "trackio"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other", "trackers.json"]


def test_a_missing_library_is_told_with_what_installs_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    check_trackers([])
    with pytest.raises(ConfigError, match=r"^track=wandb needs a package .*: pip install 'llm-envs\[wandb\]'$"):
        check_trackers(["wandb"])


def test_a_folder_of_that_name_is_no_library(run_python, tmp_path):
    (tmp_path / "wandb").mkdir()  # as W&B leaves it
    code = """
import importlib.util, sys
from trainers.config import ConfigError
from trainers.logs.trackers import check_trackers
importlib.util.find_spec("wandb") or sys.exit("this test tests nothing")
try:
    check_trackers(["wandb"])
except ConfigError as error:
    print(error)
"""
    if importlib.util.find_spec("wandb") is not None:
        pytest.skip("wandb is installed")
    done = run_python("-c", code, cwd=tmp_path)
    assert "pip install" in done.stdout, done.stderr


def test_nothing_is_imported_that_is_not_asked_for(run_python, tmp_path):
    code = """
import sys
from pathlib import Path
from trainers.logs.trackers import check_trackers, open_trackers
check_trackers(["tensorboard"])
assert open_trackers([], Path("."), {}) == []
assert not {"torch", "tensorboard", "wandb", "trackio"} & set(sys.modules)
print("done")
"""
    pytest.importorskip("tensorboard")
    done = run_python("-c", code, cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr
    assert not list(tmp_path.iterdir())


def test_a_tracker_that_cannot_start_ends_the_run_before_it_begins(tmp_path, fakes, monkeypatch):
    def init(**_):
        raise RuntimeError("no key:\n log in first")

    monkeypatch.setattr(sys.modules["wandb"], "init", init)
    with pytest.raises(ConfigError, match=r"^track=wandb cannot start: no key: log in first; with WANDB_MODE=offline"):
        open_trackers(["trackio", "wandb"], tmp_path, CONFIG)
    assert fakes["trackio"][0][-1].finished == 1


class Failing:
    name = "failing"

    def __init__(self) -> None:
        self.tries = 0

    def log(self, metrics, step):
        self.tries += 1
        raise ConnectionError("no\nroute")

    def close(self):
        raise OSError("still none")


def test_one_that_fails_is_dropped_and_the_others_go_on(tmp_path, fakes):
    failing = Failing()
    trackers = [failing, *open_trackers(["trackio"], tmp_path, CONFIG)]
    said = send(trackers, {"a": 1.0}, 1)
    assert said == ["failing failed (ConnectionError: no route): it gets no more of this run"]
    assert send(trackers, {"a": 2.0}, 2) == []
    assert failing.tries == 1
    run = fakes["trackio"][0][-1]
    assert [step["step"] for _, step in run.said] == [1, 2]
    trackers.append(failing)
    assert close_all(trackers) == ["failing failed (OSError: still none): its last figures may be missing"]
    assert (trackers, run.finished) == ([], 1)


def test_ctrl_c_is_no_failure():
    class Stopped(Failing):
        def log(self, metrics, step):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        send([Stopped()], {}, 1)
