"""A language model small enough for a laptop, shipped as code: random weights, and a tokenizer of words or lines."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

MAX_PARAMETERS = 3_000_000

Unit = Literal["word", "line"]

_SPECIAL_TOKENS = ["<unk>", "<pad>", "<assistant>", "<end>"]

_WORD_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<assistant>{{ message['content'] }}<end>"
    "{% else %}{{ message['content'] }} {% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)

# Where every message is a token or two, a token that only says whose turn it is would be a third of the text: what is
# said after <end> is the other's, and then it is the assistant's turn.
_LINE_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['content'] }}{% if message['role'] == 'assistant' %}<end>{% else %}{{ '\n' }}{% endif %}"
    "{% endfor %}"
)


def build_tokenizer(texts: Iterable[str], *, unit: Unit = "word") -> PreTrainedTokenizerFast:
    """One token for every unit of `texts`, and the four special ones.

    Args:
        texts: all that is ever said.
        unit: what a token is: a word (what stands between spaces), or a whole line, for games in which whoever speaks
            says one of a thousand sentences. Then a question is one choice and not five, and a game is short.
    """
    pieces = dict.fromkeys(piece for text in texts for piece in (text.split() if unit == "word" else text.split("\n")))
    pieces.pop("", None)
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys([*_SPECIAL_TOKENS, *pieces]))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = (
        pre_tokenizers.WhitespaceSplit() if unit == "word" else pre_tokenizers.Split("\n", behavior="removed")
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        pad_token="<pad>",
        eos_token="<end>",
        extra_special_tokens=["<assistant>"],
        chat_template=_WORD_TEMPLATE if unit == "word" else _LINE_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def build_tiny_model(
    texts: Iterable[str],
    *,
    seed: int,
    unit: Unit = "word",
    hidden_size: int = 128,
    num_layers: int = 3,
    num_heads: int = 4,
    context_length: int = 256,
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A Llama-type model of random weights whose vocabulary is the words, or the lines, of `texts`.

    Both save with `save_pretrained` and load with the Auto classes like any other model.

    Raises:
        ValueError: when the model would have more than `MAX_PARAMETERS` parameters.
    """
    tokenizer = build_tokenizer(texts, unit=unit)
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
