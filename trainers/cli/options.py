"""From the words of a command line, and the settings of an earlier run, to a dataclass of options.

tyro reads them; this file gives it the options in groups, one for each dataclass that they were declared in, with the
texts below the fields as their help. Nothing here imports more than tyro: `--help` must not take a second.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import tyro

from trainers.config import ConfigError

Config = TypeVar("Config")

_CONFIG_HELP = "Begin with the settings of an earlier run, its config.json; options that are given here override them."
_NOT_OF_A_FILE = ("resume", "overwrite")  # what one wanted to happen to a folder then says nothing about now


def read_options(
    config_type: type[Config],
    arguments: Sequence[str],
    *,
    description: str,
    prog: str | None = None,
    takes_file: bool = False,
) -> Config:
    """Read a command line.

    Args:
        config_type: a dataclass. Its bases' fields are shown in groups of their own, in the order of the fields. A
            field with `metadata={"positional": True}` is given without its name.
        arguments: the words after the command.
        description: one line for `--help`.
        prog: how the command is called, for `--help`.
        takes_file: whether there is `--config FILE`.

    Raises:
        ConfigError: where the file of `--config` holds no settings of this command.
        SystemExit: after `--help`, and where the words cannot be read; that was said then.
    """
    words = list(arguments)
    if takes_file:
        words = [*_words_of_file(config_type, words), *words]
    read: Any = tyro.cli(
        _grouped(config_type, takes_file=takes_file),
        args=words,
        description=description,
        prog=prog,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    parts = [getattr(read, field.name) for field in dataclasses.fields(read) if field.name != "config"]
    return config_type(**{f.name: getattr(part, f.name) for part in parts for f in dataclasses.fields(part)})


# --- Groups and help ---


def _grouped(config_type: type[Any], *, takes_file: bool) -> type[Any]:
    """A dataclass with a dataclass for each group: tyro shows these in boxes, and flat names for all."""
    hints = get_type_hints(config_type, include_extras=True)
    groups: dict[type[Any], list[Any]] = {}
    for field in dataclasses.fields(config_type):
        groups.setdefault(_owner(config_type, field.name), []).append(field)
    whole: list[Any] = []
    for owner, members in groups.items():
        texts = documentation(owner)
        part: Any = dataclasses.make_dataclass(
            owner.__name__,
            [(f.name, _annotated(hints[f.name], f, texts.get(f.name)), _default_of(f)) for f in members],
            kw_only=True,
        )
        part.__doc__ = inspect.getdoc(owner)
        if owner is config_type:  # the box that --help itself is in
            whole.append((config_type.__name__, Annotated[part, tyro.conf.arg(name="")]))
        else:
            whole.append((owner.__name__.removesuffix("Options").lower(), part))
    if takes_file:
        shown = tyro.conf.arg(help=_CONFIG_HELP, metavar="FILE", help_behavior_hint="")
        whole.append(("config", Annotated[Path | None, shown], None))
    return dataclasses.make_dataclass(config_type.__name__, whole, kw_only=True)


def _owner(config_type: type[Any], name: str) -> type[Any]:
    """The dataclass that declared a field first."""
    return next(base for base in reversed(config_type.__mro__) if name in inspect.get_annotations(base))


def _default_of(field: dataclasses.Field[Any]) -> Any:
    return dataclasses.field(default=field.default, default_factory=field.default_factory)


def _annotated(hint: Any, field: dataclasses.Field[Any], text: str | None) -> Any:
    shown: dict[str, Any] = {"help": text}
    if isinstance(field.default, tuple | str) and not field.default:
        shown["help_behavior_hint"] = "(default: empty)"
    if field.metadata.get("positional"):
        return Annotated[hint, tyro.conf.Positional, tyro.conf.arg(**shown, metavar=field.name.upper())]
    return Annotated[hint, tyro.conf.arg(**shown)]


def documentation(declared: type[Any]) -> dict[str, str]:
    """The strings below the fields of a dataclass, by field, each as one paragraph."""
    [tree] = ast.parse(textwrap.dedent(inspect.getsource(declared))).body
    assert isinstance(tree, ast.ClassDef)
    found: dict[str, str] = {}
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = " ".join(text.split())
    return found


# --- The settings of a file ---


def _words_of_file(config_type: type[Any], words: Sequence[str]) -> list[str]:
    """The settings of the file that `--config` names, as words, but for those that are given anyway."""
    path = _value_of("--config", words)
    if path is None:
        return []
    try:
        settings = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"config: {path} cannot be read: {error}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"config: {path} holds no settings, which would be a JSON object")
    fields = {field.name: field for field in dataclasses.fields(config_type)}
    unknown = [name for name in settings if name not in fields]
    if unknown:
        raise ConfigError(f"config: {path} has a setting {unknown[0]!r}, which this command does not know")
    left = {name: value for name, value in settings.items() if name not in {*_NOT_OF_A_FILE, *_given(words)}}
    hints = get_type_hints(config_type, include_extras=True)
    return [word for name, value in left.items() for word in _as_words(fields[name], hints[name], value)]


def _value_of(option: str, words: Sequence[str]) -> str | None:
    for number, word in enumerate(words):
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
        if word == option and number + 1 < len(words):
            return words[number + 1]
    return None


def _given(words: Sequence[str]) -> Iterator[str]:
    """The settings that a command line names."""
    for word in words:
        if word.startswith("--"):
            name = word[2:].partition("=")[0].replace("-", "_")
            yield from (name, name.removeprefix("no_"))


def _as_words(field: dataclasses.Field[Any], hint: Any, value: Any) -> list[str]:
    option = "--" + field.name.replace("_", "-")
    if value == field.default or (isinstance(value, list) and tuple(value) == field.default):
        return []
    if isinstance(value, bool):
        return [option if value else f"--no-{option[2:]}"]
    if not isinstance(value, list):
        return [f"{option}={value}"]
    if tyro.conf.UseAppendAction in getattr(hint, "__metadata__", ()):
        return [f"{option}={item}" for item in value]
    return [option, *map(str, value)]
