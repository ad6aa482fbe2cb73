"""Finding the program in an answer."""

__all__ = ["extract_code", "in_a_block"]

_MAX_INDENT = 3  # of a fence, as in Markdown; further in it is text


def extract_code(answer: str) -> str | None:
    """What stands in the last fenced block, whatever language it names; None if there is none.

    A fence is a line of at least three backticks; the line that opens a block may name a language behind them. A block
    is closed by a line of at least as many backticks and nothing else; one that is never closed does not count, for
    then the answer was cut off.
    """
    found, opening = None, 0
    lines = answer.replace("\r\n", "\n").split("\n")
    start = 0
    for number, line in enumerate(lines):
        length, rest = _fence(line)
        if not opening:
            if length and "`" not in rest:
                opening, start = length, number + 1
        elif length >= opening and not rest.strip():
            found, opening = "\n".join(lines[start:number]), 0
    return found


def in_a_block(code: str) -> str:
    """A program in a fenced block that `extract_code` finds again."""
    longest = max((_fence(line)[0] for line in code.split("\n")), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}python\n{code}\n{fence}"


def _fence(line: str) -> tuple[int, str]:
    """The number of backticks that a line begins with, 0 if it is no fence, and what stands behind them."""
    body = line.lstrip(" ")
    if len(line) - len(body) > _MAX_INDENT or not body.startswith("```"):
        return 0, ""
    rest = body.lstrip("`")
    return len(body) - len(rest), rest
