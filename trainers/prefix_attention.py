"""Attention over rows that share their beginning: the prompt of a group is computed once, in training as in sampling.

The keys and values of a prompt are the same for all answers to it, and so is everything before them. A microbatch holds
each prompt once, and this attention lets every answer see its prompt and itself (shared-prefix or cascade attention:
Juravsky et al., 2024, arXiv:2402.05099, did it for sampling).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.batching import Microbatch, Segment

MATMUL, SDPA = "shared_prefix_matmul", "shared_prefix_sdpa"
"""The names under which transformers knows the two forms."""


# Rows up to this length have their scores held whole on a CPU.
_SHORT = 1024


def kernel(wanted: str, batch: Microbatch) -> str:
    """The name of the form that suits a microbatch: `wanted` is `sdpa`, `eager` or `auto`."""
    if wanted == "auto":
        longest = max(segment.length + segment.places.shape[1] for segment in batch.segments)
        wanted = "eager" if batch.tokens.device.type == "cpu" and longest <= _SHORT else "sdpa"
    return MATMUL if wanted == "eager" else SDPA


def register() -> None:
    """Make both forms known to transformers as attention kernels."""
    from transformers import AttentionInterface

    AttentionInterface.register(MATMUL, _matmul_kernel)
    AttentionInterface.register(SDPA, _sdpa_kernel)


def _matmul_kernel(
    module: nn.Module,  # noqa: ARG001
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001
    *,
    microbatch: Microbatch,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    return _over_segments(_ByMatmul, query, key, value, microbatch, scaling), None


def _sdpa_kernel(
    module: nn.Module,  # noqa: ARG001
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001
    *,
    microbatch: Microbatch,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    return _over_segments(_BySdpa, query, key, value, microbatch, scaling), None


def _over_segments(
    kernel: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    microbatch: Microbatch,
    scaling: float | None,
) -> Tensor:
    """`[1, N, heads, D]` from `[1, heads, N, D]`, segment by segment."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))  # [N, heads, D]
    parts = []
    for segment in microbatch.segments:
        prefix = slice(segment.start, segment.start + segment.length)
        if segment.length:
            parts.append(kernel.prefix(q[prefix], k[prefix], v[prefix], scale))
        parts.append(kernel.branches(q, k, v, k[prefix], v[prefix], segment, scale))
    return torch.cat(parts).index_select(0, microbatch.order)[None]


class _ByMatmul:
    """Scores are held whole. On a CPU faster than torch's kernel, forward and back, as long as rows are short."""

    @staticmethod
    def prefix(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """`[P, heads, D]`: causal attention of one row."""
        length, heads, size = q.shape
        groups = k.shape[1]
        folded = q.view(length, groups, -1, size).permute(1, 2, 0, 3).reshape(groups, -1, size)
        scores = torch.bmm(folded * scale, k.permute(1, 2, 0)).view(groups, -1, length, length)
        weights = torch.softmax(scores + _causal(length, scores), -1)
        found = torch.bmm(weights.view(groups, -1, length), v.transpose(0, 1))
        return found.view(groups, -1, length, size).permute(2, 0, 1, 3).reshape(length, heads, size)

    @staticmethod
    def branches(
        q: Tensor, k: Tensor, v: Tensor, prefix_k: Tensor, prefix_v: Tensor, segment: Segment, scale: float
    ) -> Tensor:
        """`[b * L, heads, D]`: every token sees the prefix `[P, groups, D]`, and its branch up to itself."""
        b, length = segment.places.shape
        heads, size = q.shape[1:]
        groups, shared = k.shape[1], len(prefix_k)
        places = segment.places.flatten()
        own_q = q.index_select(0, places).view(b, length, groups, -1, size).permute(2, 0, 3, 1, 4) * scale
        own_q = own_q.reshape(groups * b, -1, size)  # [groups * b, heads / groups * L, D]
        own_k, own_v = (
            x.index_select(0, places)
            .view(b, length, groups, size)
            .permute(2, 0, 1, 3)
            .reshape(groups * b, length, size)
            for x in (k, v)
        )
        scores = torch.bmm(own_q, own_k.transpose(1, 2)).view(groups * b, -1, length, length)
        scores = (scores + _causal(length, scores)).view(groups, -1, length)
        if shared:
            far = torch.bmm(own_q.view(groups, -1, size), prefix_k.permute(1, 2, 0))
            weights = torch.softmax(torch.cat([far, scores], -1), -1)
            found = torch.bmm(weights[..., :shared], prefix_v.transpose(0, 1))
            near = weights[..., shared:].reshape(groups * b, -1, length)
            found = torch.baddbmm(found.view(groups * b, -1, size), near, own_v)
        else:
            found = torch.bmm(torch.softmax(scores, -1).view(groups * b, -1, length), own_v)
        found = found.view(groups, b, -1, length, size).permute(1, 3, 0, 2, 4)
        return found.reshape(b * length, heads, size)


class _BySdpa:
    """torch's kernel, which holds no scores: for long rows, and on a GPU."""

    @staticmethod
    def prefix(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """`[P, heads, D]`: causal attention of one row."""
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        found = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True)
        return found[0].transpose(0, 1)

    @staticmethod
    def branches(
        q: Tensor, k: Tensor, v: Tensor, prefix_k: Tensor, prefix_v: Tensor, segment: Segment, scale: float
    ) -> Tensor:
        """`[b * L, heads, D]`: every token sees the prefix `[P, groups, D]`, and its branch up to itself."""
        b, length = segment.places.shape
        places = segment.places.flatten()
        own_q, own_k, own_v = (
            x.index_select(0, places).view(b, length, *x.shape[1:]).transpose(1, 2) for x in (q, k, v)
        )
        if not len(prefix_k):
            found = F.scaled_dot_product_attention(own_q, own_k, own_v, is_causal=True, scale=scale, enable_gqa=True)
            return found.transpose(1, 2).flatten(0, 1)
        all_k, all_v = (
            torch.cat([shared.transpose(0, 1)[None].expand(b, -1, -1, -1), own], 2)
            for shared, own in ((prefix_k, own_k), (prefix_v, own_v))
        )
        seen = torch.ones(length, len(prefix_k) + length, dtype=torch.bool, device=q.device).tril(len(prefix_k))
        found = F.scaled_dot_product_attention(own_q, all_k, all_v, seen, scale=scale, enable_gqa=True)
        return found.transpose(1, 2).flatten(0, 1)


def _causal(length: int, like: Tensor) -> Tensor:
    """`[L, L]`, to be added to scores: the lowest number where a token would look ahead."""
    lowest = torch.finfo(like.dtype).min
    return torch.full((length, length), lowest, dtype=like.dtype, device=like.device).triu(1)
