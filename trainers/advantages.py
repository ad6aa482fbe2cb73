"""Rewards to advantages: pure functions over `[P, G]` tensors (P problems, G trajectories a group)."""

from __future__ import annotations

import torch
from torch import Tensor


def group_mean_advantages(rewards: Tensor, scorable: Tensor | None = None) -> Tensor:
    """Reward minus the mean of its group, not divided by the group's deviation.

    The group's mean is the baseline of REINFORCE (Williams, 1992) as used by GRPO (Shao et al., 2024,
    arXiv:2402.03300); leaving out the division by the deviation follows Dr. GRPO (Liu et al., 2025, arXiv:2503.20783):
    the division gives nearly solved and nearly hopeless problems the largest weights.

    Args:
        rewards: `[P, G]` returns of the trajectories.
        scorable: `[P, G]` bool; False where the environment failed to judge. Such a trajectory counts in no mean and
            has advantage 0.

    Returns:
        `[P, G]` advantages; every row sums to 0 over its scorable trajectories.
    """
    if rewards.ndim != 2:
        raise ValueError(f"rewards must be [P, G], not {list(rewards.shape)}")
    weight = torch.ones_like(rewards) if scorable is None else scorable.to(rewards.dtype)
    rewards = rewards.masked_fill(weight == 0, 0.0)
    mean = (rewards * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp_min(1.0)
    return (rewards - mean) * weight


def turn_advantages(rewards: Tensor, num_turns: Tensor, scorable: Tensor | None = None) -> Tensor:
    """Reward still to come minus the mean of that over the group's trajectories that got as far as this turn.

    In a game of many turns the tries at one problem part ways: one ends in the third turn, another in the ninth. A
    baseline for each turn compares a turn only with its like, which takes out the luck of the turns before it
    (a time-dependent baseline: Williams, 1992; Greensmith et al., 2004). With one turn it is
    `group_mean_advantages`.

    Args:
        rewards: `[P, G, K]` reward of each of K turns; 0 after a trajectory's last.
        num_turns: `[P, G]` how many turns each trajectory has.
        scorable: `[P, G]` bool; False where the environment failed to judge: such trajectories are left out.

    Returns:
        `[P, G, K]` advantages; 0 where there was no turn.
    """
    if rewards.ndim != 3 or rewards.shape[:2] != num_turns.shape:
        raise ValueError(f"rewards must be [P, G, K] and num_turns [P, G], not {rewards.shape} and {num_turns.shape}")
    if scorable is not None:
        rewards = rewards.masked_fill(~scorable[:, :, None], 0.0)
    to_go = rewards.flip(2).cumsum(2).flip(2)
    present = torch.arange(rewards.shape[2], device=rewards.device) < num_turns[:, :, None]  # [P, G, K]
    if scorable is not None:
        present = present & scorable[:, :, None]
    weight = present.to(rewards.dtype)
    mean = (to_go * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp_min(1.0)
    return (to_go - mean) * weight


def state_advantages(to_go: Tensor, states: Tensor, prior: Tensor, *, prior_weight: float = 1.0) -> Tensor:
    """Reward still to come minus the mean of that over the other turns that were taken in the same state.

    For games whose observations show all that matters, such as a board: which positions a trajectory came through, and
    whether they were any good, is taken out of what its moves are given. Grouping turns by their state follows GiGPO
    (Feng et al., 2025, arXiv:2505.10978); leaving the turn itself out of the mean keeps that part of the baseline
    unbiased (Kool et al., 2019; Ahmadian et al., 2024, arXiv:2402.14740).

    Args:
        to_go: `[N]` reward of each turn and of those after it.
        states: `[N]` int64, the number of each turn's state, from 0 on.
        prior: `[N]` what to expect of a turn in a state that nobody else was in.
        prior_weight: as how many turns the prior counts.

    Returns:
        `[N]` advantages.
    """
    if not to_go.shape == states.shape == prior.shape or to_go.ndim != 1:
        raise ValueError(
            f"all three must be [N], not {list(to_go.shape)}, {list(states.shape)} and {list(prior.shape)}"
        )
    if not prior_weight > 0:
        raise ValueError(f"prior_weight must be positive, not {prior_weight}")
    count = torch.bincount(states)[states]
    total = torch.zeros(int(states.max()) + 1 if len(states) else 0, dtype=to_go.dtype).index_add(0, states, to_go)
    others = total[states] - to_go
    return to_go - (others + prior_weight * prior) / (count - 1 + prior_weight)


def with_kl_penalty(
    advantages: Tensor, sampled_logprobs: Tensor, base_logprobs: Tensor, coef: float, *, mean: float
) -> Tensor:
    """Take `coef` times each token's log-ratio to the base model, less the batch's mean, from its advantage.

    The log-ratio of a sampled token is the unbiased estimator k1 of the divergence KL(policy, base) at that token
    (Schulman, 2020); as a part of the reward, rather than of the loss, it has the divergence's gradient (Tang and
    Munos, 2025, arXiv:2506.09477). Each token answers for itself alone, not for what the later ones of its row cost.
    The mean is a baseline.

    Args:
        advantages: `[N]`, of tokens.
        sampled_logprobs: `[N]`, under the policy that sampled them.
        base_logprobs: `[N]`, under the base model.
        coef: how many units of reward one nat costs.
        mean: of the log-ratios of the whole batch, whichever part of it these tokens are.

    Returns:
        `[N]` advantages.
    """
    return advantages - coef * (sampled_logprobs - base_logprobs - mean)


def has_spread(rewards: Tensor, scorable: Tensor | None = None) -> Tensor:
    """Which groups hold something to learn from: `[P]` bool, False where all scorable rewards of a group are equal."""
    keep = torch.ones_like(rewards, dtype=torch.bool) if scorable is None else scorable
    highest = rewards.masked_fill(~keep, -torch.inf).amax(1)
    lowest = rewards.masked_fill(~keep, torch.inf).amin(1)
    return highest > lowest
