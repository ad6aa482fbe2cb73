"""Samplers: prompt tokens in; sampled tokens, their logprobs and stop reasons out.

`base` (the protocol), `torch_sampler` (the trainer's own weights), `vllm_sampler` (an engine beside it), `choose`
(which of them). `openai_sampler` speaks text: it is for `trainers.chats`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainers.sampling.base import Sampler, Session
from trainers.sampling.choose import make_sampler

if TYPE_CHECKING:
    from trainers.sampling.torch_sampler import TorchSampler

__all__ = ["Sampler", "Session", "TorchSampler", "make_sampler"]


def __getattr__(name: str) -> Any:
    # Who speaks to an endpoint needs no torch.
    if name == "TorchSampler":
        from trainers.sampling.torch_sampler import TorchSampler

        return TorchSampler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
