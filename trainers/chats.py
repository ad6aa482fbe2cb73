"""Episodes with a speaker instead of a policy: messages in, text out, no tokens.

What `trainers.rollouts` does for a sampler and a renderer, for evaluation alone: nothing can be learnt from these.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainers.environments import Breakage, EnvPool, GivenUpError, begin, described
from trainers.rendering import Message
from trainers.rollouts import RolloutClock, RolloutSettings, TextEnv, judged, messages_of
from trainers.sampling.endpoint import EndpointError
from trainers.sampling.openai_sampler import ChatEndpoint, Reply, Speaker
from trainers.trajectories import Group, StopReason, Trajectory, Turn


def chat_groups(
    pool: EnvPool[TextEnv],
    speaker: Speaker,
    *,
    seeds: Sequence[int],
    settings: RolloutSettings,
    sampling_seed: int = 0,
    options: Sequence[Mapping[str, Any] | None] | None = None,
    breakage: Breakage | None = None,
    clock: RolloutClock | None = None,
) -> Iterator[Group]:
    """Play `group_size` episodes of every seed and yield the groups in order: the `rollout_groups` of a speaker.

    The trajectories have turns but no tokens; a turn's number of tokens is the server's count. An episode that an
    environment or the server breaks is `unscorable`; a problem that does not begin is given up.

    Args:
        pool: where the environments come from.
        speaker: plays.
        seeds: one a group.
        settings: sizes and limits; `context_length` means nothing here, for the server knows its own.
        sampling_seed: of the speaker, as far as it heeds it.
        options: for `reset`, one a group.
        breakage: is told what breaks.
        clock: is told where the time went.

    Raises:
        BrokenEnvironmentError: when too many problems in a row cannot be played.
        EndpointRefusedError: when the server refuses all there is.
    """
    per_wave = len(seeds) if settings.max_rows is None else max(1, settings.max_rows // settings.group_size)
    play = _Chats(pool, speaker, settings, breakage or Breakage(), clock or RolloutClock())
    options = options or [None] * len(seeds)
    for wave, start in enumerate(range(0, len(seeds), per_wave)):
        part = slice(start, start + per_wave)
        yield from play.wave(seeds[part], options[part], sampling_seed + wave)


class EndpointPlayer:
    """Speaks for an endpoint in the other seat: what `llm-envs play --opponent openai:MODEL@URL` sits down with.

    Args:
        name: `MODEL@URL`; `MODEL` alone is one of OpenAI's.
        max_tokens: most tokens of one answer.
        options: of `ChatEndpoint`.
    """

    def __init__(self, name: str, *, max_tokens: int = 512, **options: Any) -> None:
        self._speaker = ChatEndpoint.named(name, **options)
        self._max_tokens = max_tokens
        self._chat: list[Message] = []
        self._opening: Mapping[str, Any] = {}

    def reset(self, observation: str, info: Mapping[str, Any]) -> None:  # noqa: ARG002 (`act` gets it, too)
        """Begin an episode."""
        self._chat, self._opening = [], info

    def act(self, observation: str) -> str:
        """The answer to an observation, at temperature 0.

        Raises:
            EndpointError: when there is none.
        """
        info: Mapping[str, Any] = {} if self._chat else self._opening
        self._chat += messages_of(observation, info)
        [reply] = self._speaker.speak([self._chat], max_tokens=self._max_tokens, temperature=0.0)
        if isinstance(reply, EndpointError):
            raise reply
        self._chat.append(_said(reply.text))
        return reply.text


@dataclass
class _Row:
    """One episode under way."""

    slot: int
    trajectory: Trajectory
    chat: list[Message]


@dataclass
class _Chats:
    """What all waves share."""

    pool: EnvPool[TextEnv]
    speaker: Speaker
    settings: RolloutSettings
    breakage: Breakage
    clock: RolloutClock

    def wave(
        self, seeds: Sequence[int], options: Sequence[Mapping[str, Any] | None], sampling_seed: int
    ) -> list[Group]:
        """Play some seeds at once."""
        groups, rows, slot = [], [], 0
        with self.clock.counting("env"):
            for seed, option in zip(seeds, options, strict=True):
                try:
                    members = [self._begin(slot + i, seed, option) for i in range(self.settings.group_size)]
                except GivenUpError as error:
                    self.breakage.ended(self.pool.name, seed, str(error), began=False)
                    continue
                slot += len(members)
                rows += members
                groups.append(Group(seed, [row.trajectory for row in members], task=self.pool.name))
        turn = 0
        while rows:
            rows = self._turn(rows, sampling_seed * 1009 + turn)
            turn += 1
        for group in groups:
            for trajectory in group.trajectories:
                self.breakage.ended(self.pool.name, group.seed, trajectory.failure)
        return groups

    def _begin(self, slot: int, seed: int, option: Mapping[str, Any] | None) -> _Row:
        def start(env: TextEnv) -> tuple[str, list[Message]]:
            observation, info = env.reset(seed=seed, options=None if option is None else dict(option))
            return observation, list(messages_of(observation, info))

        retries = self.settings.env_retries
        observation, messages = begin(self.pool, slot, seed, start, retries=retries, breakage=self.breakage)
        return _Row(slot, Trajectory(seed=seed, observations=[observation], messages=tuple(messages)), messages)

    def _turn(self, rows: Sequence[_Row], seed: int) -> list[_Row]:
        """One answer and one step for each; the rows that go on."""
        settings = self.settings
        with self.clock.counting("sampling"):
            replies = self.speaker.speak(
                [row.chat for row in rows], max_tokens=settings.max_tokens, temperature=settings.temperature,
                top_p=settings.top_p, top_k=settings.top_k, seed=seed,
            )  # fmt: skip
        with self.clock.counting("env"):
            spoken = []
            for row, reply in zip(rows, replies, strict=True):
                if isinstance(reply, EndpointError):
                    self._break_off(row, "", 0, reply)
                else:
                    spoken.append((row, reply))
            spoken = [(row, reply) for row, reply in spoken if self._announce(row, reply)]
            return [row for row, reply in spoken if self._step(row, reply)]

    def _announce(self, row: _Row, reply: Reply) -> bool:
        """Tell an environment that wants to know (`prepare`) what is coming; whether it took that well."""
        try:
            prepare = getattr(self.pool.at(row.slot).unwrapped, "prepare", None)
            if prepare is not None:
                prepare(reply.text)
        except (Exception, SystemExit) as error:
            self._break_off(row, reply.text, reply.num_tokens, error)
            self.pool.discard(row.slot)
            return False
        return True

    def _step(self, row: _Row, reply: Reply) -> bool:
        """Step one environment; whether its episode goes on."""
        try:
            observation, reward, terminated, truncated, info = self.pool.at(row.slot).step(reply.text)
            if not math.isfinite(reward):
                raise ValueError(f"step gave the reward {reward}")  # noqa: TRY301 (it is treated as the step's own)
            messages = messages_of(observation, info)
            verdict, parts = judged(info)
        except (Exception, SystemExit) as error:
            self._break_off(row, reply.text, reply.num_tokens, error)
            self.pool.discard(row.slot)
            return False
        self.breakage.called(self.pool.name, row.trajectory.seed)
        stop_reason: StopReason = "env" if truncated and reply.stop_reason == "stop" else reply.stop_reason
        row.trajectory.observations.append(observation)
        row.trajectory.turns.append(Turn(reply.text, reply.num_tokens, float(reward), stop_reason, verdict, parts))
        if verdict == "unscorable":
            reason = info.get("reason", "the environment could not judge the action")
            row.trajectory.failure = f"verdict unscorable: {reason}"
        row.chat += [_said(reply.text), *messages]
        return not (terminated or truncated)

    def _break_off(self, row: _Row, action: str, num_tokens: int, error: BaseException) -> None:
        failure = described(error)
        row.trajectory.break_off(action, num_tokens, failure)
        self.breakage.called(self.pool.name, row.trajectory.seed, failure)


def _said(text: str) -> Message:
    return {"role": "assistant", "content": text}
