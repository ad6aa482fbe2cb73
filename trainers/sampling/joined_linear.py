"""Linear layers that read the same input, with their LoRA adapters, as one or two large products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.lora_linear import is_plain
from trainers.sampling.packed_linear import multiply, pack, pack_checked


class JoinedLinear:
    """Computes `torch.cat([module(x) for module in modules], -1)`, without gradients.

    The base weights must not change. What the adapters add is taken over by `refresh`.

    On a CPU in bfloat16 the base weights are copied once, packed (see `packed_linear`). Otherwise they are not copied:
    the modules' own become views of `weight` `[O + R, I]`, which holds below them the adapters' first matrices, so that
    one product gives outputs `[N, O]` and what the second matrices read `[N, R]`. These stand on the diagonal of `up`
    `[R, O]`.

    Args:
        modules: linear layers, each plain or with one adapter (see `is_plain`).
    """

    def __init__(self, modules: Sequence[Any]) -> None:
        self._modules = modules
        self._bases: list[Any] = [getattr(module, "base_layer", module) for module in modules]
        self._adapted = [module for module in modules if hasattr(module, "base_layer")]
        self._size = sum(base.out_features for base in self._bases)
        biases = [b.bias if b.bias is not None else b.weight.new_zeros(b.out_features) for b in self._bases]
        has_bias = any(base.bias is not None for base in self._bases)
        self._bias = torch.cat([bias.detach() for bias in biases]) if has_bias else None
        self._packed = pack_checked(torch.cat([base.weight.detach() for base in self._bases]))
        self._packed_adapter: tuple[Tensor, Tensor] | None = None
        self._weight = self._up = torch.empty(0, 0)
        self._is_on = False

    def can_refresh(self) -> bool:
        """Whether the adapters are still of the kind that is known here."""
        return all(is_plain(module) for module in self._modules)

    def matrices(self) -> list[Tensor]:
        """The adapters' matrices."""
        return [
            matrix[module.active_adapters[0]].weight
            for module in self._adapted
            for matrix in (module.lora_A, module.lora_B)
        ]

    def scales(self) -> tuple[float, ...]:
        """What each adapter's output is multiplied by."""
        return tuple(module.scaling[module.active_adapters[0]] for module in self._adapted)

    def switch(self) -> None:
        """Take over whether the adapters are switched on."""
        self._is_on = any(not module.disable_adapters for module in self._adapted)

    @torch.inference_mode(mode=False)  # training goes on with weights that are made here
    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the adapters' values."""
        ranks = [0 if m is None else m.lora_A[m.active_adapters[0]].out_features for m in self._adapters()]
        down, up = self._adapter_space(sum(ranks))
        row = first = 0
        for base, module, rank in zip(self._bases, self._adapters(), ranks, strict=True):
            if module is not None:
                name = module.active_adapters[0]
                rows = slice(first, first + rank)
                down[rows] = module.lora_A[name].weight
                up[rows, row : row + base.out_features] = module.lora_B[name].weight.t() * module.scaling[name]
                first += rank
            row += base.out_features
        if self._packed is not None and len(up):
            packed = pack(down), pack(up.t())
            self._packed_adapter = None if packed[0] is None or packed[1] is None else (packed[0], packed[1])

    def _adapters(self) -> list[Any | None]:
        return [module if hasattr(module, "base_layer") else None for module in self._modules]

    def _adapter_space(self, rank: int) -> tuple[Tensor, Tensor]:
        """Where the adapters' matrices go: `[R, I]` and, cleared, `[R, O]`."""
        first = self._bases[0].weight
        if self._packed is not None:
            return first.new_zeros(rank, first.shape[1]), first.new_zeros(rank, self._size)
        if self._weight.shape[0] != self._size + rank:
            self._weight = first.new_zeros(self._size + rank, first.shape[1])
            self._up = first.new_zeros(rank, self._size)
            row = 0
            for base in self._bases:
                own = self._weight[row : row + base.out_features]
                own.copy_(base.weight)
                base.weight.data = own
                row += base.out_features
        return self._weight[self._size :], self._up.zero_()

    def __call__(self, x: Tensor) -> Tensor:
        """`[..., O]` from `x` `[..., I]`."""
        flat = x.flatten(0, -2)
        found = self._by_packed(flat) if self._packed is not None else self._by_joined(flat)
        return found.view(*x.shape[:-1], self._size)

    def _by_packed(self, x: Tensor) -> Tensor:
        assert self._packed is not None
        found = multiply(x, self._packed, self._bias)
        if not self._is_on or self._packed_adapter is None:
            return found
        down, up = self._packed_adapter
        return multiply(multiply(x, down), up, plus=found)

    def _by_joined(self, x: Tensor) -> Tensor:
        if not self._is_on:
            return F.linear(x, self._weight[: self._size], self._bias)
        both = F.linear(x, self._weight)
        found = torch.addmm(both[:, : self._size], both[:, self._size :], self._up)
        if self._bias is not None:
            found += self._bias
        return found
