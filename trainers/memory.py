"""Whether a run fits into memory, found out before its first rollout, and how it keeps what it has."""

from __future__ import annotations

import ctypes
import os
from typing import Any

import torch

from trainers.batching import Row, microbatches
from trainers.config import ConfigError, TrainConfig
from trainers.policy import Policy
from trainers.trajectories import Completion, Trajectory, Turn

# So much of the memory is left to what nobody counts.
_RESERVE = 0.1

# Of a weight of the adapter: its master, two moments and a gradient, in float32.
_OPTIMIZER_BYTES = 4 * 4

# Of glibc's mallopt, see malloc.h: what lies free at the end of the heap, what is asked for beyond a request, and the
# size from which a block is a mapping of its own.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def keep_freed_memory() -> None:
    """Let this process keep memory that it freed, for the next tensor, as torch does on a GPU.

    glibc gives large blocks back to the system at once, which has to clear each of their pages when they are asked for
    again: in training on a CPU that took up to a third of the time. Elsewhere than on glibc nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    for parameter, size in ((_M_MMAP_THRESHOLD, 2**30), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**26)):
        mallopt(parameter, size)


def dry_run(policy: Policy, config: TrainConfig, *, prompt_tokens: int, context_length: int) -> None:
    """Compute the largest microbatch that may come, forward and back, beside the keys and values of a full sampler.

    An answer may have all of `max_tokens`. How many turns an episode may have nobody knows beforehand, so of a game of
    many turns only the first is tried, though in microbatches as full as they may be.

    Args:
        policy: gets no gradient from it.
        config: all settings.
        prompt_tokens: of the longest prompt.
        context_length: most tokens of an episode.

    Raises:
        ConfigError: when memory does not suffice, with what to set instead.
    """
    longest = min(prompt_tokens + config.max_tokens, context_length)
    rows = min(config.max_rows, config.groups_per_batch * config.group_size)
    cache = None
    if config.sampler == "torch":
        place = torch.device(config.sampling_device) if config.sampling_device else policy.device
        needed, free = rows * longest * cache_bytes(policy), free_bytes(place)
        if needed > (1 - _RESERVE) * free:
            fitting = int((1 - _RESERVE) * free / (longest * cache_bytes(policy)))
            raise ConfigError(
                f"{rows} rows of {longest} tokens need {needed / 2**30:.1f} GiB of keys and values to be sampled, and "
                f"{free / 2**30:.1f} GiB are free: use --max-rows {max(1, fitting)} or fewer"
            )
        if policy.device.type != "cpu":  # between rollouts the allocator keeps it, and the optimizer what it is to need
            of_optimizer = sum(_OPTIMIZER_BYTES * p.numel() for p in policy.trainable.values())
            here = 0 if config.sampling_device else needed
            cache = torch.empty(here + of_optimizer, dtype=torch.uint8, device=policy.device)
    try:
        _largest_pass(policy, config, prompt_tokens=prompt_tokens, longest=longest)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not _is_memory(error):
            raise
        raise ConfigError(_advice(config, config.microbatch_tokens(policy.device.type), longest)) from error
    finally:
        del cache
        for parameter in policy.trainable.values():
            parameter.grad = None
        if policy.device.type == "cuda":
            torch.cuda.empty_cache()


def _largest_pass(policy: Policy, config: TrainConfig, *, prompt_tokens: int, longest: int) -> None:
    tokens = [(7 * i) % 97 % int(policy.config.vocab_size) for i in range(longest)]
    rows: list[Row] = []
    size = 0
    all_rows = config.groups_per_batch * config.group_size
    most = config.microbatch_tokens(policy.device.type)
    while len(rows) < all_rows:
        group = len(rows) // config.group_size
        shared = config.share_prefix and len(rows) % config.group_size
        own = longest - prompt_tokens if shared else longest
        if rows and size + own > most:
            break
        size += own
        trajectory = Trajectory(seed=0)
        trajectory.append_prompt(tokens[:prompt_tokens])
        answer = tokens[prompt_tokens:]
        trajectory.append_completion(Completion(answer, [0.0] * len(answer), "length"))
        trajectory.turns.append(Turn("", len(answer), 0.0, "length", "", {}))
        rows.append(Row(trajectory, [1.0], 1.0, group))
    for batch in microbatches(rows, tokens_per_microbatch=most, share_prefix=config.share_prefix):
        policy.logprobs(batch.to(policy.device), temperature=config.temperature).sum().backward()  # type: ignore[no-untyped-call]
        break


def cache_bytes(policy: Policy) -> int:
    """What the keys and values of one token take."""
    config: Any = policy.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * int(config.num_hidden_layers) * int(heads) * int(size) * policy.dtype.itemsize


def free_bytes(device: torch.device) -> int:
    """Memory that can still be taken."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    try:
        with open("/proc/meminfo") as file:  # noqa: PTH123
            [available] = [line for line in file if line.startswith("MemAvailable")]
        return int(available.split()[1]) * 1024
    except (OSError, ValueError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _is_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(error)


def _advice(config: TrainConfig, most: int, longest: int) -> str:
    least = max(longest, most // 4)
    what = f"a microbatch of {most} tokens does not fit into memory"
    if least < most:
        return f"{what}: try --tokens-per-microbatch {least}" + (
            "" if config.gradient_checkpointing else " or --gradient-checkpointing"
        )
    if not config.gradient_checkpointing:
        return f"a row of {longest} tokens does not fit into memory: add --gradient-checkpointing"
    return f"a row of {longest} tokens does not fit into memory: use a smaller --max-tokens or another --device"
