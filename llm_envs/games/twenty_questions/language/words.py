"""Sets of words, written as they are read."""

__all__ = ["word_set"]


def word_set(words: str) -> frozenset[str]:
    """``"is are"`` to the set of ``"is"`` and ``"are"``."""
    return frozenset(words.split())
