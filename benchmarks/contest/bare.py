"""Stand-ins for packages that a machine may lack, so that timings run from a bare checkout.

A machine with a GPU and no network often has torch, transformers and peft, and nothing else of what this project asks
for. Of gymnasium, tyro and rich a timing needs next to nothing: to register and make an environment, to read options,
and not to show anything. Training proper needs the packages themselves.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import importlib.machinery
import importlib.util
import sys
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

Observation = TypeVar("Observation")
Action = TypeVar("Action")


def stand_in() -> list[str]:
    """Put the stand-ins where packages are missing; the names of these."""
    made = {"gymnasium": _gymnasium, "tyro": _tyro, "rich": _rich}
    missing = [name for name in made if importlib.util.find_spec(name) is None]
    for name in missing:
        for module in made[name]():
            module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
            sys.modules[module.__name__] = module
    return missing


class _Env(Generic[Observation, Action]):
    spec = None

    @property
    def unwrapped(self) -> _Env[Observation, Action]:
        return self

    def close(self) -> None:
        """Nothing is held."""


def _gymnasium() -> list[types.ModuleType]:
    made: dict[str, Callable[..., Any]] = {}

    def spec(name: str) -> str:
        if name not in made:
            raise LookupError(f"{name} is not registered, and gymnasium is not installed")
        return name

    def register(name: str, /, entry_point: Callable[..., Any], **_: object) -> None:
        made[name] = entry_point

    def make(env_id: str, /, **arguments: object) -> Any:
        module, _, name = env_id.rpartition(":")
        if module:
            importlib.import_module(module)
        return made[spec(name)](**arguments)

    gymnasium, error = types.ModuleType("gymnasium"), types.ModuleType("gymnasium.error")
    vars(error)["Error"] = LookupError
    vars(gymnasium).update(Env=_Env, error=error, spec=spec, register=register, make=make)
    return [gymnasium, error]


def _tyro() -> list[types.ModuleType]:
    tyro, conf = types.ModuleType("tyro"), types.ModuleType("tyro.conf")
    vars(conf)["UseAppendAction"] = "append"
    vars(tyro).update(conf=conf, cli=read_options)
    return [tyro, conf]


class _Nothing:
    """Whatever of rich is asked for."""


def _rich() -> list[types.ModuleType]:
    modules = [types.ModuleType(name) for name in ("rich", "rich.console", "rich.live", "rich.text", "rich.table")]
    for module in modules:
        vars(module)["__getattr__"] = _missing
        vars(module)["__path__"] = []
    return modules


def _missing(name: str) -> type[_Nothing]:
    if name.startswith("__"):
        raise AttributeError(name)
    return _Nothing


Options = TypeVar("Options")


def read_options(
    config: type[Options], *, args: Sequence[str] | None = None, description: str | None = None, **_: object
) -> Options:
    """What `tyro.cli` does for a flat dataclass of texts, numbers, paths, switches and rows of these.

    Every field becomes `--its-name`; one of `X | None` is an X.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        default: Any = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        flag, kind = f"--{field.name.replace('_', '-')}", _plain(hints[field.name])
        if kind is bool:
            parser.add_argument(flag, dest=field.name, action=argparse.BooleanOptionalAction, default=default)
        elif typing.get_origin(kind) is tuple:
            inner = _plain(typing.get_args(kind)[0])
            parser.add_argument(flag, dest=field.name, nargs="*", type=inner, default=default)
        elif typing.get_origin(kind) is typing.Literal:
            parser.add_argument(flag, dest=field.name, choices=typing.get_args(kind), default=default)
        else:
            parser.add_argument(flag, dest=field.name, type=kind, default=default)
    given = vars(parser.parse_args(args))
    return config(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})


def _plain(hint: Any) -> Any:
    """The type of a field less its `| None`."""
    kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        [hint] = kinds
    assert hint in (str, int, float, bool, Path) or typing.get_origin(hint) in (tuple, typing.Literal), hint
    return hint
