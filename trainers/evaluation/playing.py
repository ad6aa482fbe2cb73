"""From problems to records: all episodes of an evaluation, wave by wave."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium as gym

from trainers.config import Task
from trainers.environments import Breakage, EnvPool
from trainers.evaluation.config import EvalConfig
from trainers.evaluation.folder import EvalFolder, Records
from trainers.evaluation.greedy import HELD_OUT_SEED
from trainers.evaluation.players import Player, open_player
from trainers.evaluation.summary import Reference, has_failed, is_correct
from trainers.rollouts import RolloutSettings, TextEnv

# The best return of an environment of more tasks is not asked for: some must grade every row to know it.
_MOST_TASKS = 10_000


@dataclass(frozen=True)
class Wave:
    """Episodes that are played together, and kept or played again together.

    Args:
        task: number of the environment.
        kind: `greedy` or `sampled`.
        problems: numbers of the problems.
        answers: to each of them.
    """

    task: int
    kind: str
    problems: range
    answers: int

    @property
    def size(self) -> int:
        """How many episodes it has."""
        return len(self.problems) * self.answers


def evaluate(config: EvalConfig) -> tuple[list[dict[str, Any]], bool]:
    """Play what is not yet played, and again the waves in which an episode failed.

    Returns:
        All records in the order of the waves, and whether anything was played now.

    Raises:
        ConfigError: where a setting cannot work.
        BrokenEnvironmentError: where too many problems in a row cannot be played.
        KeyboardInterrupt: after Ctrl-C, when every finished wave is in the folder.
    """
    config.validate()
    waves = plan(config, [_count_problems(config, task) for task in config.tasks()])
    names = [task.name for task in config.tasks()]
    folder = EvalFolder(
        config, [[(names[w.task], w.kind, problem) for problem in w.problems for _ in range(w.answers)] for w in waves]
    )
    missing = [i for i in range(len(waves)) if i >= len(folder.waves) or any(map(has_failed, folder.waves[i]))]
    if missing:
        try:
            with contextlib.closing(_play(config, waves, missing)) as played:
                for number, records in played:
                    folder.keep(number, records)
        except KeyboardInterrupt:
            total, kept = sum(wave.size for wave in waves), sum(map(len, folder.waves))
            sys.stderr.write(f"Stopped with {kept} of {total} answers; the same command goes on from there.\n")
            raise
    return [record for wave in folder.waves for record in wave], bool(missing)


def plan(config: EvalConfig, problems: Sequence[int]) -> list[Wave]:
    """The waves of an evaluation; `problems` is how many problems each environment has."""
    waves = []
    for number, count in enumerate(problems):
        for kind, answers in (("greedy", int(config.greedy)), ("sampled", config.samples)):
            if answers:
                size = max(1, config.max_rows // answers)
                starts = range(0, count, size)
                waves += [Wave(number, kind, range(start, min(count, start + size)), answers) for start in starts]
    return waves


def references(config: EvalConfig) -> dict[str, Reference]:
    """What is known of each environment's returns, by the name of the task."""
    return {task.name: _reference(task) for task in config.tasks()}


def _reference(task: Task) -> Reference:
    env = gym.make(task.env_id, **task.args)
    made: Any = env.unwrapped
    threshold = None if env.spec is None else env.spec.reward_threshold
    known: dict[str, float] = {}
    num_tasks: int | None = getattr(made, "num_tasks", None)
    if hasattr(made, "solver_return") and (num_tasks or 0) <= _MOST_TASKS:
        found = {name: made.solver_return(name) for name in made.solvers}
        known = {name: value for name, value in found.items() if value is not None}
    env.close()
    solver = max(known, key=lambda name: known[name], default="")
    return Reference(best=known.get(solver), solver=solver, threshold=threshold, num_tasks=num_tasks)


def _count_problems(config: EvalConfig, task: Task) -> int:
    env = gym.make(task.env_id, **task.args)
    num_tasks: int | None = getattr(env.unwrapped, "num_tasks", None)
    env.close()
    return config.problems if num_tasks is None else min(config.problems, num_tasks)


# --- Playing ---


def _play(
    config: EvalConfig, waves: Sequence[Wave], missing: Sequence[int]
) -> Generator[tuple[int, Records], None, None]:
    """One `missing` wave after the other: its number, and its records."""
    tasks = config.tasks()
    progress = Progress(tasks, total=sum(wave.size for wave in waves), missing=sum(waves[i].size for i in missing))
    breakage = Breakage(say=_say)
    with open_player(config) as (player, context_length), contextlib.ExitStack() as open_pools:
        pools: dict[int, EnvPool[TextEnv]] = {}
        for number in missing:
            wave = waves[number]
            task = tasks[wave.task]
            if wave.task not in pools:
                open_pools.close()  # of the environment before
                pools[wave.task] = EnvPool(partial(gym.make, task.env_id, **task.args), task.name)
                open_pools.callback(pools[wave.task].close)
            settings = _settings(config, wave, context_length)
            records = _play_wave(config, wave, player, pools[wave.task], settings, breakage)
            yield number, records
            progress.show(wave, records)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _settings(config: EvalConfig, wave: Wave, context_length: int) -> RolloutSettings:
    is_sampled = wave.kind == "sampled"
    return RolloutSettings(
        group_size=wave.answers,
        max_tokens=config.max_tokens,
        temperature=config.temperature if is_sampled else 0.0,
        context_length=context_length,
        max_rows=wave.size,
        top_p=config.top_p if is_sampled else 1.0,
        top_k=config.top_k if is_sampled else 0,
    )


def _play_wave(
    config: EvalConfig,
    wave: Wave,
    player: Player,
    pool: EnvPool[TextEnv],
    settings: RolloutSettings,
    breakage: Breakage,
) -> Records:
    is_finite = getattr(pool.at(0).unwrapped, "num_tasks", None) is not None
    options = {problem: {"index": problem} if is_finite else None for problem in wave.problems}
    groups = player(
        pool,
        seeds=[HELD_OUT_SEED + problem for problem in wave.problems],
        settings=settings,
        # A wave's answers do not depend on where the evaluation went on.
        sampling_seed=config.seed * 1_000_003 + wave.problems.start,
        options=list(options.values()),
        breakage=breakage,
    )
    played = {group.seed - HELD_OUT_SEED: [t.as_record() for t in group.trajectories] for group in groups}
    reasons = {broken.seed - HELD_OUT_SEED: broken.reason for broken in breakage.take() if not broken.began}
    for problem in wave.problems:
        if problem not in played:
            played[problem] = [{**_UNPLAYED, "failure": reasons.get(problem, "it did not begin")}] * wave.answers
    task = config.tasks()[wave.task]
    return [
        {
            "update": 0,
            # The report shows the answers to a problem together; greedy ones are a group of their own.
            "group": 2 * (wave.task * config.problems + problem) + (wave.kind == "sampled"),
            "task": task.name,
            "kind": wave.kind,
            "problem": problem,
            "env": task.env_id,
            "env_args": dict(task.args),
            "seed": HELD_OUT_SEED + problem,
            "options": options[problem],
            **episode,
        }
        for problem in wave.problems
        for episode in played[problem]
    ]


# A problem that did not even begin: our failure, and one line like any other.
_UNPLAYED: dict[str, Any] = {
    "return": 0.0, "prompt": [], "observations": ["", ""], "actions": [""], "rewards": [0.0],
    "verdicts": ["unscorable"], "stop_reasons": ["env"], "reward_parts": [{}], "action_tokens": 0,
}  # fmt: skip


class Progress:
    """One line a wave, on stderr: how far, how well, how long still."""

    def __init__(self, tasks: Sequence[Task], *, total: int, missing: int) -> None:
        self._names = [task.name for task in tasks]
        self._total = total
        self._first = self._done = total - missing
        self._found: dict[tuple[int, str], list[Mapping[str, Any]]] = {}
        self._started = time.perf_counter()

    def show(self, wave: Wave, records: Sequence[Mapping[str, Any]]) -> None:
        """Write the line after a wave."""
        self._done += wave.size
        found = self._found.setdefault((wave.task, wave.kind), [])
        found += records
        seconds = time.perf_counter() - self._started
        left = seconds / (self._done - self._first) * (self._total - self._done)
        correct, mean = sum(map(is_correct, found)), sum(record["return"] for record in found) / len(found)
        sys.stderr.write(
            f"{self._done}/{self._total} answers  {self._names[wave.task]}, {wave.kind}: "
            f"correct {correct}/{len(found)}, mean return {mean:.3g}  {seconds:.0f} s, about {left:.0f} s left\n"
        )
        sys.stderr.flush()
