"""Matrix products with weights laid out as a CPU's bfloat16 instructions read them.

From plain weights every product lays them out anew, which for few rows takes longer than the product: packed, a step of
decoding is faster by a fifth or more with up to 16 rows, and hardly with 64. The price is a second copy of the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# The layout does not depend on it, but the library asks.
_ROWS = 32

# How far a packed product may lie from a plain one, as a share of its size. They are equal where this was written.
_TOLERANCE = 0.01


def pack(weight: Tensor) -> Tensor | None:
    """A packed copy of `weight` `[O, I]`, for `multiply`; None where this machine, or its torch, has no such thing."""
    if weight.device.type != "cpu" or weight.dtype != torch.bfloat16 or not weight.numel():
        return None
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return None
    try:
        ops: Any = torch.ops.mkldnn
        with torch.inference_mode():
            return cast("Tensor", ops._reorder_linear_weight(weight.contiguous(), _ROWS))
    except (AttributeError, RuntimeError, TypeError):  # not a public function: it may be gone or another
        return None


def multiply(x: Tensor, packed: Tensor, bias: Tensor | None = None, *, plus: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias + plus`, where `x` is `[N, I]` and `plus` `[N, O]`; not for gradients."""
    ops: Any = torch.ops.mkldnn._linear_pointwise
    if plus is None:
        return cast("Tensor", ops(x, packed, bias, "none", [], ""))
    return cast("Tensor", ops.binary(x, plus, packed, bias, "add"))


@torch.inference_mode()
def pack_checked(weight: Tensor) -> Tensor | None:
    """`pack`, and None as well where a product comes out otherwise than with plain weights."""
    packed = pack(weight)
    if packed is None:
        return None
    x = torch.linspace(-1.0, 1.0, 3 * weight.shape[1]).cos_().view(3, -1).to(weight.dtype)
    expected = F.linear(x, weight)
    try:
        found = (multiply(x, packed), multiply(x, packed, plus=expected) - expected)
    except (AttributeError, RuntimeError, TypeError):
        return None
    size = float(expected.float().norm())
    agrees = all(float((f - expected).float().norm()) <= _TOLERANCE * size for f in found)
    return packed if agrees else None


def packed_head(lm_head: nn.Linear) -> Callable[[Tensor], Tensor]:
    """The output projection on packed weights where that is possible, else as it is."""
    if any(parameter.requires_grad for parameter in lm_head.parameters()):
        return lm_head
    packed, bias = pack_checked(lm_head.weight.detach()), lm_head.bias
    if packed is None:
        return lm_head
    return lambda hidden: multiply(hidden, packed, bias)
