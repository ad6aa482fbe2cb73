"""How the parts of a run are put together."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.trainers.toy_runs import register_toys, toy_config
from trainers import run as run_module
from trainers.config import ConfigError
from trainers.logs.run_log import RunLog
from trainers.preflight import preflight
from trainers.run import Run, open_run
from trainers.sampling import TorchSampler


@pytest.fixture
def config(tiny_folder, tmp_path):
    register_toys()
    return toy_config(tiny_folder, tmp_path / "run")


def opened(config: Any, **changes: Any) -> Run:
    config = dataclasses.replace(config, **changes)
    return open_run(config, preflight(config), RunLog(config))


@pytest.mark.parametrize(
    ("correction", "shares_weights", "max_staleness", "full", "corrects"),
    [
        ("auto", True, 0, True, False),
        ("auto", True, 1, True, True),  # its weights are an update older
        ("auto", False, 0, True, True),
        ("auto", False, 0, False, False),  # there is no ratio
        ("none", False, 1, True, False),
        ("truncate", True, 0, True, True),
        ("mask", True, 0, True, True),
    ],
)
def test_when_the_loss_corrects(config, correction, shares_weights, max_staleness, full, corrects):
    changed = dataclasses.replace(
        config, correction=correction, max_staleness=max_staleness, top_k=0 if full else 5, loss="reinforce"
    )
    run: Any = SimpleNamespace(config=changed, sampler=SimpleNamespace(shares_weights=shares_weights))
    prop: Any = Run.corrects
    assert prop.fget(run) is corrects


@pytest.mark.parametrize(
    ("changes", "needs"),
    [
        ({}, True),
        ({"loss": "reinforce"}, True),  # the correction is on by default
        ({"loss": "reinforce", "correction": "none"}, False),
        ({"loss": "reinforce", "top_p": 0.9}, False),
        ({"loss": "reinforce", "top_p": 0.9, "kl_coef": 0.1}, True),
        ({"loss": "reinforce", "correction": "none", "kl_coef": 0.1}, True),
        ({"loss": "ppo", "correction": "none"}, True),
    ],
)
def test_when_an_engine_must_say_logprobs(config, monkeypatch, changes, needs):
    asked: list[Any] = []

    def make_sampler(name: str, policy: Any, **options: Any) -> TorchSampler:
        asked.append((name, options["logprobs_at"], options["arguments"]))
        return TorchSampler(policy, stop_tokens=options["stop_tokens"])

    monkeypatch.setattr(run_module, "make_sampler", make_sampler)
    opened(config, sampler="vllm", sampler_args='{"seed": 1}', temperature=0.7, **changes).close()
    assert asked == [("vllm", 0.7 if needs else None, {"seed": 1})]


@pytest.mark.parametrize("device", ["abacus", "cuda:99"])
def test_a_sampling_device_that_there_is_not(config, device):
    with pytest.raises(ConfigError, match=f"^sampling_device '{device}': ") as caught:
        opened(config, max_staleness=1, sampling_device=device)
    assert "\n" not in str(caught.value)


def test_every_source_of_chance_follows_the_seed(config):
    import random

    import numpy as np

    drawn = []
    for seed in (0, 0, 1):
        torch.rand(3), random.random(), np.random.random()  # noqa: NPY002
        opened(config, seed=seed).close()
        drawn.append((float(torch.rand(())), random.random(), np.random.random()))  # noqa: NPY002
    assert drawn[0] == drawn[1]
    assert not set(drawn[0]) & set(drawn[2])
