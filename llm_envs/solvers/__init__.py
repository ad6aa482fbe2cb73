"""Players that need no model: what is known about an environment, in the form of code."""

from llm_envs.solvers.base import Solver

__all__ = ["Solver"]
