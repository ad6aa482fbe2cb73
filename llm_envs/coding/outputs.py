"""Is what a program printed what was expected?"""

import re
from dataclasses import dataclass
from decimal import Decimal

__all__ = ["EXACT", "OutputRule", "difference"]

_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,400}(?:\.[0-9]{0,400})?|\.[0-9]{1,400})(?:[eE][+-]?[0-9]{1,4})?")


@dataclass(frozen=True)
class OutputRule:
    """What a source of problems allows, on top of white space at the ends of lines and of the whole.

    Attributes:
        ignore_case: Whether upper and lower case are the same.
        by_value: Whether lines of nothing but numbers are compared by value: ``1.0`` is ``1``.
        ignore_indent: Whether white space before a line does not count either.
        ignore_blank: Whether white space before a line, and empty lines, do not count either.
        tolerance: How far a number may be off, relative to the expected one or, below 1, absolutely; None: not at all.
    """

    ignore_case: bool = False
    by_value: bool = False
    ignore_indent: bool = False
    ignore_blank: bool = False
    tolerance: float | None = None


EXACT = OutputRule()


def difference(actual: str, expected: str, rule: OutputRule = EXACT) -> str | None:
    """Where an output differs, without a word of what was expected; None if it does not."""
    if rule.ignore_case:
        actual, expected = actual.lower(), expected.lower()
    said, wanted = _lines(actual, rule), _lines(expected, rule)
    for number, (line, wanted_line) in enumerate(zip(said, wanted, strict=False), start=1):
        if line != wanted_line and not _equal_numbers(line, wanted_line, rule):
            return f"line {number} is wrong"
    if len(said) != len(wanted):
        return f"the output has {'more' if len(said) > len(wanted) else 'fewer'} lines than expected"
    return None


def _lines(text: str, rule: OutputRule) -> list[str]:
    lines = text.strip().split("\n")
    if rule.ignore_blank:
        return [line.strip() for line in lines if line.strip()]
    return [line.strip() if rule.ignore_indent else line.rstrip() for line in lines]


def _equal_numbers(line: str, wanted_line: str, rule: OutputRule) -> bool:
    if not rule.by_value and rule.tolerance is None:
        return False
    words, wanted = line.split(), wanted_line.split()
    return len(words) == len(wanted) and all(_close(a, b, rule) for a, b in zip(words, wanted, strict=True))


def _close(word: str, wanted: str, rule: OutputRule) -> bool:
    if not _NUMBER.fullmatch(word) or not _NUMBER.fullmatch(wanted):
        return rule.tolerance is not None and word == wanted
    if rule.tolerance is None:
        return Decimal(word) == Decimal(wanted)
    value, target = float(word), float(wanted)
    return abs(value - target) <= rule.tolerance * max(1.0, abs(target))
