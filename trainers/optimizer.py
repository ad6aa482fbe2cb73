"""Adam over float32 master copies of the adapter."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class MasterAdam:
    """Adam (Kingma and Ba, 2014, arXiv:1412.6980) that keeps a float32 master of every bfloat16 parameter.

    A step of 4e-5 on a weight of 0.02 is below bfloat16's resolution and would be rounded away. The masters take the
    step; the model gets their rounded copy.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        *,
        learning_rate: float = 4e-5,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
    ) -> None:
        self._parameters = dict(parameters)
        self._masters = {name: p.detach().float().clone() for name, p in parameters.items()}
        self._adam = torch.optim.Adam(self._masters.values(), lr=learning_rate, betas=betas, eps=eps, foreach=True)

    def collect(self) -> None:
        """Add the gradients that the parameters hold to the masters', and clear them.

        After every backward pass: a sum of many in bfloat16 would lose the small ones.
        """
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                master = self._masters[name]
                gradient = parameter.grad.float()
                master.grad = gradient if master.grad is None else master.grad.add_(gradient)
                parameter.grad = None

    def step(self, *, max_grad_norm: float | None = None) -> float:
        """Take one step with the gradients so far, clear them, and return their norm.

        Where that is not a finite number there is no step: it would spoil the adapter for good.
        """
        self.collect()
        gradients = [m.grad for m in self._masters.values() if m.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        if not math.isfinite(norm):
            self._adam.zero_grad(set_to_none=True)
            return norm
        if max_grad_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(list(self._masters.values()), max_grad_norm, torch.tensor(norm))
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(self._masters[name])
        return norm

    def forget_gradients(self) -> None:
        """Clear what was collected and what waits to be: of a step that is not to be taken."""
        self._adam.zero_grad(set_to_none=True)
        for parameter in self._parameters.values():
            parameter.grad = None

    def set_learning_rate(self, learning_rate: float) -> None:
        """Take the following steps with another learning rate."""
        for group in self._adam.param_groups:
            group["lr"] = learning_rate

    def state_dict(self) -> dict[str, Any]:
        """Masters and moments, for `torch.save`."""
        return {"masters": self._masters, "adam": self._adam.state_dict()}

    def copied_state(self) -> dict[str, Any]:
        """`state_dict` as it is now, whatever steps follow."""
        return copy.deepcopy(self.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore masters and moments, and give the parameters the masters' values.

        Raises:
            ValueError: when the state belongs to other parameters.
        """
        masters: Mapping[str, Tensor] = state["masters"]
        if masters.keys() != self._masters.keys():
            raise ValueError("the optimizer state belongs to another adapter")
        with torch.no_grad():
            for name, master in self._masters.items():
                master.copy_(masters[name])
                self._parameters[name].copy_(master)
        self._adam.load_state_dict(dict(state["adam"]))
