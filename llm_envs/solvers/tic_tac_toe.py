"""Players of TicTacToe, and what each of them earns in expectation."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_envs.games.tic_tac_toe.rules import Position, positions, read_board, start

if TYPE_CHECKING:
    from llm_envs.games.tic_tac_toe.aec import raw_env
    from llm_envs.games.tic_tac_toe.single import TicTacToeEnv

__all__ = ["BestResponsePlayer", "MinimaxPlayer", "RandomPlayer", "expected_return"]

Chances = Mapping[int, Fraction]
"""How likely each move is."""


# --- Players ---


class _Player(ABC):
    """Reads the board off the observation, and draws one of the moves that it holds for equally good."""

    def __init__(self, env: "TicTacToeEnv | raw_env", seed: int = 0) -> None:  # noqa: ARG002 (two need none)
        self._rng = np.random.default_rng(seed)
        self._opening = ""

    def reset(self, observation: str, info: Mapping[str, Any]) -> None:  # noqa: ARG002 (the protocol)
        self._opening = observation

    def act(self, observation: str) -> str:
        position = read_board(observation) or read_board(self._opening)
        if position is None or position.is_over:
            return "5"  # an opponent that gave up at once: any answer wins
        moves = self._choose(position)
        return str(moves[int(self._rng.integers(len(moves)))])

    @abstractmethod
    def _choose(self, position: Position) -> Sequence[int]:
        """The moves that it draws from; at least one."""


class RandomPlayer(_Player):
    """Any free cell."""

    def _choose(self, position: Position) -> Sequence[int]:
        return position.moves


class MinimaxPlayer(_Player):
    """Any move that keeps the position's value: it never loses, but waits for no mistake."""

    def _choose(self, position: Position) -> Sequence[int]:
        return position.best_moves


class BestResponsePlayer(_Player):
    """Any move of the greatest expected return against the opponent. One without a name is taken to play perfectly."""

    def __init__(self, env: "TicTacToeEnv", seed: int = 0) -> None:
        super().__init__(env, seed)
        self._opponent = env.opponent_name or "optimal"

    def _choose(self, position: Position) -> Sequence[int]:
        return _best_responses(self._opponent, position)


# --- What they earn ---


def _random(position: Position) -> Chances:
    return {move: Fraction(1, len(position.moves)) for move in position.moves}


def _optimal(position: Position) -> Chances:
    return {move: Fraction(1, len(position.best_moves)) for move in position.best_moves}


def _mixed(position: Position) -> Chances:
    optimal = _optimal(position)
    return {move: (chance + optimal.get(move, 0)) / 2 for move, chance in _random(position).items()}


_CHANCES: dict[str, Callable[[Position], Chances]] = {
    "random": _random,
    "minimax": _optimal,
    "optimal": _optimal,
    "mixed": _mixed,
}


def expected_return(solver: str, opponent: str, mark: str) -> Fraction:
    """The exact expected return of a solver who plays ``mark`` against a named opponent, over all games there are."""
    return _worths(solver, opponent, mark)[start()]


@cache
def _worths(solver: str, opponent: str, mark: str) -> Mapping[Position, Fraction]:
    """What every position is worth to the solver, from the ends of the games to their beginning."""
    worths: dict[Position, Fraction] = {}
    for position in sorted(positions().values(), key=lambda position: position.cells.count(".")):
        if position.is_over:
            worths[position] = Fraction(0 if position.winner is None else 1 if position.winner == mark else -1)
        elif position.mark == mark and solver == "best_response":
            worths[position] = max(worths[following] for following in position.after.values())
        else:
            chances = _CHANCES[solver if position.mark == mark else opponent](position)
            parts = (chance * worths[position.after[move]] for move, chance in chances.items())
            worths[position] = sum(parts, Fraction())
    return worths


@cache
def _best_responses(opponent: str, position: Position) -> Sequence[int]:
    worths = _worths("best_response", opponent, position.mark)
    return [move for move, following in position.after.items() if worths[following] == worths[position]]
