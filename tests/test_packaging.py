"""What `pip install llm-envs` brings, and that the pins agree with what is asked for."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def name_of(requirement: str) -> str:
    return re.split(r"[<>=!\[ ]", requirement, maxsplit=1)[0].lower()


def test_the_environments_alone_need_no_model_library() -> None:
    assert {name_of(r) for r in PROJECT["dependencies"]} == {"gymnasium", "numpy"}


def test_every_requirement_of_the_two_commands_is_pinned() -> None:
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text().lower(), flags=re.MULTILINE))
    asked = {name_of(r) for extra in PROJECT["optional-dependencies"].values() for r in extra} - {"llm-envs"}
    asked |= {name_of(r) for r in PROJECT["dependencies"]}
    missing = {name for name in asked if name.replace("_", "-") not in {pin.replace("_", "-") for pin in pins}}
    assert not missing
    assert pins["torch"] == "2.13.0"
