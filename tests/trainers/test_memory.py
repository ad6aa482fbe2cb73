"""The dry run: finds what does not fit, says what to do, and leaves no trace."""

import ctypes
import dataclasses
import random
from typing import Any

import numpy as np
import pytest
import torch

from tests.trainers.toy_runs import assert_same_run, register_toys, toy_config
from trainers import memory
from trainers import run as run_module
from trainers.config import ConfigError
from trainers.memory import cache_bytes, dry_run, free_bytes
from trainers.policy import Policy
from trainers.train import train

# The tiny model: 3 layers, 2 heads of 16, keys and values, 4 bytes each.
TOKEN_BYTES = 3 * 2 * 16 * 2 * 4


@pytest.fixture
def config(tiny_folder, tmp_path):
    register_toys()
    return toy_config(tiny_folder, tmp_path / "run", max_tokens=20, tokens_per_microbatch=200)


@pytest.fixture
def policy(tiny_folder, load_policy):
    return load_policy(tiny_folder)


@pytest.fixture
def passes(monkeypatch):
    """The microbatches that are computed."""
    found: list[Any] = []
    inner = Policy.logprobs

    def logprobs(self, batch, **options):
        found.append(batch)
        return inner(self, batch, **options)

    monkeypatch.setattr(Policy, "logprobs", logprobs)
    return found


def test_a_token_in_the_cache_by_hand(policy):
    assert cache_bytes(policy) == TOKEN_BYTES


@pytest.mark.parametrize(
    ("tokens", "share_prefix", "rows", "size"),
    [
        (200, True, 8, 180),  # a group is 10 + 4 * 20; after two of them a row would be 30 more
        (210, True, 9, 210),
        (90, True, 4, 90),
        (200, False, 6, 180),
        (29, True, 1, 30),  # a row must be computed, whatever the limit
        (10_000, True, 16, 4 * 90),  # there are no more
        (10_000, False, 16, 16 * 30),
    ],
)
def test_it_tries_the_fullest_microbatch(config, policy, passes, tokens, share_prefix, rows, size):
    changed = dataclasses.replace(config, tokens_per_microbatch=tokens, share_prefix=share_prefix)
    dry_run(policy, changed, prompt_tokens=10, context_length=128)
    [batch] = passes
    assert (len(batch.numbers), len(batch.tokens)) == (rows, size)
    assert len(batch.targets) == rows * 20


def test_no_row_is_longer_than_the_context(config, policy, passes):
    dry_run(policy, config, prompt_tokens=110, context_length=128)
    assert [int(batch.positions.max()) + 1 for batch in passes] == [128]


def test_it_leaves_no_trace(config, policy):
    before = policy.snapshot()
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    dry_run(policy, config, prompt_tokens=10, context_length=128)
    assert all(p.grad is None for p in policy.model.parameters())
    assert all(torch.equal(p, before[name]) for name, p in policy.trainable.items())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]  # type: ignore[index]  # noqa: NPY002


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_a_run_is_the_same_without_it(config, tmp_path, gradient_checkpointing):
    with_it = dataclasses.replace(config, updates=2, gradient_checkpointing=gradient_checkpointing)
    without = dataclasses.replace(with_it, dry_run=False, run_dir=tmp_path / "without")
    train(with_it)
    train(without)
    assert_same_run(with_it.run_dir, without.run_dir)


def test_it_is_done_only_if_wanted(config, monkeypatch):
    monkeypatch.setattr(run_module, "dry_run", lambda *_, **__: pytest.fail("tried"))
    train(dataclasses.replace(config, updates=1, dry_run=False))


def test_keys_and_values_that_do_not_fit(config, policy, monkeypatch):
    # 16 rows of 10 + 20 tokens; nine tenths of what is free may be taken, and that is room for 5.
    monkeypatch.setattr(memory, "free_bytes", lambda _: int(5.5 * 30 * TOKEN_BYTES / 0.9))
    with pytest.raises(ConfigError) as caught:
        dry_run(policy, config, prompt_tokens=10, context_length=128)
    assert str(caught.value) == (
        "16 rows of 30 tokens need 0.0 GiB of keys and values to be sampled, and 0.0 GiB are free: "
        "use --max-rows 5 or fewer"
    )
    dry_run(policy, dataclasses.replace(config, max_rows=5), prompt_tokens=10, context_length=128)
    with pytest.raises(ConfigError, match="--max-rows 5 or"):
        dry_run(policy, dataclasses.replace(config, max_rows=6), prompt_tokens=10, context_length=128)
    dry_run(policy, dataclasses.replace(config, sampler="vllm"), prompt_tokens=10, context_length=128)  # its own affair


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory"),
    ],
)
@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({}, "a microbatch of 200 tokens does not fit into memory: try --tokens-per-microbatch 50 or "
             "--gradient-checkpointing"),
        ({"gradient_checkpointing": True},
         "a microbatch of 200 tokens does not fit into memory: try --tokens-per-microbatch 50"),
        ({"tokens_per_microbatch": 30}, "a row of 30 tokens does not fit into memory: add --gradient-checkpointing"),
        ({"tokens_per_microbatch": 30, "gradient_checkpointing": True},
         "a row of 30 tokens does not fit into memory: use a smaller --max-tokens or another --device"),
    ],
)  # fmt: skip
def test_a_pass_that_does_not_fit(config, policy, monkeypatch, error, changes, advice):
    def fail(*_: Any, **__: Any) -> None:
        next(iter(policy.trainable.values())).grad = torch.zeros_like(next(iter(policy.trainable.values())))
        raise error

    monkeypatch.setattr(policy, "logprobs", fail)
    with pytest.raises(ConfigError) as caught:
        dry_run(policy, dataclasses.replace(config, **changes), prompt_tokens=10, context_length=128)
    assert str(caught.value) == advice
    assert all(p.grad is None for p in policy.trainable.values())


def test_other_errors_are_not_taken_for_it(config, policy, monkeypatch):
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(policy, "logprobs", fail)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        dry_run(policy, config, prompt_tokens=10, context_length=128)


def test_a_run_that_does_not_fit_ends_before_its_first_rollout(config, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda _: 1)
    with pytest.raises(ConfigError, match="--max-rows 1 or fewer"):
        train(config)
    assert [path.name for path in config.run_dir.iterdir()] == [".lock"]
    monkeypatch.undo()
    train(dataclasses.replace(config, updates=1))  # the folder is as good as new


def test_what_is_free_is_known():
    assert 2**20 < free_bytes(torch.device("cpu")) < 2**50


@pytest.mark.parametrize(
    ("given", "device", "tokens"), [(None, "cpu", 2048), (None, "cuda", 16_384), (None, "mps", 16_384), (7, "cpu", 7)]
)
def test_how_much_a_pass_may_hold_where_nothing_is_said(config, given, device, tokens):
    assert dataclasses.replace(config, tokens_per_microbatch=given).microbatch_tokens(device) == tokens


def test_an_open_limit_is_that_of_the_device(config, policy, passes):
    changed = dataclasses.replace(config, tokens_per_microbatch=None, max_tokens=600, group_size=8)
    dry_run(policy, changed, prompt_tokens=10, context_length=610)
    [batch] = passes
    assert len(batch.tokens) == 10 + 3 * 600


_FAULTS = """
import resource, sys, torch
from trainers.memory import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def faults():
    torch.ones(16_000_000)  # 64 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
after = [faults() for _ in range(5)]
print(after[-1] - after[-2])
"""


def test_freed_memory_is_kept(run_python, tmp_path):
    """Of a block of 64 MB each page is a fault when it comes from the system, and none when it was kept."""
    if not hasattr(ctypes.CDLL(None), "mallopt"):
        pytest.skip("no glibc")
    returned, kept = (int(run_python("-c", _FAULTS, how, cwd=tmp_path).stdout) for how in ("returned", "kept"))
    assert kept < 100 < returned


def test_a_run_on_a_cpu_keeps_it(config, monkeypatch):
    calls: list[int] = []
    monkeypatch.setattr(run_module, "keep_freed_memory", lambda: calls.append(1))
    train(dataclasses.replace(config, updates=1))
    assert calls == [1]


def test_without_glibc_nothing_happens(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    memory.keep_freed_memory()
