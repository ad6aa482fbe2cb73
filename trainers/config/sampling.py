"""How answers are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from trainers.config.checks import at_least_one, json_object, not_negative, positive
from trainers.config.errors import ConfigError

SamplerName = Literal["torch", "vllm"]


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """The batch of a rollout, and the distribution that its tokens come from."""

    sampler: SamplerName = "torch"
    """Who samples: the trainer's own weights (torch), or an engine of vLLM, which gets every new adapter."""
    sampler_args: str = "{}"
    """Arguments of the vLLM engine or its server, as a JSON object: '{"gpu_memory_utilization": 0.4}'."""
    groups_per_batch: int = 128
    """Problems a batch."""
    group_size: int = 16
    """Tries at each problem."""
    dynamic_sampling: int = 0
    """Draw up to so many further batches of problems until groups_per_batch groups have spread: those whose returns are
    all equal teach nothing. 0: train on what there is."""
    max_tokens: int = 256
    """Most tokens sampled in one turn."""
    temperature: float = 1.0
    """Of sampling, and of the policy that is trained: both divide the logits by it."""
    top_p: float = 1.0
    """Sample from the most probable tokens that hold this much probability. Below 1 only with loss=reinforce: the
    others need the ratio of two policies, and one of them would give 0 to tokens that the other gives something."""
    top_k: int = 0
    """Sample from so many of the most probable tokens; 0: from all. The same holds of it."""
    max_rows: int = 512
    """Most episodes sampled at once: bounds memory. (With another number other episodes are sampled.)"""
    max_staleness: int = 0
    """How many updates old the policy may be that samples. 1: the next batch is sampled while this one trains."""
    sampling_device: str = ""
    """With max_staleness: sample on another device than the one that trains, from a copy of the model: cuda:1."""

    def check_sampling(self) -> None:
        """Raises:
        ConfigError: naming the first setting that cannot work.
        """  # noqa: D205
        if self.group_size < 2:
            raise ConfigError(
                f"group_size is {self.group_size}: advantages are rewards minus the mean of their group, "
                "which is always 0 for a group of one; use at least 2"
            )
        at_least_one(self, ("groups_per_batch", "max_tokens", "max_rows"))
        positive(self, ("temperature",))
        not_negative(self, ("dynamic_sampling", "top_k", "max_staleness"))
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p must lie above 0 and not above 1, not {self.top_p}")
        if self.sampler not in get_args(SamplerName):
            raise ConfigError(f"sampler must be one of {', '.join(get_args(SamplerName))}, not {self.sampler!r}")
        self.parsed_sampler_args()
        if self.sampler == "torch" and self.sampler_args != "{}":
            raise ConfigError("sampler_args are those of sampler=vllm")
        if self.max_staleness > 1:
            raise ConfigError(f"max_staleness is 0 or 1, not {self.max_staleness}")
        if self.sampling_device and not self.max_staleness:
            raise ConfigError("sampling_device needs max_staleness=1: else one device would wait for the other")
        if self.sampling_device and self.sampler != "torch":
            raise ConfigError(f"sampling_device is for sampler=torch; {self.sampler} has sampler_args")

    def parsed_sampler_args(self) -> dict[str, Any]:
        """`sampler_args` as a dictionary."""
        return json_object("sampler_args", self.sampler_args)

    @property
    def has_full_support(self) -> bool:
        """False where tokens that the policy could say are never sampled."""
        return self.top_p == 1.0 and self.top_k == 0


def shortened(context_length: int, sampler_args: Mapping[str, Any]) -> int:
    """Most tokens of an episode: as many as the model takes, or fewer where vLLM is asked for fewer.

    Raises:
        ConfigError: when what is asked for is no number of tokens.
    """
    asked = sampler_args.get("max_model_len", context_length)
    if type(asked) is not int or asked < 1:
        raise ConfigError(f"max_model_len in sampler_args must be a whole number of tokens, not {asked!r}")
    return min(context_length, asked)
