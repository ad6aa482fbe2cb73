"""Commands that other packages bring: found by their entry points, listed without being imported."""

import re
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from llm_envs.cli import main

GROUP = "llm_envs.commands"


@pytest.fixture
def install(monkeypatch, tmp_path):
    """Write modules, and let entry points name them."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(**commands: str) -> None:
        entries = []
        for name, source in commands.items():
            module = f"other_{name.replace('-', '_')}"
            (tmp_path / f"{module}.py").write_text(source)
            monkeypatch.delitem(sys.modules, module, raising=False)
            entries.append(EntryPoint(name, f"{module}:main", GROUP))
        monkeypatch.setattr("llm_envs.cli.others.entry_points", lambda group: entries if group == GROUP else [])

    return write


def help_of(capsys) -> str:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    return str(capsys.readouterr().out)


def test_a_command_gets_the_words_after_it(install, capsys):
    install(shout='"""Shout."""\ndef main(words):\n    print(*words, sep="|")\n    return 7\n')
    assert main(["shout", "--loud", "a b", "--help"]) == 7
    assert capsys.readouterr().out == "--loud|a b|--help\n"


def test_help_shows_the_first_line_and_imports_nothing(install, capsys):
    install(
        shout='"""Shout 100 % of it.\n\nMore."""\nraise RuntimeError("imported")\n', mute="x = 1\n", broken="def (\n",
    )  # fmt: skip
    said = help_of(capsys)
    assert "    shout     " in said
    assert "shout 100 % of it\n" in said
    assert {"    mute", "    broken"} <= set(said.splitlines())
    assert "    play " in said
    assert not [name for name in sys.modules if name.startswith("other_")]


def test_a_module_that_is_not_there(monkeypatch, capsys):
    entries = [EntryPoint("gone", "no_such_module.at_all:main", GROUP)]
    monkeypatch.setattr("llm_envs.cli.others.entry_points", lambda group: entries)
    assert "    gone\n" in help_of(capsys)
    assert main(["gone"]) == 2
    said = capsys.readouterr().err
    assert said == (
        "llm-envs: gone cannot be loaded from no_such_module.at_all:main: No module named 'no_such_module'\n"
    )


@pytest.mark.parametrize("name", ["list", "play", "replay", "check-data"])
def test_nobody_takes_our_names(install, capsys, name):
    install(**{name: '"""Mine."""\ndef main(words):\n    raise AssertionError\n'})
    assert "Mine" not in help_of(capsys)
    with pytest.raises(SystemExit):
        main([name, "--help"])
    assert f"usage: llm-envs {name}" in capsys.readouterr().out


def test_our_names_are_all(install, capsys):
    from llm_envs.cli.others import _OURS

    install()
    listed = re.findall(r"^    ([a-z-]+)", help_of(capsys), flags=re.MULTILINE)
    assert sorted(listed) == sorted(_OURS)


def test_an_interruption_is_quiet(install):
    install(shout="def main(words):\n    raise KeyboardInterrupt\n")
    assert main(["shout"]) == 130


def test_what_is_no_command(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["trian"])
    assert caught.value.code == 2
    assert "invalid choice: 'trian'" in capsys.readouterr().err


def test_help_imports_no_trainer(tmp_path):
    """With the trainers' own entry points, whether they are installed or not."""
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    named = project["entry-points"][GROUP]
    assert named == {name: f"trainers.cli.{file}:main" for name, file in COMMANDS.items()}
    code = f"""
import sys
from importlib.metadata import EntryPoint
from llm_envs.cli import main, others
others.entry_points = lambda group: [EntryPoint(name, value, group) for name, value in {named!r}.items()]
try:
    main(["--help"])
except SystemExit:
    assert not {{"torch", "transformers", "tyro", "trainers.cli.train"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stderr, done.returncode) == ("", 0)
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "train train an adapter by LoRA policy gradient on environments of text" in lines
    assert {line.split()[0] for line in lines if line} >= set(COMMANDS)


COMMANDS = {"train": "train", "eval": "evaluate", "report": "report"}
