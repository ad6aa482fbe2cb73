"""Questions about the letters and words of a thing's name."""

import re
from collections.abc import Callable, Iterable

import numpy as np

from llm_envs.games.twenty_questions.language.lexicon import Vector, vector
from llm_envs.games.twenty_questions.language.numbers import number_of, relation

__all__ = ["Letters"]

_LETTER = re.compile(
    r"^(?:does |is )?(?:its|the|it|your|it is|is it)? ?(?:name |word |spelling |a word that |in english )*"
    r"(start|begin|end|contain|have|spelled|spelt|use|include)s?(?:ing)? "
    r"(?:with |in |by )?(?:the )?(?:letter )?(?:a |an |the letter )?(vowel|consonant|[a-z])(?: in (?:it|its "
    r"name|the name))?(?: in it)?$"
)
_NAME_LENGTH = re.compile(
    r"^(?:does |is |are )?(?:there |its name |the name |the word |it |it name )(?:have|contain|be|is )? "
    r"?(?:only )?(?:(more than|over|at least|less than|fewer than|exactly) )?"
    r"([a-z]+|[0-9]+) letters?(?: long| in (?:it|its name|the word|the name|its spelling))?$"
)


_WORDS_OF_NAME = re.compile(
    r"^(?:is |does )?(?:it |its |the )?(?:name |word )?(?:be |have |consist of |is )?(?:just |only |more "
    r"than )?(?:a |in )?(one|two|three|single|1|2|3) words?(?: name| long| answer)?$"
)


class Letters:
    """Answers about all names at once.

    Args:
        names: The usual name of every thing.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = list(names)

    def answers(self, text: str) -> Vector | None:
        """``its name start with b``, ``its name have 5 letters``; None if it is about something else."""
        match = _NAME_LENGTH.match(text)
        number = number_of(match[2]) if match else None
        if match and number is not None:
            lengths = np.array([len(name.replace(" ", "")) for name in self._names])
            return vector(relation(match[1] or "exactly")(lengths, number))
        match = _WORDS_OF_NAME.match(text)
        if match:
            wanted = number_of("one" if match[1] == "single" else match[1]) or 1
            more = "more than" in text
            return self._of_names(lambda name: name.count(" ") >= wanted if more else name.count(" ") + 1 == wanted)
        match = _LETTER.match(text)
        if not match:
            return None
        verb, letter = match.groups()
        letters = {"vowel": "aeiou", "consonant": "bcdfghjklmnpqrstvwxyz"}.get(letter, letter)
        if verb in {"start", "begin"}:
            return self._of_names(lambda name: name[0] in letters)
        if verb == "end":
            return self._of_names(lambda name: name[-1] in letters)
        return self._of_names(lambda name: any(char in letters for char in name))

    def _of_names(self, holds: Callable[[str], bool]) -> Vector:
        return vector(np.array([holds(name) for name in self._names]))
