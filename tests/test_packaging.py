"""What `pip install llm-envs` brings, and that the pins agree with what is asked for."""

import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def name_of(requirement: str) -> str:
    return re.split(r"[<>=!\[ ]", requirement, maxsplit=1)[0].lower()


def test_the_environments_alone_need_no_model_library() -> None:
    assert {name_of(r) for r in PROJECT["dependencies"]} == {"gymnasium", "numpy"}


def test_every_requirement_of_the_two_commands_is_pinned() -> None:
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text().lower(), flags=re.MULTILINE))
    extras = PROJECT["optional-dependencies"]
    [own] = [r for r in extras["dev"] if r.startswith("llm-envs[")]
    installed = ["dev", *own.removeprefix("llm-envs[").removesuffix("]").split(",")]
    asked = {name_of(r) for extra in installed for r in extras[extra]} - {"llm-envs"}
    assert "tensorboard" in asked
    asked |= {name_of(r) for r in PROJECT["dependencies"]}
    missing = {name for name in asked if name.replace("_", "-") not in {pin.replace("_", "-") for pin in pins}}
    assert not missing
    assert pins["torch"] == "2.13.0"


def test_the_games_for_several_are_an_extra() -> None:
    extras = PROJECT["optional-dependencies"]
    assert extras["games"] == ["pettingzoo>=1.27"]
    assert "games" in next(r for r in extras["dev"] if r.startswith("llm-envs["))[9:-1].split(",")


def test_where_players_are_found() -> None:
    """The environments know no trainer: `llm-envs play --opponent FOLDER` asks for whoever has registered."""
    assert PROJECT["entry-points"]["llm_envs.players"] == {
        "adapter": "trainers.player:AdapterPlayer", "openai": "trainers.chats:EndpointPlayer",
    }  # fmt: skip
    assert PROJECT["scripts"] == {"llm-envs": "llm_envs.cli:main"}


def test_data_files_are_in_the_wheel() -> None:
    """A wheel holds all of a package that git does not ignore."""
    data = [path for path in (ROOT / "llm_envs").rglob("*") if path.suffix in {".tsv", ".txt"}]
    assert {"things.tsv", "kinds.tsv", "nature.txt", "looks.txt", "uses.txt"} <= {path.name for path in data}
    ignored = [line.strip() for line in (ROOT / ".gitignore").read_text().splitlines() if line.strip()]
    for path in data:
        parts = path.relative_to(ROOT).parts
        assert not any(fnmatch(part, pattern.rstrip("/")) for part in parts for pattern in ignored), path
