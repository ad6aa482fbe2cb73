"""What the sampler vllm does around its engine, with an engine that is made up."""

import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.trainers.toy_runs import register_toys, toy_config
from trainers.config import ConfigError
from trainers.sampling import TorchSampler, make_sampler
from trainers.sampling import vllm_sampler as module
from trainers.sampling.endpoint import EndpointError
from trainers.sampling.vllm_sampler import Adapter, Drawing, Request, VllmSampler
from trainers.sampling.vllm_server import _body
from trainers.train import train
from trainers.trajectories import Completion

STOP, CONTEXT = 38, 64


class MadeUpEngine:
    """Says the row's length, counting up, until STOP or max_tokens; writes down what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Request, Adapter | None]] = []
        self.loaded: list[int] = []
        self.folders: list[Path] = []
        self.is_tempered = True
        self.is_closed = False

    def add(self, adapter: Adapter) -> None:
        assert (adapter.folder / "adapter_model.safetensors").exists()
        self.loaded.append(adapter.number)
        self.folders.append(adapter.folder)

    def drop(self, adapter: Adapter) -> None:
        self.loaded.remove(adapter.number)

    def generate(self, requests: Sequence[Request], drawing: Drawing, adapter: Adapter | None) -> list[Completion]:
        found = []
        for request in requests:
            self.asked.append((Request(list(request.tokens), request.max_tokens, request.seed), adapter))
            n = len(request.tokens)
            tokens = list(range(n, n + request.max_tokens))
            if STOP in tokens:
                tokens = tokens[: tokens.index(STOP) + 1]
            found.append(module.as_completion(tokens, [-0.5] * len(tokens), drawing))
        return found

    def logprobs_are_tempered(self) -> bool:
        return self.is_tempered

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def engine(monkeypatch) -> MadeUpEngine:
    made_up = MadeUpEngine()
    monkeypatch.setattr(module, "LocalEngine", lambda *_, **__: made_up)
    return made_up


@pytest.fixture
def sampler(engine, folders, load_policy) -> VllmSampler:
    return VllmSampler(load_policy(folders["llama"]), stop_tokens=[STOP], context_length=CONTEXT)


def test_every_turn_sends_all_that_was_said(engine, sampler):
    session = sampler.open([[5, 6], [7]], group_size=2)
    first = session.sample({0: [], 1: [], 2: [], 3: []}, max_tokens=3)
    assert [c.tokens for c in first.values()] == [[2, 3, 4], [2, 3, 4], [1, 2, 3], [1, 2, 3]]
    assert list(session.add([[9, 9, 9]])) == [4]
    second = session.sample({4: [], 1: [30, 31]}, max_tokens=2)
    assert {row: c.tokens for row, c in second.items()} == {4: [3, 4], 1: [7, 8]}
    assert [request.tokens for request, _ in engine.asked[4:]] == [[9, 9, 9], [5, 6, 2, 3, 4, 30, 31]]
    session.sample({1: [1]}, max_tokens=1)
    assert engine.asked[-1][0].tokens == [5, 6, 2, 3, 4, 30, 31, 7, 8, 1]


def test_a_turn_ends_at_a_stop_token_or_the_context(sampler):
    session = sampler.open([list(range(36)), [0] * 60, [0] * 63])
    found = session.sample({0: [], 1: [], 2: []}, max_tokens=8)
    assert [(c.tokens, c.stop_reason) for c in found.values()] == [
        ([36, 37, STOP], "stop"),
        ([60, 61, 62, 63], "length"),
        ([63], "length"),
    ]
    with pytest.raises(ValueError, match="row 1 leaves no room in 64"):
        session.sample({0: [], 1: []}, max_tokens=8)


def test_seeds_differ_by_session_row_and_turn(engine, sampler):
    for seed in (1, 2, 1):
        session = sampler.open([[5]], group_size=2, seed=seed)
        for _ in range(2):
            session.sample({0: [], 1: []}, max_tokens=1)
    seeds = [request.seed for request, _ in engine.asked]
    assert seeds[:4] == seeds[8:]
    assert len(set(seeds)) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_session_keeps_its_adapter_and_unused_ones_are_dropped(engine, sampler, folders, load_policy):
    policy = load_policy(folders["llama"])
    assert engine.loaded == [1]
    old = sampler.open([[5]])
    sampler.load_adapter(policy)
    sampler.load_adapter(policy)
    assert engine.loaded == [1, 3]  # nobody had asked the second one
    new = sampler.open([[5]])
    with policy.playing_as(None):
        sampler.load_adapter(policy)
    base = sampler.open([[5]])
    for session in (old, new, base, old):
        session.sample({0: []}, max_tokens=1)
    used = [adapter for _, adapter in engine.asked]
    assert [adapter and adapter.number for adapter in used] == [1, 3, None, 1]
    assert len({adapter.name for adapter in used if adapter}) == 2
    del old, session
    sampler.load_adapter(policy)
    assert engine.loaded == [3, 4]
    sampler.close()
    assert (engine.loaded, engine.is_closed) == ([], True)
    assert not any(folder.exists() for folder in engine.folders)


def test_logprobs_that_vllm_cannot_say_are_nan(engine, sampler):
    def known(**options: Any) -> bool:
        completion = sampler.open([[5]]).sample({0: []}, max_tokens=2, **options)[0]
        assert len(completion.logprobs) == 2
        return not any(map(math.isnan, completion.logprobs))

    asked: list[dict[str, Any]] = [
        {},
        {"temperature": 0.7},
        {"temperature": 0.0, "top_p": 0.5},
        {"top_k": 5},
        {"temperature": 0.7, "top_p": 0.5},
    ]
    for engine.is_tempered, expected in (
        (True, [True, True, True, False, False]),
        (False, [True, False, True, True, False]),
    ):
        assert [known(**options) for options in asked] == expected


def test_training_is_refused_where_it_would_learn_from_the_wrong_logprobs(engine, folders, load_policy):
    policy = load_policy(folders["llama"])
    engine.is_tempered = False
    assert make_sampler("vllm", policy, stop_tokens=[STOP], logprobs_at=1.0).shares_weights is False
    with pytest.raises(ConfigError, match=r"says logprobs at temperature 1, and temperature is 0\.7") as caught:
        make_sampler("vllm", policy, stop_tokens=[STOP], logprobs_at=0.7)
    assert "\n" not in str(caught.value)
    assert engine.is_closed


def test_wrong_use_is_refused(sampler, folders, load_policy):
    policy = load_policy(folders["llama"])
    session = sampler.open([[5]])
    with pytest.raises(ValueError, match="stop_tokens is empty"):
        VllmSampler(policy, stop_tokens=[])
    with pytest.raises(ValueError, match="64 tokens leaves no room in 64"):
        sampler.open([[5] * 64])
    with pytest.raises(ValueError, match="at least one token"):
        session.add([[]])
    with pytest.raises(KeyError, match=r"no rows \[1\]"):
        session.sample({1: []}, max_tokens=1)
    with pytest.raises(ValueError, match="max_tokens must be at least 1, not 0"):
        session.sample({0: []}, max_tokens=0)
    for temperature in (-1.0, 2.5):
        with pytest.raises(ConfigError, match=f"vLLM samples at temperatures from 0 to 2, not {temperature}"):
            session.sample({0: []}, max_tokens=1, temperature=temperature)


def test_the_name_chooses(engine, folders, load_policy):
    policy = load_policy(folders["llama"])
    assert isinstance(make_sampler("torch", policy, stop_tokens=[STOP], logprobs_at=0.5), TorchSampler)
    assert isinstance(make_sampler("vllm", policy, stop_tokens=[STOP]), VllmSampler)
    with pytest.raises(ConfigError, match="torch or vllm, not 'abacus'"):
        make_sampler("abacus", policy, stop_tokens=[STOP])


def test_an_unknown_argument_of_a_server(folders, load_policy):
    with pytest.raises(ConfigError, match="not 'enforce_eager'"):
        VllmSampler(
            load_policy(folders["llama"]), stop_tokens=[STOP],
            arguments={"base_url": "http://localhost:1/v1", "enforce_eager": True},
        )  # fmt: skip


def test_a_server_that_is_not_there(folders, load_policy):
    policy = load_policy(folders["llama"])
    for url, said in (("http://127.0.0.1:9/v1", "ConnectionRefusedError"), ("localhost", "base_url must")):
        with pytest.raises(ConfigError, match=said) as caught:
            VllmSampler(policy, stop_tokens=[STOP], arguments={"base_url": url, "retries": 0})
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_it_is_one_line(folders, load_policy):
    with pytest.raises(ConfigError, match=r"^sampler=vllm needs vLLM, which is not installed here: [^\n]*$"):
        make_sampler("vllm", load_policy(folders["llama"]), stop_tokens=[STOP])


def test_training_is_refused_where_cuts_leave_no_logprobs(engine, folders, load_policy):
    policy = load_policy(folders["llama"])
    for tempered in (True, False):
        engine.is_tempered = tempered
        make_sampler("vllm", policy, stop_tokens=[STOP], cuts=True)
    engine.is_tempered, engine.is_closed = True, False
    with pytest.raises(ConfigError, match=r"no logprobs of the whole policy where top_p or top_k leave tokens out"):
        make_sampler("vllm", policy, stop_tokens=[STOP], logprobs_at=1.0, cuts=True)
    assert engine.is_closed


def test_a_run_says_whether_it_cuts(engine, tiny_folder, tmp_path):
    register_toys()
    changes: dict[str, Any] = {"sampler": "vllm", "loss": "reinforce", "top_p": 0.9, "kl_coef": 0.05}
    config = toy_config(tiny_folder, tmp_path / "run", **changes)
    with pytest.raises(ConfigError, match="and kl_coef needs them"):
        train(config)


def test_a_server_that_dies_while_it_is_asked_is_one_line(engine, folders, load_policy, monkeypatch):
    def fail(*_: Any, **__: Any) -> bool:
        raise EndpointError("no answer")

    monkeypatch.setattr(VllmSampler, "knows_logprobs", fail)
    with pytest.raises(ConfigError, match="the server of vLLM does not answer: no answer"):
        make_sampler("vllm", load_policy(folders["llama"]), stop_tokens=[STOP], logprobs_at=1.0)
    assert engine.is_closed


def test_a_shorter_context_can_be_asked_for(engine, folders, load_policy):
    policy = load_policy(folders["llama"])
    sampler = VllmSampler(policy, stop_tokens=[STOP], context_length=CONTEXT, arguments={"max_model_len": 20})
    with pytest.raises(ValueError, match="20 tokens leaves no room in 20"):
        sampler.open([[5] * 20])
    longer = VllmSampler(policy, stop_tokens=[STOP], context_length=CONTEXT, arguments={"max_model_len": 10**6})
    with pytest.raises(ValueError, match="leaves no room in 64"):
        longer.open([[5] * 64])


def test_an_adapter_dir_that_is_not_there_is_one_line(engine, folders, load_policy, monkeypatch, tmp_path):
    monkeypatch.setattr("trainers.sampling.vllm_server.ServerEngine", lambda *_, **__: engine)
    arguments = {"base_url": "http://localhost:1/v1", "adapter_dir": str(tmp_path / "gone")}
    with pytest.raises(ConfigError, match=r"^adapter_dir .*gone in sampler_args: No such file or directory$"):
        VllmSampler(load_policy(folders["llama"]), stop_tokens=[STOP], arguments=arguments)
    assert engine.is_closed


def test_a_server_is_told_all_that_shapes_the_distribution():
    """What is left out it takes from the model's generation_config.json."""
    body = _body(Request([1], 2, 3), Drawing(temperature=0.7, top_p=1.0, top_k=0, stop_tokens=(4,)), "m")
    neutral = {"min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
    assert {name: body[name] for name in neutral} == neutral
    assert (body["temperature"], body["top_p"], body["top_k"], body["stop_token_ids"]) == (0.7, 1.0, 0, [4])
