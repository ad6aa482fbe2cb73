"""How fast this machine multiplies and copies, and so how long a step takes at the least.

How operations are counted: two for a multiplication with an addition. P are the parameters in linear layers.

- Sampling a token, or reading one of a prompt: 2P, with the adapter's and, for a token that is sampled, the output
  projection's. Attention: 4 times layers, heads, size of a head and tokens that are looked at.
- Training on a token: 2P forward and 2P back, for a frozen weight has no gradient of its own; the adapter's own
  parameters count 6. The output projection of a sampled token counts 4 (its logits, and the gradient of its hidden
  state), attention three times its forward pass.
- The prompt of a group counts once, in sampling and in training: it need not be computed for each answer.

How traffic is counted: for every token that all rows sample at once, all weights are read once, each row's own keys
and values, and those of a group's prompt once. What training reads and writes is left out: its products are large.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from benchmarks.contest.models import Shape

Groups = Sequence[tuple[int, Sequence[int]]]
"""Of each group the tokens of its prompt, and of each of its answers."""

PEAKS = {
    "H200": 989e12, "H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "GH200": 989e12, "B200": 2250e12,
    "A100": 312e12, "A10G": 70e12, "A10": 125e12, "A40": 150e12, "A6000": 155e12, "L40S": 362e12, "L40": 181e12,
    "L4": 121e12, "RTX 5090": 210e12, "RTX 4090": 165e12, "RTX 3090": 71e12,
}  # fmt: skip
"""bfloat16 operations a second with float32 sums and without sparsity, by a part of the device's name; the first that
fits counts. From the makers' data sheets."""


@dataclass(frozen=True)
class Limits:
    """What was measured of the machine.

    Args:
        matmul: operations a second of a large product of squares in bfloat16.
        rows_matmul: the same of the model's own products with as many rows as are sampled at once.
        copy: bytes a second of a copy, read and written both counted.
        peak: operations a second that the maker promises, or `matmul` where that is not known.
    """

    matmul: float
    rows_matmul: float
    copy: float
    peak: float


@dataclass(frozen=True)
class Minimum:
    """Seconds that a step takes on a machine that is never idle, and wastes nothing."""

    sampling: float
    training: float

    @property
    def total(self) -> float:
        """Both."""
        return self.sampling + self.training


def measure_limits(shape: Shape, *, rows: int, device: torch.device, seconds: float = 1.0) -> Limits:
    """Measure each for so many seconds; the best of it counts."""
    is_cuda = device.type == "cuda"
    side = 8192 if is_cuda else 2048
    matmul = _matmul_rate([(side, side, side)], device, seconds)
    own = [(rows, i, o) for i, o in (*shape.products, (shape.hidden, shape.vocabulary))]
    rows_matmul = _matmul_rate(own, device, seconds, counts=[shape.layers] * len(shape.products) + [1])
    copy = _copy_rate(2**30 if is_cuda else 2**28, device, seconds)
    peak = matmul
    if is_cuda:
        name = torch.cuda.get_device_name(device)
        peak = next((rate for part, rate in PEAKS.items() if part in name), matmul)
    return Limits(matmul, rows_matmul, copy, peak)


def sampling_flops(shape: Shape, groups: Groups) -> tuple[float, float]:
    """Operations of reading the prompts, and of sampling all answers."""
    per_token = 2.0 * (shape.frozen + shape.adapter)
    prompts = sum(p * per_token + _attention(shape, p * (p + 1) / 2) for p, _ in groups)
    sampled = sum(
        n * (per_token + 2.0 * shape.head) + _attention(shape, n * p + n * (n + 1) / 2)
        for p, answers in groups
        for n in answers
    )
    return prompts, sampled


def training_flops(shape: Shape, groups: Groups, *, shared: bool = True) -> float:
    """Operations of a forward and a backward pass over everything.

    Args:
        shape: of the model.
        groups: what is trained.
        shared: the prompt of a group is computed once, and not for each of its answers.
    """
    total = 0.0
    for prompt, answers in groups:
        times = 1 if shared else len(answers)
        tokens = times * prompt + sum(answers)
        pairs = times * prompt * (prompt + 1) / 2 + sum(n * prompt + n * (n + 1) / 2 for n in answers)
        total += tokens * (4.0 * shape.frozen + 6.0 * shape.adapter)
        total += sum(answers) * 4.0 * shape.head + 3.0 * _attention(shape, pairs)
    return total


def sampling_bytes(shape: Shape, groups: Groups) -> float:
    """Bytes read while all answers are sampled, a token of all rows at a time."""
    weights = 2.0 * (shape.frozen + shape.adapter + shape.head)
    longest = max(n for _, answers in groups for n in answers)
    own = sum(n * (n - 1) / 2 for _, answers in groups for n in answers)
    shared = sum(p * max(answers) for p, answers in groups)
    return longest * weights + (own + shared) * shape.cache_bytes


def minimum(shape: Shape, groups: Groups, limits: Limits) -> Minimum:
    """At the measured rates; of sampling, traffic or products, whichever takes longer."""
    prompts, sampled = sampling_flops(shape, groups)
    sampling = max(sampled / limits.rows_matmul, sampling_bytes(shape, groups) / limits.copy)
    return Minimum(prompts / limits.matmul + sampling, training_flops(shape, groups) / limits.matmul)


def _attention(shape: Shape, pairs: float) -> float:
    return 4.0 * shape.layers * shape.heads * shape.head_size * pairs


def _matmul_rate(
    sizes: Sequence[tuple[int, int, int]], device: torch.device, seconds: float, *, counts: Sequence[int] = ()
) -> float:
    """Operations a second of some products, the k-th `counts[k]` times: rows, inputs and outputs of each."""
    total, spent = 0.0, 0.0
    for (rows, inputs, outputs), count in zip(sizes, counts or [1] * len(sizes), strict=True):
        x = torch.randn(rows, inputs, device=device).to(torch.bfloat16)
        weight = torch.randn(outputs, inputs, device=device).to(torch.bfloat16)
        out = torch.empty(rows, outputs, device=device, dtype=torch.bfloat16)
        total += 2.0 * rows * inputs * outputs * count
        work = partial(torch.mm, x, weight.t(), out=out)
        spent += count * _best(work, device, seconds / len(sizes))
    return total / spent


def _copy_rate(size: int, device: torch.device, seconds: float) -> float:
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2.0 * size / _best(lambda: target.copy_(source), device, seconds)


def _best(work: Callable[[], Any], device: torch.device, seconds: float) -> float:
    """Seconds of a call: of the fastest of several batches, each of at least 10 ms."""
    work()
    calls = max(1, int(0.01 / max(_timed(work, 1, device), 1e-7)))
    best, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until:
        best = min(best, _timed(work, calls, device) / calls)
    return best


def _timed(work: Callable[[], Any], calls: int, device: torch.device) -> float:
    synchronize(device)
    started = time.perf_counter()
    for _ in range(calls):
        work()
    synchronize(device)
    return time.perf_counter() - started


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
