"""What players are told. The texts are the same for one agent and for two, so that one policy plays both."""

from llm_envs.games.tic_tac_toe.rules import Position, positions
from llm_envs.grading import Verdict

__all__ = ["NO_CELL", "forfeited", "no_move", "opening", "result", "taken", "vocabulary"]

NO_CELL = "Your answer names no cell: you lose."


def opening(position: Position, mark: str) -> str:
    """What a player is told first."""
    return f"Tic-tac-toe. You are {mark}. Say the number of a free cell.\n{position.text}"


def result(position: Position, mark: str) -> str:
    """What a player is told at the end of a game that was played out."""
    said = "A draw." if position.winner is None else "You win." if position.winner == mark else "You lose."
    return f"{said}\n{position.text}"


def taken(cell: int) -> str:
    """What a player is told who plays a cell that is not free."""
    return f"Cell {cell} is taken: you lose."


def no_move(cell: int | None) -> tuple[str, Verdict]:
    """What a player is told who makes no legal move, and the verdict.

    Args:
        cell: The cell that the answer named; None if it named none.
    """
    return (NO_CELL, Verdict.UNPARSED) if cell is None else (taken(cell), Verdict.ILLEGAL)


def forfeited(mark: str) -> str:
    """What a player is told whose opponent made no legal move."""
    return f"{mark} made no legal move."


def vocabulary(opening_moves: int = 0, *, can_forfeit: bool) -> list[str]:
    """Every text that a player is told whose game begins after ``opening_moves`` moves or fewer, and the nine cells.

    Args:
        opening_moves: How many marks are on the board at most when the first player is asked.
        can_forfeit: Whether the other player may answer with something that is no legal move.
    """
    said = []
    for position in positions().values():
        if position.is_over:
            said += [result(position, mark) for mark in "XO"]
            continue
        marks = 9 - len(position.moves)
        if marks <= opening_moves + 1:
            said.append(opening(position, position.mark))
        if marks >= 2:  # at their first move both are told who they are
            said.append(position.text)
    said += [NO_CELL, *(taken(cell) for cell in range(1, 10))]
    if can_forfeit:
        said += [forfeited(mark) for mark in "XO"]
    said += [str(cell) for cell in range(1, 10)]
    return list(dict.fromkeys(said))  # a draw says the same to both
