"""Chat messages to tokens and tokens to action text; the only place that knows about chat templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = Mapping[str, str]

# Stands for the text of the sampled turn when the template is asked what follows such a turn. Any word does that a
# template neither trims nor rewrites, and that no template contains.
_SAMPLED_TURN = "SAMPLEDTURN"


class Renderer:
    """Renders observations for one tokenizer.

    With a chat template: `prompt` is the template with its generation prompt, and `continuation` is exactly what the
    template puts between a finished assistant turn and the next generation prompt. Without one (base models), messages
    are joined by blank lines. Nothing that was sampled is ever tokenised again.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, stop_tokens: Sequence[int] = ()) -> None:
        if tokenizer.eos_token_id is None and not stop_tokens:
            raise ValueError("the tokenizer has no end-of-sequence token: name the stop_tokens")
        self._tokenizer = tokenizer
        self._has_template = bool(tokenizer.chat_template)
        own = [tokenizer.eos_token_id] if isinstance(tokenizer.eos_token_id, int) else []
        self.stop_tokens: tuple[int, ...] = tuple(dict.fromkeys([*own, *stop_tokens]))
        # Without a template to write it, the beginning-of-sequence token that the tokenizer puts before every text.
        opening = tokenizer.encode("")
        self._opening = opening if opening == [tokenizer.bos_token_id] else []
        # Games say few different things and say them thousands of times.
        self._encode = lru_cache(maxsize=4096)(self._encode_text)
        self._apply_template = lru_cache(maxsize=4096)(self._render_chat)

    @classmethod
    def from_pretrained(cls, model: str) -> Renderer:
        """The renderer of a model (hub id or folder), with all the stop tokens that its generation config names."""
        from transformers import AutoTokenizer, GenerationConfig

        try:
            stop_tokens = GenerationConfig.from_pretrained(model).eos_token_id
        except OSError:  # the model has none
            stop_tokens = None
        if isinstance(stop_tokens, int):
            stop_tokens = [stop_tokens]
        return cls(AutoTokenizer.from_pretrained(model), stop_tokens=stop_tokens or ())

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Tokens of the opening messages, up to where the policy speaks."""
        if not self._has_template:
            return [*self._opening, *self._encode("\n\n".join(message["content"] for message in messages) + "\n\n")]
        return list(self._encode(self._apply_template(_freeze(messages))))

    def continuation(self, messages: Sequence[Message], *, stopped: bool) -> list[int]:
        """Tokens to append after a sampled turn so that the policy can answer `messages`.

        Args:
            messages: the new observation.
            stopped: True when the sampled turn ends with a stop token, which then is not repeated.
        """
        if not self._has_template:
            return list(self._encode("\n\n" + "\n\n".join(message["content"] for message in messages) + "\n\n"))
        opening = (("user", "-"), ("assistant", _SAMPLED_TURN))
        text = self._apply_template(opening + _freeze(messages))
        tokens = self._encode(text[text.index(_SAMPLED_TURN) + len(_SAMPLED_TURN) :])
        return list(tokens[1:] if stopped and tokens and tokens[0] in self.stop_tokens else tokens)

    def completion(self, action: str) -> list[int]:
        """Tokens of an action that a scripted player speaks, with the stop token that ends it."""
        return [*self._encode(action), self.stop_tokens[0]]

    def action(self, tokens: Sequence[int]) -> str:
        """The text that the environment sees: sampled tokens without the stop token or any other special one."""
        text = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
        assert isinstance(text, str)
        return text

    def text(self, tokens: Sequence[int]) -> str:
        """Tokens as text, special ones included: to be looked at."""
        text = self._tokenizer.decode(list(tokens), skip_special_tokens=False)
        assert isinstance(text, str)
        return text

    def _render_chat(self, chat: tuple[tuple[str, str], ...]) -> str:
        messages = [{"role": role, "content": content} for role, content in chat]
        text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert isinstance(text, str)
        return text

    def _encode_text(self, text: str) -> tuple[int, ...]:
        # The template writes its own special tokens, so the tokenizer must add none.
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))


def _freeze(messages: Sequence[Message]) -> tuple[tuple[str, str], ...]:
    return tuple((message["role"], message["content"]) for message in messages)
