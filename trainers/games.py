"""Games of several players: the policy in one seat or in all of them, and everybody's turn in one batch.

A game is a PettingZoo AEC environment whose observations are text, or a mapping with a `"text"`. All games of a batch
are played at once by one loop: whoever is to move, in whichever seat of whichever game, speaks in the same pass of the
sampler.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from trainers.environments import Breakage, BrokenEnvironmentError, EnvPool, GivenUpError, begin, described, make_game
from trainers.reading import Player
from trainers.rendering import Message, Renderer
from trainers.rollouts import Progress, RolloutClock, RolloutSettings, judged, unscorable_because
from trainers.sampling.base import Sampler, Session
from trainers.trajectories import Completion, Group, StopReason, Trajectory, Turn

if TYPE_CHECKING:
    from pettingzoo import AECEnv

__all__ = ["SELF", "Lineup", "Opponents", "make_game", "observed", "play_games"]

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
    breakage: Breakage | None = None,
    progress: Progress | None = None,
    clock: RolloutClock | None = None,
) -> Iterator[Group]:
    """Play `group_size` games of every lineup and yield a group for each seat that the policy had.

    Of games that do not begin, even when the environment is made again,
    there are no groups; a game that breaks later is `unscorable` for everyone who said something in it.

    Args:
        pool: where the environments come from.
        sampler: samples for the policy, and for other models inside `opponents.playing`.
        renderer: between messages and tokens.
        opponents: the other players.
        lineups: one a group of games.
        settings: sizes and limits.
        sampling_seed: of sampler and scripted players; the same seed gives the same games.
        breakage: is told what breaks; give it the same one over a run.
        progress: is told how many games are over.
        clock: is told where the time went.

    Raises:
        BrokenEnvironmentError: when too many lineups in a row cannot be played.
        RuntimeError: when the games of a group begin differently.
    """
    table = _Table(
        pool, sampler, renderer, opponents, settings,
        breakage=breakage or Breakage(), progress=progress or (lambda *_: None), clock=clock or RolloutClock(),
        num_games=len(lineups) * settings.group_size,
    )  # fmt: skip
    rows_of_group = table.num_seats() * settings.group_size
    per_wave = len(lineups) if settings.max_rows is None else max(1, settings.max_rows // rows_of_group)
    for wave, start in enumerate(range(0, len(lineups), per_wave or 1)):
        yield from table.wave(lineups[start : start + per_wave], seed=sampling_seed + wave)


def _groups(lineup: Lineup, games: Sequence[_Game]) -> Iterator[Group]:
    records = [game.record() for game in games]
    for agent, seat in games[0].seats.items():
        if seat.model == SELF:
            trajectories = [game.seats[agent].trajectory for game in games]
            yield Group(
                lineup.seed, trajectories, agent=agent, opponent=lineup.opponent, games=records, task=games[0].pool.name
            )


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
        if not math.isfinite(reward):
            raise ValueError(f"the game gave the reward {reward}")
        if self.player is not None and not self.trajectory.observations:
            self.player.reset(text, info)
        self.trajectory.observations.append(text)
        self.earned += reward
        turns, (verdict, parts) = self.trajectory.turns, judged(info)
        if self.moved is not None:
            said = self.moved.stop_reason
            stop_reason: StopReason = "env" if is_cut_off and said == "stop" else said
            turns.append(Turn(self.action, len(self.moved.tokens), float(reward), stop_reason, verdict, parts))
            self.moved = None
        elif self.is_full and turns:  # what its silence led to, its last words led to
            turns[-1] = replace(turns[-1], reward=turns[-1].reward + reward, verdict=verdict)

    def break_off(self, failure: str) -> None:
        """Its game broke: whatever it said, there is nothing to be learnt from that."""
        turns = self.trajectory.turns
        if self.moved is not None:
            self.trajectory.break_off(self.action, len(self.moved.tokens), failure)
            self.moved = None
        elif turns:
            turns[-1] = replace(turns[-1], stop_reason="env", verdict="unscorable")
        self.trajectory.failure = failure

    def fall_silent(self) -> None:
        """Its context is full: it can say nothing any more, and what the rules make of that decides the game."""
        self.is_full = True
        if self.trajectory.turns:
            self.trajectory.turns[-1] = replace(self.trajectory.turns[-1], stop_reason="length")


@dataclass(slots=True)
class _Game:
    """One environment and its seats."""

    pool: EnvPool[AECEnv]
    slot: int
    seed: int
    seats: dict[str, _Seat]
    opening: tuple[Any, ...]  # whose turn it is, and what is seen
    log: list[tuple[str, str, str]] = field(default_factory=list)  # agent, what it saw, what it did
    failure: str = ""
    is_broken: bool = False

    @classmethod
    def begin(
        cls, place: tuple[EnvPool[AECEnv], int], lineup: Lineup, opponents: Opponents, chance: np.random.SeedSequence,
        env: AECEnv,
    ) -> _Game:  # fmt: skip
        env.reset(seed=lineup.seed)
        seats, seeds = {}, iter(chance.generate_state(len(env.possible_agents)).tolist())
        for number, agent in enumerate(env.possible_agents):
            mine = lineup.opponent == SELF or number == lineup.seat
            player = None
            if not mine:
                player = opponents.scripted(lineup.opponent, env, seed=next(seeds))
            seats[agent] = _Seat(SELF if mine else lineup.opponent, player, Trajectory(seed=lineup.seed))
        return cls(*place, lineup.seed, seats, (env.agent_selection, *observed(env)))

    @property
    def env(self) -> AECEnv:
        return self.pool.at(self.slot)

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
            if info.get("verdict") == "unscorable":
                self.failure = seat.trajectory.failure = unscorable_because(info)
            if over:
                env.step(None)
            elif seat.player is not None:
                self.act(seat.player.act(text))
            elif seat.is_full:
                self.act("")
            else:
                stopped = moved is not None and moved.stop_reason == "stop"
                first = seat.row is None
                if first:
                    seat.trajectory.messages = messages
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

    def break_off(self, failure: str) -> None:
        """The environment failed: the game is over for everyone."""
        self.pool.discard(self.slot)
        self.failure, self.is_broken = failure, True
        for seat in self.seats.values():
            seat.break_off(failure)

    def record(self) -> dict[str, Any]:
        """The game as a JSON-able dictionary."""
        record = {
            "seed": self.seed,
            "players": {agent: seat.model for agent, seat in self.seats.items()},
            "agents": [agent for agent, _, _ in self.log],
            "observations": [text for _, text, _ in self.log],
            "actions": [action for _, _, action in self.log],
            "returns": {agent: seat.earned for agent, seat in self.seats.items()},
            "endings": {agent: (seat.trajectory.observations or [""])[-1] for agent, seat in self.seats.items()},
        }
        return record | ({"failure": self.failure} if self.failure else {})


@dataclass
class _Table:
    """Plays waves of games to their end, all of a wave a move at a time."""

    pool: EnvPool[AECEnv]
    sampler: Sampler
    renderer: Renderer
    opponents: Opponents
    settings: RolloutSettings
    breakage: Breakage
    progress: Progress
    clock: RolloutClock
    num_games: int
    over: int = field(default=0, init=False)
    _seed: int = field(default=0, init=False)
    _sessions: dict[str, Session] = field(default_factory=dict, init=False)  # of this wave, by model

    def num_seats(self) -> int:
        """Of a game.

        Raises:
            BrokenEnvironmentError: where it cannot even be made.
        """
        try:
            retries, breakage = self.settings.env_retries, Breakage()
            return begin(self.pool, 0, 0, lambda env: len(env.possible_agents), retries=retries, breakage=breakage)
        except GivenUpError as error:
            raise BrokenEnvironmentError(f"{self.pool.name} cannot be made: {error}") from error

    def wave(self, lineups: Sequence[Lineup], *, seed: int) -> Iterator[Group]:
        """Play some lineups at once; the groups of those that could be played."""
        size, free, begun = self.settings.group_size, 0, []
        with self.clock.counting("env"):
            for lineup, chances in zip(lineups, np.random.SeedSequence(seed).spawn(len(lineups)), strict=True):
                begun.append(self._begin(lineup, range(free, free + size), chances.spawn(size)))
                free += len(begun[-1]) if isinstance(begun[-1], list) else 0
        self._seed, self._sessions = seed, {}
        self._play([game for games in begun if isinstance(games, list) for game in games])
        self._sessions = {}  # its keys and values are many
        for lineup, games in zip(lineups, begun, strict=True):
            if isinstance(games, str):
                self.breakage.ended(self.pool.name, lineup.seed, games, began=False)
                continue
            for game in games:
                self.breakage.ended(self.pool.name, lineup.seed, game.failure)
            yield from _groups(lineup, games)

    def _begin(self, lineup: Lineup, slots: range, chances: Sequence[np.random.SeedSequence]) -> list[_Game] | str:
        """The games of a lineup, or why it was given up."""
        try:
            games = []
            for slot, chance in zip(slots, chances, strict=True):
                start = partial(_Game.begin, (self.pool, slot), lineup, self.opponents, chance)
                retries = self.settings.env_retries
                games.append(begin(self.pool, slot, lineup.seed, start, retries=retries, breakage=self.breakage))
        except GivenUpError as error:
            self.over += len(slots)
            return str(error)
        if any(game.opening != games[0].opening for game in games):
            raise RuntimeError(f"{games[0].env} began in two different ways for seed {lineup.seed}: not a group")
        return games

    def _play(self, games: Sequence[_Game]) -> None:
        running = list(games)
        while running:
            asked: list[_Game] = []
            by_model: dict[str, list[tuple[_Game, _Seat]]] = {}
            with self.clock.counting("env"):
                for game in running:
                    seat: _Seat | None = None
                    with self._watching(game):
                        seat = game.advance(self.renderer, self.settings.context_length)
                    if seat is None:
                        self.over += 1
                        self.progress("grading", self.over, self.num_games)
                    else:
                        asked.append(game)
                        by_model.setdefault(seat.model, []).append((game, seat))
            for model, movers in by_model.items():
                self.progress("sampling", self.over, self.num_games)
                self._sample(model, movers)
            running = [game for game in asked if not game.is_broken]
            self.over += len(asked) - len(running)

    @contextmanager
    def _watching(self, game: _Game) -> Iterator[None]:
        """What breaks in the block breaks one game."""
        failure = ""
        try:
            yield
        except (Exception, SystemExit) as error:
            failure = described(error)
            game.break_off(failure)
        self.breakage.called(self.pool.name, game.seed, failure)

    def _sample(self, model: str, movers: Sequence[tuple[_Game, _Seat]]) -> None:
        with self.clock.counting("sampling"):
            if model == SELF:
                completions = self._speak(model, [seat for _, seat in movers])
            else:
                with self.opponents.playing(model):
                    completions = self._speak(model, [seat for _, seat in movers])
        with self.clock.counting("env"):
            for (game, seat), completion in zip(movers, completions, strict=True):
                seat.trajectory.append_completion(completion)
                seat.moved, seat.action = completion, self.renderer.action(completion.tokens)
                with self._watching(game):
                    game.act(seat.action)

    def _speak(self, model: str, seats: Sequence[_Seat]) -> list[Completion]:
        """One completion a seat. Rows are begun for seats that speak for the first time."""
        new = [seat for seat in seats if seat.row is None]
        if new:
            prompts = [seat.feed for seat in new]
            if model in self._sessions:
                rows = self._sessions[model].add(prompts)
            else:
                seed = (self._seed * 31 + len(self._sessions)) % 2**63
                self._sessions[model], rows = self.sampler.open(prompts, seed=seed), range(len(prompts))
            for seat, row in zip(new, rows, strict=True):
                seat.row = row
        begun = {id(seat) for seat in new}
        feeds: dict[int, list[int]] = {}
        for seat in seats:
            assert seat.row is not None
            seat.trajectory.append_prompt(seat.feed)
            feeds[seat.row] = [] if id(seat) in begun else seat.feed
        settings, temperature = self.settings, self.settings.temperature
        if model != SELF and settings.opponent_temperature is not None:
            temperature = settings.opponent_temperature
        found = self._sessions[model].sample(
            feeds, max_tokens=settings.max_tokens, temperature=temperature, top_p=settings.top_p, top_k=settings.top_k,
            progress=lambda _: self.progress("sampling", self.over, self.num_games),
        )  # fmt: skip
        return [found[seat.row] for seat in seats if seat.row is not None]
