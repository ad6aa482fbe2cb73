"""How episodes look in a terminal."""

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from llm_envs.cli.shared import printable
from llm_envs.games.tic_tac_toe.rules import read_board

__all__ = ["lines_of", "observation_text", "result_text", "shown_number"]

_COLOURS = {"X": "\x1b[1;31mX\x1b[0m", "O": "\x1b[1;34mO\x1b[0m"}
_DIM = "\x1b[2m{}\x1b[0m"
_BOARD_LINES = 3


def observation_text(text: str, *, is_board_game: bool = False) -> str:
    """An observation as it is shown; the board at its end, if there is one, is drawn with lines."""
    if not is_board_game or read_board(text) is None:
        return printable(text)
    lines = text.split("\n")
    said, board = lines[:-_BOARD_LINES], lines[-_BOARD_LINES:]
    rows = ["|".join(f" {_cell(cell)} " for cell in row.split(" ")).rstrip() for row in board]
    return "\n".join([printable(line) for line in said] + [*"\n---+---+---\n".join(rows).split("\n")])


def _cell(cell: str) -> str:
    if not sys.stdout.isatty() or "NO_COLOR" in os.environ:
        return cell
    return _COLOURS.get(cell) or _DIM.format(cell)


def result_text(verdict: str | None, reward: float | None) -> str:
    """``[wrong, 0]``: what came of an action."""
    return "[" + ", ".join([*([verdict] if verdict else []), *([] if reward is None else [shown_number(reward)])]) + "]"


def shown_number(number: float) -> str:
    """Up to four digits."""
    return f"{number:.4g}"


def lines_of(record: dict[str, Any]) -> Iterator[str]:
    """An episode as lines."""
    is_board_game = "TicTacToe" in record["env"]
    args = f" {json.dumps(record['env_args'])}" if record["env_args"] else ""
    options = f", {json.dumps(record['options'])}" if record["options"] else ""
    yield f"{record['env']}{printable(args)}, seed {record['seed']}{printable(options)}"
    for step, action in enumerate(record["actions"]):
        yield from _heard(record, step, is_board_game=is_board_game)
        yield f"{record['agents'][step] if 'agents' in record else ''}> {printable(action)}"
    if "agents" in record:
        for agent, text in record["endings"].items():
            yield observation_text(text, is_board_game=is_board_game)
            yield f"return of {agent}: {shown_number(record['returns'][agent])}"
    else:
        yield from _heard(record, len(record["actions"]), is_board_game=is_board_game)
        yield f"return: {shown_number(sum(record['rewards']))}"


def _heard(record: dict[str, Any], step: int, *, is_board_game: bool) -> Iterator[str]:
    text = observation_text(record["observations"][step], is_board_game=is_board_game)
    if text:
        yield text
    if step and "agents" not in record:
        yield result_text(record["verdicts"][step - 1], record["rewards"][step - 1])
