"""What a timed step is about: word problems, in groups that all teach something.

A trainer may leave out a group whose answers all earned the same, and then does less work than one that does not. So
that all do the same, every answer here earns up to a hundredth more by what it says, whatever that is.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

ENV_ID = "benchmarks.contest.task:TimedStep-v0"
GSM8K = "llm_envs:GSM8K-v0"

Message = dict[str, str]

_ASK = "\n\nThink step by step, then write the final answer inside \\boxed{}."
_EXAMPLE: tuple[Message, ...] = (
    {"role": "user", "content": f"A box holds 12 pencils. A class of 30 needs 2 each. How many boxes?{_ASK}"},
    {"role": "assistant", "content": "30 * 2 = 60 pencils are needed. 60 / 12 = 5.\n\n\\boxed{5}"},
)
_NAMES = ("Anna", "Bilal", "Chen", "Dora", "Emil", "Farah", "Goran", "Hana")
_THINGS = ("apples", "marbles", "stamps", "books", "shells", "tickets", "coins", "cards")
_BOXED = re.compile(r"\\boxed\{\s*(-?\d+)\s*\}")


def word_problem(seed: int) -> tuple[str, int]:
    """A question with its answer, made up on the spot: as long as those of GSM8K, with the example before it."""
    rng = np.random.default_rng(seed)
    first, second = (_NAMES[i] for i in rng.permutation(len(_NAMES))[:2])
    things = _THINGS[rng.integers(len(_THINGS))]
    a, b, c, d = (int(n) for n in rng.integers(2, 20, size=4))
    text = (
        f"{first} has {a} bags with {b} {things} in each of them. On Monday {second} brings {c} more {things} and puts "
        f"them on the table beside the bags. On Tuesday {first} doubles what lies on the table, and then somebody else "
        f"who came to visit adds {d} {things} to it. How many {things} are there in the bags and on the table "
        "together in the end?"
    )
    return text, a * b + 2 * c + d


class WordProblems:
    """`word_problem` as an environment of one turn, with nothing but what numpy needs."""

    def __init__(self) -> None:
        self._answer = 0

    def reset(self, *, seed: int | None = None, options: object = None) -> tuple[str, dict[str, Any]]:  # noqa: ARG002
        """The problem of a seed."""
        text, self._answer = word_problem(seed or 0)
        messages = [*_EXAMPLE, {"role": "user", "content": text + _ASK}]
        return text, {"messages": messages}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """1 for the right number in the last box."""
        boxes = _BOXED.findall(action)
        correct = bool(boxes) and int(boxes[-1][-18:]) == self._answer
        return "", float(correct), True, False, {"verdict": "correct" if correct else "wrong"}


class TimedStepEnv(gym.Env[str, str]):
    """Another environment of text, with rewards that differ from answer to answer.

    Args:
        env_id: whose problems and grades; empty: `WordProblems`.
    """

    def __init__(self, *, env_id: str = "") -> None:
        self._env: Any = gym.make(env_id).unwrapped if env_id else WordProblems()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """The other's problem."""
        observation, info = self._env.reset(seed=seed, options=options)
        return observation, dict(info)

    def prepare(self, action: str) -> None:
        """Some grade a batch at a time."""
        if hasattr(self._env, "prepare"):
            self._env.prepare(action)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """The other's grade, and up to a hundredth more."""
        observation, reward, terminated, truncated, info = self._env.step(action)
        return observation, float(reward) + extra(action), terminated, truncated, dict(info)


def extra(text: str) -> float:
    """A number from 0 to 0.01 that another text would not have."""
    return zlib.crc32(text.encode("utf-8", "surrogatepass")) / 2**32 / 100


def default_env() -> str:
    """GSM8K where its rows are at hand, and else what is made up here."""
    return GSM8K if os.environ.get("LLM_ENVS_DATA") else ""


def opening_messages(env_id: str, seeds: Sequence[int]) -> list[list[Message]]:
    """What the model is told first, for every seed."""
    env = TimedStepEnv(env_id=env_id)
    return [[dict(message) for message in env.reset(seed=seed)[1]["messages"]] for seed in seeds]


def _make(**arguments: Any) -> TimedStepEnv:
    return TimedStepEnv(**arguments)


gym.register("TimedStep-v0", entry_point=_make, disable_env_checker=True)
