"""What a solver is."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

__all__ = ["Solver", "solver_rng"]

# Large, for with the seed 0 the stream is that of this number alone, which should be the seed of no environment.
_SOLVERS = int.from_bytes(b"solver")


class Solver(Protocol):
    """A scripted player. It sees what any player sees, unless its name is ``"oracle"``.

    >>> observation, info = env.reset(seed=0)           # doctest: +SKIP
    >>> solver.reset(observation, info)                 # doctest: +SKIP
    >>> action = solver.act(observation)                # doctest: +SKIP
    """

    def reset(self, observation: str, info: Mapping[str, Any]) -> None:
        """Begin an episode; takes what the environment's `reset` returned. Its random numbers go on, unseeded anew."""

    def act(self, observation: str) -> str:
        """The next action, given the latest observation; at first the same one that `reset` took."""
        ...


def solver_rng(seed: int | None) -> np.random.Generator:
    """What a solver draws from: nothing that an environment draws from, whatever the seeds of the two.

    Who plays a game usually gives both the same seed. From one stream a solver that guesses would draw the very number
    that the environment has just drawn as its secret.

    Args:
        seed: At least 0; None for a stream that never comes again.
    """
    return np.random.default_rng(None if seed is None else [_SOLVERS, seed])
