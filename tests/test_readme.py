"""The README's code runs, prints what it says it prints, and names commands that exist."""

import contextlib
import importlib
import io
import itertools
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import tyro

from llm_envs.cli import make_parser as llm_envs_command
from trainers.cli.options import read_options
from trainers.cli.report import ReportOptions

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def promised_output(block: str) -> list[str]:
    """The comment behind a `print(...)`, or all comments below it, in order."""
    promised = []
    lines = block.splitlines()
    for number, line in enumerate(lines):
        if re.match(r" *print\(", line):
            behind = line.partition("  # ")[2]
            below = itertools.takewhile(lambda following: following.startswith("# "), lines[number + 1 :])
            promised += [behind] if behind else [following[2:] for following in below]
    return promised


@pytest.mark.parametrize(
    "block", blocks("python"), ids=lambda block: f"line {README[: README.index(block)].count(chr(10)) + 1}"
)
def test_python_block_runs_and_prints_what_it_says(block: str) -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        scope: dict[str, object] = {"__name__": "readme"}
        exec(compile(block, "README.md", "exec"), scope)
        for name, value in scope.items():
            if name.startswith("test_") and callable(value):
                value()
    assert printed.getvalue().splitlines() == promised_output(block)


def test_there_are_python_blocks() -> None:
    assert len(blocks("python")) >= 4
    assert any(promised_output(block) for block in blocks("python"))


def commands() -> list[list[str]]:
    joined = "\n".join(blocks("sh")).replace("\\\n", " ")
    return [
        shlex.split(part, comments=True) for line in joined.splitlines() for part in line.split("&&") if part.strip()
    ]


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = {command[1] for command in commands() if command and command[0] == "make"}
    assert {"demo", "test"} <= named <= targets


def test_modules_and_their_options_exist() -> None:
    from trainers.config import TrainConfig
    from trainers.evaluation import EvalConfig
    from trainers.gguf import ConvertConfig
    from trainers.recipes import tic_tac_toe

    configs: dict[str, Any] = {
        "trainers.gguf": ConvertConfig,
        "trainers.recipes.tic_tac_toe": tic_tac_toe.Config,
    }
    commands_of_trainers: dict[str, Any] = {"train": TrainConfig, "eval": EvalConfig, "report": ReportOptions}
    seen = set()
    for command in commands():
        if command[:2] == ["python", "-m"]:
            importlib.import_module(command[2])
            tyro.cli(configs[command[2]], args=command[3:])
            seen.add(command[2])
        elif command[0] == "llm-envs" and command[1] in commands_of_trainers:
            read_options(commands_of_trainers[command[1]], command[2:], description="")
        elif command[0] == "llm-envs":
            llm_envs_command().parse_args(command[1:])
    assert seen == set(configs)


def test_linked_files_exist() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target


def test_recipes_named_exist() -> None:
    for module in re.findall(r"`(trainers\.recipes\.\w+)`", README):
        importlib.import_module(module)
