"""Games of several players: the policy in one seat or in all of them, and everybody's turn in one batch.

A game is a PettingZoo AEC environment whose observations are text, or a mapping with a `"text"`. All games of a batch
are played at once by one loop: whoever is to move, in whichever seat of whichever game, speaks in the same pass of the
sampler.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from trainers.reading import Player
from trainers.rendering import Message, Renderer
from trainers.rollouts import EnvPool, RolloutClock, RolloutSettings
from trainers.sampling.base import Sampler, Session
from trainers.trajectories import Completion, Group, StopReason, Trajectory, Turn

if TYPE_CHECKING:
    from pettingzoo import AECEnv

SELF = "self"
"""The opponent's name when every seat is the policy."""


@dataclass(frozen=True)
class Lineup:
    """Who plays the games of one group.

    Args:
        seed: of every game's `reset`.
        opponent: who sits in the seats that are not the policy's: a name that `Opponents` knows, or `SELF`.
        seat: the policy's seat, an index of `possible_agents`; of no account in self-play.
    """

    seed: int
    opponent: str = SELF
    seat: int = 0


class Opponents(Protocol):
    """Where the other seats' players come from."""

    def scripted(self, name: str, env: AECEnv, *, seed: int) -> Player | None:
        """A scripted player of that name; None where the name is a model's."""
        ...

    def playing(self, name: str) -> AbstractContextManager[None]:
        """The sampler samples for that model while the context lasts."""
        ...


def make_game(env_id: str, **kwargs: Any) -> AECEnv:
    """Make a registered AEC environment; `env_id` may name the module that registers it: llm_envs:TicTacToe-v0."""
    import pettingzoo

    module, _, name = env_id.rpartition(":")
    if module:
        importlib.import_module(module)
    return pettingzoo.make("aec", name, **kwargs)


def observed(env: AECEnv) -> tuple[str, Sequence[Message]]:
    """What the agent whose turn it is sees: as text, and as chat messages."""
    agent = env.agent_selection
    seen, info = env.observe(agent), env.infos[agent]
    text = str(seen["text"] if isinstance(seen, Mapping) else seen)
    return text, info.get("messages", [{"role": "user", "content": text}])


def play_games(
    pool: EnvPool[AECEnv],
    sampler: Sampler,
    renderer: Renderer,
    opponents: Opponents,
    *,
    lineups: Sequence[Lineup],
    settings: RolloutSettings,
    sampling_seed: int,
    clock: RolloutClock | None = None,
) -> Iterator[Group]:
    """Play `group_size` games of every lineup and yield a group for each seat that the policy had.

    At most `max_rows` seats are under way at once.

    Args:
        pool: where the environments come from.
        sampler: samples for the policy, and for other models inside `opponents.playing`.
        renderer: between messages and tokens.
        opponents: the other players.
        lineups: one a group of games.
        settings: sizes and limits.
        sampling_seed: of sampler and scripted players; the same seed gives the same games.
        clock: is told where the time went.
    """
    clock = clock or RolloutClock()
    num_seats = len(pool.take(1)[0].possible_agents)
    per_wave = max(1, settings.max_rows // (num_seats * settings.group_size))
    for wave, start in enumerate(range(0, len(lineups), per_wave)):
        part = lineups[start : start + per_wave]
        started = time.perf_counter()
        envs = iter(pool.take(len(part) * settings.group_size))
        games = [
            [_Game.begin(next(envs), lineup, opponents, chance) for chance in chances.spawn(settings.group_size)]
            for lineup, chances in zip(part, np.random.SeedSequence(sampling_seed + wave).spawn(len(part)), strict=True)
        ]
        for group in games:
            _check_alike(group)
        clock.env_seconds += time.perf_counter() - started
        everything = [game for group in games for game in group]
        _Table(everything, sampler, renderer, opponents, settings, sampling_seed + wave, clock).play()
        for lineup, group in zip(part, games, strict=True):
            yield from _groups(lineup, group)


def _check_alike(games: Sequence[_Game]) -> None:
    """The games of a group must begin alike: else their mean return is no baseline."""
    starts = [(game.env.agent_selection, observed(game.env)) for game in games]
    if any(start != starts[0] for start in starts):
        raise RuntimeError(f"{games[0].env} began in two different ways for seed {games[0].seed}: not a group")


def _groups(lineup: Lineup, games: Sequence[_Game]) -> Iterator[Group]:
    records = [game.record() for game in games]
    for agent, seat in games[0].seats.items():
        if seat.model == SELF:
            trajectories = [game.seats[agent].trajectory for game in games]
            yield Group(lineup.seed, trajectories, agent=agent, opponent=lineup.opponent, games=records)


@dataclass(slots=True)
class _Seat:
    """One player of one game.

    Its trajectory is kept for models only. What a move earned is known when its player is asked again, so the last
    move waits in `moved` until then.
    """

    model: str
    player: Player | None
    trajectory: Trajectory
    moved: Completion | None = None
    action: str = ""
    row: int | None = None
    is_full: bool = False
    feed: list[int] = field(default_factory=list)
    earned: float = 0.0

    def hear(self, text: str, reward: float, info: Mapping[str, Any], *, is_cut_off: bool) -> None:
        """Take note of what the last move led to."""
        if self.player is not None and not self.trajectory.observations:
            self.player.reset(text, info)
        self.trajectory.observations.append(text)
        self.earned += reward
        turns, verdict = self.trajectory.turns, str(info.get("verdict", ""))
        if self.moved is not None:
            stop_reason: StopReason = "env" if is_cut_off else self.moved.stop_reason
            parts = dict(info.get("reward_parts", {}))
            turns.append(Turn(self.action, len(self.moved.tokens), float(reward), stop_reason, verdict, parts))
            self.moved = None
        elif self.is_full and turns:  # what its silence led to, its last words led to
            turns[-1] = replace(turns[-1], reward=turns[-1].reward + reward, verdict=verdict)

    def fall_silent(self) -> None:
        """Its context is full: it can say nothing any more, and what the rules make of that decides the game."""
        self.is_full = True
        if self.trajectory.turns:
            self.trajectory.turns[-1] = replace(self.trajectory.turns[-1], stop_reason="length")


@dataclass(slots=True)
class _Game:
    """One environment and its seats."""

    env: AECEnv
    seed: int
    seats: dict[str, _Seat]
    log: list[tuple[str, str, str]] = field(default_factory=list)  # agent, what it saw, what it did

    @classmethod
    def begin(cls, env: AECEnv, lineup: Lineup, opponents: Opponents, chance: np.random.SeedSequence) -> _Game:
        env.reset(seed=lineup.seed)
        seats, seeds = {}, iter(chance.generate_state(len(env.possible_agents)).tolist())
        for number, agent in enumerate(env.possible_agents):
            mine = lineup.opponent == SELF or number == lineup.seat
            player = None
            if not mine:
                player = opponents.scripted(lineup.opponent, env, seed=next(seeds))
            seats[agent] = _Seat(SELF if mine else lineup.opponent, player, Trajectory(seed=lineup.seed))
        return cls(env, lineup.seed, seats)

    def advance(self, renderer: Renderer, context_length: int) -> _Seat | None:
        """Let scripted players move until a model is to speak: its seat, with what is to be fed; None at the end."""
        env = self.env
        while env.agents:
            agent = env.agent_selection
            _, reward, terminated, truncated, info = env.last(observe=False)
            text, messages = observed(env)
            seat = self.seats[agent]
            over = terminated or truncated
            moved = seat.moved
            seat.hear(text, reward, info, is_cut_off=truncated)
            if over:
                env.step(None)
            elif seat.player is not None:
                self.act(seat.player.act(text))
            elif seat.is_full:
                self.act("")
            else:
                stopped = moved is not None and moved.stop_reason == "stop"
                first = seat.row is None
                seat.feed = renderer.prompt(messages) if first else renderer.continuation(messages, stopped=stopped)
                if len(seat.trajectory.tokens) + len(seat.feed) < context_length:
                    return seat
                seat.fall_silent()
                self.act("")
        return None

    def act(self, action: str) -> None:
        """Move for whoever is to move."""
        agent = self.env.agent_selection
        self.log.append((agent, self.seats[agent].trajectory.observations[-1], action))
        self.env.step(action)

    def record(self) -> dict[str, Any]:
        """The game as a JSON-able dictionary."""
        return {
            "seed": self.seed,
            "players": {agent: seat.model for agent, seat in self.seats.items()},
            "agents": [agent for agent, _, _ in self.log],
            "observations": [text for _, text, _ in self.log],
            "actions": [action for _, _, action in self.log],
            "returns": {agent: seat.earned for agent, seat in self.seats.items()},
            "endings": {agent: (seat.trajectory.observations or [""])[-1] for agent, seat in self.seats.items()},
        }


class _Table:
    """Plays a wave of games to their end, all of them a move at a time."""

    def __init__(
        self,
        games: Sequence[_Game],
        sampler: Sampler,
        renderer: Renderer,
        opponents: Opponents,
        settings: RolloutSettings,
        seed: int,
        clock: RolloutClock,
    ) -> None:
        self._games = games
        self._sampler = sampler
        self._renderer = renderer
        self._opponents = opponents
        self._settings = settings
        self._seed = seed
        self._clock = clock
        self._sessions: dict[str, Session] = {}  # by model

    def play(self) -> None:
        running = list(self._games)
        while running:
            started = time.perf_counter()
            asked = [(game, game.advance(self._renderer, self._settings.context_length)) for game in running]
            by_model: dict[str, list[tuple[_Game, _Seat]]] = {}
            for game, seat in asked:
                if seat is not None:
                    by_model.setdefault(seat.model, []).append((game, seat))
            self._clock.env_seconds += time.perf_counter() - started
            for model, movers in by_model.items():
                self._sample(model, movers)
            running = [game for game, seat in asked if seat is not None]

    def _sample(self, model: str, movers: Sequence[tuple[_Game, _Seat]]) -> None:
        started = time.perf_counter()
        if model == SELF:
            completions = self._speak(model, [seat for _, seat in movers])
        else:
            with self._opponents.playing(model):
                completions = self._speak(model, [seat for _, seat in movers])
        self._clock.sampling_seconds += time.perf_counter() - started
        started = time.perf_counter()
        for (game, seat), completion in zip(movers, completions, strict=True):
            seat.trajectory.append_completion(completion)
            seat.moved, seat.action = completion, self._renderer.action(completion.tokens)
            game.act(seat.action)
        self._clock.env_seconds += time.perf_counter() - started

    def _speak(self, model: str, seats: Sequence[_Seat]) -> list[Completion]:
        """One completion a seat. Rows are begun for seats that speak for the first time."""
        new = [seat for seat in seats if seat.row is None]
        if new:
            prompts = [seat.feed for seat in new]
            if model in self._sessions:
                rows = self._sessions[model].add(prompts)
            else:
                seed = (self._seed * 31 + len(self._sessions)) % 2**63
                self._sessions[model], rows = self._sampler.open(prompts, seed=seed), range(len(prompts))
            for seat, row in zip(new, rows, strict=True):
                seat.row = row
        begun = {id(seat) for seat in new}
        feeds: dict[int, list[int]] = {}
        for seat in seats:
            assert seat.row is not None
            seat.trajectory.append_prompt(seat.feed)
            feeds[seat.row] = [] if id(seat) in begun else seat.feed
        temperature = self._settings.temperature
        if model != SELF and self._settings.opponent_temperature is not None:
            temperature = self._settings.opponent_temperature
        found = self._sessions[model].sample(feeds, max_tokens=self._settings.max_tokens, temperature=temperature)
        return [found[seat.row] for seat in seats if seat.row is not None]
