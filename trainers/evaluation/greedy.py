"""Greedy evaluation on a fixed set of problems."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from trainers.environments import Breakage, GivenUpError, begin
from trainers.rendering import Renderer
from trainers.rollouts import EnvPool, RolloutSettings, TextEnv, rollout_groups
from trainers.sampling.base import Sampler
from trainers.trajectories import Trajectory

# Training draws its seeds from 0 upwards; problems of an endless environment are evaluated from here on.
HELD_OUT_SEED = 2**62


def evaluate(
    pool: EnvPool[TextEnv], sampler: Sampler, renderer: Renderer, *, size: int, settings: RolloutSettings
) -> list[Trajectory]:
    """Play one greedy episode on each of `size` problems.

    Where the environment has finitely many tasks (`env.unwrapped.num_tasks`), the first `size` of them are played by
    `reset(options={"index": i})`; else problems that training never draws. Of an environment that cannot be made, none.
    """
    try:
        num_tasks = begin(pool, 0, 0, _num_tasks, retries=settings.env_retries, breakage=Breakage())
    except GivenUpError:
        return []
    options: list[Mapping[str, Any] | None] = [None] * size
    if num_tasks is not None:
        options = [{"index": i} for i in range(min(size, num_tasks))]
    return play_greedily(pool, sampler, renderer, options=options, settings=settings)


def _num_tasks(env: TextEnv) -> int | None:
    found: int | None = getattr(env.unwrapped, "num_tasks", None)
    return found


def play_greedily(
    pool: EnvPool[TextEnv],
    sampler: Sampler,
    renderer: Renderer,
    *,
    options: Sequence[Mapping[str, Any] | None],
    settings: RolloutSettings,
) -> list[Trajectory]:
    """One greedy episode for each entry of `options`, which `reset` gets (None: a held-out seed decides)."""
    groups = rollout_groups(
        pool,
        sampler,
        renderer,
        seeds=range(HELD_OUT_SEED, HELD_OUT_SEED + len(options)),
        settings=dataclasses.replace(settings, group_size=1, temperature=0.0),
        sampling_seed=0,
        options=options,
    )
    return [trajectory for group in groups for trajectory in group.trajectories]


def summarize(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Mean return, shares of verdicts, mean parts of the reward and lengths; unscorable episodes are only counted.

    A verdict that no episode has is left out: whoever reads several rows fills them in (`logs.shares`).
    """
    scorable = [t for t in trajectories if t.is_scorable]
    found = {"unscorable_share": 1.0 - len(scorable) / max(1, len(trajectories))}
    if not scorable:
        return found
    n = len(scorable)
    found["return_mean"] = sum(t.total_reward for t in scorable) / n
    for verdict, count in sorted(Counter(t.verdict for t in scorable).items()):
        found[f"verdict_{verdict or 'none'}"] = count / n
    for part in sorted({name for t in scorable for turn in t.turns for name in turn.reward_parts}):
        found[f"part_{part}"] = sum(t.reward_part(part) for t in scorable) / n
    found["truncated_share"] = sum(t.is_truncated for t in scorable) / n
    # Of those, what more tokens could have helped: the others were cut off by the environment.
    found["token_limit_share"] = sum(any(turn.stop_reason == "length" for turn in t.turns) for t in scorable) / n
    found["turns_mean"] = sum(len(t.turns) for t in scorable) / n
    found["action_tokens_mean"] = sum(t.num_action_tokens for t in scorable) / n
    return found
