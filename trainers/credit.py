"""Which trajectories of a batch there is something to learn from, and the advantage of each of their turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainers.advantages import group_mean_advantages, has_spread, state_advantages, turn_advantages
from trainers.config import Baseline
from trainers.trajectories import Group, Trajectory


@dataclass(frozen=True)
class Credit:
    """What to train on.

    Args:
        trajectories: those with something to learn from.
        advantages: for each of them, one number a turn.
        spread_share: the share of groups whose returns differ.
    """

    trajectories: list[Trajectory]
    advantages: list[list[float]]
    spread_share: float


def assign_credit(groups: Sequence[Group], baseline: Baseline, *, keep_all: bool = False) -> Credit:
    """Compare every turn with its like.

    A group whose returns are all equal is left out (but for the baseline `state`, which compares across groups), and so
    is an episode that the environment failed to judge, or that was over before the policy said anything.

    Args:
        groups: the batch.
        baseline: see `TrainConfig.baseline`.
        keep_all: keep groups without spread, too: where not only the reward teaches something.
    """
    width = max(1, *(len(t.turns) for group in groups for t in group.trajectories))
    rewards = torch.zeros(len(groups), len(groups[0].trajectories), width)  # [P, G, K]
    num_turns = torch.zeros(rewards.shape[:2], dtype=torch.int64)
    scorable = torch.zeros(rewards.shape[:2], dtype=torch.bool)
    for p, group in enumerate(groups):
        for g, trajectory in enumerate(group.trajectories):
            rewards[p, g, : len(trajectory.turns)] = torch.tensor([turn.reward for turn in trajectory.turns])
            num_turns[p, g] = len(trajectory.turns)
            scorable[p, g] = trajectory.is_scorable and bool(trajectory.turns)
    returns = rewards.sum(2)  # [P, G]
    spread = has_spread(returns, scorable)
    if baseline == "group":
        advantages = group_mean_advantages(returns, scorable)[:, :, None].expand(-1, -1, width)
    else:
        advantages = turn_advantages(rewards, num_turns, scorable)
    if baseline == "state":
        advantages = _by_state(groups, rewards, advantages, scorable)
        learn_from = scorable & (advantages != 0).any(2)
    else:
        learn_from = scorable & spread[:, None]
    if keep_all:
        learn_from = scorable
    chosen = [
        (trajectory, advantages[p, g, : len(trajectory.turns)].tolist())
        for p, group in enumerate(groups)
        for g, trajectory in enumerate(group.trajectories)
        if learn_from[p, g]
    ]
    return Credit([t for t, _ in chosen], [a for _, a in chosen], float(spread.float().mean()))


def _by_state(groups: Sequence[Group], rewards: Tensor, by_turn: Tensor, scorable: Tensor) -> Tensor:
    """`state_advantages` of all turns of the batch, with the group's baseline for the turn as the prior: `[P, G, K]`.

    The same words in another seat or against another opponent are another state.
    """
    to_go = rewards.flip(2).cumsum(2).flip(2)
    numbers: dict[tuple[str, str, str], int] = {}
    states = torch.full(rewards.shape, -1)
    for p, group in enumerate(groups):
        for g, trajectory in enumerate(group.trajectories):
            if scorable[p, g]:
                for k, observation in enumerate(trajectory.observations[: len(trajectory.turns)]):
                    states[p, g, k] = numbers.setdefault((group.agent, group.opponent, observation), len(numbers))
    taken = states >= 0
    advantages = torch.zeros_like(rewards)
    advantages[taken] = state_advantages(to_go[taken], states[taken], (to_go - by_turn)[taken])
    return advantages
