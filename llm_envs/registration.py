"""The table of environment ids. Entry points are strings: an environment's module is imported when it is first made."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym

__all__ = ["PETTINGZOO", "REGISTRY", "Registration", "register_all"]


@dataclass(frozen=True)
class Registration:
    """What Gymnasium is told about one id.

    Attributes:
        entry_point: ``module:class`` of the environment.
        reward_threshold: Mean return from which on the task counts as solved.
        turns: How many actions an episode takes at most.
        data: The folder of its rows below ``$LLM_ENVS_DATA``; None where tasks are made up on the spot.
        kwargs: Constructor arguments that the id stands for.
        random_return: The expected return of the solver ``"random"``, to four digits; None where it is not known or
            depends on the rows.
        best_return: The same of ``best_solver``.
        best_solver: The solver of the greatest expected return that is known.
    """

    entry_point: str
    reward_threshold: float
    turns: int = 1
    data: str | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    random_return: float | None = None
    best_return: float | None = None
    best_solver: str | None = None


REGISTRY: Mapping[str, Registration] = {
    "GSM8K-v0": Registration("llm_envs.maths.gsm8k:GSM8KEnv", reward_threshold=0.9, data="gsm8k"),
    "MATH-v0": Registration("llm_envs.maths.competition_math:MATHEnv", reward_threshold=0.9, data="math"),
    "Polaris-v0": Registration("llm_envs.maths.polaris:PolarisEnv", reward_threshold=0.8, data="polaris"),
    "DeepMath-v0": Registration("llm_envs.maths.deepmath:DeepMathEnv", reward_threshold=0.8, data="deepmath"),
    "DeepCoder-v0": Registration("llm_envs.coding.deepcoder:DeepCoderEnv", reward_threshold=0.6, data="deepcoder"),
    "LiveCodeBench-v0": Registration(
        "llm_envs.coding.live_code_bench:LiveCodeBenchEnv", reward_threshold=0.6, turns=2, data="live_code_bench"
    ),
    "HumanEval-v0": Registration("llm_envs.coding.human_eval:HumanEvalEnv", reward_threshold=0.9, data="human_eval"),
    "MBPP-v0": Registration("llm_envs.coding.mbpp:MBPPEnv", reward_threshold=0.8, turns=2, data="mbpp"),
    "Arithmetic-v0": Registration(
        "llm_envs.maths.arithmetic:ArithmeticEnv", reward_threshold=0.99, best_return=1.0, best_solver="oracle"
    ),
    "GuessNumber-v0": Registration(
        "llm_envs.games.guess_number:GuessNumberEnv",
        reward_threshold=5.0,
        turns=10,
        random_return=0.5338,
        best_return=5.2,
        best_solver="optimal",
    ),
    "TwentyQuestions-v0": Registration(
        "llm_envs.games.twenty_questions:TwentyQuestionsEnv",
        reward_threshold=6.5,
        turns=20,
        random_return=0.1896,
        best_return=6.592,
        best_solver="lookahead",
    ),
    "TicTacToe-v0": Registration(
        "llm_envs.games.tic_tac_toe:TicTacToeEnv",
        reward_threshold=0.9,
        turns=5,
        random_return=0.0,
        best_return=0.9598,
        best_solver="best_response",
    ),
}

PETTINGZOO: Mapping[str, str] = {"TicTacToe-v0": "llm_envs.games.tic_tac_toe:env"}
"""The entry points of what `pettingzoo.make("aec", ...)` makes, by their ids."""


def register_all() -> None:
    """Register every id that is not registered yet.

    Gymnasium's own wrappers are left off: `TextEnv` enforces the order of calls itself, its tests run the checker, and
    without wrappers a state can be set on an environment that was never reset.
    """
    for env_id, entry in REGISTRY.items():
        if env_id not in gym.registry:
            gym.register(
                env_id,
                entry_point=entry.entry_point,
                reward_threshold=entry.reward_threshold,
                order_enforce=False,
                disable_env_checker=True,
                kwargs=dict(entry.kwargs),
            )
    _register_pettingzoo()


def _register_pettingzoo() -> None:
    """Register the games for several agents, where there is a PettingZoo with a registry (1.27 on)."""
    try:
        from pettingzoo import aec_registry, register
    except ImportError:
        return
    for env_id, entry_point in PETTINGZOO.items():
        if env_id not in aec_registry:
            register("aec", env_id, entry_point=entry_point)
