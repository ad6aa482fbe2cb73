"""Slips of the pen in long words."""

from collections import defaultdict
from collections.abc import Iterable

from llm_envs.games.twenty_questions.language.words import word_set

__all__ = ["Spelling"]

_SHORTEST, _SHORTEST_TO_REPLACE_IN = 6, 8
# Words of questions that no phrase holds.
_PLAIN = word_set(
    "is are does can could would should there something anything someone people bigger larger smaller "
    "heavier lighter longer "
    "shorter taller usually normally typically generally commonly thinking about which without another "
    "question answer "
    "because animals number letter letters spelled starts begins weight weighs somewhere anywhere before "
    "after while where"
)


class Spelling:
    """Mends one slip in a word: a letter left out, doubled or strange, or two letters that changed places.

    A word is only mended if it is long, unknown, and close to exactly one known word with the same first letter.
    Another letter in the place of the right one is more often another word, so it is mended in very long words only.

    Args:
        known: Known words, as often as you like.
    """

    def __init__(self, known: Iterable[str]) -> None:
        words = {word for word in known if word.isalpha()}
        self._known = words | {word + "s" for word in words} | {word + "ing" for word in words} | _PLAIN
        self._by_gap: defaultdict[str, set[str]] = defaultdict(set)
        for word in words | _PLAIN:
            if len(word) >= _SHORTEST - 1:
                for gap in _gaps(word):
                    self._by_gap[gap].add(word)

    def mend(self, word: str) -> str:
        """The known word that is meant, or the same word."""
        if len(word) < _SHORTEST or word in self._known or not word.isalpha() or not word.isascii():
            return word
        candidates = set(self._by_gap.get(word, ()))  # a letter left out
        for gap in _gaps(word):
            if gap in self._known:
                candidates.add(gap)  # a letter too many
            candidates |= {other for other in self._by_gap.get(gap, ()) if _is_slip(word, other)}
        candidates = {other for other in candidates if other[0] == word[0]}
        return candidates.pop() if len(candidates) == 1 else word


def _gaps(word: str) -> set[str]:
    """The word without one of its letters."""
    return {word[:index] + word[index + 1 :] for index in range(len(word))}


def _is_slip(word: str, other: str) -> bool:
    """Two neighbours changed places, or one letter of a very long word is another."""
    if len(word) != len(other):
        return False
    places = [index for index, (one, two) in enumerate(zip(word, other, strict=True)) if one != two]
    if len(places) == 1:
        return len(word) >= _SHORTEST_TO_REPLACE_IN
    return (
        len(places) == 2
        and places[1] == places[0] + 1
        and word[places[0]] == other[places[1]]
        and word[places[1]] == other[places[0]]
    )
