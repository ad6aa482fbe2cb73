"""Players of the coding environments."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llm_envs.coding.extraction import in_a_block
from llm_envs.solvers.base import solver_rng

if TYPE_CHECKING:
    from llm_envs.coding.code_env import CodeEnv

__all__ = ["Oracle", "RandomProgrammer"]


class Oracle:
    """Writes the reference program of the environment that it is made for, in every turn."""

    def __init__(self, env: "CodeEnv", seed: int = 0) -> None:  # noqa: ARG002 (it leaves nothing to chance)
        self._env = env

    def reset(self, observation: str, info: Mapping[str, Any]) -> None:
        """Nothing to forget."""

    def act(self, observation: str) -> str:  # noqa: ARG002 (it does not look)
        """The reference program; an empty one where there is none."""
        return in_a_block(self._env.reference or "")


class RandomProgrammer:
    """Writes a program that prints a uniform digit, whatever the problem."""

    def __init__(self, env: "CodeEnv", seed: int = 0) -> None:  # noqa: ARG002 (it needs no environment)
        self._rng = solver_rng(seed)

    def reset(self, observation: str, info: Mapping[str, Any]) -> None:
        """Nothing to forget."""

    def act(self, observation: str) -> str:  # noqa: ARG002 (the protocol)
        """A program of one line."""
        return in_a_block(f"print({self._rng.integers(10)})")
