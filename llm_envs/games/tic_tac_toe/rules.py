"""The rules of tic-tac-toe, what every position is worth, and how moves and boards are read and written."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

__all__ = [
    "LINES",
    "Position",
    "board_text",
    "gave_away",
    "given_away",
    "position_of",
    "positions",
    "quiet_moves",
    "read_board",
    "read_move",
    "start",
    "winner_of",
]

LINES = ((1, 2, 3), (4, 5, 6), (7, 8, 9), (1, 4, 7), (2, 5, 8), (3, 6, 9), (1, 5, 9), (3, 5, 7))
"""The rows, columns and diagonals, as cells 1 to 9."""

_EMPTY = "." * 9
_BOARD_LENGTH = len("1 2 3\n4 5 6\n7 8 9")
_CELLS = {str(cell): cell for cell in range(1, 10)}
_DIGITS = re.compile(r"\d+")  # of any script: a digit that is not understood must not be overlooked
_SPACE = re.compile(r"\s")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Position:
    """A position that play can reach. There is one object for each, so `is` and `==` mean the same.

    Attributes:
        cells: Nine characters for the cells 1 to 9: ``X``, ``O``, or ``.`` for a free one.
        mark: Whose move it is, ``X`` or ``O``; once the game is over, whose it would be.
        moves: The free cells; none once the game is over.
        winner: ``X``, ``O`` or None.
        is_over: Whether somebody has three in a line, or the board is full.
        value: What the player to move gets when both play perfectly: 1, 0 or -1.
        best_moves: The moves that keep this value.
        after: The position after each of the moves.
        text: `board_text` of it.
    """

    cells: str
    mark: str
    moves: tuple[int, ...]
    winner: str | None
    is_over: bool
    value: int
    best_moves: tuple[int, ...]
    after: "Mapping[int, Position]"
    text: str

    def __repr__(self) -> str:
        return f"position_of({self.cells!r})"

    def __reduce__(self) -> tuple[object, ...]:  # a copy, a pickle: the very same object, not a second tree of games
        return position_of, (self.cells,)


def winner_of(cells: str) -> str | None:
    """``X`` or ``O`` if that mark has three in a line, else None."""
    for a, b, c in LINES:
        if cells[a - 1] != "." and cells[a - 1] == cells[b - 1] == cells[c - 1]:
            return cells[a - 1]
    return None


def board_text(cells: str) -> str:
    """Three lines; a free cell shows its number: ``X 2 3 / 4 O 6 / 7 8 9``."""
    shown = [str(cell) if mark == "." else mark for cell, mark in enumerate(cells, start=1)]
    return "\n".join(" ".join(shown[row : row + 3]) for row in (0, 3, 6))


@cache
def positions() -> Mapping[str, Position]:
    """All 5,478 positions that play can reach, by their cells. X moves first, and play stops at three in a line."""
    found: dict[str, Position] = {}
    _explore(_EMPTY, "X", found)
    return MappingProxyType(found)


def _explore(cells: str, mark: str, found: dict[str, Position]) -> Position:
    known = found.get(cells)
    if known is not None:
        return known
    winner = winner_of(cells)
    moves = () if winner else tuple(cell for cell in range(1, 10) if cells[cell - 1] == ".")
    other = "O" if mark == "X" else "X"
    after = {move: _explore(cells[: move - 1] + mark + cells[move:], other, found) for move in moves}
    lost = -1 if winner else 0  # only who has just moved can have three in a line
    value = max((-following.value for following in after.values()), default=lost)
    best_moves = tuple(move for move in moves if -after[move].value == value)
    position = Position(cells, mark, moves, winner, not moves, value, best_moves, after, board_text(cells))
    found[cells] = position
    return position


def position_of(cells: str) -> Position:
    """The position with these nine cells, such as ``X...O....``.

    Raises:
        ValueError: If play cannot reach such a position.
    """
    position = positions().get(cells)
    if position is None:
        raise ValueError(f"no position that play can reach: {cells!r:.50}")
    return position


def start() -> Position:
    """The empty board."""
    return position_of(_EMPTY)


@cache
def _by_text() -> Mapping[str, Position]:
    return {position.text: position for position in positions().values()}


def read_board(text: str) -> Position | None:
    """The position whose board ``text`` ends with, as every text does that asks for a move; None without a board."""
    return _by_text().get(text[-_BOARD_LENGTH:])


def gave_away(position: Position, move: int | None) -> int:
    """How much of its value a move gives away: 0 (none), 1 (a win or a draw became the next worse) or 2.

    Args:
        position: The position before the move.
        move: The cell; None if none could be read. An illegal move loses, so it gives away all that there was.

    Raises:
        ValueError: If the game is over, so that nobody is to move.
    """
    if position.is_over:
        raise ValueError(f"nobody moves after the end of a game: {position!r}")
    following = None if move is None else position.after.get(move)
    return position.value + (1 if following is None else following.value)


def given_away(observation: str, action: str) -> int:
    """How much of the position's value an action gave away: 0, 1 or 2. Perfect play gives nothing away.

    Args:
        observation: What stood before the action; 0 if it shows no board on which a move was asked for.
        action: The answer to it; one that names no legal move loses, so it gives away all that there was.
    """
    position = read_board(observation)
    return 0 if position is None or position.is_over else gave_away(position, read_move(action))


def quiet_moves(position: Position, count: int) -> list[int]:
    """The moves with which ``count`` moves in a row can begin of which none ends the game."""
    return [
        move for move, following in position.after.items() if not following.is_over and _quiet(following) >= count - 1
    ]


@cache
def _quiet(position: Position) -> int:
    """How many moves in a row can be played at most of which none ends the game."""
    return max((1 + _quiet(following) for following in position.after.values() if not following.is_over), default=0)


def read_move(text: str) -> int | None:
    """The cell that an answer names: the only number in it, if that is 1 to 9; None if it cannot be read.

    A reader who is careful would rather give up than guess:

    - A number is a run of ASCII digits, alone or between spaces, brackets or other marks: ``5``, ``I play 5.``,
      ``move: 5``, ``**5**``, ``(5)``, ``[5]``, ``#5``, ``cell-5``, ``<move>5</move>``, ``05``.
    - The same number may come again, after a space or a new line: ``I play 5. Final answer: 5``.
    - Two different numbers are unreadable, also if just one of them is a cell: ``5 or 6``, ``2. 5``, ``5 of 9``,
      ``100% sure: 5``. So is a number that is no cell: ``0``, ``10``, ``55``.
    - So are digits that are part of something else: of a word (``x5``, ``5th``, ``3x3``, ``5_``), a decimal, a formula
      or another compound (``5.5``, ``.5``, ``1,000``, ``5/5``, ``5-5``, ``5^{5}``) or a negative number (``-5``; but a
      hyphen after a letter is just a hyphen, and a dash with a space after it just a dash).
    - So are decimal digits of other scripts, and digits that touch a superscript or a fraction.
    - Words are not understood: ``five`` and ``the centre`` are unreadable, and ``not 5`` is 5.

    Takes time linear in the text.
    """
    if text in _CELLS:
        return _CELLS[text]
    named, last_end = None, None
    for match in _DIGITS.finditer(text):
        cell = _CELLS.get(match[0].lstrip("0"))
        if cell is None or named not in {None, cell} or _is_part_of_more(text, *match.span()):
            return None
        if last_end is not None and not _SPACE.search(text, last_end, match.start()):
            return None  # a compound
        named, last_end = cell, match.end()
    return named


def _is_part_of_more(text: str, start: int, end: int) -> bool:
    """Whether the digits ``text[start:end]`` touch a letter, an underscore, or a sign or point before them."""
    before, after = text[start - 1 : start], text[end : end + 1]  # empty at the ends, also where start is 0
    if before.isalnum() or after.isalnum() or before in {"_", "."} or after == "_":
        return True
    return before in {"-", "\N{MINUS SIGN}"} and not text[max(start - 2, 0) : start - 1].isalnum()
