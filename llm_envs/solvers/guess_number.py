"""Players of GuessNumber, and what each of them earns in expectation."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from llm_envs.games.guess_number import GuessNumberEnv

__all__ = [
    "BisectingGuesser",
    "CarelessGuesser",
    "RandomGuesser",
    "careless_return",
    "optimal_return",
    "random_return",
]


class _Guesser(ABC):
    """Keeps the range in which the secret can still lie."""

    def __init__(self, env: "GuessNumberEnv", seed: int = 0) -> None:
        self._whole_range = env.low, env.high
        self._rng = np.random.default_rng(seed)
        self._low, self._high = self._whole_range
        self._guess = 0

    def reset(self, observation: str, info: Mapping[str, Any]) -> None:  # noqa: ARG002 (the protocol)
        self._low, self._high = self._whole_range

    def act(self, observation: str) -> str:
        if observation == "Higher!":
            self._low = self._guess + 1
        elif observation == "Lower!":
            self._high = self._guess - 1
        self._guess = self._choose()
        return str(self._guess)

    @abstractmethod
    def _choose(self) -> int:
        """The next guess."""


class RandomGuesser(_Guesser):
    """Guesses uniformly in the whole range, deaf to every reply."""

    def _choose(self) -> int:
        return int(self._rng.integers(*self._whole_range, endpoint=True))


class CarelessGuesser(_Guesser):
    """Guesses uniformly among the numbers that are still possible."""

    def _choose(self) -> int:
        return int(self._rng.integers(self._low, self._high, endpoint=True))


class BisectingGuesser(_Guesser):
    """Guesses the middle of what is still possible: optimal."""

    def _choose(self) -> int:
        return (self._low + self._high) // 2


def random_return(num_secrets: int, max_guesses: int) -> float:
    """Expected return of `RandomGuesser`: each guess hits with probability ``1 / num_secrets``."""
    n = np.arange(1, max_guesses + 1)
    return float(np.sum((max_guesses + 1 - n) / num_secrets * (1 - 1 / num_secrets) ** (n - 1)))


def careless_return(num_secrets: int, max_guesses: int) -> float:
    """Expected return of `CarelessGuesser`, in time ``num_secrets * max_guesses``.

    Let S(m, k) be the expected return summed over the m secrets still possible, with k guesses left. The next guess
    earns k on one secret and leaves j < m secrets below it and m - 1 - j above, each j equally likely, hence
    S(m, k) = k + 2/m * (S(0, k-1) + ... + S(m-1, k-1)).
    """
    sizes = np.arange(1, num_secrets + 1)
    total = np.zeros(num_secrets + 1)
    for guesses_left in range(1, max_guesses + 1):
        total[1:] = guesses_left + 2 / sizes * np.cumsum(total)[:-1]
    return float(total[num_secrets] / num_secrets)


def optimal_return(num_secrets: int, max_guesses: int) -> float:
    """Expected return of the best strategy, `BisectingGuesser`.

    A strategy is a binary search tree; a secret at depth n earns ``max_guesses + 1 - n``, and depth n has room for
    ``2 ** (n - 1)`` secrets. No tree does better than to fill the depths in order, and bisection does.
    """
    total, secrets_left = 0, num_secrets
    for n in range(1, max_guesses + 1):
        if not secrets_left:
            break
        at_depth = min(1 << (n - 1), secrets_left)
        total += at_depth * (max_guesses + 1 - n)
        secrets_left -= at_depth
    return total / num_secrets
