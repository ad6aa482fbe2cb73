"""Shares that a row leaves out where they are 0: without them a mean or a curve would be of the other rows alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

Value = TypeVar("Value")

_VERDICT = "verdict_"
_BROKEN = "broken_share"


def filled(rows: Sequence[Mapping[str, Value]]) -> list[dict[str, Value | float]]:
    """The rows, each with a 0 for every share that it leaves out and that one of the others has.

    A row that has any verdict has all of them, and `verdict_correct` even where no row has it, unless the environment
    leaves verdicts out (`verdict_none`): then nothing is known of what is correct. Older rows leave `broken_share` out.
    All of this holds of each of several environments, whose names stand before a slash.
    """
    verdicts: dict[str, dict[str, None]] = {}  # environment -> names
    has_broken = False
    for name in {name: None for row in rows for name in row}:
        scope, what = _split(name)
        if what.startswith(_VERDICT):
            verdicts.setdefault(scope, {})[what] = None
        has_broken = has_broken or name == _BROKEN
    for names in verdicts.values():
        if f"{_VERDICT}none" not in names:
            names[f"{_VERDICT}correct"] = None
    found = []
    for row in rows:
        own = {_split(name)[0] for name in row if _split(name)[1].startswith(_VERDICT)}
        zeros: dict[str, Value | float] = {scope + what: 0.0 for scope in own for what in verdicts[scope]}
        if has_broken:
            zeros[_BROKEN] = 0.0
        found.append(zeros | dict(row))
    return found


def _split(name: str) -> tuple[str, str]:
    """The environment, with its slash, and the figure."""
    scope, slash, what = name.rpartition("/")
    return scope + slash, what
