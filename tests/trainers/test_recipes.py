"""The recipes as a user runs them: in processes of their own."""

import contextlib
import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from trainers import train as train_module
from trainers.config import ConfigError, Interrupted
from trainers.recipes import guess_number, rl_loop

RECIPES = ("rl_loop", "rl_basic", "guess_number", "tic_tac_toe", "twenty_questions")
ROOT = Path(__file__).parents[2]
SMALL = ("--group-size", "4", "--max-tokens", "3", "--lora-rank", "2", "--updates", "2")


@pytest.fixture
def recipe(run_python, tmp_path):
    def run(name: str, *options: str) -> "subprocess.CompletedProcess[str]":
        done: subprocess.CompletedProcess[str] = run_python("-m", f"trainers.recipes.{name}", *options, cwd=tmp_path)
        return done

    return run


def rows_of(run_dir: Path) -> list[dict[str, Any]]:
    """Updates and evaluations."""
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] != "start"]


def assert_adapter(folder: Path) -> None:
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {path.name for path in folder.iterdir()}


def assert_one_line(done: "subprocess.CompletedProcess[str]") -> str:
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith("\n")
    return done.stderr


def test_the_minimal_loop(recipe, tiny_folder, tmp_path):
    done = recipe(
        "rl_loop", "--model", str(tiny_folder), "--env", "llm_envs:Arithmetic-v0", "--run-dir", "out",
        "--groups-per-batch", "3", "--tokens-per-microbatch", "64", *SMALL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("update 1/2  mean reward ")
    assert lines[1].startswith("update 2/2  mean reward ")
    assert lines[2] == f"The adapter is in {Path('out/adapter')}"
    assert_adapter(tmp_path / "out" / "adapter")


def test_the_minimal_loop_refuses_what_cannot_work(tiny_folder):
    with pytest.raises(ConfigError, match="group_size is 1"):
        rl_loop.main(rl_loop.Config(model=str(tiny_folder), env="llm_envs:Arithmetic-v0", group_size=1))
    with pytest.raises(ConfigError, match="is not registered"):
        rl_loop.main(rl_loop.Config(model=str(tiny_folder), env="llm_envs:Nothing-v0"))


@pytest.mark.parametrize("place", ["a_file", "a_file/x", "/proc/x/y"])
def test_a_folder_that_cannot_be_made_is_said_first(recipe, tiny_folder, tmp_path, place):
    (tmp_path / "a_file").write_text("precious")
    options = ("--model", str(tiny_folder), "--env", "llm_envs:Arithmetic-v0", "--groups-per-batch", "2", *SMALL)
    assert f"run_dir {place} cannot be made: " in assert_one_line(recipe("rl_loop", "--run-dir", place, *options))
    assert f"run_dir {place} cannot be " in assert_one_line(recipe("guess_number", "--run-dir", place))
    assert (tmp_path / "a_file").read_text() == "precious"


def test_the_minimal_loop_says_what_it_cannot_play(tiny_folder, tmp_path):
    def loop(**changes: Any) -> None:
        options = {"groups_per_batch": 2, "group_size": 2, "max_tokens": 3, "lora_rank": 2, "updates": 1} | changes
        rl_loop.main(rl_loop.Config(model=str(tiny_folder), run_dir=tmp_path / "out", **options))

    with pytest.raises(ConfigError, match="lora_rank must be at least 1, not 0"):
        loop(env="llm_envs:Arithmetic-v0", lora_rank=0)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="GuessNumber-v0' has more than one turn: this loop plays one; use rl_basic"):
        loop(env="llm_envs:GuessNumber-v0")


def test_every_option_of_the_minimal_loop_is_explained(recipe):
    """What stands between an option and its default is its explanation."""
    told = " ".join(recipe("rl_loop", "--help").stdout.replace("\u2502", " ").split())
    options = [part.partition("(default:")[0].split() for part in told.split(" --")[1:]]
    assert len(options) == 13 + 1  # and --help
    assert [words for words in options if len(words) < 4] == []


def test_the_minimal_loop_is_one_page():
    assert len((ROOT / "trainers" / "recipes" / "rl_loop.py").read_text().splitlines()) <= 200


def test_the_plain_recipe(recipe, tiny_folder, tmp_path):
    done = recipe(
        "rl_basic", "--model", str(tiny_folder), "--env", "llm_envs:Arithmetic-v0", "--run-dir", "out",
        "--env-args", '{"low": 1, "high": 3}', "--eval-env-args", '{"high": 2}', "--groups-per-batch", "4",
        "--eval-every", "1", "--eval-size", "5", "--save-every", "1", "--device", "cpu", *SMALL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    rows = rows_of(tmp_path / "out")
    assert [(row["kind"], row["update"]) for row in rows] == [
        ("evaluation", 0), ("update", 1), ("evaluation", 1), ("update", 2), ("evaluation", 2),
    ]  # fmt: skip
    assert len([line for line in done.stdout.splitlines() if line.startswith("update ")]) == 2
    assert done.stdout.splitlines()[-1] == f"The adapter is in {Path('out/adapter')}"
    assert_adapter(tmp_path / "out" / "adapter")
    settings = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (settings["group_size"], settings["env_args"]) == (4, ['{"low": 1, "high": 3}'])


def test_a_setting_that_cannot_work_is_one_line(recipe, tmp_path):
    done = recipe("rl_basic", "--model", "m", "--env", "llm_envs:Arithmetic-v0", "--group-size", "1")
    assert "group_size is 1" in assert_one_line(done)
    assert list(tmp_path.iterdir()) == []  # nothing was begun


def test_the_demo_does_not_write_into_a_used_folder(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match="is not empty: add --resume to go on with it, or name another"):
        guess_number.main(guess_number.Config(run_dir=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(ConfigError, match="--resume needs --run-dir"):
        guess_number.main(guess_number.Config(resume=True))


def test_the_demo_checks_its_settings_before_it_reads(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="updates must be at least 1, not 0"):
        guess_number.main(guess_number.Config(run_dir=out, read_steps=1, read_batch=2, updates=0))
    with pytest.raises(ConfigError, match="device 'cuda:99': "):
        guess_number.main(guess_number.Config(run_dir=out, read_steps=1, read_batch=2, device="cuda:99"))
    with pytest.raises(ConfigError, match="device 'abacus': "):
        guess_number.main(guess_number.Config(run_dir=out, read_steps=1, read_batch=2, device="abacus"))
    assert not out.exists()


def test_the_demos_reading_stopped_and_gone_on_with(tmp_path, monkeypatch):
    """Ctrl-C while the model reads; the reading that goes on gives the model of the reading that was not stopped."""
    from trainers.reading import Reader

    def read(run_dir: Path, *, resume: bool = False) -> bytes:
        with contextlib.suppress(_EnoughError):
            guess_number.main(guess_number.Config(run_dir=run_dir, read_steps=4, read_batch=2, resume=resume))
        return (run_dir / "base" / "model.safetensors").read_bytes()

    def enough(*arguments: Any, **options: Any) -> None:
        raise _EnoughError

    monkeypatch.setattr(train_module, "train", enough)
    whole = read(tmp_path / "whole")
    inner = Reader.step

    def step(self: Reader) -> float:
        if self.steps_done == 2:
            raise KeyboardInterrupt
        return inner(self)

    monkeypatch.setattr(Reader, "step", step)
    with pytest.raises(Interrupted) as caught:
        read(tmp_path / "stopped")
    assert caught.value.run_dir == tmp_path / "stopped"
    assert (tmp_path / "stopped" / "base_interrupted" / "model.safetensors").exists()
    assert not (tmp_path / "stopped" / "base").exists()
    monkeypatch.setattr(Reader, "step", inner)
    assert read(tmp_path / "stopped", resume=True) == whole
    assert not (tmp_path / "stopped" / "reading.pt").exists()


class _EnoughError(Exception):
    """Stands where the policy gradient would begin."""


@pytest.mark.parametrize("name", RECIPES)
def test_help_comes_at_once(run_python, tmp_path, name):
    code = f"""
import runpy, sys
sys.argv = ["{name}", "--help"]
try:
    runpy.run_module("trainers.recipes.{name}", run_name="__main__", alter_sys=True)
except SystemExit as stop:
    assert stop.code in (0, None)
print("loaded:", sorted({{"torch", "transformers", "llm_envs"}} & set(sys.modules)))
"""
    done = run_python("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "--run-dir" in done.stdout
    assert "--updates" in done.stdout
    assert done.stdout.splitlines()[-1] == "loaded: []"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("_ctrl_c_arrives")
def test_the_demo_stopped_by_ctrl_c_and_gone_on_with(child_env, tmp_path):
    """SIGINT in its policy gradient leaves a checkpoint and says how to go on; that command finishes the run."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "trainers.recipes.guess_number", "--run-dir=out", "--updates", "1"]
    process = subprocess.Popen(
        [*command, "--read-steps", "3", "--read-batch", "16"], cwd=tmp_path, env=child_env, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while not ((out / "metrics.jsonl").exists() and '"evaluation"' in (out / "metrics.jsonl").read_text()):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.5)  # now it samples the games of its first update, which takes seconds
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, stderr
    assert "Interrupted after update 0." in stdout
    assert "Traceback" not in stderr
    assert_adapter(out / "checkpoints" / "update_000000")
    assert not (out / "adapter").exists()
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in (out / "base").iterdir()}

    [resume] = [line.strip() for line in stderr.splitlines() if "--resume" in line]
    assert resume.startswith(sys.executable)
    done = subprocess.run(
        shlex.split(resume), cwd=tmp_path, env=child_env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert [(row["kind"], row["update"]) for row in rows_of(out)] == [
        ("evaluation", 0), ("update", 1), ("evaluation", 1),
    ]  # fmt: skip
    assert_adapter(out / "adapter")
    assert (out / "curve.png").read_bytes()[:4] == b"\x89PNG"
    assert "weights reads games" not in done.stdout  # the base model was read before
    assert done.stdout.count("the number is 68") == 2
    last = done.stdout.rstrip().splitlines()[-1].split()
    assert last[0] == sys.executable
    assert last[1:3] == ["-m", "trainers.recipes.rl_basic"]
