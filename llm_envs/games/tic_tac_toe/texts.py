"""What players are told. The texts are the same for one agent and for two, so that one policy plays both."""

from llm_envs.games.tic_tac_toe.rules import Position

__all__ = ["NO_CELL", "asking", "forfeited", "opening", "result", "taken"]

NO_CELL = "Your answer names no cell: you lose."


def opening(position: Position, mark: str) -> str:
    """What a player is told first."""
    return f"Tic-tac-toe. You are {mark}. Say the number of a free cell.\n{position.text}"


def asking(position: Position) -> str:
    """What the player to move is told: the board, and before their first move who they are."""
    return opening(position, position.mark) if len(position.moves) > 7 else position.text


def result(position: Position, mark: str) -> str:
    """What a player is told at the end of a game that was played out."""
    said = "A draw." if position.winner is None else "You win." if position.winner == mark else "You lose."
    return f"{said}\n{position.text}"


def taken(cell: int) -> str:
    """What a player is told who plays a cell that is not free."""
    return f"Cell {cell} is taken: you lose."


def forfeited(mark: str) -> str:
    """What a player is told whose opponent made no legal move."""
    return f"{mark} made no legal move."
