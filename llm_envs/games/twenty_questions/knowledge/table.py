"""What Twenty Questions knows: common things, and what is true of them."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

__all__ = ["Knowledge", "Thing", "load_knowledge", "regular_plural"]

_THINGS, _KINDS = "things.tsv", "kinds.tsv"
_ATTRIBUTES = ("nature.txt", "looks.txt", "uses.txt")
_MASS, _ALREADY_PLURAL, _THE_ONLY_ONE = "-", "=", "the"

# What follows from numbers alone, for a row and the table of all rows. A person is as big as a teacher.
_FROM_NUMBERS: tuple[tuple[str, str, Callable[["_Row", Mapping[str, "_Row"]], bool]], ...] = (
    ("has_legs", "Does it have legs?", lambda row, _: row.legs > 0),
    ("two_legs", "Does it have two legs?", lambda row, _: row.legs == 2),
    ("four_legs", "Does it have four legs?", lambda row, _: row.legs == 4),
    ("six_legs", "Does it have six legs?", lambda row, _: row.legs == 6),
    ("eight_legs", "Does it have eight legs?", lambda row, _: row.legs == 8),
    ("more_than_four_legs", "Does it have more than four legs?", lambda row, _: row.legs > 4),
    ("long_and_thin", "Is it long and thin?", lambda row, _: row.width_m <= row.size_m / 4),
    ("fits_in_a_shoe_box", "Would it fit in a shoe box?", lambda row, _: row.size_m < 0.33),
    ("smaller_than_a_coin", "Is it smaller than a coin?", lambda row, table: row.bulk_m < table["coin"].bulk_m),
    ("smaller_than_a_mouse", "Is it smaller than a mouse?", lambda row, table: row.bulk_m < table["mouse"].bulk_m),
    ("bigger_than_a_cat", "Is it bigger than a cat?", lambda row, table: row.bulk_m > table["cat"].bulk_m),
    ("bigger_than_a_person", "Is it bigger than a person?", lambda row, table: row.bulk_m > table["teacher"].bulk_m),
    ("bigger_than_a_car", "Is it bigger than a car?", lambda row, table: row.bulk_m > table["car"].bulk_m),
    ("bigger_than_a_house", "Is it bigger than a house?", lambda row, table: row.bulk_m > table["house"].bulk_m),
    (
        "lighter_than_an_apple",
        "Is it lighter than an apple?",
        lambda row, table: row.weight_kg < table["apple"].weight_kg,
    ),
    ("heavier_than_a_cat", "Is it heavier than a cat?", lambda row, table: row.weight_kg > table["cat"].weight_kg),
    (
        "heavier_than_a_person",
        "Is it heavier than a person?",
        lambda row, table: row.weight_kg > table["teacher"].weight_kg,
    ),
    ("heavier_than_a_car", "Is it heavier than a car?", lambda row, table: row.weight_kg > table["car"].weight_kg),
    ("heavy", "Is it too heavy for one person to carry?", lambda row, _: row.weight_kg > 40),
)


@dataclass(frozen=True, slots=True)
class Thing:
    """One thing that can be asked for.

    Args:
        name: The usual name, in the singular if it has one: ``"elephant"``, ``"scissors"``.
        phrase: The name as it stands in a sentence: ``"an elephant"``, ``"rice"``, ``"the sun"``.
        names: Every name in lower case, singular and plural, the usual one first. No two things share one.
        kinds: The kinds it is of, with all their ancestors, the general before the special.
        attributes: What is true of it; all else is false. Holds the kinds, too.
        legs: How many legs it has.
        size_m: The length of its longest side in metres.
        bulk_m: The size to compare things by, in metres: less than ``size_m`` for what is long and thin, so that a cat
            is bigger than a snake.
        weight_kg: Its weight in kilograms; 0 for what weighs nothing, such as a rainbow.
    """

    name: str
    phrase: str
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    attributes: frozenset[str]
    legs: int
    size_m: float
    bulk_m: float
    weight_kg: float


@dataclass(frozen=True, slots=True, eq=False)
class Knowledge:
    """The table of all things and attributes, closed: what is not true is false.

    Conventions, where people differ: a person is no animal; what is eaten (an apple, a mushroom) is food and neither a
    plant nor alive, but some animals are both alive and eaten; a part of a body is not alive by itself; colours and
    materials are the usual ones, and there may be several; to be bigger is to have the greater ``bulk_m``.

    Args:
        things: The things; row ``i`` of the matrix is ``things[i]``.
        attributes: Attribute to plain question, ``"alive": "Is it alive?"``, in the order of the matrix's columns:
            kinds, then what follows from numbers, then all others.
        matrix: Booleans of shape (things, attributes), read-only.
        row_of: The row of every name in any form.
    """

    things: tuple[Thing, ...]
    attributes: Mapping[str, str]
    matrix: NDArray[np.bool_]
    row_of: Mapping[str, int]

    def find(self, name: str) -> Thing | None:
        """The thing of that name, in any case and number; None if there is none."""
        row = self.row_of.get(name.lower())
        return None if row is None else self.things[row]


@dataclass(frozen=True, slots=True)
class _Kind:
    ancestry: tuple[str, ...]
    legs: int
    question: str


@dataclass(frozen=True, slots=True)
class _Row:
    name: str
    plural: str
    synonyms: str
    kinds: tuple[str, ...]
    legs: int
    size_m: float
    width_m: float
    weight_kg: float

    @property
    def bulk_m(self) -> float:
        """``size_m`` if the width is half of it."""
        return math.sqrt(2 * self.size_m * self.width_m)


@cache
def load_knowledge() -> Knowledge:
    """The table that comes with the package, read once.

    Raises:
        ValueError: If the table's files are at odds with their format or with one another.
    """
    kinds = _read_kinds()
    rows = _read_rows(kinds)
    questions, extensions = _read_attributes(kinds, rows)
    matrix = np.zeros((len(rows), len(questions)), dtype=np.bool_)
    for column, key in enumerate(questions):
        matrix[list(extensions[key]), column] = True
    matrix.flags.writeable = False
    keys = np.array(list(questions), dtype=object)
    things = tuple(_thing(row, frozenset(keys[true].tolist())) for row, true in zip(rows, matrix, strict=True))
    row_of: dict[str, int] = {}
    for index, thing in enumerate(things):
        for name in thing.names:
            if row_of.setdefault(name, index) != index:
                raise ValueError(f"{thing.name!r} and {things[row_of[name]].name!r} share the name {name!r}")
    return Knowledge(things, MappingProxyType(questions), matrix, MappingProxyType(row_of))


def regular_plural(noun: str) -> str:
    """The plural by rule: ``box`` to ``boxes``, ``fly`` to ``flies``, ``toy`` to ``toys``."""
    if re.search("(s|x|z|ch|sh)$", noun):
        return noun + "es"
    return noun[:-1] + "ies" if re.search("[^aeiou]y$", noun) else noun + "s"


def _lines(file: str) -> Iterator[str]:
    text = Path(__file__).with_name(file).read_text(encoding="utf-8")
    return (line for line in text.splitlines() if line and not line.startswith("#"))


def _read_kinds() -> dict[str, _Kind]:
    """Parents stand before their children."""
    kinds: dict[str, _Kind] = {}
    for line in _lines(_KINDS):
        name, parents, legs, question = line.split("\t")
        if name in kinds:
            raise ValueError(f"kind {name!r} is there twice")
        ancestry = tuple(dict.fromkeys([*_ancestry(parents, kinds, name), name]))
        inherited = max((kinds[parent].legs for parent in parents.split()), default=0)
        kinds[name] = _Kind(ancestry, int(legs) if legs else inherited, question)
    return kinds


def _ancestry(names: str, kinds: Mapping[str, _Kind], child: str) -> tuple[str, ...]:
    unknown = [name for name in names.split() if name not in kinds]
    if unknown:
        raise ValueError(f"{child!r} is of unknown kinds {unknown}")
    return tuple(dict.fromkeys(ancestor for name in names.split() for ancestor in kinds[name].ancestry))


def _read_rows(kinds: Mapping[str, _Kind]) -> list[_Row]:
    rows = []
    for line in _lines(_THINGS):
        cells = line.split("\t")
        name, own_kinds, size_m, weight_kg, legs, plural, synonyms = cells + [""] * (7 - len(cells))
        ancestry = _ancestry(own_kinds, kinds, name)
        inherited = max((kinds[kind].legs for kind in own_kinds.split()), default=0)
        length, _, width = size_m.partition("x")
        rows.append(
            _Row(
                name=name,
                plural=plural,
                synonyms=synonyms,
                kinds=ancestry,
                legs=int(legs) if legs else inherited,
                size_m=float(length),
                width_m=float(width) if width else float(length) / 2,
                weight_kg=float(weight_kg),
            )
        )
    return rows


def _read_attributes(kinds: Mapping[str, _Kind], rows: list[_Row]) -> tuple[dict[str, str], dict[str, frozenset[int]]]:
    """The question of every attribute, and the rows of what it is true of.

    The extensions hold single things, too, by their names with underscores: that is how the files speak of them.
    """
    questions = {name: kind.question for name, kind in kinds.items()}
    members: dict[str, set[int]] = {name: set() for name in kinds}
    for index, row in enumerate(rows):
        for kind in row.kinds:
            members[kind].add(index)
    extensions = {name: frozenset(indices) for name, indices in members.items()}
    table = {row.name: row for row in rows}
    for key, question, holds in _FROM_NUMBERS:
        questions[key] = question
        _define(extensions, key, frozenset(index for index, row in enumerate(rows) if holds(row, table)))
    for index, row in enumerate(rows):
        _define(extensions, row.name.replace(" ", "_"), frozenset([index]))
    for file in _ATTRIBUTES:
        for key, question, extension in _paragraphs(file, extensions):
            questions[key] = question
            _define(extensions, key, extension)
    return questions, extensions


def _define(extensions: dict[str, frozenset[int]], key: str, rows: frozenset[int]) -> None:
    if key in extensions:
        raise ValueError(f"{key!r} is there twice, as a thing, a kind or an attribute")
    extensions[key] = rows


def _paragraphs(file: str, known: Mapping[str, frozenset[int]]) -> Iterator[tuple[str, str, frozenset[int]]]:
    """Attribute, question and the rows of what it is true of; later paragraphs may speak of earlier ones."""
    key, question, tokens = "", "", list[str]()
    for line in _lines(file):
        if line.startswith(" "):
            tokens += line.split()
            continue
        if key:
            yield key, question, _extension(key, tokens, known)
        key, _, question = line.partition(": ")
        tokens = []
    yield key, question, _extension(key, tokens, known)


def _extension(key: str, tokens: list[str], known: Mapping[str, frozenset[int]]) -> frozenset[int]:
    """Adds and takes away from left to right. A token that changes nothing is an error: it hides a slip."""
    rows: frozenset[int] = frozenset()
    for token in tokens:
        name = token.removeprefix("-")
        if name not in known:
            raise ValueError(f"{key}: {name!r} is no thing, kind or earlier attribute")
        changed = rows - known[name] if token.startswith("-") else rows | known[name]
        if changed == rows:
            raise ValueError(f"{key}: {token!r} changes nothing")
        rows = changed
    return rows


def _thing(row: _Row, attributes: frozenset[str]) -> Thing:
    if not (row.size_m > 0 and row.weight_kg >= 0 and math.isfinite(row.size_m + row.weight_kg)):
        raise ValueError(f"{row.name!r} has the size {row.size_m} and the weight {row.weight_kg}")
    names = list(_forms(row.name, row.plural))
    for synonym in filter(None, row.synonyms.split(", ")):
        names += _forms(*synonym.partition("/")[::2])
    return Thing(
        name=row.name,
        phrase=_phrase(row.name, row.plural),
        names=tuple(dict.fromkeys(names)),
        kinds=row.kinds,
        attributes=attributes,
        legs=row.legs,
        size_m=row.size_m,
        bulk_m=row.bulk_m,
        weight_kg=row.weight_kg,
    )


def _forms(singular: str, plural: str) -> tuple[str, ...]:
    if plural in {_MASS, _ALREADY_PLURAL, _THE_ONLY_ONE}:
        return (singular,)
    return singular, plural or regular_plural(singular)


def _phrase(name: str, plural: str) -> str:
    if plural in {_MASS, _ALREADY_PLURAL}:
        return name
    if plural == _THE_ONLY_ONE:
        return f"the {name}"
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
