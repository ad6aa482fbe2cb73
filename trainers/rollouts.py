"""Environments and sampler together: groups of trajectories, turn by turn, all rows at once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trainers.environments import Breakage, EnvPool, GivenUpError, Problem, TextEnv, begin, described
from trainers.rendering import Message, Renderer
from trainers.sampling.base import Sampler, Session
from trainers.trajectories import Completion, Group, StopReason, Trajectory, Turn

__all__ = [
    "EnvPool",
    "Progress",
    "RolloutClock",
    "RolloutSettings",
    "TextEnv",
    "judged",
    "messages_of",
    "roll_out",
    "rollout_groups",
    "unscorable_because",
]

Progress = Callable[[str, int, int], None]
"""Is told what is being done, `sampling` or `grading`, how many episodes are over, and how many there are."""


@dataclass
class RolloutClock:
    """Where the seconds of a rollout went."""

    sampling_seconds: float = 0.0
    env_seconds: float = 0.0

    @contextmanager
    def counting(self, side: str) -> Iterator[None]:
        """Count what the block takes as `sampling` or `env`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            name = f"{side}_seconds"
            setattr(self, name, getattr(self, name) + time.perf_counter() - started)


@dataclass(frozen=True)
class RolloutSettings:
    """How to roll out: see `trainers.config.TrainConfig` for what each option means."""

    group_size: int
    max_tokens: int
    temperature: float
    context_length: int
    max_rows: int | None = None
    """Most episodes under way at once; None: all, for a sampler holds no more rows in memory than it is told."""
    opponent_temperature: float | None = None
    """Of other models in games of several players; None: `temperature`."""
    top_p: float = 1.0
    top_k: int = 0
    env_retries: int = 2


def rollout_groups(
    pool: EnvPool[TextEnv],
    sampler: Sampler,
    renderer: Renderer,
    *,
    seeds: Sequence[int],
    settings: RolloutSettings,
    sampling_seed: int,
    options: Sequence[Mapping[str, Any] | None] | None = None,
    breakage: Breakage | None = None,
    progress: Progress | None = None,
    clock: RolloutClock | None = None,
) -> Iterator[Group]:
    """`roll_out` with one environment: a group for every seed, with the `options` for `reset` that go with it."""
    problems = [Problem(0, seed, option) for seed, option in zip(seeds, options or [None] * len(seeds), strict=True)]
    return roll_out(
        [pool], sampler, renderer, problems=problems, settings=settings, sampling_seed=sampling_seed,
        breakage=breakage, progress=progress, clock=clock,
    )  # fmt: skip


def roll_out(
    pools: Sequence[EnvPool[TextEnv]],
    sampler: Sampler,
    renderer: Renderer,
    *,
    problems: Sequence[Problem],
    settings: RolloutSettings,
    sampling_seed: int,
    breakage: Breakage | None = None,
    progress: Progress | None = None,
    clock: RolloutClock | None = None,
) -> Iterator[Group]:
    """Play `group_size` episodes of every problem and yield the groups in order.

    Rows of all tasks are sampled together.

    An environment that fails is no reason to stop. Where an episode does not begin, the environment is made again, up
    to `env_retries` times; then its problem is given up, and there is no group of it, as where its prompt does not fit
    into the context. An episode that breaks later is `unscorable`.

    Args:
        pools: where the environments of each task come from.
        sampler: plays for the policy.
        renderer: between messages and tokens.
        problems: one a group: every episode of a group is `reset` with its seed and options.
        settings: sizes and limits.
        sampling_seed: of the sampler; the same seed gives the same groups.
        breakage: is told what breaks; give it the same one over a run.
        progress: is told how far it has come.
        clock: is told where the time went.

    Raises:
        BrokenEnvironmentError: when too many problems in a row cannot be played.
        RuntimeError: when the episodes of a group begin differently, which would make every group meaningless.
    """
    per_wave = len(problems) if settings.max_rows is None else max(1, settings.max_rows // settings.group_size)
    rollout = _Rollout(
        pools, sampler, renderer, settings,
        breakage=breakage or Breakage(), progress=progress or (lambda *_: None), clock=clock or RolloutClock(),
        episodes=len(problems) * settings.group_size,
    )  # fmt: skip
    for wave, start in enumerate(range(0, len(problems), per_wave or 1)):
        yield from rollout.wave(problems[start : start + per_wave], sampling_seed=sampling_seed + wave)


@dataclass(slots=True)
class _Row:
    """One episode under way, and where its environment is kept."""

    pool: EnvPool[TextEnv]
    slot: int
    trajectory: Trajectory
    action: str = ""

    @property
    def env(self) -> TextEnv:
        return self.pool.at(self.slot)


@dataclass
class _Rollout:
    """What all waves of a rollout share."""

    pools: Sequence[EnvPool[TextEnv]]
    sampler: Sampler
    renderer: Renderer
    settings: RolloutSettings
    breakage: Breakage
    progress: Progress
    clock: RolloutClock
    episodes: int
    over: int = field(default=0, init=False)

    def wave(self, problems: Sequence[Problem], *, sampling_seed: int) -> list[Group]:
        """Play some problems at once; the groups of those that could be played."""
        with self.clock.counting("env"):
            begun, prompts = self._begin_all(problems)
        rows = [row for found in begun if isinstance(found, list) for row in found]
        if rows:
            self._report("sampling")
            with self.clock.counting("sampling"):
                session = self.sampler.open(prompts, group_size=self.settings.group_size, seed=sampling_seed)
            self._play(session, rows)
        groups = []
        for problem, found in zip(problems, begun, strict=True):
            name = self.pools[problem.task].name
            if isinstance(found, str):
                self.breakage.ended(name, problem.seed, found, began=False)
                continue
            for row in found:
                self.breakage.ended(name, problem.seed, row.trajectory.failure)
            groups.append(Group(problem.seed, [row.trajectory for row in found], task=name))
        return groups

    def _begin_all(self, problems: Sequence[Problem]) -> tuple[list[list[_Row] | str], list[list[int]]]:
        """For every problem the rows of its group, or why it was given up; and the prompts of those with rows."""
        begun: list[list[_Row] | str] = []
        prompts = []
        slots = [0] * len(self.pools)
        for problem in problems:
            first = slots[problem.task]
            try:
                rows, prompt = self._begin(problem, range(first, first + self.settings.group_size))
            except GivenUpError as error:
                begun.append(str(error))
                self.over += self.settings.group_size
            else:
                begun.append(rows)
                prompts.append(prompt)
                slots[problem.task] += self.settings.group_size
        return begun, prompts

    def _begin(self, problem: Problem, slots: range) -> tuple[list[_Row], list[int]]:
        pool, seed = self.pools[problem.task], problem.seed
        starts = [
            begin(
                pool, slot, seed, lambda env: _reset(env, problem),
                retries=self.settings.env_retries, breakage=self.breakage,
            )
            for slot in slots
        ]  # fmt: skip
        observation, info = starts[0]
        for other, other_info in starts[1:]:
            if other != observation or not _alike(other_info, info):
                raise RuntimeError(f"{pool.at(slots[0])} gave two different problems for seed {seed}: not a group")
        messages = messages_of(observation, info)
        try:
            prompt = self.renderer.prompt(messages)
        except Exception as error:  # a template may refuse what it was not made for
            raise GivenUpError(described(error)) from error
        if len(prompt) >= self.settings.context_length:
            context = self.settings.context_length
            raise GivenUpError(f"prompt too long: it has {len(prompt)} tokens, the model's context is {context}")
        rows = []
        for slot in slots:
            trajectory = Trajectory(seed=seed, observations=[observation], messages=messages)
            trajectory.append_prompt(prompt)
            rows.append(_Row(pool, slot, trajectory))
        return rows, prompt

    def _play(self, session: Session, rows: Sequence[_Row]) -> None:
        settings = self.settings
        feeds: dict[int, list[int]] = {number: [] for number in range(len(rows))}

        def sampled(done: float) -> None:  # later turns begin again where episodes have ended
            first_turn = not any(row.trajectory.turns for row in rows)
            self.progress("sampling", self.over + (int(done) if first_turn else 0), self.episodes)

        while feeds:
            with self.clock.counting("sampling"):
                for number, feed in feeds.items():
                    rows[number].trajectory.append_prompt(feed)
                completions = session.sample(
                    feeds, max_tokens=settings.max_tokens, temperature=settings.temperature,
                    top_p=settings.top_p, top_k=settings.top_k, progress=sampled,
                )  # fmt: skip
            with self.clock.counting("env"):
                feeds = self._step_all(rows, completions)
            self._report("sampling")

    def _step_all(self, rows: Sequence[_Row], completions: Mapping[int, Completion]) -> dict[int, list[int]]:
        """Step the environments of the rows that spoke; what is to be fed to those that go on."""
        feeds = {}
        for number, completion in completions.items():
            row = rows[number]
            row.trajectory.append_completion(completion)
            row.action = self.renderer.action(completion.tokens)
            with self._watching(row, completion):
                _announce(row.env, row.action)
        for number, completion in completions.items():
            row, feed = rows[number], None
            if not row.trajectory.failure:
                with self._watching(row, completion):
                    feed = _step(row, completion, self.renderer, self.settings)
            if feed is None:
                self.over += 1
                self._report("grading")
            else:
                feeds[number] = feed
        return feeds

    @contextmanager
    def _watching(self, row: _Row, completion: Completion) -> Iterator[None]:
        """What breaks in the block breaks one episode."""
        failure = ""
        try:
            yield
        except (Exception, SystemExit) as error:
            failure = described(error)
            row.pool.discard(row.slot)
            row.trajectory.break_off(row.action, len(completion.tokens), failure)
        self.breakage.called(row.pool.name, row.trajectory.seed, failure)

    def _report(self, doing: str) -> None:
        self.progress(doing, self.over, self.episodes)


def _reset(env: TextEnv, problem: Problem) -> tuple[str, Mapping[str, Any]]:
    observation, info = env.reset(seed=problem.seed, options=None if problem.options is None else dict(problem.options))
    _check_observation(observation, info)
    return observation, info


def _alike(first: Any, second: Any) -> bool:
    """Equality that knows arrays, and that nan is nan. What cannot be compared is taken for equal."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return first.keys() == second.keys() and all(_alike(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(_alike, first, second))
    if getattr(first, "shape", None) != getattr(second, "shape", None):
        return False
    try:
        return bool(np.all((first == second) | ((first != first) & (second != second))))
    except Exception:
        return True


def _announce(env: TextEnv, action: str) -> None:
    """Tell an environment that wants to know (`prepare`) what is coming, so that slow work of many is one batch."""
    prepare = getattr(env.unwrapped, "prepare", None)
    if prepare is not None:
        prepare(action)


def _step(row: _Row, completion: Completion, renderer: Renderer, settings: RolloutSettings) -> list[int] | None:
    """Step one environment; the tokens to feed before its next turn, or None when the episode is over."""
    trajectory = row.trajectory
    observation, reward, terminated, truncated, info = row.env.step(row.action)
    _check_observation(observation, info)
    if not math.isfinite(reward):
        raise ValueError(f"step gave the reward {reward}")
    feed: list[int] | None = None
    stop_reason: StopReason = "env" if truncated and completion.stop_reason == "stop" else completion.stop_reason
    if not (terminated or truncated):
        feed = renderer.continuation(messages_of(observation, info), stopped=completion.stop_reason == "stop")
        if len(trajectory.tokens) + len(feed) >= settings.context_length:
            feed, stop_reason = None, "length"
    verdict, parts = judged(info)
    # Nothing is written down before all of it is known to make sense.
    trajectory.observations.append(observation)
    trajectory.turns.append(Turn(row.action, len(completion.tokens), float(reward), stop_reason, verdict, parts))
    if verdict == "unscorable":
        trajectory.failure = unscorable_because(info)
    return feed


def judged(info: Mapping[str, Any]) -> tuple[str, dict[str, float]]:
    """The verdict in an info, empty where there is none, and the parts of the reward."""
    parts = info.get("reward_parts", {})
    return str(info.get("verdict", "")), {str(name): float(part) for name, part in parts.items()}


def unscorable_because(info: Mapping[str, Any]) -> str:
    """Why an environment could not judge an action, in one line."""
    reason = " ".join(str(info.get("reason", "")).split())
    return f"verdict unscorable: {reason or 'the environment could not judge what was said'}"


def _check_observation(observation: object, info: object) -> None:
    """Raises:
    TypeError: for what is no observation of a text environment.
    """  # noqa: D205
    if not isinstance(observation, str):
        raise TypeError(f"the observation is of type {type(observation).__name__}, not str")
    if not isinstance(info, Mapping):
        raise TypeError(f"the info is of type {type(info).__name__}, no mapping")


def messages_of(observation: str, info: Mapping[str, Any]) -> Sequence[Message]:
    """`info["messages"]`, or the observation as one user message for environments that do not report messages."""
    messages: Sequence[Message] | None = info.get("messages")
    return [{"role": "user", "content": observation}] if messages is None else messages
