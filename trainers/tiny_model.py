"""A language model small enough for a laptop, shipped as code: random weights and a word-level tokenizer."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

MAX_PARAMETERS = 3_000_000

_SPECIAL_TOKENS = ["<unk>", "<pad>", "<assistant>", "<end>"]

_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<assistant>{{ message['content'] }}<end>"
    "{% else %}{{ message['content'] }} {% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def build_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """One token for every word (what stands between spaces) of `texts`, and the four tokens of the chat template."""
    words = dict.fromkeys(word for text in texts for word in text.split())
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys([*_SPECIAL_TOKENS, *words]))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        pad_token="<pad>",
        eos_token="<end>",
        extra_special_tokens=["<assistant>"],
        chat_template=_CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def build_tiny_model(
    texts: Iterable[str],
    *,
    seed: int,
    hidden_size: int = 128,
    num_layers: int = 3,
    num_heads: int = 4,
    context_length: int = 256,
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A Llama-type model of random weights whose vocabulary is the words of `texts`.

    Both save with `save_pretrained` and load with the Auto classes like any other model.

    Raises:
        ValueError: when the model would have more than `MAX_PARAMETERS` parameters.
    """
    tokenizer = build_tokenizer(texts)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=num_heads,
        max_position_embeddings=context_length,
        tie_word_embeddings=True,
        # The usual 0.02 suits widths of thousands; at this one the signal would start too faint and learn slowly.
        initializer_range=hidden_size**-0.5,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    if model.num_parameters() > MAX_PARAMETERS:
        raise ValueError(f"{model.num_parameters():,} parameters; a tiny model has at most {MAX_PARAMETERS:,}")
    return model, tokenizer


def save_model(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write an ordinary transformers folder."""
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
