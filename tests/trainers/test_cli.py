"""What the recipes' command lines have in common."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from trainers.recipes.cli import python_command, resume_command


@pytest.fixture
def typed(monkeypatch):
    """The command to resume with, after `python -m recipe ARGUMENTS` was typed."""

    def after(*arguments: str) -> str:
        main = ModuleType("__main__")
        main.__spec__ = SimpleNamespace(name="trainers.recipes.guess_number")  # type: ignore[assignment]
        monkeypatch.setitem(sys.modules, "__main__", main)
        monkeypatch.setattr(sys, "argv", ["guess_number.py", *arguments])
        command = resume_command(Path("runs/x"))
        start = f"{python_command()} -m trainers.recipes.guess_number "
        assert command.startswith(start)
        return command.removeprefix(start)

    return after


@pytest.mark.parametrize(
    "arguments",
    [
        ["--updates", "3"],
        ["--updates", "3", "--run-dir", "runs/x"],
        ["--run-dir=runs/x", "--updates", "3"],
        ["--run_dir", "runs/x", "--updates", "3"],
        ["--run_dir=runs/x", "--updates", "3"],
        ["--updates", "3", "--resume", "--run-dir", "runs/x"],
        ["--overwrite", "--updates", "3"],
    ],
)
def test_the_command_names_the_folder_once(typed, arguments):
    assert typed(*arguments) == "--updates 3 --run-dir runs/x --resume"


def test_what_a_shell_would_read_is_quoted(typed):
    assert typed("--env-args", '{"low": 1}') == """--env-args '{"low": 1}' --run-dir runs/x --resume"""


def test_the_interpreter_is_named_from_here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv" / "bin" / "python"))
    assert python_command() == str(Path(".venv/bin/python"))
    monkeypatch.setattr(sys, "executable", "/usr/bin/python3")
    assert python_command() == "/usr/bin/python3"
