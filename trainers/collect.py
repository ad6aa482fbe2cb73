"""A batch: problems drawn, episodes played, and what there is to learn from them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainers.config import TrainConfig
from trainers.credit import Credit, assign_credit
from trainers.environments import Breakage, Broken, EnvMix, GivenUpError, Problem, begin
from trainers.games import play_games
from trainers.opponents import OpponentPool
from trainers.rendering import Renderer
from trainers.rollouts import Progress, RolloutClock, RolloutSettings, roll_out
from trainers.sampling import Sampler
from trainers.trajectories import Group


@dataclass
class Batch:
    """What one update is made of.

    Args:
        groups: everything that was played.
        credit: what of it there is to learn from.
        broken: what could not be played.
        clock: where the time went.
        drawn: where in the order of problems the next batch begins.
        episodes: how many there were to be, those that could not begin included.
    """

    groups: list[Group]
    credit: Credit
    broken: list[Broken]
    clock: RolloutClock
    drawn: dict[str, Any]
    episodes: int = 0


@dataclass
class Collector:
    """Collects batches, one after the other.

    Args:
        config: all settings.
        mix: where problems come from.
        sampler: plays for the policy.
        renderer: between messages and tokens.
        settings: sizes and limits.
        opponents: who else plays; None where the environment is for one agent.
        breakage: is told what breaks.
    """

    config: TrainConfig
    mix: EnvMix
    sampler: Sampler
    renderer: Renderer
    settings: RolloutSettings
    opponents: OpponentPool | None
    breakage: Breakage

    def collect(self, update: int, *, progress: Progress | None = None) -> Batch:
        """The batch of update number `update`, counted from 0.

        Where groups without spread are to be replaced (dynamic sampling, after DAPO: Yu et al., 2025,
        arXiv:2503.14476), further problems are drawn, as many as are missing at the rate at which they had spread so
        far, until `groups_per_batch` problems have it or `dynamic_sampling` times more were drawn. So many are then
        learnt from: those with spread first, and others only where there is something to be learnt from them, too. Of
        a game in which the policy has several seats, each is a group; it has spread where one of them has.

        Raises:
            BrokenEnvironmentError: when too many problems in a row cannot be played.
        """
        config = self.config
        batch = Batch([], Credit([], [], [], [], 0), [], RolloutClock(), {})
        wanted = count = config.groups_per_batch
        most = wanted * (1 + config.dynamic_sampling)
        drawn = 0
        while True:
            batch.groups += self._play(self.mix.draw(count), update, drawn, batch.clock, progress)
            drawn += count
            batch.credit = self._credit(batch.groups)
            problems = _by_problem(batch.groups)
            with_spread = [any(batch.credit.has_spread[number] for number in numbers) for numbers in problems]
            found = sum(with_spread)
            if drawn >= most or found >= wanted:
                break
            rate = max(found, 0.5) / drawn
            count = min(math.ceil((wanted - found) / rate), wanted, most - drawn)
        if drawn > wanted:
            whole = batch.credit
            first = sorted(range(len(problems)), key=lambda number: not with_spread[number])[:wanted]
            taught = self._credit([batch.groups[n] for number in sorted(first) for n in problems[number]])
            batch.credit = dataclasses.replace(taught, has_spread=whole.has_spread, masked=whole.masked)
        batch.broken, batch.drawn = self.breakage.take(), self.mix.state_dict()
        batch.episodes = drawn * self.settings.group_size
        return batch

    def _credit(self, groups: Sequence[Group]) -> Credit:
        keep_all = self.config.kl_coef > 0  # where not only the reward teaches something
        return assign_credit(groups, self.config, max_tokens=self.config.max_tokens, keep_all=keep_all)

    def _play(
        self, problems: Sequence[Problem], update: int, drawn: int, clock: RolloutClock, progress: Progress | None
    ) -> Iterator[Group]:
        """The groups of some problems: of environments of one agent, or of a game of several."""
        sampling_seed = _sampling_seed(self.config.seed, update) + drawn
        if self.opponents is None:
            yield from roll_out(
                self.mix.pools, self.sampler, self.renderer, problems=problems, settings=self.settings,
                sampling_seed=sampling_seed, breakage=self.breakage, progress=progress, clock=clock,
            )  # fmt: skip
            return
        [pool] = self.mix.pools
        rng = np.random.default_rng([self.config.seed, update, drawn] if drawn else [self.config.seed, update])
        seeds = [problem.seed for problem in problems]
        try:
            num_seats = begin(
                pool, 0, seeds[0], lambda game: len(game.possible_agents),
                retries=self.config.env_retries, breakage=Breakage(),  # no game was played: it ends no row of failures
            )  # fmt: skip
        except GivenUpError as error:
            for seed in seeds:
                self.breakage.ended(pool.name, seed, str(error), began=False)
            return
        lineups = self.opponents.draw(seeds, num_seats=num_seats, rng=rng)
        yield from play_games(
            pool, self.sampler, self.renderer, self.opponents, lineups=lineups, settings=self.settings,
            sampling_seed=sampling_seed, breakage=self.breakage, progress=progress, clock=clock,
        )  # fmt: skip


def _by_problem(groups: Sequence[Group]) -> list[list[int]]:
    """Numbers of the groups of each problem: of one, or of every seat that the policy had in the same games."""
    found: list[list[int]] = []
    for number, group in enumerate(groups):
        if number and group.games and group.games is groups[number - 1].games:
            found[-1].append(number)
        else:
            found.append([number])
    return found


def _sampling_seed(seed: int, update: int) -> int:
    """A seed for each update, so that a resumed run samples what the uninterrupted one would have."""
    return (seed * 1_000_003 + update) * 1_009_009 % 2**62
