"""Tokens are sampled by one computation of the policy and trained by another: weights that make up for it.

Pure functions over the N sampled tokens of a batch. The two may be another engine, other kernels, or weights an update
apart. Where they are the same, every weight is 1 but for rounding.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from trainers.config import ConfigError
from trainers.config.loss import Level
from trainers.losses import MAX_LOG_RATIO

How = Literal["truncate", "mask"]


def importance_weights(
    trained_logprobs: Tensor, sampled_logprobs: Tensor, rows: Tensor, *, how: How, level: Level, limit: float
) -> Tensor:
    """Importance weights of trainer over sampler, kept within bounds: multiply the loss's terms by them.

    `w = p_trainer / p_sampler`, of a token, or the product over its sequence. Truncated, `min(w, limit)`: the variance
    of the weights is bounded, at the cost of a small bias (Ionides, 2008); against the gap between an inference engine
    and a trainer it was put to use by Yao et al. (2025, "Your efficient RL framework secretly brings you off-policy RL
    training"). Masked: weights outside `[1 / limit, limit]` become 0, for a token on which the two disagree that much
    is thought broken (IcePop; Ling team, 2025, arXiv:2510.18855). By token, what came before a token is not corrected
    for; by sequence it is, but logs add up, so that long sequences soon reach the limit.

    Args:
        trained_logprobs: `[N]`, as the trainer computes them, before the first step on this batch.
        sampled_logprobs: `[N]`, as the sampler gave them.
        rows: `[N]` int64, from 0 on: the trajectory that each token is of. By sequence, all its tokens must be here.
        how: truncate or mask.
        level: token or sequence.
        limit: the largest weight, at least 1.

    Returns:
        `[N]`, without gradient.

    Raises:
        ConfigError: for a `how`, `level` or `limit` that does not exist.
    """
    if not trained_logprobs.shape == sampled_logprobs.shape == rows.shape or rows.ndim != 1:
        shapes = [list(x.shape) for x in (trained_logprobs, sampled_logprobs, rows)]
        raise ValueError(f"logprobs and rows must all be [N], not {shapes}")
    if not limit >= 1:
        raise ConfigError(f"correction_limit must be at least 1, not {limit}: equal policies have weight 1")
    log_ratio = (trained_logprobs - sampled_logprobs).detach()
    if level == "sequence":
        count = int(rows.max()) + 1 if len(rows) else 0
        log_ratio = log_ratio.new_zeros(count).index_add(0, rows, log_ratio)[rows]
    elif level != "token":
        raise ConfigError(f"correction_level must be token or sequence, not {level!r}")
    weights = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    if how == "truncate":
        return weights.clamp(max=limit)
    if how == "mask":
        return weights.masked_fill((weights > limit) | (weights < 1.0 / limit), 0.0)
    raise ConfigError(f"correction must be truncate or mask here, not {how!r}")


def is_bounded(weights: Tensor, *, limit: float) -> Tensor:
    """Which of `importance_weights` are not the plain ratio: those at the limit, and those that became 0.

    Args:
        weights: `[N]`, from `importance_weights`.
        limit: the one that they were made with.

    Returns:
        `[N]` bool; its mean is the share of tokens that the correction changed.
    """
    return (weights == 0) | (weights >= torch.tensor(limit, dtype=weights.dtype, device=weights.device))
