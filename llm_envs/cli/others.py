"""Commands of other packages, such as ``llm-envs train``.

A package offers one by an entry point of the group ``llm_envs.commands``: its name is the command, its object takes the
words after the command and returns an exit code. The module's docstring begins with the line that ``llm-envs --help``
shows; it is read off the source, so that help imports none of these modules.
"""

import ast
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import Any

from llm_envs.cli.shared import complain

__all__ = ["add_parsers", "has", "run"]

_GROUP = "llm_envs.commands"
_OURS = ("list", "play", "replay", "check-data")  # nobody takes these from us


def has(name: str) -> bool:
    """Whether another package has a command of this name."""
    return name in _commands()


def run(name: str, words: Sequence[str]) -> int:
    """Run the command.

    Returns:
        Its exit code; 2 where it cannot be imported.
    """
    entry = _commands()[name]
    try:
        command: Callable[[Sequence[str]], int] = entry.load()
    except ImportError as error:
        return complain(f"{name} cannot be loaded from {entry.value}: {error}")
    return command(words)


def add_parsers(commands: Any) -> None:
    """Let ``llm-envs --help`` show these commands."""
    for name, entry in sorted(_commands().items()):
        commands.add_parser(name, help=_first_line(entry.module), add_help=False)


def _commands() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=_GROUP) if entry.name not in _OURS}


def _first_line(module: str) -> str:
    """What a module's docstring begins with, without importing it; empty where that cannot be told."""
    try:
        spec = find_spec(module)
        source = spec.loader.get_source(module) if spec and spec.loader else None  # type: ignore[attr-defined]
        text = ast.get_docstring(ast.parse(source or "")) or ""
    except (ImportError, AttributeError, SyntaxError, ValueError):
        return ""
    # As the help of the other commands: no capital, no full stop. A percent sign would be read as a place to fill in.
    line = text.partition("\n")[0].rstrip(".").replace("%", "%%")
    return line[:1].lower() + line[1:]
