"""`llm-envs train`, `eval` and `report`, as they are called."""

import json
import os
import resource
import subprocess
import sys
import tomllib
import webbrowser
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from trainers.cli import TRAIN, evaluate, lacks, report, train
from trainers.config import TrainConfig

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMMANDS = {"train": "train", "eval": "evaluate", "report": "report"}

HELP = """
import sys
from trainers.cli.{file} import main
try:
    main(["--help"])
except SystemExit as ended:
    heavy = {{"torch", "transformers", "peft", "gymnasium", "numpy", "matplotlib", "pettingzoo"}} & set(sys.modules)
    assert not heavy, heavy
    sys.exit(ended.code)
"""


@pytest.mark.parametrize(("name", "file"), COMMANDS.items())
def test_help_takes_no_second_and_loads_no_model_library(name, file, child_env):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", HELP.format(file=file)], env=child_env, capture_output=True, text=True, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: llm-envs {name} ")
    # What the processor did: the clock also counts others' work on this machine.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


THROUGH_LLM_ENVS = """
import sys
from importlib.metadata import EntryPoint
from llm_envs.cli import main, others
others.entry_points = lambda group: [EntryPoint(*entry, group) for entry in {entries!r}]
try:
    main(["train", "--help"])
except SystemExit as ended:
    assert not {{"torch", "transformers", "peft"}} & set(sys.modules)
    sys.exit(ended.code)
"""


def test_so_does_the_whole_of_llm_envs(child_env):
    entries = list(PROJECT["entry-points"]["llm_envs.commands"].items())
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code = THROUGH_LLM_ENVS.format(entries=entries)
    done = subprocess.run([sys.executable, "-c", code], env=child_env, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--group-size INT" in done.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


def test_where_the_commands_are_found():
    named = PROJECT["entry-points"]["llm_envs.commands"]
    assert list(named) == list(COMMANDS)
    for value in named.values():
        module, _, attribute = value.partition(":")
        assert callable(getattr(import_module(module), attribute))


@pytest.mark.parametrize("command", [train, evaluate, report])
def test_without_what_it_needs_a_command_is_one_line(command, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert command.main(["--help"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.startswith("error: llm-envs ")
    assert said.err.endswith(" tyro: pip install 'llm-envs[train]'\n") or "tyro, rich: pip install" in said.err


def test_what_is_needed_is_what_the_extra_brings():
    asked = {requirement.partition(">")[0] for requirement in PROJECT["optional-dependencies"]["train"]}
    assert set(TRAIN) <= asked
    assert not lacks(TRAIN, command="x")


@pytest.fixture
def trained(monkeypatch) -> list[TrainConfig]:
    """What was to be trained; nothing is."""
    seen: list[TrainConfig] = []

    def train(config: TrainConfig):
        config.check_sampling()
        seen.append(config)

    monkeypatch.setitem(sys.modules, "trainers.train", SimpleNamespace(train=train))
    return seen


def test_a_setting_that_cannot_work_is_one_line(trained, capsys):
    assert train.main(["--model", "m", "--env", "llm_envs:Arithmetic-v0", "--group-size", "1"]) == 2
    assert capsys.readouterr().err.startswith("error: group_size is 1: ")
    assert evaluate.main(["--model", "m", "--env", "llm_envs:Arithmetic-v0", "--problems", "0"]) == 2
    assert capsys.readouterr().err == "error: problems must be at least 1, not 0\n"


def test_training_says_where_the_adapter_is(trained, capsys, tmp_path):
    settings = tmp_path / "config.json"
    settings.write_text(json.dumps({"model": "m", "env": ["A-v0"], "updates": 3}))
    assert train.main(["--config", str(settings), "--run-dir", "x", "--updates", "4"]) == 0
    [config] = trained
    assert (config.model, config.env, config.updates, config.run_dir) == ("m", ("A-v0",), 4, Path("x"))
    assert capsys.readouterr().out == f"The adapter is in {Path('x/adapter')}\n"


# --- The report ---


@pytest.fixture
def run_dir(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        "".join(json.dumps({"kind": "update", "update": i, "return_mean": i / 3}) + "\n" for i in (1, 2))
    )
    return tmp_path


def test_a_report(run_dir, capsys, monkeypatch, tmp_path):
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    assert report.main([str(run_dir)]) == 0
    page = run_dir / "report.html"
    assert capsys.readouterr().out == f"{page}\n"
    assert page.stat().st_size > 1000
    assert opened == []
    monkeypatch.chdir(tmp_path)
    assert report.main([str(run_dir), "--out", "other.html", "--open"]) == 0
    assert opened == [(tmp_path / "other.html").as_uri()]


def test_a_folder_without_a_run_is_one_line(tmp_path, capsys):
    assert report.main([str(tmp_path / "nothing")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1


def test_llm_envs_finds_them(run_dir, child_env):
    """By the entry points of an installation, where there is one that is as new as these."""
    from importlib.metadata import entry_points

    if {entry.name for entry in entry_points(group="llm_envs.commands")} < set(COMMANDS):
        pytest.skip("llm-envs was installed before it had these commands")
    code = "import sys; from llm_envs.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "report", str(run_dir), "--out", os.devnull + "/x"],
        env=child_env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
