"""GuessNumber: find a hidden number by asking."""

import re
from typing import Any, ClassVar

from llm_envs.grading import Verdict
from llm_envs.solvers.guess_number import (
    BisectingGuesser,
    CarelessGuesser,
    RandomGuesser,
    careless_return,
    optimal_return,
    random_return,
)
from llm_envs.text_env import Message, Outcome, TextEnv, user_message

__all__ = ["GuessNumberEnv", "read_guess"]

HIGHER, LOWER, CORRECT = "Higher!", "Lower!", "Correct!"
UNPARSED, USED_UP = "Say one whole number.", "No guesses left."

_DIGITS = re.compile("[0-9]+")
_MAX_DIGITS = 18  # fewer than overflow int64, in which the secret is drawn
_LIMIT = 10**_MAX_DIGITS
_MAX_VOCABULARY = 1_000_000


class GuessNumberEnv(TextEnv):
    """Find a secret whole number, uniform in ``low..high``, with at most ``max_guesses`` guesses.

    The opening names the range and the number of guesses. Each turn is one guess, answered by:

    - ``Correct!`` ends the episode; verdict ``correct``.
    - ``Higher!``: the secret is higher than the guess; verdict ``wrong``.
    - ``Lower!``: the secret is lower than the guess; verdict ``wrong``.
    - ``Say one whole number.``: no guess could be read. It costs the turn; verdict ``unparsed``.
    - ``No guesses left.`` instead of the last three when the last guess is used up; the episode ends (terminated).

    Reward: ``max_guesses + 1 - n`` when the n-th guess is the secret, else 0. All of it is the part ``"found"``.

    A guess is the only number in the text:

    - A number is a run of ASCII digits, maybe signed: ``50``, ``Is it 50?``, ``I guess 50.``, ``$50``, ``050``.
    - Two runs are two numbers, even in ``50.5`` or ``1,000`` or ``50 of 100``: unparsed. So is no run: ``fifty``.
    - Digits that touch a letter, an underscore or another script's digit (``x50``, ``50th``), or that follow a point
      (``.5``), are no number: unparsed.
    - A plus or minus (ASCII or U+2212) right before the digits is a sign, unless a letter stands right before it:
      ``no-50`` is 50.
    - A number outside the range is a guess like any other, truthfully answered and wasted, however many digits it has.

    Solvers: ``random`` (uniform in the whole range), ``careless`` (uniform in what is still possible), ``optimal``
    (bisection). The exact expected return of each is known, for a range of any size; that of ``careless`` takes time
    in proportion to it. Ten guesses find every secret of up to 1,023 numbers; beyond, some are out of reach.

    Args:
        low: The smallest secret.
        high: The greatest secret.
        max_guesses: How many turns an episode has at most.
        render_mode: ``"ansi"`` or None.

    Raises:
        TypeError: If a parameter is not an `int`.
        ValueError: Unless ``-10**18 < low < high < 10**18`` and ``max_guesses >= 1``.
    """

    solvers: ClassVar = {"random": RandomGuesser, "careless": CarelessGuesser, "optimal": BisectingGuesser}
    best_solver: ClassVar[str | None] = "optimal"

    def __init__(self, *, low: int = 1, high: int = 100, max_guesses: int = 10, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        for name, value in (("low", low), ("high", high), ("max_guesses", max_guesses)):
            if type(value) is not int:
                raise TypeError(f"{name} must be an int, got {value!r}")
        if not -_LIMIT < low < high < _LIMIT:
            raise ValueError(f"-10**{_MAX_DIGITS} < low < high < 10**{_MAX_DIGITS} must hold, got {low=}, {high=}")
        if max_guesses < 1:
            raise ValueError(f"max_guesses must be at least 1, got {max_guesses}")
        self.low, self.high, self.max_guesses = low, high, max_guesses
        guesses = "1 guess" if max_guesses == 1 else f"{max_guesses} guesses"
        self._opening = f"Guess my number from {low} to {high}. You have {guesses}."
        self._secret = low
        self._turn = 0

    @property
    def num_tasks(self) -> int:
        """How many secrets there are."""
        return self.high - self.low + 1

    def vocabulary(self) -> list[str]:
        """The texts of the environment, and all numbers in the range.

        Raises:
            NotImplementedError: If the range holds more than a million numbers.
        """
        if self.num_tasks > _MAX_VOCABULARY:
            raise NotImplementedError(f"{self.num_tasks} numbers are too many to be listed")
        texts = [self._opening, HIGHER, LOWER, CORRECT, UNPARSED, USED_UP]
        return texts + [str(number) for number in range(self.low, self.high + 1)]

    def _begin(self, seed: int | None, index: int | None) -> tuple[list[Message], dict[str, Any]]:  # noqa: ARG002
        self._secret = (
            int(self.np_random.integers(self.low, self.high, endpoint=True)) if index is None else self.low + index
        )
        self._turn = 0
        return [user_message(self._opening)], {}

    def _play(self, action: str) -> Outcome:
        self._turn += 1
        guess = read_guess(action)
        if guess == self._secret:
            return Outcome(CORRECT, Verdict.CORRECT, {"found": self.max_guesses + 1.0 - self._turn}, terminated=True)
        if guess is None:
            reply, verdict = UNPARSED, Verdict.UNPARSED
        else:
            reply, verdict = (HIGHER if self._secret > guess else LOWER), Verdict.WRONG
        used_up = self._turn >= self.max_guesses
        return Outcome(USED_UP if used_up else reply, verdict, {"found": 0.0}, terminated=used_up)

    def _save(self) -> dict[str, Any]:
        return {"rules": [self.low, self.high, self.max_guesses], "secret": self._secret, "turn": self._turn}

    def _load(self, task: dict[str, Any]) -> None:
        rules, secret, turn = [self.low, self.high, self.max_guesses], task["secret"], task["turn"]
        if task["rules"] != rules:
            raise ValueError(f"it was saved with [low, high, max_guesses] = {task['rules']}, not {rules}")
        if type(secret) is not int or not self.low <= secret <= self.high:
            raise ValueError(f"secret {secret!r} is not in {self.low}..{self.high}")
        if type(turn) is not int or not 0 <= turn <= self.max_guesses:
            raise ValueError(f"turn {turn!r} is not in 0..{self.max_guesses}")
        self._secret, self._turn = secret, turn

    def _solver_return(self, name: str) -> float | None:
        exact = {"random": random_return, "careless": careless_return, "optimal": optimal_return}[name]
        return exact(self.num_tasks, self.max_guesses)


def read_guess(text: str) -> int | None:
    """The only number in ``text``, by the grammar of `GuessNumberEnv`; None if there is none or more than one.

    Takes time linear in the text. A number beyond 18 digits becomes plus or minus 10**18: the same side of any secret.
    """
    if text.isdigit() and text.isascii() and len(text) <= _MAX_DIGITS:  # the usual case
        return int(text)
    match = _DIGITS.search(text)
    if match is None:
        return None
    start, end = match.span()
    if _DIGITS.search(text, end) or _touches_word(text, end):
        return None
    before = text[start - 1] if start else ""
    if before == "." or (before and _touches_word(text, start - 1)):
        return None
    negative = before in {"-", "\N{MINUS SIGN}"} and not (start > 1 and _touches_word(text, start - 2))
    digits = match[0].lstrip("0") or "0"
    magnitude = int(digits) if len(digits) <= _MAX_DIGITS else _LIMIT
    return -magnitude if negative else magnitude


def _touches_word(text: str, position: int) -> bool:
    return position < len(text) and (text[position].isalnum() or text[position] == "_")
