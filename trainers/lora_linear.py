"""A linear layer and its LoRA adapter as one step of automatic differentiation (Hu et al., 2021, arXiv:2106.09685)."""

from __future__ import annotations

from types import MethodType
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from peft import PeftModel
    from peft.tuners.lora import Linear as LoraLinear


def is_plain(module: nn.Module) -> bool:
    """True for an ordinary frozen linear layer, with or without one ordinary LoRA adapter."""
    from peft.tuners.lora import Linear as LoraLinear

    base = getattr(module, "base_layer", module)
    if type(base) is not nn.Linear or any(parameter.requires_grad for parameter in base.parameters()):
        return False
    if base is module:
        return True
    return (
        type(module) is LoraLinear
        and len(module.active_adapters) == 1
        and module.active_adapters[0] in module.lora_A
        and not module.fan_in_fan_out
        and not module.merged
        and not module.lora_variant
        and module.lora_B[module.active_adapters[0]].bias is None
    )


def join_adapters(model: PeftModel) -> None:
    """From now on compute ordinary adapters together with their layers.

    What the adapter adds is then added by its second product, and not by two more passes over the layer's output, going
    forward as well as back. Whatever is not ordinary (see `is_plain`, and dropout) is computed as before.
    """
    from peft.tuners.lora import Linear as LoraLinear

    for module in model.modules():
        if isinstance(module, LoraLinear):
            module.forward = MethodType(_forward, module)  # type: ignore[method-assign]


def _forward(module: LoraLinear, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    base = cast("nn.Linear", module.base_layer)
    joins = not (args or kwargs or module.disable_adapters) and x.dtype == base.weight.dtype
    if joins and is_plain(module):
        name = module.active_adapters[0]
        down, up = module.lora_A[name].weight, module.lora_B[name].weight
        drops = module.training and not isinstance(module.lora_dropout[name], nn.Identity)
        if not drops and down.dtype == up.dtype == x.dtype:
            found = _LoraLinear.apply(x, base.weight, base.bias, down, up, module.scaling[name])  # type: ignore[no-untyped-call]
            return cast("Tensor", found)
    return type(module).forward(module, x, *args, **kwargs)


class _LoraLinear(torch.autograd.Function):
    """`x W^T + bias + scale (x A^T) B^T`, of which W and bias get no gradient."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])  # [N, I]
        inner = F.linear(rows, down)  # [N, R]
        ctx.save_for_backward(rows, inner, weight, down, up)
        ctx.scale, ctx.shape = scale, x.shape
        found = F.linear(rows, weight, bias).addmm_(inner, up.t(), alpha=scale)
        return found.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, inner, weight, down, up = ctx.saved_tensors
        slope = gradients[0].reshape(-1, gradients[0].shape[-1])  # [N, O]
        inner_slope = (slope @ up).mul_(ctx.scale)  # [N, R]
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = (slope @ weight).addmm_(inner_slope, down).view(ctx.shape)
        return of_x, None, None, inner_slope.t() @ rows, (slope.t() @ inner).mul_(ctx.scale), None
