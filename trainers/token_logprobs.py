"""Log probabilities of tokens from the last hidden states, without a tensor of the whole vocabulary."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

# Logits of so many entries are held at a time: few enough to stay in fast memory on a CPU, enough to fill a GPU.
_LOGITS_AT_A_TIME = {"cpu": 4 * 1024 * 1024, "cuda": 128 * 1024 * 1024}


def token_logprobs(lm_head: nn.Linear, hidden: Tensor, targets: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Log probability of each target.

    A token's logprob depends on its own hidden state alone, so its derivative is computed along with it, while its
    logits are there, and kept: `[M, H]` instead of the logits, which are neither kept nor computed again. Nothing of
    size `[M, V]` exists. The head itself gets no gradient.

    Args:
        lm_head: the output projection, frozen.
        hidden: `[M, H]`.
        targets: `[M]` int64.
        temperature: divides the logits.

    Returns:
        `[M]` float32.
    """
    found = _TokenLogprobs.apply(hidden, lm_head.weight, lm_head.bias, targets, temperature)  # type: ignore[no-untyped-call]
    return cast("Tensor", found)


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, temperature: float
    ) -> Tensor:
        rows = max(1, _LOGITS_AT_A_TIME.get(hidden.device.type, _LOGITS_AT_A_TIME["cuda"]) // weight.shape[0])
        with_gradient = ctx.needs_input_grad[0]
        logprobs = hidden.new_empty(len(hidden), dtype=torch.float32)
        slopes = torch.empty_like(hidden) if with_gradient else None  # [M, H]
        for start in range(0, len(hidden), rows):
            part = slice(start, start + rows)
            logits = torch.nn.functional.linear(hidden[part], weight, bias)
            if temperature != 1.0:
                logits = logits.float() / temperature
            chosen = targets[part, None]
            probabilities = torch.softmax(logits, -1, dtype=torch.float32)
            # Of a probability that rounds to 0 the logarithm is taken from the logits.
            top = logits.amax(-1, keepdim=True).float()
            total = top - probabilities.amax(-1, keepdim=True).log()
            logprobs[part] = (logits.gather(1, chosen).float() - total).squeeze(1)
            if slopes is not None:
                # d log p(y) / d h = (W[y] - sum_v p(v) W[v]) / temperature. Where p(y) is near 1 the two are nearly the
                # same, so they are subtracted before anything is rounded.
                probabilities.scatter_add_(1, chosen, torch.full_like(chosen, -1, dtype=torch.float32))
                slopes[part] = (probabilities.to(weight.dtype) @ weight) / -temperature
        if slopes is not None:
            ctx.save_for_backward(slopes)
        return logprobs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return (gradients[0][:, None] * slopes).to(slopes.dtype), None, None, None, None
