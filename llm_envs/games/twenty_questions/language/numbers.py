"""Numbers in words, and what "more than" does with them."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["number_of", "relation"]

_COUNTED = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip
_NUMBERS = {word: float(number) for number, word in enumerate(_COUNTED)} | {
    "a": 1.0, "an": 1.0, "half": 0.5, "thirty": 30.0, "forty": 40.0, "fifty": 50.0, "sixty": 60.0, "hundred": 100.0,
    "thousand": 1000.0, "million": 1e6, "no": 0.0, "couple": 2.0, "dozen": 12.0,
}  # fmt: skip


def relation(how: str) -> Callable[[NDArray[np.float64], float], NDArray[np.bool_]]:
    """What ``more than``, ``at least``, ... say of values and a limit; anything else is ``less than``."""
    if how in {"more than", "over", "above", "greater than", "bigger than", "longer than", "heavier than"}:
        return np.greater
    if how == "at least":
        return np.greater_equal
    if how in {"exactly", "only", "just"}:
        return np.equal
    if how in {"at most", "up to"}:
        return np.less_equal
    return np.less


def number_of(word: str) -> float | None:
    """Of digits or of a word; None if it is no number."""
    if word.replace(".", "", 1).isdigit():
        return float(word)
    return _NUMBERS.get(word)
