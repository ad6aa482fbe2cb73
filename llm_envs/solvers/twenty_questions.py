"""Players of TwentyQuestions, and what each of them earns in expectation."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llm_envs.games.twenty_questions.answerers.answers import Answer
from llm_envs.games.twenty_questions.knowledge import load_knowledge
from llm_envs.games.twenty_questions.rules import MAX_QUESTIONS, guess_of, reward_at

if TYPE_CHECKING:
    from llm_envs.games.twenty_questions.env import TwentyQuestionsEnv

__all__ = [
    "CarelessAsker",
    "GreedyAsker",
    "LookaheadAsker",
    "RandomGuesser",
    "exact_return",
    "random_return",
]

_FAIR_SHARE = 0.2  # a careless question leaves at least this share on each side, where it can
_LOOKAHEAD_WIDTH = 20  # wider finds nothing better over the whole table
_FEW = 12  # the lookahead thinks of guessing once so few things are left


class Move(NamedTuple):
    """A guess of the thing in row ``number``, or the question of attribute ``number``."""

    is_guess: bool
    number: int


class Board:
    """What can be asked about some things: a row a thing, a column an attribute.

    Args:
        things: Names of the things.
    """

    def __init__(self, things: Sequence[str]) -> None:
        table = load_knowledge()
        rows = [table.row_of[name] for name in things]
        self.questions = tuple(table.attributes.values())
        self.guesses = tuple(guess_of(table.things[row]) for row in rows)
        self.is_true = table.matrix[rows]
        self._as_floats = self.is_true.astype(np.float32)  # their sums are quick and, up to 2**24, exact
        self._whole_count: NDArray[np.intp] = self.is_true.sum(axis=0, dtype=np.intp)

    def count(self, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """Of how many of the rows each attribute is true."""
        if len(rows) == len(self.guesses):
            return self._whole_count
        counts: NDArray[np.float32] = self._as_floats[rows].sum(axis=0)
        return counts.astype(np.intp)

    def text(self, move: Move) -> str:
        """What a player says to make a move."""
        return (self.guesses if move.is_guess else self.questions)[move.number]


@lru_cache(maxsize=16)
def board_of(things: tuple[str, ...]) -> Board:
    """One board for all players of the same things."""
    return Board(things)


# --- What to do next ---

Choose = Callable[[Board, NDArray[np.intp], int], Move]
"""From the board, the rows that are still possible (at least one), and the number of the turn."""


def choose_greedily(board: Board, rows: NDArray[np.intp], turn: int) -> Move:  # noqa: ARG001 (a `Choose`)
    """Whatever splits what is possible most evenly, ties by the table's order; a guess splits off one thing.

    A guess is taken where no question splits more evenly: it may win at once. So it is with three things or fewer.
    """
    counts = board.count(rows)
    unevenness = np.abs(2 * counts - len(rows))
    column = int(unevenness.argmin())
    if unevenness[column] >= abs(len(rows) - 2):
        return Move(True, int(rows[0]))
    return Move(False, column)


def choose_with_lookahead(board: Board, rows: NDArray[np.intp], turn: int) -> Move:
    """Whatever promises the greatest return two turns on, if everything after that could be split at will."""
    promises = _promises(board, rows, turn)
    # The most even first among equal promises: what follows splits better.
    columns = np.lexsort((np.abs(2 * board.count(rows) - len(rows)), -promises))[:_LOOKAHEAD_WIDTH]
    best, best_promise = Move(True, int(rows[0])), -1.0
    if len(rows) <= _FEW:
        best_promise = reward_at(turn) + _best_promise(board, rows[1:], turn + 1)
    for column in columns:
        if promises[column] < 0:
            break
        answers = board.is_true[rows, column]
        promise = sum(_best_promise(board, rows[answers == side], turn + 1) for side in (True, False))
        if promise > best_promise + 1e-9:
            best, best_promise = Move(False, int(column)), promise
    return best


def _promises(board: Board, rows: NDArray[np.intp], turn: int) -> NDArray[np.float64]:
    """For each attribute the total return over the rows if all later splits were perfect; -1 if it splits nothing."""
    promises: NDArray[np.float64]
    counts, later = board.count(rows), perfect_totals(len(rows))[min(turn + 1, MAX_QUESTIONS + 1)]
    promises = later[counts] + later[len(rows) - counts]
    promises[(counts == 0) | (counts == len(rows))] = -1.0
    return promises


def _best_promise(board: Board, rows: NDArray[np.intp], turn: int) -> float:
    if len(rows) <= 1:
        return len(rows) * reward_at(turn)
    guess = reward_at(turn) + perfect_totals(len(rows))[min(turn + 1, MAX_QUESTIONS + 1), len(rows) - 1]
    return max(float(guess), float(_promises(board, rows, turn).max()))


def perfect_totals(num_things: int) -> NDArray[np.float64]:
    """The best return summed over m things from a turn on, ``[turn, m]``, if questions could split them at will.

    F(turn, m) = max(reward + F(turn + 1, m - 1), max over a of F(turn + 1, a) + F(turn + 1, m - a)); F(21, m) = 0.
    """
    return _perfect_totals(1 << num_things.bit_length())


@cache
def _perfect_totals(most: int) -> NDArray[np.float64]:
    totals = np.zeros((MAX_QUESTIONS + 2, most + 1))
    for turn in range(MAX_QUESTIONS, 0, -1):
        later = totals[turn + 1]
        totals[turn, 1:] = reward_at(turn) + later[:-1]
        for m in range(2, most + 1):
            totals[turn, m] = max(totals[turn, m], (later[1:m] + later[m - 1 : 0 : -1]).max())
    totals.flags.writeable = False
    return totals


# --- Players ---


class _Player(ABC):
    """Remembers what was asked and answered.

    Where the answers contradict the table (a model may give them), the things that agree with most of them count as
    possible; what was guessed is out for good.
    """

    def __init__(self, env: "TwentyQuestionsEnv", seed: int = 0) -> None:
        self._board = board_of(env.things)
        self._max_questions = env.max_questions
        self._rng = np.random.default_rng(seed)
        self._turn = 0
        self._move: Move | None = None
        self._contradictions = np.zeros(len(self._board.guesses), dtype=np.int32)
        self._asked: list[int] = []

    def reset(self, observation: str, info: Mapping[str, Any]) -> None:  # noqa: ARG002 (the protocol)
        self._turn, self._move = 0, None
        self._contradictions[:] = 0
        self._asked.clear()

    def act(self, observation: str) -> str:
        if self._move is not None:
            self._learn(self._move, observation)
        self._turn += 1
        self._move = self._next_move()
        if not self._move.is_guess:
            self._asked.append(self._move.number)
        return self._board.text(self._move)

    def _learn(self, move: Move, reply: str) -> None:
        if move.is_guess:
            self._contradictions[move.number] += MAX_QUESTIONS + 1
        elif reply in {Answer.YES.value, Answer.NO.value}:
            self._contradictions += self._board.is_true[:, move.number] != (reply == Answer.YES.value)

    def _possible(self) -> NDArray[np.intp]:
        return np.flatnonzero(self._contradictions == self._contradictions.min())

    @abstractmethod
    def _next_move(self) -> Move:
        """What to say in turn `_turn`, after all that was learnt."""


class RandomGuesser(_Player):
    """Guesses a thing, uniformly, deaf to every reply."""

    def _next_move(self) -> Move:
        return Move(True, int(self._rng.integers(len(self._board.guesses))))


class CarelessAsker(_Player):
    """Asks a question, uniformly from those that leave at least a fifth of what is possible on each side.

    Where there is none, from those that split it at all. Guesses when one or two things are left, and at the end.
    """

    def _next_move(self) -> Move:
        rows = self._possible()
        if len(rows) > 2 and self._turn < self._max_questions:
            counts = self._board.count(rows)
            smaller = np.minimum(counts, len(rows) - counts)
            smaller[self._asked] = 0
            for least in (_FAIR_SHARE * len(rows), 1):
                columns = np.flatnonzero(smaller >= least)
                if len(columns):
                    return Move(False, int(columns[self._rng.integers(len(columns))]))
        return Move(True, int(rows[self._rng.integers(len(rows))]))


class _Planner(_Player):
    """Plays by a rule without chance; what it chose once it knows from then on."""

    choose: Choose

    def _next_move(self) -> Move:
        rows = self._possible()
        if self._turn >= self._max_questions or len(rows) == 1:
            return Move(True, int(rows[0]))
        move = _remembered(type(self).choose, self._board, rows.tobytes(), self._turn)
        if not move.is_guess and move.number in self._asked:  # it was left unanswered, or answered against the table
            return self._second_best(rows)
        return move

    def _second_best(self, rows: NDArray[np.intp]) -> Move:
        """The most even question that was not asked yet."""
        unevenness = np.abs(2 * self._board.count(rows) - len(rows))
        unevenness[self._asked] = len(rows)
        column = int(unevenness.argmin())
        return Move(False, column) if unevenness[column] < len(rows) else Move(True, int(rows[0]))


class GreedyAsker(_Planner):
    """Asks the most informative question: see `choose_greedily`."""

    choose = staticmethod(choose_greedily)


class LookaheadAsker(_Planner):
    """Thinks of the rewards two turns on: see `choose_with_lookahead`."""

    choose = staticmethod(choose_with_lookahead)


@lru_cache(maxsize=65_536)
def _remembered(choose: Choose, board: Board, rows: bytes, turn: int) -> Move:
    return choose(board, np.frombuffer(rows, dtype=np.intp), turn)


# --- What they earn ---


def random_return(num_things: int, max_questions: int) -> float:
    """Expected return of `RandomGuesser`: each guess hits with probability ``1 / num_things``."""
    turns = range(1, max_questions + 1)
    return sum(reward_at(n) / num_things * (1 - 1 / num_things) ** (n - 1) for n in turns)


@lru_cache(maxsize=64)
def exact_return(things: tuple[str, ...], max_questions: int, name: str) -> float:
    """Expected return of the solver ``"greedy"`` or ``"lookahead"``, all things equally likely, by walking its tree."""
    board = board_of(things)
    choose: Choose = {"greedy": choose_greedily, "lookahead": choose_with_lookahead}[name]

    def total(rows: NDArray[np.intp], turn: int) -> float:
        if turn > max_questions or not len(rows):
            return 0.0
        if turn == max_questions or len(rows) == 1:
            return reward_at(turn)
        move = _remembered(choose, board, rows.tobytes(), turn)
        if move.is_guess:
            return reward_at(turn) + total(rows[rows != move.number], turn + 1)
        answers = board.is_true[rows, move.number]
        return total(rows[answers], turn + 1) + total(rows[~answers], turn + 1)

    return total(np.arange(len(things)), 1) / len(things)
