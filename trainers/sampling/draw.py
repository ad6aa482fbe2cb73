"""Drawing tokens from logits."""

from __future__ import annotations

import torch
from torch import Tensor

# The vocabulary is searched in two steps: for the block of so many tokens, and in it.
_BLOCK = 256
# On a CPU probabilities of so many entries are held at a time, so that the same memory is used again and again.
_ENTRIES_AT_A_TIME = 2 * 1024 * 1024


def sample_tokens(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw one token a row by inverting the cumulative distribution, which costs one uniform number a row.

    (`torch.multinomial` draws one for every entry of the vocabulary.)

    Args:
        logits: `[n, V]`.
        temperature: divides the logits; 0.0 takes the most probable token.
        top_p: draw from the most probable tokens that together have at least this probability (Holtzman et al., 2020).
        top_k: draw from so many of the most probable tokens; 0: from all.
        generator: the source of chance, on the device of `logits`.

    Returns:
        tokens `[n]`, and their logprobs `[n]`, float32, at the temperature sampled at (at 1.0 for 0.0), before `top_p`
        and `top_k`.
    """
    if temperature < 0.0:
        raise ValueError(f"temperature must not be negative, not {temperature}")
    uniform = torch.rand(len(logits), 1, generator=generator, device=logits.device)
    rows = len(logits) if logits.is_cuda else max(1, _ENTRIES_AT_A_TIME // logits.shape[1])
    parts = [
        _draw(logits[start : start + rows], uniform[start : start + rows], temperature, top_p, top_k)
        for start in range(0, len(logits), rows)
    ]
    if len(parts) == 1:
        return parts[0]
    tokens, logprobs = zip(*parts, strict=True)
    return torch.cat(tokens), torch.cat(logprobs)


def _draw(logits: Tensor, uniform: Tensor, temperature: float, top_p: float, top_k: int) -> tuple[Tensor, Tensor]:
    if temperature not in (0.0, 1.0):
        logits = logits.float() / temperature
    probabilities = torch.softmax(logits, -1, dtype=torch.float32)
    if temperature == 0.0:
        tokens = logits.argmax(-1, keepdim=True)
    elif top_p < 1.0 or top_k:
        tokens = _search(_cut(probabilities, top_p, top_k), uniform)
    else:
        tokens = _search(probabilities, uniform)
    # From the logits, for a probability may be too small for a float, and its logarithm is not.
    top = logits.amax(-1, keepdim=True).float()
    total = top - probabilities.amax(-1, keepdim=True).log()
    return tokens.squeeze(1), (logits.gather(1, tokens).float() - total).squeeze(1)


def _cut(probabilities: Tensor, top_p: float, top_k: int) -> Tensor:
    """`probabilities` with 0 for what `top_p` and `top_k` leave out; the most probable token always stays."""
    ordered, tokens = probabilities.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered
    out = before >= top_p
    if top_k:
        out[:, top_k:] = True
    out[:, 0] = False
    return probabilities.masked_fill(out.scatter(1, tokens, out), 0.0)


def _search(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """The token `[n, 1]` on which the share `uniform` `[n, 1]` of all probability falls."""
    n, size = probabilities.shape
    whole = size // _BLOCK * _BLOCK
    blocks = probabilities[:, :whole].view(n, -1, _BLOCK).sum(-1)
    if whole < size:
        blocks = torch.cat([blocks, probabilities[:, whole:].sum(-1, keepdim=True)], 1)
    block, rest = _invert(blocks, uniform)
    columns = block * _BLOCK + torch.arange(_BLOCK, device=probabilities.device)  # [n, BLOCK]
    inside = probabilities.gather(1, columns.clamp_max(size - 1)).masked_fill_(columns >= size, 0.0)
    return (block * _BLOCK + _invert(inside, rest)[0]).clamp_max_(size - 1)


def _invert(weights: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """The entry of `weights` `[n, k]` on which the share `uniform` `[n, 1]` of their sum falls.

    Returns it `[n, 1]`, and which share of the entry itself lies below that point `[n, 1]`: again uniform.
    """
    cumulative = weights.cumsum(-1)
    total = cumulative[:, -1:]
    # Strictly below the total, whatever the rounding: the first entry above it then has positive weight.
    threshold = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    # On a GPU a sum may fall where its terms do not, and what is found lies behind the last entry, or has no weight.
    chosen = torch.searchsorted(cumulative, threshold, right=True).clamp_max_(weights.shape[1] - 1)
    weight = weights.gather(1, chosen)
    below = cumulative.gather(1, chosen) - weight
    return chosen, ((threshold - below) / weight).nan_to_num_(0.0).clamp_(0.0, 1.0)
