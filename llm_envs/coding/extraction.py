"""Finding the program in an answer."""

import re
from typing import NamedTuple

__all__ = ["extract_code", "in_a_block"]

_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_+.#-]{0,30}")
_OF_TEXT = frozenset({"markdown", "md"})


class _Fence(NamedTuple):
    """What a line says about blocks."""

    character: str
    length: int
    indent: int
    words: str


def extract_code(answer: str) -> str | None:
    """What stands in the last fenced block, whatever language it names; None if there is none.

    A fence is a line of at least three backticks or tildes, indented or not; the line that opens a block may name a
    language behind them, and if it does, text may stand before it. A block is closed by a line of at least as many of
    them and nothing else; one that is never closed does not count, for then the answer was cut off. A fence of its kind
    that names a language cannot close a block, so it opens another one, and the one before is taken as abandoned. What
    the opening fence is indented by is taken off each line. In a block of Markdown the last block counts.
    """
    found, language = None, ""
    opening: _Fence | None = None
    lines = answer.replace("\r\n", "\n").split("\n")
    start = 0
    for number, line in enumerate(lines):
        fence = _fence(line)
        if fence is None:
            continue
        matches = opening is not None and fence.character == opening.character and fence.length >= opening.length
        if opening is None or (matches and _WORD.fullmatch(fence.words)):
            if opening is None and "`" in fence.words:
                continue
            opening, start = fence, number + 1
        elif matches and not fence.words:
            found = "\n".join(_without(text, opening.indent) for text in lines[start:number])
            language, opening = opening.words.lower(), None
    if found is not None and language in _OF_TEXT:
        return extract_code(found)
    return found


def in_a_block(code: str) -> str:
    """A program in a fenced block that `extract_code` finds again."""
    fences = [fence.length for line in code.split("\n") if (fence := _fence(line)) is not None]
    marks = "`" * max(3, max(fences, default=0) + 1)
    return f"{marks}python\n{code}\n{marks}"


def _fence(line: str) -> _Fence | None:
    body = line.lstrip(" \t")
    character = body[:1]
    if character in ("`", "~"):
        rest = body.lstrip(character)
        if len(body) - len(rest) >= 3:
            return _Fence(character, len(body) - len(rest), len(line) - len(body), rest.strip())
        if character == "~":
            return None
    return _fence_behind_text(line, len(line) - len(body))


def _fence_behind_text(line: str, indent: int) -> _Fence | None:
    """As in ``Answer: ```python``; it needs a language, or it might be the end of something."""
    before, mark, word = line.rstrip().rpartition("`")
    length = len(before) - len(before.rstrip("`")) + len(mark)
    return _Fence("`", length, indent, word) if length >= 3 and _WORD.fullmatch(word) else None


def _without(line: str, indent: int) -> str:
    """The line without that much white space, as far as it begins with it."""
    return line[min(indent, len(line) - len(line.lstrip(" \t"))) :]
