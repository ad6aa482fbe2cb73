"""The base class of every environment: text in, text out."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from operator import index as as_index
from typing import Any, ClassVar, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded

from llm_envs.grading import Verdict
from llm_envs.solvers.base import Solver
from llm_envs.spaces import AnyText, text_from_jsonable, text_to_jsonable

__all__ = ["Message", "Outcome", "TextEnv", "user_message"]

Message = dict[str, str]
"""One chat message: ``{"role": "system" | "user" | "assistant", "content": text}``."""


def user_message(content: str) -> Message:
    """A message that the environment says."""
    return {"role": "user", "content": content}


class Outcome(NamedTuple):
    """What one action led to.

    Attributes:
        reply: The environment's answer; empty where the episode has nothing more to say.
        verdict: The judgement on this action.
        reward_parts: Named contributions; the reward is their sum.
        terminated: Whether the episode is over.
    """

    reply: str
    verdict: Verdict
    reward_parts: dict[str, float]
    terminated: bool


class TextEnv(gym.Env[str, str]):
    r"""An environment whose observations and actions are `str`.

    Contracts, on top of Gymnasium's:

    - The observation is what is new since the last action. The same text stands in ``info["messages"]``:
      ``observation == "\n\n".join(m["content"] for m in info["messages"])``, at `reset` and at every `step`. Once there
      is nothing more to say the observation is ``""`` and the list is empty.
    - The same seed gives the same first observation and info, always.
    - Any `str` is a legal action. Anything else raises `TypeError`; acting out of turn raises `ResetNeeded`.
    - ``info`` after a step holds ``"verdict"`` (a value of `Verdict`) and ``"reward_parts"``, whose sum is the reward.
    - Rules of the game, such as a limit on turns, terminate; only wrappers truncate.
    - Where the tasks are finitely many, ``reset(options={"index": i})`` picks the ``i``-th.

    A subclass implements `_begin`, `_play`, `_save` and `_load`, and may say what is known about it: `num_tasks`,
    ``solvers``, ``best_solver``, `_solver_return`, `vocabulary`. `llm_envs.testing.check_text_env` checks all of it.

    Args:
        render_mode: ``"ansi"`` or None.

    Raises:
        ValueError: If ``render_mode`` is not known.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012 (Gymnasium declares it so)
    solvers: ClassVar[Mapping[str, Callable[[Any, int], Solver]]] = {}
    """Names of the solvers that ship with the environment; each is made from the environment and a seed."""
    best_solver: ClassVar[str | None] = None
    """The solver whose return no policy can beat, where there is one."""

    def __init__(self, *, render_mode: str | None = None) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ValueError(f"render_mode must be None or one of {self.metadata['render_modes']}, got {render_mode!r}")
        self.render_mode = render_mode
        self._started = False
        self._running = False
        self._last_action: str | None = None
        self._last_observation = ""

    # Spaces are made when they are first asked for: an episode needs none.
    @cached_property
    def observation_space(self) -> AnyText:  # type: ignore[override]  # an attribute there, and here as well
        """Every text."""
        return AnyText()

    @cached_property
    def action_space(self) -> AnyText:  # type: ignore[override]
        """Every text."""
        return AnyText()

    # --- What a subclass implements ---

    @abstractmethod
    def _begin(self, seed: int | None, index: int | None) -> tuple[list[Message], dict[str, Any]]:
        """Draw the task and open the episode.

        Args:
            seed: The seed of this reset; `np_random` is seeded with it already.
            index: Which task to take, in ``range(num_tasks)``; None: draw one.

        Returns:
            The opening messages, and what else the info of the reset holds.
        """

    @abstractmethod
    def _play(self, action: str) -> Outcome:
        """Answer one action."""

    @abstractmethod
    def _save(self) -> dict[str, Any]:
        """The running episode as JSON values."""

    @abstractmethod
    def _load(self, task: dict[str, Any]) -> None:
        """Take up what `_save` wrote. May raise KeyError, TypeError or ValueError, before anything is changed."""

    def _solver_return(self, name: str) -> float | None:  # noqa: ARG002 (a hook)
        return None

    # --- Gymnasium ---

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: Decides the task, together with the constructor's arguments.
            options: ``{"index": i}`` picks a task where `num_tasks` is finite; then the seed does not matter for it.

        Returns:
            The opening text, and an info with ``"messages"``.

        Raises:
            ValueError: If an option is not known.
            TypeError: If an option has the wrong type.
            IndexError: If ``index`` is not in ``range(num_tasks)``.
        """
        super().reset(seed=seed)
        self._running = False  # stays so if what follows raises
        messages, extras = self._begin(seed, self._read_index(options))
        self._started = self._running = True
        self._last_action = None
        self._last_observation = "\n\n".join([message["content"] for message in messages])
        return self._last_observation, {"messages": messages, **extras}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Say ``action`` to the environment.

        Raises:
            TypeError: If ``action`` is not a `str`.
            ResetNeeded: If no episode is running.
        """
        if not isinstance(action, str):
            raise TypeError(f"an action is a str, got {type(action).__name__}")
        if not self._running:
            when = "after the end of an episode" if self._started else "before the first reset()"
            raise ResetNeeded(f"step() was called {when}: call reset() first")
        reply, verdict, reward_parts, terminated = self._play(action)
        self._running = not terminated
        self._last_action, self._last_observation = action, reply
        info = {
            "messages": [user_message(reply)] if reply else [],
            "verdict": str(verdict),
            "reward_parts": reward_parts,
        }
        return reply, float(sum(reward_parts.values())), terminated, False, info

    def prepare(self, action: str) -> None:
        """A hint that ``step(action)`` follows. It never changes what a step returns, and may be left out.

        An environment that asks a slow service overrides it to begin with the work: whoever plays many environments
        calls it on all of them before the first `step`, so that their work can become one batch. Does nothing here.
        """

    def render(self) -> str | None:
        """The last action and the answer to it (or the opening) as text; None without a render mode.

        Raises:
            ResetNeeded: If there was no episode yet.
        """
        if self.render_mode is None:
            return None
        if not self._started:
            raise ResetNeeded("render() was called before the first reset(): call reset() first")
        said = [] if self._last_action is None else [f"> {self._last_action}"]
        return "\n".join([*said, self._last_observation])

    # --- States ---

    def get_state(self) -> dict[str, Any]:
        """Everything the rest of the episode and later resets depend on, as JSON values. It holds the secret."""
        return {
            "env": type(self).__name__,
            "rng": self.np_random.bit_generator.state,
            "rng_seed": self.np_random_seed,
            "running": self._running,
            "task": self._save() if self._started else None,
            "last_action": None if self._last_action is None else text_to_jsonable(self._last_action),
            "last_observation": text_to_jsonable(self._last_observation),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a state of this environment or of one made with the same arguments.

        Raises:
            ValueError: If the state is not one of this environment's; nothing is changed then.
        """
        name = type(self).__name__
        if not isinstance(state, dict) or state.get("env") != name:
            raise ValueError(f"not a state of {name}: {state!r:.200}")
        try:
            rng = np.random.Generator(np.random.PCG64())
            rng.bit_generator.state = state["rng"]
            rng_seed, running = as_index(state["rng_seed"]), bool(state["running"])
            last_action = None if state["last_action"] is None else text_from_jsonable(state["last_action"])
            last_observation = text_from_jsonable(state["last_observation"])
            started = running or state["task"] is not None
            if started:
                self._load(state["task"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"broken state of {name}: {error!r}") from error
        self._np_random, self._np_random_seed = rng, rng_seed
        self._started, self._running = started, running
        self._last_action, self._last_observation = last_action, last_observation

    # --- What is known about it ---

    @property
    def num_tasks(self) -> int | None:
        """How many tasks there are; None where they are endless."""
        return None

    def solver(self, name: str, seed: int = 0) -> Solver:
        """Make a solver for this very environment.

        Raises:
            ValueError: If there is no solver of that name.
        """
        self._check_solver(name)
        return self.solvers[name](self, seed)

    def solver_return(self, name: str) -> float | None:
        """The exact expected return of a solver over this environment's tasks; None where it is not known.

        Raises:
            ValueError: If there is no solver of that name.
        """
        self._check_solver(name)
        return self._solver_return(name)

    @property
    def optimal_return(self) -> float | None:
        """The best expected return that any policy can have; None where it is not known."""
        return None if self.best_solver is None else self.solver_return(self.best_solver)

    def vocabulary(self) -> list[str]:
        """Every text that the environment says, and every text that a sensible player says to it.

        Raises:
            NotImplementedError: If these are too many to be listed.
        """
        raise NotImplementedError(f"{type(self).__name__} says more texts than can be listed")

    # --- Help ---

    def _read_index(self, options: Mapping[str, Any] | None) -> int | None:
        if not options:
            return None
        num_tasks = self.num_tasks
        known = [] if num_tasks is None else ["index"]
        for name in options:
            if name not in known:
                raise ValueError(f"unknown option {name!r} of {type(self).__name__}; known: {known}")
        index = options["index"]
        if isinstance(index, bool) or not isinstance(index, int | np.integer):
            raise TypeError(f"option 'index' must be an integer, got {index!r}")
        if num_tasks is None or not 0 <= index < num_tasks:
            raise IndexError(f"option 'index' must lie in 0..{(num_tasks or 0) - 1}, got {index}")
        return int(index)

    def _check_solver(self, name: str) -> None:
        if name not in self.solvers:
            raise ValueError(f"unknown solver {name!r} of {type(self).__name__}; known: {sorted(self.solvers)}")
