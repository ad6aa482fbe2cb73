"""Rewards to advantages: pure functions.

P problems, G trajectories a group, K turns. First `returns` says what a trajectory or each of its turns brought; then
one of the `ESTIMATORS` compares that within the group.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from trainers.config import ConfigError
from trainers.config.credit import Advantage
from trainers.config.loss import KLEstimator
from trainers.losses import kl_estimate

EPSILON = 1e-4
"""Added to a deviation before anything is divided by it: far below the steps of ordinary rewards, far above what
rounding leaves of equal ones."""


def returns(
    rewards: Tensor,
    num_turns: Tensor,
    scorable: Tensor | None = None,
    *,
    credit: Literal["trajectory", "turn"],
    discount: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """What is to be compared: the discounted return of every trajectory, or of every turn what was still to come.

    Args:
        rewards: `[P, G, K]` reward of each of K turns; after a trajectory's last, and in unscorable ones, anything.
        num_turns: `[P, G]` how many turns each trajectory has.
        scorable: `[P, G]` bool; False where the environment failed to judge. None: all are.
        credit: trajectory or turn.
        discount: what a reward of the next turn counts for in this one.

    Returns:
        `values` and `present`, a bool mask of them: `[P, G, 1]` for trajectory, `[P, G, K]` for turn. Trajectories that
        are not scorable, or have no turn, are not present. Values that are not present are 0.
    """
    if rewards.ndim != 3 or rewards.shape[:2] != num_turns.shape:
        raise ValueError(
            f"rewards must be [P, G, K] and num_turns [P, G], not {list(rewards.shape)} and {list(num_turns.shape)}"
        )
    present = torch.arange(rewards.shape[2], device=rewards.device) < num_turns[:, :, None]  # [P, G, K]
    if scorable is not None:
        present = present & scorable[:, :, None]
    to_go = rewards.masked_fill(~present, 0.0)
    for k in range(rewards.shape[2] - 2, -1, -1):
        to_go[:, :, k] += discount * to_go[:, :, k + 1]
    return (to_go[:, :, :1], present[:, :, :1]) if credit == "trajectory" else (to_go, present)


def group_mean(values: Tensor, present: Tensor) -> Tensor:
    """The value minus the mean of its group, not divided by the group's deviation.

    The group's mean is the baseline of REINFORCE (Williams, 1992) as used by GRPO (Shao et al., 2024,
    arXiv:2402.03300); leaving out the division by the deviation follows Dr. GRPO (Liu et al., 2025, arXiv:2503.20783):
    the division gives nearly solved and nearly hopeless problems the largest weights.

    In a game of many turns the tries at one problem part ways: one ends in the third turn, another in the ninth. With
    values by turn, a turn is compared only with the same turn of those that got as far, which takes out the luck of the
    turns before it (a time-dependent baseline: Williams, 1992; Greensmith et al., 2004).

    Args:
        values: `[P, G, K]` from `returns`.
        present: `[P, G, K]` bool: the others count in no mean and have advantage 0.

    Returns:
        `[P, G, K]` advantages; over those present, each group's sum to 0 for every k.
    """
    values, count = _checked(values, present)
    mean = values.sum(1, keepdim=True) / count.clamp_min(1.0)
    return (values - mean) * present


def group_mean_and_deviation(values: Tensor, present: Tensor) -> Tensor:
    """`group_mean`, divided by the deviation of the group plus `EPSILON` (GRPO: Shao et al., 2024, arXiv:2402.03300).

    The paper does not say which deviation; here it is that of a sample, with n - 1 in the denominator, as in most
    implementations. A group of one has advantage 0.

    Args:
        values: `[P, G, K]` from `returns`.
        present: `[P, G, K]` bool.

    Returns:
        `[P, G, K]` advantages.
    """
    centred = group_mean(values, present)
    count = present.sum(1, keepdim=True)
    deviation = (centred.square().sum(1, keepdim=True) / (count - 1).clamp_min(1)).sqrt()
    return centred / (deviation + EPSILON)


def leave_one_out(values: Tensor, present: Tensor) -> Tensor:
    """The value minus the mean of the others in its group (RLOO: Kool et al., 2019; Ahmadian et al., 2024,
    arXiv:2402.14740).

    The baseline knows nothing of the trajectory itself and is therefore unbiased. It is `group_mean` times n / (n - 1)
    for n present; alone, a trajectory has nothing to be compared with and has advantage 0.

    Args:
        values: `[P, G, K]` from `returns`.
        present: `[P, G, K]` bool.

    Returns:
        `[P, G, K]` advantages.
    """  # noqa: D205
    count = present.sum(1, keepdim=True)
    return group_mean(values, present) * count / (count - 1).clamp_min(1)


def global_normalization(values: Tensor, present: Tensor) -> Tensor:
    """`group_mean`, divided by the deviation of that over the whole batch plus `EPSILON` (REINFORCE++ with a baseline:
    Hu et al., 2025, arXiv:2501.03262).

    Of the paper's two variants this is the one for groups: the other one takes away the mean of the batch, not of the
    group, and would count how hard a problem is as a merit. The scale of the rewards is gone, as with GRPO, but all
    problems are divided by the same number, so that none is blown up for having little spread. The mean over the batch
    is 0 already; the deviation is that of the population. Every value counts once, however many tokens it stands for.
    The batch is what is trained on: leave groups without spread out of `present` where they are not trained.

    Args:
        values: `[P, G, K]` from `returns`.
        present: `[P, G, K]` bool.

    Returns:
        `[P, G, K]` advantages.
    """  # noqa: D205
    centred = group_mean(values, present)
    deviation = (centred.square().sum() / present.sum().clamp_min(1)).sqrt()
    return centred / (deviation + EPSILON)


def no_baseline(values: Tensor, present: Tensor) -> Tensor:
    """The value itself (REINFORCE: Williams, 1992): unbiased, and noisy unless rewards lie around 0.

    Args:
        values: `[P, G, K]` from `returns`.
        present: `[P, G, K]` bool.

    Returns:
        `[P, G, K]` advantages.
    """
    return _checked(values, present)[0]


ESTIMATORS: Mapping[Advantage, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": group_mean,
    "grpo": group_mean_and_deviation,
    "rloo": leave_one_out,
    "global": global_normalization,
    "none": no_baseline,
}
"""By the setting `advantage`: (values, present) to advantages, all `[P, G, K]`."""


def _checked(values: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """The values, 0 where not present, and how many of each group are: `[P, 1, K]`."""
    if values.ndim != 3 or values.shape != present.shape:
        raise ValueError(
            f"values and present must both be [P, G, K], not {list(values.shape)} and {list(present.shape)}"
        )
    return values.masked_fill(~present, 0.0), present.sum(1, keepdim=True).to(values.dtype)


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
    advantages: Tensor,
    logprobs: Tensor,
    base_logprobs: Tensor,
    coef: float,
    *,
    mean: float,
    estimator: KLEstimator = "k1",
) -> Tensor:
    """Take `coef` times each token's divergence from the base model, less the batch's mean, from its advantage.

    As part of the reward k1 is the estimator to use: it has the gradient of KL(policy, base), and k2 and k3 have not
    (Tang and Munos, 2025, arXiv:2506.09477; see `kl_estimate`). Each token answers for itself alone, not for what the
    later ones of its row cost. The mean is a baseline.

    Args:
        advantages: `[N]`, of tokens.
        logprobs: `[N]`, under the policy that sampled them.
        base_logprobs: `[N]`, under the base model.
        coef: how many units of reward one nat costs.
        mean: of `kl_estimate` over the whole batch, whichever part of it these tokens are.
        estimator: k1, k2 or k3.

    Returns:
        `[N]` advantages, without gradient.
    """
    return advantages - coef * (kl_estimate(logprobs.detach(), base_logprobs, estimator) - mean)


def overlong_penalty(lengths: Tensor, max_tokens: int, buffer: int, penalty: float) -> Tensor:
    """What long answers lose (the soft overlong punishment of DAPO: Yu et al., 2025, arXiv:2503.14476).

    Nothing up to `max_tokens - buffer`, then more with every token in a straight line, and `penalty` at `max_tokens`:
    where almost all answers are cut off, a slightly shorter one is already a better one.

    Args:
        lengths: sampled tokens of each turn, in any shape.
        max_tokens: most tokens sampled in one turn.
        buffer: over how many tokens it grows; at most max_tokens.
        penalty: the most, not negative.

    Returns:
        What to take from the rewards, in the shape of `lengths`; float64.

    Raises:
        ConfigError: when the buffer does not fit.
    """
    if not 0 < buffer <= max_tokens:
        raise ConfigError(f"overlong_buffer must be at least 1 and at most max_tokens, {max_tokens}, not {buffer}")
    return penalty * ((lengths.double() - (max_tokens - buffer)) / buffer).clamp(0.0, 1.0)


def has_spread(values: Tensor, scorable: Tensor | None = None) -> Tensor:
    """Which groups hold something to learn from.

    Args:
        values: `[P, G]` returns.
        scorable: `[P, G]` bool: the others do not count. None: all do.

    Returns:
        `[P]` bool; False where all scorable returns of a group are equal, to a billionth: sums of the same rewards in
        another order differ by less.
    """
    keep = torch.ones_like(values, dtype=torch.bool) if scorable is None else scorable
    highest = values.masked_fill(~keep, -torch.inf).amax(1)
    lowest = values.masked_fill(~keep, torch.inf).amin(1)
    return highest - lowest > 1e-9 * torch.maximum(highest.abs(), lowest.abs())
