"""Policy-gradient losses: pure functions over the N sampled tokens of a batch.

A loss gives a term a token. What the terms weigh is another question, answered by `sequence_weights` for a whole
minibatch at once: the loss is the weighted sum, and cutting a minibatch into microbatches changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trainers.config import ConfigError, LossOptions
from trainers.config.loss import Aggregation, KLEstimator

MAX_LOG_RATIO = 20.0
"""Log-ratios are cut here before they become ratios: e^20 is half a billion. Beyond that a ratio says only that the two
policies have nothing to do with each other, and exp would soon be inf, which an advantage of 0 makes NaN. Rounding
moves a logprob by some hundredths, an update by some tenths: no ordinary token comes near."""


@dataclass(frozen=True, slots=True)
class LossTerms:
    """What N tokens contribute.

    Args:
        terms: `[N]`, with gradient: the loss is their weighted sum.
        clipped: `[N]` bool: the token's ratio was held at a bound. Its gradient is then exactly 0, but for `cispo`.
    """

    terms: Tensor
    clipped: Tensor


LossFunction = Callable[[Tensor, Tensor, Tensor, Tensor], LossTerms]
"""(logprobs, old_logprobs, advantages, rows), all `[N]`, to the terms."""


def importance_sampling(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor) -> LossTerms:
    """Policy gradient with a token-level importance ratio: `-ratio_t * advantage_t`.

    At ratio 1 its gradient is that of REINFORCE (Williams, 1992); the ratio corrects for a policy that has moved on
    since the tokens were sampled (Degris et al., 2012, arXiv:1205.4839).

    Args:
        logprobs: `[N]` log probabilities under the policy, with gradient.
        old_logprobs: `[N]` log probabilities under the policy that sampled.
        advantages: `[N]`, of the tokens.

    Returns:
        Terms; `clipped` where the log-ratio is beyond `MAX_LOG_RATIO`.
    """
    log_ratio = _log_ratio(logprobs, old_logprobs, advantages)
    ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    return LossTerms(-ratio * advantages.detach(), log_ratio.detach().abs() > MAX_LOG_RATIO)


def ppo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> LossTerms:
    """PPO's clipped ratio (Schulman et al., 2017, arXiv:1707.06347).

    `-min(ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A)`: a token that has become likelier by more than
    clip_high gets no further push up, and one that has become less likely by more than clip_low none down. That the two
    may differ is from DAPO (Yu et al., 2025, arXiv:2503.14476): a larger clip_high leaves rare tokens room to grow.

    Args:
        logprobs: `[N]` log probabilities under the policy, with gradient.
        old_logprobs: `[N]` log probabilities under the policy that sampled.
        advantages: `[N]`, of the tokens.
        clip_low: how far a ratio may fall below 1.
        clip_high: how far it may rise above 1.
        dual_clip: also hold the ratio here where the advantage is negative (Ye et al., 2020, arXiv:1912.09729): a bad
            token that the policy likes far better than the sampler did would else outweigh all others.
    """
    log_ratio = _log_ratio(logprobs, old_logprobs, advantages)
    return _held(log_ratio, advantages.detach(), clip_low, clip_high, dual_clip)


def cispo(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float
) -> LossTerms:
    """A clipped ratio as a mere weight, so that every token keeps its gradient (MiniMax-M1, 2025, arXiv:2506.13585).

    `-sg(clip(ratio, 1 - clip_low, 1 + clip_high)) * A * logprob`, where no gradient flows through `sg`. PPO drops just
    the rare tokens at which a policy changes its mind, for their ratios grow fastest; here they count, up to a bound.
    The paper sets no lower bound: that is clip_low = 1.

    Args:
        logprobs: `[N]` log probabilities under the policy, with gradient.
        old_logprobs: `[N]` log probabilities under the policy that sampled.
        advantages: `[N]`, of the tokens.
        clip_low: how far a weight may fall below 1.
        clip_high: how far it may rise above 1.
    """
    log_ratio = _log_ratio(logprobs, old_logprobs, advantages).detach()
    ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    weight = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    return LossTerms(-weight * advantages.detach() * logprobs, weight != ratio)


def gspo(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, rows: Tensor, *, clip_low: float, clip_high: float
) -> LossTerms:
    """One ratio for a whole sequence, clipped as a whole (Zheng et al., 2025, arXiv:2507.18071).

    The ratio is the geometric mean of the tokens' ratios, `s = exp(mean_t log_ratio_t)`: rewards judge sequences, and
    the noise of single tokens averages out, which is also why the bounds are so narrow (3e-4 below and 4e-4 above in
    the paper). This is the paper's token form: the value is s times the token's own advantage, clipped as in `ppo`, and
    the gradient s * A_t * grad logprob_t, so that advantages may differ from turn to turn; where they do not, and with
    `sequence` as the aggregation, it is the gradient of the sequence form.

    Args:
        logprobs: `[N]` log probabilities under the policy, with gradient.
        old_logprobs: `[N]` log probabilities under the policy that sampled.
        advantages: `[N]`, of the tokens.
        rows: `[N]` int64, from 0 on: the trajectory that each token is of. All tokens of a trajectory must be here.
        clip_low: how far s may fall below 1.
        clip_high: how far s may rise above 1.
    """
    log_ratio = _log_ratio(logprobs, old_logprobs, advantages).detach()
    if rows.shape != logprobs.shape:
        raise ValueError(f"rows must be {list(logprobs.shape)} like logprobs, not {list(rows.shape)}")
    count = torch.bincount(rows)  # [B]
    mean = torch.zeros(len(count), dtype=log_ratio.dtype, device=rows.device).index_add(0, rows, log_ratio)
    of_sequence = (mean / count.clamp_min(1))[rows]  # [N]
    own = logprobs - logprobs.detach()  # 0, with the gradient of the token's logprob
    return _held(of_sequence + own, advantages.detach(), clip_low, clip_high, None)


def reinforce(logprobs: Tensor, advantages: Tensor) -> LossTerms:
    """REINFORCE (Williams, 1992): `-logprob_t * advantage_t`, whoever sampled.

    Args:
        logprobs: `[N]` log probabilities under the policy, with gradient.
        advantages: `[N]`, of the tokens.
    """
    _same_shape(logprobs, advantages)
    return LossTerms(-logprobs * advantages.detach(), torch.zeros_like(logprobs, dtype=torch.bool))


def make_loss(options: LossOptions) -> LossFunction:
    """The loss that the settings name, with its bounds.

    Raises:
        ConfigError: for a name that there is not.
    """
    bounds = {"clip_low": options.clip_low, "clip_high": options.clip_high}
    by_name: dict[str, LossFunction] = {
        "importance_sampling": lambda new, old, advantages, _: importance_sampling(new, old, advantages),
        "ppo": lambda new, old, advantages, _: ppo(new, old, advantages, **bounds, dual_clip=options.dual_clip),
        "cispo": lambda new, old, advantages, _: cispo(new, old, advantages, **bounds),
        "gspo": lambda new, old, advantages, rows: gspo(new, old, advantages, rows, **bounds),
        "reinforce": lambda new, _, advantages, __: reinforce(new, advantages),
    }
    if options.loss not in by_name:
        raise ConfigError(f"loss must be one of {', '.join(by_name)}, not {options.loss!r}")
    return by_name[options.loss]


def kl_estimate(logprobs: Tensor, base_logprobs: Tensor, estimator: KLEstimator) -> Tensor:
    """What each sampled token says of the divergence KL(policy, base) (Schulman, 2020).

    With r the log-ratio `logprobs - base_logprobs`: k1 is r, right on average, but of either sign; k2 is r^2/2,
    never negative and slightly off; k3 is e^-r - 1 + r, never negative and right on average.

    A good value need not have a good gradient (Tang and Munos, 2025, arXiv:2506.09477). For tokens that the policy
    itself sampled:

    - as a loss, differentiated: k1 has mean 0 and does nothing; k2 has the gradient of KL(policy, base); k3 that of
      KL(base, policy), the other direction, which is the same only nearby;
    - as part of the reward, not differentiated: k1 has the gradient of KL(policy, base); k2 and k3 have not.

    Either way a token answers for its own place alone, not for where it leads.

    Args:
        logprobs: `[N]`, under the policy, with or without gradient.
        base_logprobs: `[N]`, under the base model; without.
        estimator: k1, k2 or k3.

    Returns:
        `[N]`, in nats. k3 is cut at a log-ratio of `MAX_LOG_RATIO`.
    """
    _same_shape(logprobs, base_logprobs)
    log_ratio = logprobs - base_logprobs.detach()
    if estimator == "k1":
        return log_ratio
    if estimator == "k2":
        return log_ratio.square() / 2
    if estimator == "k3":
        log_ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        return torch.expm1(-log_ratio) + log_ratio
    raise ConfigError(f"kl_estimator must be k1, k2 or k3, not {estimator!r}")


def sequence_weights(
    lengths: Tensor, aggregation: Aggregation, *, max_tokens: int, num_compared: float | None = None
) -> Tensor:
    """What a token of each row weighs in the loss of a minibatch.

    - token: 1 / all tokens: long answers say more.
    - sequence: 1 / (B * the row's tokens): every answer says the same, so that a token of a long one says less (GRPO,
      Shao et al., 2024, arXiv:2402.03300).
    - constant: 1 / (R * max_tokens): every token the same, whatever the batch's answers are like; neither their length
      nor how many of them teach something has a part in it (Dr. GRPO, Liu et al., 2025, arXiv:2503.20783).

    Args:
        lengths: `[B]` sampled tokens of each row of the whole minibatch. A row of none weighs nothing, but counts in B.
        aggregation: one of these.
        max_tokens: most tokens sampled in one turn.
        num_compared: R, the rows that the minibatch stands for, those that were left out of it included; None: B.

    Returns:
        `[B]` float32.
    """
    sizes = lengths.float()
    if aggregation == "token":
        weights = torch.ones_like(sizes) / sizes.sum().clamp_min(1.0)
    elif aggregation == "sequence":
        weights = 1.0 / (len(sizes) * sizes.clamp_min(1.0))
    elif aggregation == "constant":
        whole = len(sizes) if num_compared is None else num_compared
        weights = torch.full_like(sizes, 1.0 / (max(1.0, whole) * max_tokens))
    else:
        raise ConfigError(f"aggregation must be token, sequence or constant, not {aggregation!r}")
    return weights * (sizes > 0)


def _held(
    log_ratio: Tensor, advantages: Tensor, clip_low: float, clip_high: float, dual_clip: float | None
) -> LossTerms:
    """PPO's minimum, said otherwise: a ratio is held on the one side where its advantage would drive it further."""
    ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    highest = torch.full_like(advantages, torch.inf).masked_fill(advantages > 0, 1.0 + clip_high)
    if dual_clip is not None:
        highest = highest.masked_fill(advantages < 0, dual_clip)
    lowest = torch.zeros_like(advantages).masked_fill(advantages < 0, 1.0 - clip_low)
    clipped = (ratio < lowest) | (ratio > highest) | (log_ratio.abs() > MAX_LOG_RATIO)
    return LossTerms(-ratio.clamp(lowest, highest) * advantages, clipped)


def _log_ratio(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor) -> Tensor:
    _same_shape(logprobs, old_logprobs, advantages)
    return logprobs - old_logprobs.detach()


def _same_shape(*tensors: Tensor) -> None:
    if len({tensor.shape for tensor in tensors}) > 1 or tensors[0].ndim != 1:
        shapes = [list(tensor.shape) for tensor in tensors]
        raise ValueError(f"logprobs and what belongs to them differ in shape or are not [N]: {shapes}")
