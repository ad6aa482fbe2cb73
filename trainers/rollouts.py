"""Environments and sampler together: groups of trajectories, turn by turn, all rows at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import gymnasium as gym

from trainers.rendering import Message, Renderer
from trainers.sampling.base import Sampler
from trainers.trajectories import Completion, Group, StopReason, Trajectory, Turn

TextEnv = gym.Env[str, str]


@dataclass
class RolloutClock:
    """Where the seconds of a rollout went."""

    sampling_seconds: float = 0.0
    env_seconds: float = 0.0


class Closable(Protocol):
    """All that a pool needs to know of an environment."""

    def close(self) -> None:
        """Give back what it holds."""


Env = TypeVar("Env", bound=Closable)


@dataclass
class EnvPool(Generic[Env]):
    """Environments that are made when first needed and reused from batch to batch."""

    make: Callable[[], Env]
    _envs: list[Env] = field(default_factory=list)

    def take(self, count: int) -> list[Env]:
        """`count` environments; their state is whatever the last use left."""
        while len(self._envs) < count:
            self._envs.append(self.make())
        return self._envs[:count]

    def close(self) -> None:
        """Close every environment."""
        while self._envs:
            self._envs.pop().close()


@dataclass(frozen=True)
class RolloutSettings:
    """How to roll out: see `trainers.config.TrainConfig` for what each option means."""

    group_size: int
    max_tokens: int
    temperature: float
    context_length: int
    max_rows: int = 512
    opponent_temperature: float | None = None
    """Of other models in games of several players; None: `temperature`."""


def rollout_groups(
    pool: EnvPool[TextEnv],
    sampler: Sampler,
    renderer: Renderer,
    *,
    seeds: Sequence[int],
    settings: RolloutSettings,
    sampling_seed: int,
    options: Sequence[Mapping[str, Any] | None] | None = None,
    clock: RolloutClock | None = None,
) -> Iterator[Group]:
    """Play `group_size` episodes of every seed and yield the groups in order.

    At most `max_rows` episodes are under way at once, so memory does not grow with the batch.

    Args:
        pool: where the environments come from.
        sampler: plays for the policy.
        renderer: between messages and tokens.
        seeds: one a group: every episode of a group is `reset(seed=...)` with it.
        settings: sizes and limits.
        sampling_seed: of the sampler; the same seed gives the same groups.
        options: for `reset`, one a group.
        clock: is told where the time went.
    """
    per_wave = max(1, settings.max_rows // settings.group_size)
    options = options or [None] * len(seeds)
    for wave, start in enumerate(range(0, len(seeds), per_wave)):
        part = slice(start, start + per_wave)
        yield from _rollout_wave(
            pool.take(len(seeds[part]) * settings.group_size),
            sampler,
            renderer,
            seeds[part],
            options[part],
            settings,
            sampling_seed=sampling_seed + wave,
            clock=clock or RolloutClock(),
        )


def _rollout_wave(
    envs: Sequence[TextEnv],
    sampler: Sampler,
    renderer: Renderer,
    seeds: Sequence[int],
    options: Sequence[Mapping[str, Any] | None],
    settings: RolloutSettings,
    *,
    sampling_seed: int,
    clock: RolloutClock,
) -> list[Group]:
    started = time.perf_counter()
    rows, prompts = _reset(envs, renderer, seeds, options, settings)
    clock.env_seconds += time.perf_counter() - started
    started = time.perf_counter()
    session = sampler.open(prompts, group_size=settings.group_size, seed=sampling_seed)
    clock.sampling_seconds += time.perf_counter() - started

    feeds: dict[int, list[int]] = {row: [] for row in range(len(rows))}
    while feeds:
        started = time.perf_counter()
        for row, feed in feeds.items():
            rows[row].append_prompt(feed)
        completions = session.sample(feeds, max_tokens=settings.max_tokens, temperature=settings.temperature)
        clock.sampling_seconds += time.perf_counter() - started
        started = time.perf_counter()
        feeds = {}
        for row, completion in completions.items():
            _announce(envs[row], renderer.action(completion.tokens))
        for row, completion in completions.items():
            following = _step(envs[row], rows[row], completion, renderer, settings)
            if following is not None:
                feeds[row] = following
        clock.env_seconds += time.perf_counter() - started
    size = settings.group_size
    return [Group(seed, rows[i * size : (i + 1) * size]) for i, seed in enumerate(seeds)]


def _reset(
    envs: Sequence[TextEnv],
    renderer: Renderer,
    seeds: Sequence[int],
    options: Sequence[Mapping[str, Any] | None],
    settings: RolloutSettings,
) -> tuple[list[Trajectory], list[list[int]]]:
    """Reset every environment of every group; the trajectories by row and the prompts by group."""
    rows: list[Trajectory] = []
    prompts: list[list[int]] = []
    for i, (seed, option) in enumerate(zip(seeds, options, strict=True)):
        members = envs[i * settings.group_size : (i + 1) * settings.group_size]
        starts = [env.reset(seed=seed, options=None if option is None else dict(option)) for env in members]
        observation, info = starts[0]
        for other, other_info in starts[1:]:
            if other != observation or other_info != info:
                raise RuntimeError(f"{members[0]} gave two different problems for seed {seed}: not a group")
        prompt = renderer.prompt(messages_of(observation, info))
        if len(prompt) >= settings.context_length:
            raise ValueError(
                f"the prompt of seed {seed} has {len(prompt)} tokens; the model's context is {settings.context_length}"
            )
        prompts.append(prompt)
        for _ in members:
            trajectory = Trajectory(seed=seed, observations=[observation])
            trajectory.append_prompt(prompt)
            rows.append(trajectory)
    return rows, prompts


def _announce(env: TextEnv, action: str) -> None:
    """Tell an environment that wants to know (`prepare`) what is coming, so that slow work of many is one batch."""
    prepare = getattr(env.unwrapped, "prepare", None)
    if prepare is not None:
        prepare(action)


def _step(
    env: TextEnv, trajectory: Trajectory, completion: Completion, renderer: Renderer, settings: RolloutSettings
) -> list[int] | None:
    """Step one environment; the tokens to feed before its next turn, or None when the episode is over."""
    trajectory.append_completion(completion)
    action = renderer.action(completion.tokens)
    observation, reward, terminated, truncated, info = env.step(action)
    trajectory.observations.append(observation)
    feed: list[int] | None = None
    stop_reason: StopReason = "env" if truncated else completion.stop_reason
    if not (terminated or truncated):
        feed = renderer.continuation(messages_of(observation, info), stopped=completion.stop_reason == "stop")
        if len(trajectory.tokens) + len(feed) >= settings.context_length:
            feed, stop_reason = None, "length"
    trajectory.turns.append(
        Turn(
            action,
            len(completion.tokens),
            float(reward),
            stop_reason,
            str(info.get("verdict", "")),
            dict(info.get("reward_parts", {})),
        )
    )
    return feed


def messages_of(observation: str, info: Mapping[str, Any]) -> Sequence[Message]:
    """`info["messages"]`, or the observation as one user message for environments that do not report messages."""
    messages: Sequence[Message] | None = info.get("messages")
    return [{"role": "user", "content": observation}] if messages is None else messages
