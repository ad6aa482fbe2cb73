"""Models of a few thousand weights, built once a session, and what several test files need."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from trainers.policy import Policy
from trainers.rendering import Renderer
from trainers.rollouts import RolloutSettings
from trainers.tiny_model import build_tiny_model, save_model
from trainers.trajectories import Completion, Trajectory, Turn

ROOT = Path(__file__).parents[2]
VOCABULARY = 40
END = 3  # the stop token of all models here


# What the libraries below say to each other; everything else stays an error.
LIBRARY_TALK = (
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning",  # peft asks transformers by the old name
    "ignore:fan_in_fan_out is set to False but the target module is `Conv1D`:UserWarning",  # GPT-2's linear layers
)


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent == Path(__file__).parent:
            for rule in LIBRARY_TALK:
                item.add_marker(pytest.mark.filterwarnings(rule))


@pytest.fixture(scope="session", autouse=True)
def _few_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def guessing_texts():
    env: Any = gym.make("llm_envs:GuessNumber-v0").unwrapped
    return env.vocabulary()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory, guessing_texts):
    """A model that speaks GuessNumber, Arithmetic's digits not among its words."""
    folder = tmp_path_factory.mktemp("tiny")
    save_model(*build_tiny_model(guessing_texts, seed=0, hidden_size=32, num_heads=2, context_length=128), folder)
    return folder


@pytest.fixture(scope="session")
def ttt_folder(tmp_path_factory):
    """A model that knows the words of TicTacToe, and nothing of the game."""
    game: Any = gym.make("llm_envs:TicTacToe-v0", opponent=str).unwrapped  # one that may move illegally: more texts
    folder = tmp_path_factory.mktemp("tic_tac_toe")
    save_model(*build_tiny_model(game.vocabulary(), seed=0, hidden_size=32, num_heads=2, context_length=128), folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(tiny_folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(tiny_folder))


@pytest.fixture(scope="session")
def renderer(tokenizer):
    return Renderer(tokenizer)


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory):
    """Every query head has a key-value head of its own."""
    return _save_llama(tmp_path_factory.mktemp("llama"), num_key_value_heads=4)


@pytest.fixture(scope="session")
def gqa_folder(tmp_path_factory):
    """Grouped-query attention: two query heads share one key-value head; the head is not tied to the embedding."""
    return _save_llama(tmp_path_factory.mktemp("gqa"), num_key_value_heads=2, tie_word_embeddings=False)


@pytest.fixture(scope="session")
def gpt2_folder(tmp_path_factory):
    """A table of positions instead of rotations: no position after the last may ever be asked for."""
    folder = tmp_path_factory.mktemp("gpt2")
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=32, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3,
        bos_token_id=None, eos_token_id=3,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(str(folder))
    return folder


def _save_llama(folder: Path, **options: Any) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=128, initializer_range=0.3, bos_token_id=None, eos_token_id=3, pad_token_id=1,
        **options,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="session")
def folders(llama_folder, gqa_folder, gpt2_folder):
    return {"llama": llama_folder, "gqa": gqa_folder, "gpt2": gpt2_folder}


@pytest.fixture(scope="session")
def family_folder(tmp_path_factory, folders) -> Callable[[str], Path]:
    """A model by family: llama, gqa and gpt2 as above, mistral, qwen2 (with biases) and qwen3 (norms of queries, keys).

    Biases and norms are random: their first values would hide that they were forgotten.
    """
    made: dict[str, Path] = dict(folders)
    kinds: dict[str, tuple[type, type]] = {
        "mistral": (MistralConfig, MistralForCausalLM),
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
        "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    }

    def folder(family: str) -> Path:
        if family not in made:
            configuration, model_type = kinds[family]
            torch.manual_seed(0)
            model = model_type(configuration(
                vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, head_dim=12, max_position_embeddings=128, initializer_range=0.3,
                sliding_window=None, bos_token_id=None, eos_token_id=3, pad_token_id=1,
            ))  # fmt: skip
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if "norm" in name or "bias" in name:
                        parameter.add_(torch.randn(parameter.shape) * 0.3)
            made[family] = tmp_path_factory.mktemp(family)
            model.save_pretrained(str(made[family]))
        return made[family]

    return folder


@pytest.fixture
def load_policy() -> Callable[..., Policy]:
    """Load a policy whose adapter is not idle: a fresh one has B = 0, which would hide mistakes."""

    def load(folder: Path, *, adapter_scale: float = 0.1, **options: Any) -> Policy:
        policy = Policy.load(folder, **{"device": "cpu", "dtype": "float32", "lora_rank": 4, **options})
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in policy.trainable.items():
                if "lora_B" in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * adapter_scale)
        return policy

    return load


@pytest.fixture
def make_trajectory() -> Callable[..., Trajectory]:
    """A trajectory from alternating prompt and completion tokens; `logprobs` are those of all sampled tokens."""

    def make(
        *parts: list[int], logprobs: list[float] | None = None, seed: int = 0, rewards: list[float] | None = None
    ) -> Trajectory:
        trajectory = Trajectory(seed=seed)
        left = iter(logprobs) if logprobs else None
        for i in range(0, len(parts), 2):
            prompt, completion = parts[i : i + 2]
            trajectory.append_prompt(prompt)
            taken = [0.0 if left is None else next(left) for _ in completion]
            trajectory.append_completion(Completion(completion, taken, "stop"))
            reward = rewards[i // 2] if rewards else 0.0
            trajectory.turns.append(Turn("", len(completion), reward, "stop", "wrong", {}))
        return trajectory

    return make


class ScriptedSession:
    """Says the same words in every turn, row by row, and writes down what it was fed."""

    def __init__(self, owner: "ScriptedSampler", prompts: Sequence[Sequence[int]], group_size: int) -> None:
        self.owner = owner
        self.ledgers: list[list[int]] = []
        self.add(prompts, group_size=group_size)

    def add(self, prompts: Sequence[Sequence[int]], *, group_size: int = 1) -> range:
        first = len(self.ledgers)
        self.ledgers += [list(prompt) for prompt in prompts for _ in range(group_size)]
        return range(first, len(self.ledgers))

    def sample(
        self,
        feeds: Mapping[int, Sequence[int]],
        *,
        max_tokens: int,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        progress: Callable[[float], None] | None = None,
    ) -> dict[int, Completion]:
        self.owner.cuts.add((top_p, top_k))
        self.owner.calls.append((set(feeds), max_tokens, temperature))
        found = {}
        for row, feed in feeds.items():
            said = self.owner.say(row, len(self.owner.calls) - 1)
            found[row] = Completion(said, [-0.5] * len(said), "stop" if said[-1] == END else "length")
            self.ledgers[row] += [*feed, *said]
        if progress is not None:
            progress(float(len(found)))
        return found


class ScriptedSampler:
    shares_weights = True

    def __init__(self, say) -> None:
        self.say = say
        self.calls: list[tuple[set[int], int, float]] = []
        self.cuts: set[tuple[float, int]] = set()  # every top_p with its top_k
        self.opened: list[tuple[int, int, int]] = []
        self.sessions: list[ScriptedSession] = []

    def open(self, prompts: Sequence[Sequence[int]], *, group_size: int = 1, seed: int = 0) -> ScriptedSession:
        self.opened.append((len(prompts), group_size, seed))
        self.sessions.append(ScriptedSession(self, prompts, group_size))
        return self.sessions[-1]

    def load_adapter(self, policy: Policy) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture
def scripted() -> type[ScriptedSampler]:
    return ScriptedSampler


@pytest.fixture
def settings() -> RolloutSettings:
    return RolloutSettings(group_size=2, max_tokens=4, temperature=1.0, context_length=128)


@pytest.fixture
def _ctrl_c_arrives():
    """In a shell's background job SIGINT is ignored, and children inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def run_python():
    """Run this Python in a process of its own, in a folder of its own, with the repository on its path."""

    def run(*arguments: str, cwd: Path, timeout: float = 120) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=cwd,
            env=child_environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture
def child_env():
    return child_environment()


def child_environment() -> dict[str, str]:
    # Without the parent's PYTHON* settings, and without a hub to ask.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {**inherited, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
