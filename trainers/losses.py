"""Policy-gradient losses: pure functions over the N sampled tokens of a batch."""

from __future__ import annotations

from torch import Tensor


def importance_sampling_loss(logprobs: Tensor, sampled_logprobs: Tensor, advantages: Tensor) -> Tensor:
    """Policy gradient with a token-level importance ratio, summed over tokens.

    `-sum_t exp(logprobs_t - sampled_logprobs_t) * advantages_t`. At ratio 1 its gradient is that of REINFORCE
    (Williams, 1992); the ratio corrects for a sampler that is not exactly the policy being trained
    (Degris et al., 2012, arXiv:1205.4839). The caller divides by the number of sampled tokens in the whole batch, so
    that the loss does not depend on how the batch is cut into microbatches.

    Args:
        logprobs: `[N]` log probabilities under the policy, with gradient.
        sampled_logprobs: `[N]` log probabilities under the sampler, without.
        advantages: `[N]` advantage of the trajectory that the token belongs to.

    Returns:
        Scalar.
    """
    if not logprobs.shape == sampled_logprobs.shape == advantages.shape:
        shapes = [list(x.shape) for x in (logprobs, sampled_logprobs, advantages)]
        raise ValueError(f"logprobs, sampled_logprobs and advantages differ in shape: {shapes}")
    ratio = (logprobs - sampled_logprobs.detach()).exp()
    return -(ratio * advantages.detach()).sum()
