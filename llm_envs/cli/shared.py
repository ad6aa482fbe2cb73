"""What the commands share: arguments, complaints and progress."""

import argparse
import json
import sys
from typing import Any

__all__ = ["add_env_args", "complain", "end_progress", "positive", "printable", "show_progress"]

_REPORT_EVERY = 100
_SHOWN_AS_THEY_ARE = {"\n", "\t"}


def add_env_args(parser: argparse.ArgumentParser) -> None:
    """``--env-args JSON``."""
    parser.add_argument("--env-args", type=_object, default={}, metavar="JSON", help="as '{\"levels\": [4, 5]}'")


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"must be a JSON object, got {text}")
    return value


def positive(text: str) -> int:
    """A whole number from 1 on."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def complain(error: object) -> int:
    """Say in one line on stderr what is wrong.

    Returns:
        The exit code 2.
    """
    sys.stderr.write("llm-envs: " + printable(" ".join(str(error).split())) + "\n")
    return 2


def printable(text: str) -> str:
    """A text that any terminal can show: what is invisible, or could steer the terminal, as an escape sequence."""
    if text.isascii() and text.isprintable():
        return text
    shown = [char if char.isprintable() or char in _SHOWN_AS_THEY_ARE else ascii(char)[1:-1] for char in text]
    encoding = sys.stdout.encoding or "utf-8"
    return "".join(shown).encode(encoding, "backslashreplace").decode(encoding)


def show_progress(number: int, total: int | None, unit: str) -> None:
    """Count on stderr, if somebody looks; `end_progress` ends the line where the total is not known."""
    if sys.stderr.isatty() and (number == total or number % _REPORT_EVERY == 0):
        of = "" if total is None else f" of {total}"
        sys.stderr.write(f"\r{number}{of} {unit}" + ("\n" if number == total else ""))
        sys.stderr.flush()


def end_progress(number: int) -> None:
    """End the line of `show_progress`, if there is one."""
    if sys.stderr.isatty() and number >= _REPORT_EVERY:
        sys.stderr.write("\n")
