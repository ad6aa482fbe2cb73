"""The sampler benchmark without its peer: that all are asked alike, and what is written."""

import csv
import dataclasses
import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import sampler
from benchmarks.contest.models import build
from benchmarks.contest.process import Peer, PeerError
from benchmarks.contest.sampler_ours import Contender
from benchmarks.sampler import Config, main, make_adapter, prompts_of, report, rounds_of, time_rounds

# peft asks transformers by the old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


class Scripted(Peer):
    """One that takes a scripted time."""

    def __init__(self, *seconds: float, short: int = 0) -> None:
        self.seconds, self.short = list(seconds), short
        self.asked: list[dict[str, Any]] = []

    def ask(self, question, *, limit_seconds):
        self.asked.append(question)
        tokens = len(question["prompts"]) * question["group_size"] * question["max_tokens"]
        return {"seconds": self.seconds.pop(0), "tokens": tokens - self.short}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("tiny")
    build("tiny", folder, device=torch.device("cpu"))
    return folder


CONFIG = Config(group_size=4, max_tokens=5, rounds=2)
PROMPTS = [[[1, 2]], [[3, 4]], [[5, 6]]]


def test_the_warm_up_counts_nowhere():
    ours = Scripted(9, 2, 1)
    assert time_rounds("torch", ours, CONFIG, PROMPTS) == [10, 20]
    assert [q["prompts"] for q in ours.asked] == PROMPTS
    assert [(q["seed"], q["max_tokens"], q["logprobs"]) for q in ours.asked] == [
        (0, 5, False),
        (1, 5, False),
        (2, 5, False),
    ]


def test_the_slow_one_warms_up_with_little_and_is_timed_once():
    slow = Scripted(9, 8)
    assert time_rounds("vllm, adapter", slow, CONFIG, PROMPTS) == [2.5]
    assert [(q["prompts"], q["max_tokens"], q["logprobs"]) for q in slow.asked] == [
        ([[1, 2]], 2, True), ([[3, 4]], 5, True),
    ]  # fmt: skip


def test_a_round_is_new_to_everybody(model):
    rounds = rounds_of(dataclasses.replace(CONFIG, rows=(4, 8)), str(model), "")
    assert [len(prompts) for prompts in rounds[4]] == [1, 1, 1]
    assert [len(prompts) for prompts in rounds[8]] == [2, 2, 2]
    everything = [tuple(prompt) for prompts in (*rounds[4], *rounds[8]) for prompt in prompts]
    assert len(set(everything)) == 9


def test_the_best_round_counts(capsys):
    rates = {
        "torch, adapter": [10.0, 20.0], "torch": [30.0, 7.0], "vllm": [5.0, 4.0], "vllm, eager": [3.0],
        "vllm, adapter": [2.5],
    }  # fmt: skip
    assert report(CONFIG, 4, rates) == {
        "torch, adapter": (20, 1), "torch": (30, 1), "vllm": (5, 6), "vllm, eager": (3, 10), "vllm, adapter": (2.5, 8),
    }  # fmt: skip
    assert "vllm                     5 tokens/s  ours is 6.00 times that  (5, 4)" in capsys.readouterr().out


def test_an_answer_that_ends_early_is_no_measurement():
    with pytest.raises(PeerError, match="torch sampled 19 tokens instead of 20"):
        time_rounds("torch", Scripted(1, short=1), CONFIG, PROMPTS)


def test_ours_without_an_adapter_is_the_base_model(model):
    contender = Contender()
    contender.answer({"who": "torch", "model": str(model), "adapter": ""})
    assert contender._policy is not None
    with torch.no_grad():
        for name, parameter in contender._policy.trainable.items():
            parameter.fill_(math.nan if "lora" in name else 1.0)  # what it must not compute with
    prompts = prompts_of(str(model), "", range(2))
    question = {"prompts": prompts, "group_size": 3, "max_tokens": 5, "seed": 0, "logprobs": False}
    assert contender.answer(question)["tokens"] == 2 * 3 * 5
    session = contender._sampler.open(prompts, seed=0)
    completions = session.sample({0: [], 1: []}, max_tokens=3)
    assert all(math.isfinite(logprob) for completion in completions.values() for logprob in completion.logprobs)


@pytest.mark.parametrize("who", ["torch, adapter", "generate, adapter"])
def test_ours_samples_all_tokens_with_an_adapter_that_says_something(model, tmp_path, who):
    adapter = make_adapter(str(model), tmp_path / "adapter", rank=2)
    contender = Contender()
    versions = contender.answer({"who": who, "model": str(model), "adapter": adapter})
    assert versions["torch"] == str(torch.__version__)
    assert contender._policy is not None
    parameters = contender._policy.trainable
    assert all(p.abs().sum() > 0 for p in parameters.values())
    assert {p.shape[0] for name, p in parameters.items() if "lora_A" in name} == {2}
    prompts = prompts_of(str(model), "", range(2))
    found = contender.answer({"prompts": prompts, "group_size": 3, "max_tokens": 5, "seed": 0, "logprobs": False})
    assert found["tokens"] == 2 * 3 * 5
    assert found["seconds"] > 0


def test_the_table(model, tmp_path, monkeypatch):
    names = ("torch, adapter", "torch", "vllm", "vllm, eager", "vllm, adapter")
    peers = {name: Scripted(1, seconds) for name, seconds in zip(names, (1, 0.5, 2, 2.5, 4), strict=True)}
    monkeypatch.setattr(sampler, "opened", lambda name, *_: nullcontext((peers[name], "torch 1")))
    out = tmp_path / "sampler.csv"
    config = dataclasses.replace(
        CONFIG, model=str(model), rows=(8,), rounds=1, out=out, vllm_python="python", generate=False
    )
    main(config)
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["who"], r["rows"], r["tokens_per_second"], r["ours_to_this"]) for r in rows] == [
        ("torch, adapter", "8", "40.0", "1.0"), ("torch", "8", "80.0", "1.0"), ("vllm", "8", "20.0", "4.0"),
        ("vllm, eager", "8", "16.0", "5.0"), ("vllm, adapter", "8", "10.0", "4.0"),
    ]  # fmt: skip
    for name, seconds in zip(names, (5, 3, 4, 2, 8), strict=True):
        peers[name].seconds = [1, seconds]
    with pytest.raises(SystemExit) as slower:
        main(config)
    assert slower.value.code == 1
    with pytest.raises(SystemExit, match="error: 6 rows are no whole groups of 4"):
        main(dataclasses.replace(config, rows=(8, 6)))
