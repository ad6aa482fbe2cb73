"""vLLM against the trainer's own numbers.

All of it needs vLLM, which has an environment of its own: `make test-vllm`.
"""

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from trainers.batching import Row, microbatches
from trainers.config import ConfigError
from trainers.policy import Policy
from trainers.rendering import Renderer
from trainers.sampling import TorchSampler, make_sampler
from trainers.sampling.vllm_sampler import VllmSampler
from trainers.tiny_model import build_tiny_model, save_model
from trainers.trajectories import Completion, Trajectory, Turn

HAS_VLLM = importlib.util.find_spec("vllm") is not None
REAL_MODEL = Path(os.environ.get("LLM_ENVS_MODEL", Path(__file__).parents[2] / "models" / "SmolLM2-135M-Instruct"))

needs_vllm = pytest.mark.skipif(not HAS_VLLM, reason="vLLM is not installed: make test-vllm")
# What vLLM and the libraries below it warn of at length is not ours.
starts_an_engine = [needs_vllm, pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.filterwarnings("ignore")]

STOP, END_OF_MODEL, CONTEXT = 38, 3, 64
LONG = [5 + i % 30 for i in range(40)]  # longer than a block of the cache
PROMPTS = [LONG, [6, 7, 8], [20]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# --- What one sampler must do, in this process and behind a server ---


@pytest.fixture(scope="module")
def vllm_folder(tmp_path_factory):
    """vLLM wants heads at least 32 wide, and its server a tokenizer."""
    folder = tmp_path_factory.mktemp("for_vllm")
    texts = [str(number) for number in range(36)]
    save_model(*build_tiny_model(texts, seed=0, hidden_size=64, num_layers=2, num_heads=2, context_length=128), folder)
    return folder


@pytest.fixture(scope="module")
def base_url(vllm_folder) -> Iterator[str]:
    port = free_port()
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(vllm_folder), "--host", "127.0.0.1",
        "--port", str(port), "--dtype", "float32", "--enforce-eager", "--enable-lora", "--max-lora-rank", "8",
        "--max-model-len", "128", "--logprobs-mode", "processed_logprobs", "--block-size", "32",
    ]  # fmt: skip
    environment = {**os.environ, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    server = subprocess.Popen(command, env=environment)
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(600):
            time.sleep(1)
            assert server.poll() is None, "the server ended before it served"
            try:
                with urllib.request.urlopen(f"{url}/health", timeout=5):
                    break
            except OSError:
                continue
        yield f"{url}/v1"
    finally:
        server.terminate()
        server.wait(60)


@pytest.fixture(scope="module", params=["engine", "server"])
def vllm(request, vllm_folder) -> Iterator[VllmSampler]:
    arguments: Mapping[str, Any] = {"enforce_eager": True, "kv_cache_memory_bytes": 2**28}
    if request.param == "server":
        arguments = {"base_url": request.getfixturevalue("base_url")}
    policy = Policy.load(vllm_folder, device="cpu", dtype="float32", lora_rank=4)
    sampler = VllmSampler(policy, stop_tokens=[STOP], context_length=CONTEXT, arguments=arguments)
    yield sampler
    sampler.close()


@pytest.fixture
def make_policy(vllm_folder):
    """A policy after so many updates of its own: 0 has an idle adapter."""

    def make(updates: int, folder: Path = vllm_folder, *, dtype: str = "float32", scale: float = 0.1) -> Policy:
        policy = Policy.load(folder, device="cpu", dtype=dtype, lora_rank=4)
        update(policy, updates, scale=scale)
        return policy

    return make


def update(policy: Policy, number: int, *, scale: float) -> None:
    generator = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for name, parameter in policy.trainable.items():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * (scale if number else 0.0))


def play(
    sampler: Any,
    prompts: Sequence[list[int]] = PROMPTS,
    feed: Sequence[int] = (25, 26, 27),
    *,
    turns: int = 3,
    group_size: int = 2,
    max_tokens: int = 5,
    **options: Any,
) -> list[Trajectory]:
    """Episodes of several turns, whose rows leave and are fed more or less of a text."""
    session = sampler.open(prompts, group_size=group_size, seed=7)
    played = [Trajectory(seed=number) for number, _ in enumerate(prompts) for _ in range(group_size)]
    for trajectory in played:
        trajectory.append_prompt(prompts[trajectory.seed])
    feeds: dict[int, list[int]] = {row: [] for row in range(len(played))}
    for turn in range(turns):
        completions = session.sample(feeds, max_tokens=max_tokens, **options)
        for row, completion in completions.items():
            add_turn(played[row], feeds[row], completion)
        feeds = {row: list(feed[: row + turn]) for row in reversed(feeds) if (row + turn) % 3}
    return played


def add_turn(trajectory: Trajectory, feed: list[int], completion: Completion) -> None:
    trajectory.append_prompt(feed)
    trajectory.append_completion(completion)
    trajectory.turns.append(Turn("", len(completion.tokens), 0.0, completion.stop_reason, "", {}))


def gaps(policy: Policy, played: Sequence[Trajectory], *, temperature: float = 1.0) -> torch.Tensor:
    """By how much the engine's logprobs differ from the trainer's: `[M]`."""
    rows = [Row(t, [0.0] * len(t.turns), 1.0, group=t.seed) for t in played]
    [batch] = microbatches(rows, tokens_per_microbatch=100_000)
    with torch.no_grad():
        return (batch.sampled_logprobs - policy.logprobs(batch, temperature=temperature)).abs()


class TestVllm:
    pytestmark = starts_an_engine

    def test_logprobs_are_the_trainers_before_and_after_an_update(self, vllm, make_policy):
        before = make_policy(2)
        for updates in (0, 1, 2):
            policy = make_policy(updates)
            vllm.load_adapter(policy)
            for temperature in (1.0, 0.7):
                played = play(vllm, temperature=temperature)
                assert gaps(policy, played, temperature=temperature).max() < 1e-3
                assert gaps(before, played, temperature=temperature).max() > 0.1
            before = policy

    def test_greedy_turns_are_those_of_the_torch_sampler(self, vllm, make_policy):
        policy = make_policy(3)
        vllm.load_adapter(policy)
        found = play(vllm, temperature=0.0)
        torch_sampler = TorchSampler(policy, stop_tokens=[STOP], context_length=CONTEXT)
        expected = play(torch_sampler, temperature=0.0)
        assert [t.tokens for t in found] == [t.tokens for t in expected]
        assert gaps(policy, found).max() < 1e-3  # at temperature 1

    def test_a_switched_off_adapter_is_the_base_model_and_sessions_keep_theirs(self, vllm, make_policy):
        policy = make_policy(4)
        vllm.load_adapter(policy)
        session = vllm.open([[6, 7, 8]], seed=1)
        with policy.playing_as(None):
            vllm.load_adapter(policy)
            base = play(vllm)
            assert gaps(policy, base).max() < 1e-3
        assert gaps(policy, base).max() > 0.1
        trajectory = Trajectory(seed=0)
        add_turn(trajectory, [6, 7, 8], session.sample({0: []}, max_tokens=9)[0])
        assert gaps(policy, [trajectory]).max() < 1e-3

    def test_a_stop_token_ends_the_turn_and_belongs_to_it(self, vllm, make_policy, monkeypatch):
        vllm.load_adapter(make_policy(5))
        free = vllm.open([[6, 7]], seed=3).sample({0: []}, max_tokens=20, temperature=2.0)[0]
        stop = free.tokens[-1] if free.stop_reason == "length" else free.tokens[-2]
        first = free.tokens.index(stop) + 1
        monkeypatch.setattr(vllm, "_stop_tokens", (STOP, stop))
        for max_tokens in (20, first):
            found = vllm.open([[6, 7]], seed=3).sample({0: []}, max_tokens=max_tokens, temperature=2.0)[0]
            assert (found.tokens, found.stop_reason) == (free.tokens[:first], "stop")
            assert len(found.logprobs) == first

    def test_only_our_stop_tokens_end_a_turn(self, vllm, monkeypatch):
        monkeypatch.setattr(vllm, "_stop_tokens", (STOP,))
        session = vllm.open([[6]], group_size=16)
        found = session.sample(dict.fromkeys(range(16), ()), max_tokens=40, temperature=2.0).values()
        assert any(END_OF_MODEL in c.tokens[:-1] for c in found)
        assert {c.tokens[-1] == STOP for c in found if c.stop_reason == "stop"} == {True}
        assert not any(STOP in c.tokens[:-1] for c in found)

    def test_the_context_ends_only_the_rows_that_fill_it(self, vllm, monkeypatch):
        monkeypatch.setattr(vllm, "_stop_tokens", (1,))
        session = vllm.open([[5] * 61, [5, 6], [5] * 63])
        found = session.sample({0: [], 1: [], 2: []}, max_tokens=8, temperature=0.0)
        assert [len(found[row].tokens) for row in range(3)] == [3, 8, 1]
        assert {c.stop_reason for c in found.values()} == {"length"}

    def test_the_seed_decides_and_tries_differ(self, vllm):
        def say(seed: int) -> list[list[int]]:
            session = vllm.open([[6, 7]], group_size=4, seed=seed)
            return [c.tokens for c in session.sample(dict.fromkeys(range(4), ()), max_tokens=8).values()]

        assert say(1) == say(1) != say(2)
        assert len(set(map(tuple, say(1)))) == 4

    def test_top_k_leaves_the_others_out(self, vllm):
        session = vllm.open([[6, 7]], group_size=8)
        greedy = vllm.open([[6, 7]]).sample({0: []}, max_tokens=1, temperature=0.0)[0].tokens
        found = session.sample(dict.fromkeys(range(8), ()), max_tokens=1, temperature=2.0, top_k=1)
        assert [c.tokens for c in found.values()] == [greedy] * 8


@pytest.mark.parametrize("vllm", ["engine"], indirect=True)
class TestEngine:
    pytestmark = starts_an_engine

    def test_a_group_shares_its_prompt(self, vllm, make_policy, monkeypatch):
        vllm.load_adapter(make_policy(6))
        llm = vllm._engine._llm
        outputs: list[Any] = []
        inner = llm.generate

        def generate(*arguments: Any, **options: Any) -> Any:
            outputs.append(inner(*arguments, **options))
            return outputs[-1]

        monkeypatch.setattr(llm, "generate", generate)
        session = vllm.open([LONG], group_size=4)
        session.sample(dict.fromkeys(range(4), ()), max_tokens=2)
        assert [output.num_cached_tokens for output in outputs[0]] == [0, 32, 32, 32]
        vllm.load_adapter(make_policy(7))  # what another adapter computed is of no use
        vllm.open([LONG]).sample({0: []}, max_tokens=2)
        assert outputs[1][0].num_cached_tokens == 0

    def test_what_does_not_start_is_one_line(self, vllm, make_policy):
        for arguments, said in (({"abacus": 1}, "abacus"), ({"max_model_len": 10**6}, "max_model_len")):
            with pytest.raises(ConfigError, match=said) as caught:
                VllmSampler(make_policy(0), stop_tokens=[STOP], arguments=arguments)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("vllm", ["server"], indirect=True)
class TestServer:
    pytestmark = starts_an_engine

    def test_it_tells_how_the_server_was_begun(self, vllm):
        assert vllm.knows_logprobs(0.7)
        assert not vllm.knows_logprobs(0.7, cuts=True)

    def test_what_the_server_does_not_serve(self, vllm, base_url, vllm_folder, tmp_path):
        policy = Policy.load(vllm_folder, device="cpu", dtype="float32", lora_rank=16)
        for arguments, said in (
            ({}, "took no adapter"),  # of such a rank
            ({"model": "nobody"}, "name the base model"),
        ):
            with pytest.raises(ConfigError, match=said) as caught:
                VllmSampler(policy, stop_tokens=[STOP], arguments={"base_url": base_url, **arguments})
            assert "\n" not in str(caught.value)
        with pytest.raises(ConfigError, match="takes 128 tokens and the context has 129"):
            VllmSampler(policy, stop_tokens=[STOP], context_length=129, arguments={"base_url": base_url})


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")
@needs_vllm
@pytest.mark.skipif(
    not REAL_MODEL.exists(), reason="python -m trainers.gguf --out MODEL makes a model, LLM_ENVS_MODEL=MODEL names it"
)
def test_bfloat16_noise_is_small_beside_an_update(record_property):
    """One engine, its adapter before and after an update."""
    policy, wrong = (Policy.load(REAL_MODEL, device="cpu", dtype="bfloat16", lora_rank=32) for _ in range(2))
    renderer = Renderer.from_pretrained(str(REAL_MODEL))
    sampler = make_sampler(
        "vllm", policy, stop_tokens=renderer.stop_tokens, context_length=256, logprobs_at=1.0,
        arguments={"enforce_eager": True, "kv_cache_memory_bytes": 2**29},
    )  # fmt: skip
    questions = ("Name three animals.", "What is 17 times 3?", "Tell me a story about a lighthouse.")
    prompts = [renderer.prompt([{"role": "user", "content": question}]) for question in questions]
    follow_up = renderer.continuation([{"role": "user", "content": "Go on."}], stopped=False)
    for number in (0, 1):
        update(policy, number, scale=0.1)
        update(wrong, 1 - number, scale=0.1)
        sampler.load_adapter(policy)
        played = play(sampler, prompts, follow_up, turns=2, group_size=4, max_tokens=24)
        right, off = gaps(policy, played), gaps(wrong, played)
        found = f"{len(right)} tokens: mean {right.mean():.4f}, max {right.max():.4f}; the other {off.mean():.4f}"
        record_property(f"adapter_{number}", found)
        assert right.mean() < 0.1
        assert right.max() < 1.0
        assert off.mean() > 5 * right.mean()
    sampler.close()
