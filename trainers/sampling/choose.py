"""From the name of a sampler to the sampler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trainers.config import ConfigError
from trainers.config.checks import one_line

if TYPE_CHECKING:
    from trainers.policy import Policy
    from trainers.sampling.base import Sampler


def make_sampler(
    name: str,
    policy: Policy,
    *,
    stop_tokens: Sequence[int],
    context_length: int | None = None,
    max_rows: int = 512,
    arguments: Mapping[str, Any] | None = None,
    logprobs_at: float | None = None,
    cuts: bool = False,
) -> Sampler:
    """The sampler of a run.

    Args:
        name: torch, which computes with the policy itself, or vllm.
        policy: whose adapter it begins with.
        stop_tokens: tokens that end a turn.
        context_length: most tokens of a row; None: what the model allows.
        max_rows: how many rows are sampled at once, by torch.
        arguments: `sampler_args`, of vllm.
        logprobs_at: the temperature at which training needs the logprobs of sampled tokens; None where it needs none.
        cuts: whether top_p or top_k leave tokens out.

    Raises:
        ConfigError: when there is no such sampler, it cannot start, or cannot say these logprobs.
    """
    if name == "torch":
        from trainers.sampling.torch_sampler import TorchSampler

        return TorchSampler(policy, stop_tokens=stop_tokens, context_length=context_length, max_rows=max_rows)
    if name != "vllm":
        raise ConfigError(f"sampler must be torch or vllm, not {name!r}")
    from trainers.sampling.endpoint import EndpointError
    from trainers.sampling.vllm_sampler import VllmSampler

    sampler = VllmSampler(policy, stop_tokens=stop_tokens, context_length=context_length, arguments=arguments)
    try:
        is_told = logprobs_at is None or sampler.knows_logprobs(logprobs_at, cuts=cuts)
    except EndpointError as error:
        sampler.close()
        raise ConfigError(f"the server of vLLM does not answer: {one_line(error)}") from error
    if not is_told:
        sampler.close()
        if cuts:
            raise ConfigError(
                "vLLM says no logprobs of the whole policy where top_p or top_k leave tokens out, and kl_coef needs "
                "them: use sampler=torch, or top_p=1 and top_k=0"
            )
        raise ConfigError(
            f"this vLLM says logprobs at temperature 1, and temperature is {logprobs_at}: begin the server with "
            "--logprobs-mode processed_logprobs, or leave logprobs_mode out of sampler_args"
        )
    return sampler
