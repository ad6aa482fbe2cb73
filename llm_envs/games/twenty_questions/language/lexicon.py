"""Answers for all things at once, and the phrases that lead to them.

The phrase files hold paragraphs. A line at the left margin says what the phrases below it mean, in the words of the
knowledge files: attributes, kinds and things (``police_officer``) are added from left to right, ``-x`` takes away,
``?x`` makes unanswerable what is not yet true, ``bulk>0.6`` and ``weight<2`` look at numbers, ``all`` and ``none`` are
what they say, ``a & b`` needs both, ``!`` in front turns all round. An indented line holds phrases between semicolons,
as they would be said of "it": ``has wings``, ``is a bird``, ``people wear on the head``, ``in a kitchen``, or with
another subject as a question, ``do children use it``. ``(a|b)`` stands for two phrases. ``?`` in front of a phrase: it
says more than the line above, so it is unanswerable where that holds, and false elsewhere.
"""

import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llm_envs.games.twenty_questions.knowledge import Knowledge

__all__ = ["FILES", "Meanings", "Vector", "both", "either", "invert", "narrow", "phrases", "vector"]

Vector = NDArray[np.int8]
"""An answer for every thing: 1 yes, 0 no, -1 unanswerable."""

FILES = ("phrases_nature.txt", "phrases_looks.txt", "phrases_uses.txt", "phrases_others.txt")
_USED = re.compile("u |p use |s .* use$")
_USED_THERE = re.compile("u (?:at|on|outdoor|outside|indoor|inside)")
_ALTERNATIVES = re.compile(r"\(([^()]*\|[^()]*)\)")


def vector(true: NDArray[np.bool_]) -> Vector:
    """Yes where true, no elsewhere."""
    return true.astype(np.int8)


def invert(one: Vector) -> Vector:
    """Yes for no and no for yes."""
    return np.where(one < 0, one, 1 - one).astype(np.int8)


def both(one: Vector, other: Vector) -> Vector:
    """No where either says no; yes where both say yes."""
    unknown = (one < 0) | (other < 0)
    return np.where((one == 0) | (other == 0), 0, np.where(unknown, -1, 1)).astype(np.int8)


def either(one: Vector, other: Vector) -> Vector:
    """Yes where either says yes; no where both say no."""
    return invert(both(invert(one), invert(other)))


def narrow(one: Vector) -> Vector:
    """For what says more than ``one``: unanswerable where that holds."""
    return np.where(one == 1, -1, one).astype(np.int8)


def phrases(file: str) -> Iterator[tuple[str, str]]:
    """Meaning and phrase, alternatives written out."""
    meaning = ""
    text = Path(__file__).with_name(file).read_text(encoding="utf-8")
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        if not line.startswith(" "):
            meaning = line
            continue
        for phrase in filter(None, (part.strip() for part in line.split(";"))):
            pieces = _ALTERNATIVES.split(phrase)
            options = [piece.split("|") if index % 2 else [piece] for index, piece in enumerate(pieces)]
            for chosen in product(*options):
                yield meaning, " ".join("".join(chosen).split())


class Meanings:
    """What the meanings in the phrase files stand for."""

    def __init__(self, knowledge: Knowledge) -> None:
        matrix, things = knowledge.matrix, knowledge.things
        self._sets: dict[str, NDArray[np.bool_]] = {
            key: matrix[:, column] for column, key in enumerate(knowledge.attributes)
        }
        for row, thing in enumerate(things):
            self._sets.setdefault(thing.name.replace(" ", "_"), np.arange(len(things)) == row)
        self._sets["all"] = np.ones(len(things), dtype=np.bool_)
        self._sets["none"] = np.zeros(len(things), dtype=np.bool_)
        self._numbers = {
            "bulk": np.array([thing.bulk_m for thing in things]),
            "weight": np.array([thing.weight_kg for thing in things]),
        }

    def __call__(self, meaning: str) -> Vector:
        """The answers that a meaning stands for.

        Raises:
            ValueError: If it speaks of what the knowledge does not hold.
        """
        parts = [self._part(part.strip()) for part in meaning.split("&")]
        whole = parts[0]
        for part in parts[1:]:
            whole = both(whole, part)
        return whole

    def of_phrase(self, meaning: str, phrase: str, key: str) -> Vector:
        """What a phrase that is learnt under a key says: its meaning, less what its own words rule out.

        What is not alive lives nowhere. Nobody is used; whether an animal or a plant is used in a place is vague.
        """
        answers = narrow(self(meaning)) if phrase.startswith("?") else self(meaning)
        if key.startswith("live "):
            return both(answers, vector(self._sets["alive"]))
        if _USED.match(key):
            used = "alive" if _USED_THERE.match(key) else "person"
            answers[(answers == 1) & self._sets[used]] = -1
        return answers

    def _part(self, part: str) -> Vector:
        turned = part.startswith("!")
        answers = vector(self._sets["none"])
        names = part.removeprefix("!").split()
        if names and names[0].startswith("-"):
            names.insert(0, "all")
        for name in names:
            true = self._set(name.lstrip("-?"))
            if name.startswith("-"):
                answers[true] = 0
            elif name.startswith("?"):
                answers[true & (answers == 0)] = -1
            else:
                answers[true] = 1
        return invert(answers) if turned else answers

    def _set(self, name: str) -> NDArray[np.bool_]:
        match = re.fullmatch(r"(bulk|weight)([<>])([0-9.]+)", name)
        if match:
            numbers, limit = self._numbers[match[1]], float(match[3])
            return numbers < limit if match[2] == "<" else numbers > limit
        if name not in self._sets:
            raise ValueError(f"{name!r} is no thing, kind or attribute")
        return self._sets[name]
