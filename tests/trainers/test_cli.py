"""What all command lines have in common: options in groups, settings of a file, and the command to go on with."""

import dataclasses
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from trainers.cli.options import documentation, read_options
from trainers.cli.running import run_command
from trainers.config import (
    ConfigError,
    CreditOptions,
    Interrupted,
    LearningOptions,
    LossOptions,
    RunningOptions,
    SamplingOptions,
    TaskOptions,
    TrainConfig,
)
from trainers.evaluation import EvalConfig
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
        ["--no-resume", "--updates", "3", "--no-overwrite"],
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


def test_the_command_of_llm_envs():
    words = ["--model", "m", "--run-dir", "x"]
    assert resume_command(Path("y z"), words=words, prog="llm-envs train") == (
        "llm-envs train --model m --run-dir 'y z' --resume"
    )


# --- Options ---

NEEDED = ["--model", "m", "--env", "llm_envs:GSM8K-v0"]


def read(*words: str, config_type: type[Any] = TrainConfig) -> Any:
    return read_options(config_type, [*NEEDED, *words], description="", takes_file=True)


def help_of(capsys, config_type: type[Any], **options: Any) -> str:
    with pytest.raises(SystemExit) as caught:
        read_options(config_type, ["--help"], description="What it does.", prog="the-command", **options)
    assert caught.value.code == 0
    return str(capsys.readouterr().out)


def test_the_defaults_are_those_of_the_dataclass():
    assert read() == TrainConfig(model="m", env=("llm_envs:GSM8K-v0",))
    assert read(config_type=EvalConfig) == EvalConfig(model="m", env=("llm_envs:GSM8K-v0",))


def test_options_of_every_group_are_flat():
    found = read(
        "--env", "B-v0", "--env-weights", "2", "1", "--group_size", "4", "--discount=0.9", "--loss", "ppo",
        "--adam-betas", "0.8", "0.9", "--no-share-prefix", "--track", "wandb", "--resume", "--run-dir", "x",
    )  # fmt: skip
    assert found == TrainConfig(
        model="m", env=("llm_envs:GSM8K-v0", "B-v0"), env_weights=(2.0, 1.0), group_size=4, discount=0.9, loss="ppo",
        adam_betas=(0.8, 0.9), share_prefix=False, track=("wandb",), resume=True, run_dir=Path("x"),
    )  # fmt: skip


def boxes(text: str) -> dict[str, str]:
    """What stands in each box of a help text, as one line."""
    found: dict[str, list[str]] = {}
    title = ""
    for line in text.splitlines():  # with lines drawn in one alphabet or another
        words = re.sub(r"[╭╮│╰╯─]|-{9,}", " ", line).split()
        if words and words[-1] == "options" and len(words) <= 2:
            title = " ".join(words)
        elif title:
            found.setdefault(title, []).extend(words)
    return {title: " ".join(words) for title, words in found.items()}


def test_help_is_in_the_groups_of_the_dataclasses(capsys):
    said = help_of(capsys, TrainConfig, takes_file=True)
    assert said.startswith("usage: the-command [-h] [OPTIONS]\n\nWhat it does.\n")
    found = boxes(said)
    parts = {
        "task": TaskOptions, "sampling": SamplingOptions, "credit": CreditOptions, "loss": LossOptions,
        "learning": LearningOptions, "running": RunningOptions,
    }  # fmt: skip
    assert list(found) == ["options", *(f"{name} options" for name in parts)]
    for name, part in parts.items():
        inside = found[f"{name} options"]
        assert inside.startswith(str(part.__doc__))
        for field in dataclasses.fields(part):
            assert re.search(rf"(^| )--{field.name.replace('_', '-')}[ ,]", inside), field.name
    assert "--config FILE" in found["options"]


@pytest.mark.parametrize("config_type", [TrainConfig, EvalConfig])
def test_every_option_is_documented(capsys, config_type: type[Any]):
    said = " ".join(boxes(help_of(capsys, config_type)).values())
    texts = {name: text for base in config_type.__mro__[:-1] for name, text in documentation(base).items()}
    for field in dataclasses.fields(config_type):
        assert len(texts[field.name]) > 5, field.name
        assert texts[field.name] in said, field.name


def test_a_text_below_a_field_is_one_paragraph():
    assert documentation(Options) == {"first": "One and two.", "third": "Three."}


@dataclass(frozen=True)
class Options:
    """Of a test."""

    first: int
    """One
    and two."""
    second: str = "x"
    third: tuple[str, ...] = ()
    """Three."""


def test_a_dataclass_without_bases_is_one_group(capsys):
    assert list(boxes(help_of(capsys, Options))) == ["options"]
    assert read_options(Options, ["--first", "3", "--third", "a", "b"], description="") == Options(3, third=("a", "b"))


def test_a_mistyped_option_has_a_suggestion(capsys):
    with pytest.raises(SystemExit) as caught:
        read("--group-sise", "3")
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert "Unrecognized options: --group-sise" in said
    assert "Perhaps you meant" in said
    assert "--group-size INT" in said


# --- The settings of an earlier run ---


@pytest.fixture
def written(tmp_path):
    def write(settings: Any) -> str:
        path = tmp_path / "config.json"
        path.write_text(settings if isinstance(settings, str) else json.dumps(settings))
        return str(path)

    return write


def again(*words: str, config_type: type[Any] = TrainConfig) -> Any:
    return read_options(config_type, words, description="", takes_file=True)


def test_a_run_can_be_run_again(written):
    before = TrainConfig(
        model="m", env=("A-v0", "B-v0"), env_args=('{"low": 1}', '{"text": "-x \'y\'"}'), env_weights=(0.5, 2.0),
        opponents='{"self": 1}', dual_clip=3.0, max_grad_norm=1e-3, share_prefix=False, gradient_checkpointing=True,
        adam_betas=(0.5, 0.75), run_dir=Path("runs/a b"), track=("wandb", "trackio"), sampling_device="",
    )  # fmt: skip
    path = written(before.as_json())
    assert again("--config", path) == before
    assert again(f"--config={path}") == before


def test_what_is_given_overrides_the_file(written):
    before = TrainConfig(model="m", env=("A-v0", "B-v0"), share_prefix=False, dual_clip=3.0, env_weights=(1.0, 2.0))
    path = written(before.as_json())
    given = ["--env", "C-v0", "--share-prefix", "--dual_clip=None", "--env-weights", "3", "--seed", "7"]
    after = dataclasses.replace(
        before, env=("C-v0",), share_prefix=True, dual_clip=None, env_weights=(3.0,), seed=7
    )  # fmt: skip
    assert again("--config", path, *given) == after
    assert again(*given, "--config", path) == after
    assert again("--config", path, "--no-dry-run") == dataclasses.replace(before, dry_run=False)


def test_resume_and_overwrite_are_of_one_moment(written):
    path = written(TrainConfig(model="m", env=("A-v0",), resume=True).as_json())
    assert not again("--config", path).resume


def test_an_evaluation_can_be_run_again(written):
    before = EvalConfig(model="m", env=("A-v0",), samples=3, greedy=False)
    found = again("--config", written(before.identity()), "--out", "other", config_type=EvalConfig)
    assert found == dataclasses.replace(before, out=Path("other"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("{", "cannot be read"), ("[]", "holds no settings"), ({"baseline": "group"}, "a setting 'baseline'"),
    ],
)  # fmt: skip
def test_a_file_that_holds_no_settings(written, settings, message):
    with pytest.raises(ConfigError, match=message) as caught:
        again("--config", written(settings))
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        again("--config", "no/such/file.json")


# --- How a command ends ---


def ended(error: BaseException | None) -> int:
    def main(options: Options) -> None:
        assert options.first == 1
        if error is not None:
            raise error

    return run_command(
        Options, main, description="", arguments=["--first", "1"], prog="llm-envs x", needs_models=False
    )  # fmt: skip


def test_how_a_command_ends(capsys):
    assert ended(None) == 0
    assert ended(ConfigError("first is 1")) == 2
    assert ended(Interrupted(Path("runs/x"))) == 130
    assert ended(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err.splitlines() == [
        "error: first is 1", "Go on with:", "  llm-envs x --first 1 --run-dir runs/x --resume", "Interrupted.",
    ]  # fmt: skip
    with pytest.raises(RuntimeError, match="a bug"):
        ended(RuntimeError("a bug"))
