"""A fixed chat model that answers yes or no: many chats in one forward pass, nothing sampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from trainers.policy import choose_device, choose_dtype

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = Mapping[str, str]

# What tokenizers write for a space and a line's end, and the marks that may stick to a word.
_AROUND_A_WORD = " \t\n\u0120\u010a\u2581*\"'.,!:"


class ChatAnswerer:
    """Compares the probabilities of yes and of no as the next token, each summed over all spellings.

    For environments that have a question answered by a fixed model: they are told its name, as in
    `answerer_args={"backend": "trainers.chat_answerer:ChatAnswerer", "model": ...}`.

    The numbers of a chat depend a little, in the last bits, on what else is in its batch.

    Args:
        model: A chat model: hub id or folder.
        device: `auto`, `cpu`, `cuda`, ...
        dtype: `auto`, `bfloat16` or `float32`.
        batch_size: How many chats go through the model at once.
        least_share: Where yes and no together are less probable than this, the answer is neither.

    Raises:
        ValueError: The model has no chat template, or its tokenizer no token for yes or for no; or a number is out of
            range.
    """

    def __init__(
        self,
        *,
        model: str | Path = "meta-llama/Llama-3.1-8B-Instruct",
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int = 32,
        least_share: float = 0.5,
    ) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        if batch_size < 1 or not 0 <= least_share <= 1:
            raise ValueError(
                f"batch_size must be at least 1 and least_share in 0..1, got {batch_size} and {least_share}"
            )
        self._device = choose_device(device)
        self._batch_size, self._least_share = batch_size, least_share
        self._tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(model))
        if not self._tokenizer.chat_template:
            raise ValueError(f"{model} has no chat template: use a chat model")
        self._yes_tokens, self._no_tokens = (self._spellings(word) for word in ("yes", "no"))
        if not self._yes_tokens or not self._no_tokens:
            raise ValueError(f"the tokenizer of {model} has no token for yes or none for no")
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(model), dtype=choose_dtype(dtype, self._device), attn_implementation="sdpa"
        )
        self._model = loaded.to(self._device).eval()

    def answer_many(self, chats: Sequence[Sequence[Message]]) -> list[Literal["yes", "no"] | None]:
        """What the model would say first to each chat; None where that is neither yes nor no."""
        answers: list[Literal["yes", "no"] | None] = []
        for yes, no in self.shares(chats).tolist():
            if yes + no < self._least_share or yes == no:
                answers.append(None)
            else:
                answers.append("yes" if yes > no else "no")
        return answers

    def shares(self, chats: Sequence[Sequence[Message]]) -> Tensor:
        """Probabilities of yes and no as the next token of every chat, `[B, 2]`, float32 on the CPU."""
        prompts = [self._prompt(chat) for chat in chats]
        found = torch.zeros(len(chats), 2)
        by_length = sorted(range(len(chats)), key=lambda row: len(prompts[row]))  # little padding
        for start in range(0, len(chats), self._batch_size):
            rows = by_length[start : start + self._batch_size]
            found[rows] = self._shares([prompts[row] for row in rows])
        return found

    def close(self) -> None:
        """Give the model's memory back; nothing can be asked after that."""
        self._model = None

    @torch.inference_mode()
    def _shares(self, prompts: list[list[int]]) -> Tensor:
        width = max(len(prompt) for prompt in prompts)
        tokens = torch.zeros(len(prompts), width, dtype=torch.long)  # [B, T], padded on the left
        is_real = torch.zeros_like(tokens)
        for row, prompt in enumerate(prompts):
            tokens[row, width - len(prompt) :] = torch.tensor(prompt)
            is_real[row, width - len(prompt) :] = 1
        positions = (is_real.cumsum(dim=1) - 1).clamp(min=0)
        logits = self._model(
            input_ids=tokens.to(self._device),
            attention_mask=is_real.to(self._device),
            position_ids=positions.to(self._device),
            use_cache=False,
            logits_to_keep=1,  # those of all positions would be a hundred times as many
        ).logits[:, -1]
        probabilities = logits.float().softmax(dim=-1)  # [B, V]
        return torch.stack(
            [probabilities[:, self._yes_tokens].sum(dim=1), probabilities[:, self._no_tokens].sum(dim=1)], dim=1
        ).cpu()

    def _spellings(self, word: str) -> list[int]:
        tokens = self._tokenizer.get_vocab().items()
        return sorted(number for token, number in tokens if token.strip(_AROUND_A_WORD).lower() == word)

    def _prompt(self, chat: Sequence[Message]) -> list[int]:
        from jinja2 import TemplateError

        messages = [dict(message) for message in chat]
        try:
            text = self._render(messages)
        except TemplateError:  # some templates know no system message: the user says it first
            system, *rest = messages
            if system["role"] != "system" or not rest:
                raise
            text = self._render([{**rest[0], "content": f"{system['content']}\n\n{rest[0]['content']}"}, *rest[1:]])
        # The template writes its own special tokens, so the tokenizer must add none.
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def _render(self, messages: list[dict[str, str]]) -> str:
        text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert isinstance(text, str)
        return text
