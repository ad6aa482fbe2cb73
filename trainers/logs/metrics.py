"""What is written down of an update and of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trainers.collect import Batch
from trainers.config import TrainConfig
from trainers.evaluation.greedy import summarize
from trainers.games import SELF
from trainers.learn import Learned
from trainers.rendering import Renderer
from trainers.rollouts import unscorable_because
from trainers.trajectories import Group, Trajectory, token_record

# What a verdict `unscorable` is called among what broke: the environment did answer, so it is not broken.
_UNSCORABLE = unscorable_because({}).partition(":")[0]


def update_metrics(batch: Batch, learned: Learned, *, group_size: int) -> dict[str, float]:
    """The figures of an update; those of each environment under its name where there are several."""
    # In a game of several players it may be over before the policy said anything: that is not its doing.
    everything = [t for group in batch.groups for t in group.trajectories if t.turns]
    sampled = sum(t.num_action_tokens for t in everything)
    spread = batch.credit.has_spread
    found = {
        **_by_task(_trajectories_by_task(batch.groups)),
        **_returns_by_opponent(batch.groups),
        "constant_groups_share": 1.0 - sum(spread) / max(1, len(spread)),
        "entropy": -sum(sum(t.logprobs) for t in everything) / max(1, sampled),
        "action_tokens": float(sampled),
        "groups": float(len(batch.groups)),
        "broken_share": _broken_episodes(batch, group_size) / max(1, batch.episodes),
        **learned.metrics,
    }
    if batch.credit.masked:
        found["masked_share"] = batch.credit.masked / max(1, len(everything))
    if batch.clock.sampling_seconds > 0:
        found["tokens_per_second"] = sampled / batch.clock.sampling_seconds
    return found


def evaluation_metrics(played: Mapping[str, Sequence[Trajectory]]) -> dict[str, float]:
    """The figures of an evaluation, from the episodes of each environment."""
    return _by_task(played)


def _trajectories_by_task(groups: Sequence[Group]) -> dict[str, list[Trajectory]]:
    found: dict[str, list[Trajectory]] = {}
    for group in groups:
        found.setdefault(group.task, []).extend(t for t in group.trajectories if t.turns)
    return found


def _by_task(played: Mapping[str, Sequence[Trajectory]]) -> dict[str, float]:
    """Figures over all environments, and where there are several for each."""
    found = summarize([t for trajectories in played.values() for t in trajectories])
    if len(played) > 1:
        for task, trajectories in played.items():
            found |= {f"{task}/{name}": value for name, value in summarize(trajectories).items()}
    return found


def _broken_episodes(batch: Batch, group_size: int) -> int:
    """How many raised something, or could not begin: those of a problem that was given up are a whole group."""
    return sum(1 if b.began else group_size for b in batch.broken if not b.reason.startswith(_UNSCORABLE))


def _returns_by_opponent(groups: Sequence[Group]) -> dict[str, float]:
    """Mean return against each kind of opponent, and in self-play for each seat."""
    returns: dict[str, list[float]] = {}
    for group in groups:
        if group.opponent:
            name = group.agent if group.opponent == SELF else group.opponent.partition(" ")[0]
            returns.setdefault(f"return_{name}", []).extend(
                t.total_reward for t in group.trajectories if t.is_scorable and t.turns
            )
    return {name: sum(values) / len(values) for name, values in sorted(returns.items()) if values}


def records_of(batch: Batch, learned: Learned, renderer: Renderer, config: TrainConfig) -> list[dict[str, Any]]:
    """The episodes of the first `record_groups` groups, as JSON values.

    In self-play each game is of two groups, one for either seat; it is recorded with the first.
    """
    tasks = {task.name: task for task in config.tasks()}
    number = {id(trajectory): n for n, trajectory in enumerate(batch.credit.trajectories)}
    records = []
    first_seats = {id(group.games or group): group for group in reversed(batch.groups)}
    chosen = [group for group in batch.groups if first_seats[id(group.games or group)] is group]
    for i, group in enumerate(chosen[: config.record_groups]):
        task = tasks[group.task]
        common = {"group": i, "env": task.env_id, "env_args": dict(task.args)}
        if group.games:
            records += [{**common, **game} for game in group.games]
            continue
        for trajectory in group.trajectories:
            n = number.get(id(trajectory))
            given = None if n is None else learned.token_advantages.get(n)
            told = token_record(
                trajectory,
                renderer.text,
                token_advantages=None if given is None else given.tolist(),
                turn_advantages=None if n is None else batch.credit.advantages[n],
            )
            records.append({**common, **trajectory.as_record(), **told})
    return records
