"""The adapter, its optimizer, and the memory that a backward pass may take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trainers.config.checks import at_least_one, not_negative, one_of, positive
from trainers.config.errors import ConfigError

_TOKENS_PER_MICROBATCH = {"cpu": 2048, "cuda": 16_384}


@dataclass(frozen=True, kw_only=True)
class LearningOptions:
    """LoRA and Adam, and where they are computed."""

    learning_rate: float = 4e-5
    """Of Adam."""
    warmup_updates: int = 0
    """Raise the learning rate from zero over so many updates: Adam's first steps follow noise as much as signal."""
    schedule: Literal["constant", "linear"] = "constant"
    """Keep the learning rate, or let it fall in a line that reaches zero after the last update."""
    adam_betas: tuple[float, float] = (0.9, 0.95)
    """Decay of Adam's moments."""
    adam_eps: float = 1e-8
    """Adam's epsilon."""
    max_grad_norm: float | None = None
    """Clip the gradient to this norm; None: leave it."""
    lora_rank: int = 32
    """Rank of the adapter on every linear layer."""
    lora_alpha: int = 32
    """The adapter's output is scaled by lora_alpha / lora_rank."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    dtype: str = "auto"
    """auto, bfloat16 or float32."""
    attention: Literal["auto", "sdpa", "eager"] = "auto"
    """Attention in training: sdpa holds no scores; eager holds all of them, which is faster on a CPU for rows of some
    hundred tokens. auto: eager there, sdpa elsewhere."""
    share_prefix: bool = True
    """Compute the prompt of a group once in training, as sampling does, and not once for each of its answers."""
    gradient_checkpointing: bool = False
    """Keep a layer's input only and compute it again in the backward pass: far less memory, a third more time."""
    tokens_per_microbatch: int | None = None
    """Most tokens in one backward pass: bounds memory, changes no result. None: 2,048 on a CPU, where more takes time
    to get memory from the system, and 16,384 elsewhere."""
    dry_run: bool = True
    """Before the first rollout, try the longest batch that may come, so that memory runs out now or never."""

    def microbatch_tokens(self, device_type: str) -> int:
        """`tokens_per_microbatch`, and where it is left open what suits a device of a type: `cpu`, `cuda`."""
        if self.tokens_per_microbatch is not None:
            return self.tokens_per_microbatch
        return _TOKENS_PER_MICROBATCH.get(device_type, _TOKENS_PER_MICROBATCH["cuda"])

    def check_learning(self) -> None:
        """Raises:
        ConfigError: naming the first setting that cannot work.
        """  # noqa: D205
        at_least_one(self, ("lora_rank", "lora_alpha"))
        if self.tokens_per_microbatch is not None:
            at_least_one(self, ("tokens_per_microbatch",))
        positive(self, ("learning_rate", "adam_eps", "max_grad_norm"))
        not_negative(self, ("warmup_updates",))
        if not all(0 <= beta < 1 for beta in self.adam_betas):
            raise ConfigError(f"adam_betas must lie from 0 to below 1, not {' '.join(map(str, self.adam_betas))}")
        one_of(self, "schedule", ("constant", "linear"))
        one_of(self, "attention", ("auto", "sdpa", "eager"))
