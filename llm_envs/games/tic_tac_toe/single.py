"""TicTacToe for one agent: the other seat is part of the environment."""

import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal, cast

from llm_envs.games.tic_tac_toe import texts
from llm_envs.games.tic_tac_toe.rules import Position, given_away, position_of, read_move, start
from llm_envs.grading import Verdict
from llm_envs.solvers.base import Solver
from llm_envs.solvers.tic_tac_toe import BestResponsePlayer, MinimaxPlayer, RandomPlayer, expected_return
from llm_envs.text_env import Message, Outcome, TextEnv, user_message

__all__ = ["Opponent", "TicTacToeEnv"]

Opponent = Literal["random", "optimal", "mixed"] | Callable[[str], str] | Solver

_NAMES = ("random", "optimal", "mixed")
_MARKS = {"first": "X", "second": "O"}


class TicTacToeEnv(TextEnv):
    """Tic-tac-toe against an opponent: three marks in a row, a column or a diagonal win.

    The opening says who one is (X moves first) and shows the board, in which a free cell is its number. Each turn is
    one move, named by the number of its cell; `read_move` says what can be read. The answers:

    - The board after the opponent's move; verdict ``wrong``, which means: not won (yet).
    - ``You win.``, ``You lose.`` or ``A draw.`` and the board; the episode ends. Verdict ``correct`` after a win, else
      ``wrong``.
    - ``Cell 5 is taken: you lose.``: the episode ends; verdict ``illegal``.
    - ``Your answer names no cell: you lose.``: no move could be read. The episode ends; verdict ``unparsed``.
    - ``O made no legal move.``: only an opponent of yours can do that. It loses at once, as the agent would; verdict
      ``correct``. If it does so at its very first move, as X, the opening says it and any answer at all wins.

    Every text that asks for a move ends with the board, so `read_board` reads it.

    Reward: the part ``"won"`` is 1 for a win, 0 for a draw, -1 for a loss, and 0 before the end. A move that is illegal
    or unreadable gets the part ``"illegal"`` instead, by default -1.

    Opponents:

    - ``random``: any free cell, all equally likely.
    - ``optimal``: any of the moves that keep the position's value, all equally likely; it never loses.
    - ``mixed``: at each of its moves a coin decides between the two.
    - a callable: gets the text of the board (whose marks are equally many when X is to move) and answers with text,
      which is read as an agent's is. An exception of it is not caught.
    - a player, as `Solver` describes them: it is told what an agent in its seat is told, the opening first (by its
      ``reset``, too) and then the boards. That makes it the right form for a policy. What it remembers is no part of
      `get_state`, and its own random numbers are not seeded by `reset`.

    The seed decides who moves first and all that the opponent draws.

    Solvers: ``random`` and ``minimax`` play like the first two opponents; ``best_response`` knows which of the
    opponents it plays against and makes the most of its mistakes. Against a named opponent the expected return of each
    is exact: over both seats, or over the one that was asked for. No policy beats ``best_response``, as long as
    ``illegal_penalty`` is at most -1; above that it can pay to give up, and its return is not stated.

    Args:
        opponent: A name, a callable or a player, see above.
        seat: ``"first"`` or ``"second"`` to move; None: the seed decides.
        illegal_penalty: The reward of a move that is illegal or unreadable.
        render_mode: ``"ansi"`` or None.

    Raises:
        TypeError: If ``opponent`` is no `str`, no callable and no player, or ``illegal_penalty`` no number.
        ValueError: If a name is not known, or ``illegal_penalty`` is not finite.
    """

    solvers: ClassVar = {"random": RandomPlayer, "minimax": MinimaxPlayer, "best_response": BestResponsePlayer}
    best_solver: ClassVar[str | None] = "best_response"

    def __init__(
        self,
        *,
        opponent: Opponent = "random",
        seat: Literal["first", "second"] | None = None,
        illegal_penalty: float = -1.0,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(render_mode=render_mode)
        if not isinstance(opponent, str) and not callable(opponent) and not _is_player(opponent):
            raise TypeError(f"opponent must be a name, callable or a player with reset() and act(), got {opponent!r}")
        if isinstance(opponent, str) and opponent not in _NAMES:
            raise ValueError(f"opponent must be one of {_NAMES}, callable or a player, got {opponent!r}")
        if seat is not None and seat not in tuple(_MARKS):
            raise ValueError(f"seat must be None or one of {tuple(_MARKS)}, got {seat!r}")
        if isinstance(illegal_penalty, bool) or not isinstance(illegal_penalty, int | float):
            raise TypeError(f"illegal_penalty must be a number, got {illegal_penalty!r}")
        if not math.isfinite(illegal_penalty):
            raise ValueError(f"illegal_penalty must be finite, got {illegal_penalty}")
        self.opponent, self.seat, self.illegal_penalty = opponent, seat, float(illegal_penalty)
        self._position = start()
        self._mark = "X"
        self._is_forfeited = False

    @property
    def opponent_name(self) -> str | None:
        """The opponent's name; None for a callable or a player."""
        return self.opponent if isinstance(self.opponent, str) else None

    gave_away = staticmethod(given_away)

    def vocabulary(self) -> list[str]:
        """Every board and what is said with it (some 6,500 texts), and the nine cells."""
        return texts.vocabulary(can_forfeit=self.opponent_name is None)

    def _begin(self, seed: int | None, index: int | None) -> tuple[list[Message], dict[str, Any]]:  # noqa: ARG002
        self._mark = _MARKS[self.seat] if self.seat else "XO"[int(self.np_random.integers(2))]
        self._position, self._is_forfeited = start(), False
        if self._mark == "O":
            following = self._answer(self._position)
            self._is_forfeited = following is None
            self._position = following or self._position
        text = texts.forfeited("X") if self._is_forfeited else texts.opening(self._position, self._mark)
        return [user_message(text)], {}

    def _play(self, action: str) -> Outcome:
        if self._is_forfeited:
            return self._win_by_forfeit()
        cell = read_move(action)
        following = None if cell is None else self._position.after.get(cell)
        if following is None:
            reply, verdict = texts.no_move(cell)
            return Outcome(reply, verdict, {"illegal": self.illegal_penalty}, terminated=True)
        if not following.is_over:
            answered = self._answer(following)
            if answered is None:
                return self._win_by_forfeit()
            following = answered
        self._position = following
        if not following.is_over:
            return Outcome(following.text, Verdict.WRONG, {"won": 0.0}, terminated=False)
        won = 0.0 if following.winner is None else 1.0 if following.winner == self._mark else -1.0
        verdict = Verdict.CORRECT if won > 0 else Verdict.WRONG
        return Outcome(texts.result(following, self._mark), verdict, {"won": won}, terminated=True)

    def _win_by_forfeit(self) -> Outcome:
        said = texts.forfeited("O" if self._mark == "X" else "X")
        return Outcome(said, Verdict.CORRECT, {"won": 1.0}, terminated=True)

    def _answer(self, position: Position) -> Position | None:
        """The position after the opponent's move; None if the move is not legal."""
        if not isinstance(self.opponent, str):
            said = self._ask(position)
            if not isinstance(said, str):
                raise TypeError(f"an opponent answers with a str, got {type(said).__name__}")
            cell = read_move(said)
            return None if cell is None else position.after.get(cell)
        is_careful = self.opponent == "optimal" or (self.opponent == "mixed" and self.np_random.integers(2) == 1)
        moves = position.best_moves if is_careful else position.moves
        return position.after[moves[self.np_random.integers(len(moves))]]

    def _ask(self, position: Position) -> Any:
        if not _is_player(self.opponent):
            return cast("Callable[[str], str]", self.opponent)(position.text)
        player, text = cast("Solver", self.opponent), position.text
        if position.mark not in position.cells:  # its first move
            text = texts.opening(position, position.mark)
            player.reset(text, {"messages": [user_message(text)]})
        return player.act(text)

    def _rules(self) -> list[Any]:
        return [self.opponent_name, self.seat, self.illegal_penalty]

    def _save(self) -> dict[str, Any]:
        position = {"cells": self._position.cells, "mark": self._mark, "is_forfeited": self._is_forfeited}
        return {"rules": self._rules(), **position}

    def _load(self, task: dict[str, Any]) -> None:
        position, mark, is_forfeited = position_of(task["cells"]), task["mark"], task["is_forfeited"]
        if task["rules"] != self._rules():
            raise ValueError(
                f"it was saved with [opponent, seat, illegal_penalty] = {task['rules']}, not {self._rules()}"
            )
        if mark not in {"X", "O"} or (self.seat and mark != _MARKS[self.seat]) or type(is_forfeited) is not bool:
            raise ValueError(f"no state of a game: {task}")
        if not position.is_over and position.mark != mark and not is_forfeited:
            raise ValueError(f"{mark} is not to move: {task}")
        self._position, self._mark, self._is_forfeited = position, mark, is_forfeited

    def _solver_return(self, name: str) -> float | None:
        if self.opponent_name is None or (name == "best_response" and self.illegal_penalty > -1):
            return None
        marks = [_MARKS[self.seat]] if self.seat else ["X", "O"]
        return float(sum(expected_return(name, self.opponent_name, mark) for mark in marks) / len(marks))


def _is_player(opponent: object) -> bool:
    return callable(getattr(opponent, "act", None)) and callable(getattr(opponent, "reset", None))
