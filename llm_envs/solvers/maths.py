"""Players of single-turn mathematics."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llm_envs.solvers.base import solver_rng

if TYPE_CHECKING:
    from llm_envs.maths.question import MathEnv

__all__ = ["RANDOM_ANSWERS", "Oracle", "RandomAnswerer", "in_a_box"]

RANDOM_ANSWERS = range(100)
"""What `RandomAnswerer` says, uniformly."""


def in_a_box(answer: object) -> str:
    r"""``\boxed{answer}``."""
    return f"\\boxed{{{answer}}}"


class RandomAnswerer:
    """Boxes a uniform whole number in 0..99, whatever the question."""

    def __init__(self, env: "MathEnv", seed: int = 0) -> None:  # noqa: ARG002 (it needs no environment)
        self._rng = solver_rng(seed)

    def reset(self, observation: str, info: Mapping[str, Any]) -> None:
        """Nothing to forget."""

    def act(self, observation: str) -> str:  # noqa: ARG002 (the protocol)
        """A boxed number."""
        return in_a_box(self._rng.integers(RANDOM_ANSWERS.start, RANDOM_ANSWERS.stop))


class Oracle:
    """Boxes the gold answer of the environment that it is made for."""

    def __init__(self, env: "MathEnv", seed: int = 0) -> None:  # noqa: ARG002 (it leaves nothing to chance)
        self._env = env

    def reset(self, observation: str, info: Mapping[str, Any]) -> None:
        """Nothing to forget."""

    def act(self, observation: str) -> str:  # noqa: ARG002 (it does not look)
        """The boxed gold answer; an empty box where there is none."""
        return in_a_box(self._env.gold or "")
