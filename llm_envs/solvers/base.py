"""What a solver is."""

from collections.abc import Mapping
from typing import Any, Protocol

__all__ = ["Solver"]


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
