r"""Judging answers: find the box, read the number, compare exactly."""

import re
from enum import StrEnum
from fractions import Fraction

__all__ = ["Verdict", "extract_boxed", "grade", "parse_number"]


class Verdict(StrEnum):
    """The closed vocabulary of ``info["verdict"]``."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSED = "unparsed"
    """No answer could be read from the action."""
    TIMEOUT = "timeout"
    """The action's program or formula took too long."""
    UNSCORABLE = "unscorable"
    """We failed, not the player: a broken gold answer, a grader or sandbox that is down. Leave the episode out."""


_MAX_NUMBER_LENGTH = 256  # code points; far below the 4,300 digits at which int() raises
_MAX_UNIT_WORDS = 4

_BOX_TOKEN = re.compile(
    r"\\(?:boxed|fbox)(?![A-Za-z])\s*(?:(?P<open>\{)|(?P<bare>[^\s{}$\\]*))"  # \boxed{ or \boxed 5
    r"|\\.|[{}]",  # an escaped character, or a brace
    re.DOTALL,
)


def extract_boxed(text: str) -> str | None:
    r"""The content, stripped, of the last complete ``\boxed{...}`` or ``\fbox{...}``.

    - The last box is the one that starts last, so of a box in a box it is the inner one.
    - A box that never closes does not count; an earlier complete one does.
    - Braces nest; ``\{`` and ``\}`` are characters. ``\\`` is a line break, so ``\\boxed{5}`` holds no box.
    - Spaces may stand before the brace. Without a brace (``\boxed 5``) the box is what follows up to a space, a ``$``,
      a brace or a backslash, less closing punctuation; where that is nothing, there is no box.

    Takes time linear in the text.

    Returns:
        The content, maybe empty; None if there is no complete box.
    """
    last: tuple[int, int] | None = None
    open_braces: list[int | None] = []  # where a box's content starts; None for a brace that opens no box
    for token in _BOX_TOKEN.finditer(text):
        if token["open"]:
            open_braces.append(token.end())
        elif token["bare"]:
            start = token.start("bare")
            length = len(token["bare"].rstrip(".,;:!?)"))
            if length and (last is None or start > last[0]):
                last = start, start + length
        elif token[0] == "{":
            open_braces.append(None)
        elif token[0] == "}" and open_braces:
            opened = open_braces.pop()
            if opened is not None and (last is None or opened > last[0]):
                last = opened, token.start()
    return None if last is None else text[slice(*last)].strip()


_REWRITES = [
    (re.compile(r"\\(?:text|mathrm|textbf|mathbf|mbox)\s*\{([^{}]*)\}"), r" \1"),
    (re.compile(r"\{,\}|,\\!"), ","),
    (re.compile(r"\\[,;: ]|~|\\q?quad(?![A-Za-z])"), " "),
    (re.compile(r"\\%"), "%"),
    (re.compile(r"\\\$"), "$"),
    (re.compile("\N{MINUS SIGN}"), "-"),
]
_INTEGER = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)"
_NUMBER = re.compile(
    r"(?P<sign>[+-]?)\s*"
    rf"(?:\\[dt]?frac\s*(?:\{{\s*(?P<over>-?{_INTEGER})\s*\}}\s*\{{\s*(?P<under>-?{_INTEGER})\s*\}}"
    r"|(?P<over_digit>[0-9])\s*(?P<under_digit>[0-9]))"
    rf"|(?P<slash_over>{_INTEGER})\s*/\s*(?P<slash_under>{_INTEGER})"
    rf"|(?P<decimal>{_INTEGER}(?:\.[0-9]+)?|\.[0-9]+))"
    r"(?:\s*(?:%|°|\^\{?\\circ\}?))?(?P<unit>(?:\s.*)?)",
    re.DOTALL,
)
_UNIT_WORD = re.compile(r"[A-Za-z]+(?:[/-][A-Za-z]+)*(?:\^(?:[23]|\{[23]\}))?")
_NOT_UNITS = re.compile(
    "a|an|and|or|to|plus|minus|times|over|by|more|less|x|y|z|i|e|pi|half|thirds?|quarters?|dozen"
    "|k|hundreds?|thousands?|millions?|billions?|trillions?",
    re.IGNORECASE,
)


def parse_number(text: str) -> Fraction | None:
    r"""Read a text that is one number, exactly.

    - ``72``, ``+5``, ``-3``, ``18.00``, ``.5``, ``72.`` (a full stop), ``1,234`` (groups of three only).
    - ``1/2``, ``\frac{1}{2}``, ``\dfrac``, ``\tfrac``, ``\frac12``, each maybe signed, of whole numbers.
    - Dollar signs do not count (``$18``, ``-\$18``, ``$18$``), neither does percent: ``50%`` is 50, for that is how the
      data sets write it.
    - Up to four words after a space are a unit and do not count: ``18 dollars``, ``5 \text{ cm}^2``, ``60 miles/hour``.
      Words that would change the number make it unreadable: ``18 million``, ``2 and a half``, ``5 or more``.
    - Not numbers: equations (``x = 5``), ``1e5``, mixed numbers, digits of other scripts, anything over 256 characters.

    Returns:
        The number; None if the text is not one.
    """
    if len(text) > _MAX_NUMBER_LENGTH:
        return None
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = text.replace("$", "").strip().removesuffix(".")
    match = _NUMBER.fullmatch(text)
    if match is None or not _is_unit(match["unit"]):
        return None
    over = match["over"] or match["over_digit"] or match["slash_over"] or match["decimal"]
    under = match["under"] or match["under_digit"] or match["slash_under"] or "1"
    denominator = Fraction(under.replace(",", ""))
    if not denominator:
        return None
    value = Fraction(over.replace(",", "")) / denominator
    return -value if match["sign"] == "-" else value


def _is_unit(text: str) -> bool:
    words = text.split()
    return len(words) <= _MAX_UNIT_WORDS and all(
        _UNIT_WORD.fullmatch(word) and not _NOT_UNITS.fullmatch(word) for word in words
    )


def grade(answer: str | None, gold: str | None) -> Verdict:
    """Compare an answer with the gold answer as exact rational numbers, with no tolerance. Never raises.

    Args:
        answer: The content of the box; None if there was none.
        gold: The gold answer; None if it could not be read.

    Returns:
        ``UNSCORABLE`` if ``gold`` is no number, else ``UNPARSED`` if ``answer`` is none, else ``CORRECT`` or ``WRONG``.
    """
    expected = None if gold is None else parse_number(gold)
    if expected is None:
        return Verdict.UNSCORABLE
    given = None if answer is None else parse_number(answer)
    if given is None:
        return Verdict.UNPARSED
    return Verdict.CORRECT if given == expected else Verdict.WRONG
