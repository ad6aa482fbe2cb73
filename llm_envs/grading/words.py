"""Answers in words."""

import re
from collections.abc import Sequence

from llm_envs.grading.expressions import number
from llm_envs.grading.latex import Token, squeeze
from llm_envs.grading.values import EMPTY_SET, REALS, Formula, Group, Opaque, Value, Words

__all__ = ["join", "read_clock", "read_words", "says_so", "tidy_words"]

_NUMBERS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen twenty"""
_NUMBER_WORDS = {word: i for i, word in enumerate(_NUMBERS.split())}
_EMPTY_SET_WORDS = frozenset(
    {"empty", "empty set", "null set", "no solution", "no solutions", "there is no solution", "there are no solutions"}
)
_REAL_WORDS = frozenset({"all real", "all reals", "real numbers", "all real numbers", "all real values"})
_SAME_WORDS = {"dne": "does not exist", "doesn't exist": "does not exist", "infinite": "infinity"}
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_NOT_LETTERS = re.compile(r"[^\w+./<>=-]+")


_CLOCK = re.compile(r"(?:\\(?:text|mathrm|mbox)\s*\{)?\s*([0-9]{1,2}(?::[0-5][0-9]){1,2})(.*?)\}?", re.DOTALL)
_DECISIONS = frozenset({"yes", "no", "true", "false"})
_DENIALS = frozenset({"not", "no", "never", "neither", "nor", "if", "or", "unless"})
_MAX_SENTENCE = 7
_HALF_DAY = re.compile(r"[ap]m")


def read_clock(text: str) -> Words | None:
    """A time of day, ``8:34 p.m.``; None for anything else, such as a ratio."""
    match = _CLOCK.fullmatch(text)
    if match is None:
        return None
    half = re.sub(r"\\(?:text|mathrm|mbox)|[^a-z]", "", match[2].casefold())
    return Words(f"{match[1]} {half}") if _HALF_DAY.fullmatch(half) else None


def tidy_words(text: str) -> str:
    """A text without LaTeX, case, articles and punctuation."""
    text = re.sub(r"\\(?:text\w*|mathrm|mathbf|mbox|operatorname)\b|\\[,;:! ]|[{}$\\\"]", " ", text).casefold()
    text = _NOT_LETTERS.sub(" ", text).strip(".- ")
    text = " ".join(_ARTICLES.sub(" ", text).split()) or text  # a choice may be called A
    return _SAME_WORDS.get(text, text)


def says_so(value: Value, gold: Words) -> bool:
    """Whether words say in a sentence what the gold answer says in one: *Yes, it converges*, *the function is odd*."""
    if isinstance(value, Group) and not value.opening and gold.text in _DECISIONS:
        others = {item.text for item in value.items[1:] if isinstance(item, Words)}
        return value.items[0] == gold and len(others) == len(value.items) - 1 and not others & _DECISIONS
    if not isinstance(value, Words) or " " in gold.text:
        return False
    words = value.text.split()
    return 2 < len(words) <= _MAX_SENTENCE and words[-2:] == ["is", gold.text] and not _DENIALS & set(words)


def read_words(text: str, tokens: Sequence[Token] | None) -> Value:
    """What no formula can be read from: words if there are any, else opaque.

    Args:
        text: The whole answer.
        tokens: The part of it; None if it has no tokens, even.
    """
    if tokens is None:
        return (
            Words(tidy_words(text)) if re.search(r"[A-Za-z]{3}", text) and "\\" not in text else Opaque(squeeze(text))
        )
    has_words = any(token.kind == "text" or (token.kind == "word" and len(token.text) > 1) for token in tokens)
    commands = [token for token in tokens if token.kind in {"cmd", "begin", "end"}]
    if not has_words or commands or any(token.text in {"^", "_", "="} for token in tokens):
        return Opaque(squeeze(join(tokens)))
    words = tidy_words(join(tokens))
    if words in _NUMBER_WORDS:
        return Formula(number(_NUMBER_WORDS[words]))
    if words in _EMPTY_SET_WORDS:
        return EMPTY_SET
    if words in _REAL_WORDS:
        return REALS
    if words in {"infinity", "positive infinity"}:
        return Formula(("const", "inf"))
    if words == "negative infinity":
        return Formula(("neg", ("const", "inf")))
    return Words(words) if words else Opaque(squeeze(join(tokens)))


def join(tokens: Sequence[Token]) -> str:
    """Tokens as a text."""
    return "".join(
        (" " if token.spaced or token.kind == "text" else "") + token.text + (" " if token.kind == "text" else "")
        for token in tokens
    ).strip()
