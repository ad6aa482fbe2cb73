"""The environments of a run: made when needed, mixed by weight, and watched, for they may break at any time."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import gymnasium as gym

from trainers.config import Task, TrainConfig

if TYPE_CHECKING:
    from pettingzoo import AECEnv

TextEnv = gym.Env[str, str]

# Runs of other seeds begin this many problems later: more than any run draws.
_SEEDS_APART = 1_000_000_007

# So much of what an exception says is worth a line.
_REASON_LENGTH = 300


class Closable(Protocol):
    """All that a pool needs to know of an environment."""

    def close(self) -> None:
        """Give back what it holds."""


Env = TypeVar("Env", bound=Closable)
Begun = TypeVar("Begun")


@dataclass
class EnvPool(Generic[Env]):
    """Environments that are made when first needed and reused from batch to batch.

    Args:
        make: makes one.
        name: of the task, for messages and metrics.
    """

    make: Callable[[], Env]
    name: str = ""
    _envs: list[Env | None] = field(default_factory=list)

    def at(self, slot: int) -> Env:
        """Environment number `slot`; its state is whatever the last use left."""
        self._envs += [None] * (slot + 1 - len(self._envs))
        env = self._envs[slot]
        if env is None:
            env = self._envs[slot] = self.make()
        return env

    def take(self, count: int) -> list[Env]:
        """The first `count` environments."""
        return [self.at(slot) for slot in range(count)]

    def discard(self, slot: int) -> None:
        """Close an environment that broke; another is made when the slot is used again."""
        env = self._envs[slot] if slot < len(self._envs) else None
        if env is not None:
            self._envs[slot] = None
            with contextlib.suppress(Exception):  # what is broken may not even close
                env.close()

    def close(self) -> None:
        """Close every environment, whatever becomes of one of them."""
        with contextlib.ExitStack() as last:
            while self._envs:
                env = self._envs.pop()
                if env is not None:
                    last.callback(env.close)


@dataclass(frozen=True)
class Problem:
    """What a group tries.

    Args:
        task: number of the environment among those that are mixed.
        seed: of every `reset`.
        options: of every `reset`.
    """

    task: int
    seed: int
    options: Mapping[str, Any] | None = None


def make_game(env_id: str, **kwargs: Any) -> AECEnv:
    """Make a registered AEC environment; `env_id` may name the module that registers it: llm_envs:TicTacToe-v0."""
    import pettingzoo

    module, _, name = env_id.rpartition(":")
    if module:
        importlib.import_module(module)
    return pettingzoo.make("aec", name, **kwargs)


class EnvMix:
    """The environments of a run, for training and for evaluation, and which problem comes next.

    Each task goes through the seeds in order, from one that depends on the run's seed. Which task is next is no matter
    of chance: it is the one that is furthest behind its share, so that every batch holds them in proportion, as nearly
    as whole problems allow.

    Args:
        tasks: what is mixed.
        seed: of the run.
        several_players: training is on PettingZoo AEC games, not on Gymnasium environments.
    """

    def __init__(self, tasks: Sequence[Task], *, seed: int, several_players: bool = False) -> None:
        make: Callable[..., Any] = make_game if several_players else gym.make
        self.tasks = list(tasks)
        self.pools: list[EnvPool[Any]] = [EnvPool(partial(make, t.env_id, **t.args), t.name) for t in tasks]
        self.eval_pools: list[EnvPool[TextEnv]] = [
            EnvPool(partial(gym.make, t.env_id, **t.eval_args), t.name) for t in tasks
        ]
        self._first_seed = seed * _SEEDS_APART
        self._drawn = [0] * len(self.tasks)

    @classmethod
    def of(cls, config: TrainConfig) -> EnvMix:
        """The environments that a run's settings name."""
        return cls(config.tasks(), seed=config.seed, several_players=bool(config.opponent_shares()))

    def draw(self, count: int) -> list[Problem]:
        """The next `count` problems."""
        return [self._next() for _ in range(count)]

    def _next(self) -> Problem:
        total, everything = sum(self._drawn) + 1, sum(task.weight for task in self.tasks)
        behind = [task.weight * total - drawn * everything for task, drawn in zip(self.tasks, self._drawn, strict=True)]
        number = behind.index(max(behind))
        self._drawn[number] += 1
        return Problem(number, self._first_seed + self._drawn[number] - 1)

    def state_dict(self) -> dict[str, Any]:
        """How many problems of each task were drawn, by its name."""
        return {"drawn": {task.name: drawn for task, drawn in zip(self.tasks, self._drawn, strict=True)}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after the problems that were drawn.

        Raises:
            ValueError: when the state belongs to other tasks.
        """
        drawn: Mapping[str, int] = state["drawn"]
        if list(drawn) != [task.name for task in self.tasks]:
            raise ValueError(f"problems were drawn of {', '.join(drawn)}: not the tasks of this run")
        self._drawn = list(drawn.values())

    def close(self) -> None:
        """Close every environment."""
        with contextlib.ExitStack() as last:
            for pool in (*self.pools, *self.eval_pools):
                last.callback(pool.close)


class BrokenEnvironmentError(RuntimeError):
    """Environments fail again and again: its message is one line, with the last reason."""


class GivenUpError(Exception):
    """A problem that cannot be played; its message is the reason."""


@dataclass(frozen=True)
class Broken:
    """An episode that came to nothing, or a problem of which none began, and why."""

    task: str
    seed: int
    reason: str
    began: bool


class Breakage:
    """Counts what breaks, over a whole run: some of it is life, but much of it in a row is an outage.

    Ten different problems in a row end the run, and not ten episodes, for one bad row of data breaks every try at it.
    In a row means one of two things. Of *calls*, in the order of time: ten problems whose calls fail, with none between
    them that works; so that an outage is seen before a whole batch has waited for it. Of *episodes*, in the order of
    the batch: ten problems, with no episode between them that could be played to its end and judged.

    Args:
        limit: how many problems in a row are too many.
        say: is told of the first failure of every kind, in one line.
    """

    def __init__(self, *, limit: int = 10, say: Callable[[str], None] | None = None) -> None:
        self._limit = limit
        self._say = say
        self._said: set[tuple[str, str]] = set()
        # Dictionaries for sets, so that they keep their order.
        self._failing_calls: dict[tuple[str, int], None] = {}
        self._failing_episodes: dict[tuple[str, int], None] = {}
        self._broken: list[Broken] = []

    def called(self, task: str, seed: int, failure: str = "") -> None:
        """An environment was called; `failure` says why in vain, and is empty where it answered.

        Raises:
            BrokenEnvironmentError: when it is one of too many.
        """
        self._count(self._failing_calls, task, seed, failure)

    def ended(self, task: str, seed: int, failure: str = "", *, began: bool = True) -> None:
        """An episode is over, or with `began=False` a problem was given up.

        Raises:
            BrokenEnvironmentError: when it is one of too many.
        """
        if failure:
            self._broken.append(Broken(task, seed, failure, began))
        self._count(self._failing_episodes, task, seed, failure)

    def take(self) -> list[Broken]:
        """What broke since the last time that this was asked."""
        found, self._broken = self._broken, []
        return found

    def _count(self, failing: dict[tuple[str, int], None], task: str, seed: int, failure: str) -> None:
        if not failure:
            failing.clear()
            return
        kind = (task, failure.partition(":")[0])
        if self._say is not None and kind not in self._said:
            self._say(f"{task or 'The environment'} failed with seed {seed}: {failure}")
        self._said.add(kind)
        failing[task, seed] = None
        if len(failing) >= self._limit:
            raise BrokenEnvironmentError(
                f"{len(failing)} problems in a row could not be played, the last one {task} with seed {seed}: {failure}"
            )


def begin(
    pool: EnvPool[Env], slot: int, seed: int, start: Callable[[Env], Begun], *, retries: int, breakage: Breakage
) -> Begun:
    """Begin an episode, again on a new environment where that fails.

    Args:
        pool: has the environment, or makes it.
        slot: its number there.
        seed: of the problem, for messages.
        start: resets the environment; what it returns is returned.
        retries: how many tries follow a first one that failed.
        breakage: is told of every try.

    Raises:
        GivenUpError: when no try worked.
        BrokenEnvironmentError: when it is one of too many.
    """
    failure = ""
    for _ in range(1 + retries):
        try:
            begun = start(pool.at(slot))
        except (Exception, SystemExit) as error:  # what runs a program may run exit()
            failure = described(error)
            pool.discard(slot)
            breakage.called(pool.name, seed, failure)
        else:
            breakage.called(pool.name, seed)
            return begun
    raise GivenUpError(failure)


def described(error: BaseException) -> str:
    """An exception in one line: its type and what it says."""
    text = " ".join(str(error).split())
    if len(text) > _REASON_LENGTH:
        text = text[:_REASON_LENGTH] + " ..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
