"""An OpenAI-compatible endpoint: messages in, text out. For evaluation and for fixed players, never for training.

There are no tokens here, so this is no `Sampler`: what plays episodes with it is `trainers.chats`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from trainers.rendering import Message
from trainers.sampling.endpoint import Endpoint, EndpointError

OPENAI_URL = "https://api.openai.com/v1"

# Servers know seeds of at least so many bits.
_SEED_BITS = 31


@dataclass(frozen=True)
class Reply:
    """What was said to one chat.

    Args:
        text: without the thoughts that some servers keep apart.
        num_tokens: how many tokens the server counted; 0 where it does not say.
        stop_reason: `length` where max_tokens cut it off.
    """

    text: str
    num_tokens: int
    stop_reason: Literal["stop", "length"]


class Speaker(Protocol):
    """Answers chats."""

    def speak(
        self,
        chats: Sequence[Sequence[Message]],
        *,
        max_tokens: int,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        seed: int = 0,
    ) -> list[Reply | EndpointError]:
        """A reply to each chat, in their order; an error stands where there is none."""
        ...


class ChatEndpoint:
    """Speaks by a server's `/chat/completions`, many chats at a time.

    Args:
        model: the model's name there.
        base_url: as in `http://localhost:8000/v1`.
        api_key: if the server asks for one; None: what the environment variable OPENAI_API_KEY holds.
        extra_body: further fields of every request; a field that is None is left out, as in
            `{"max_tokens": None, "max_completion_tokens": 2048}` or, for servers that know no seed, `{"seed": None}`.
        timeout_seconds: of one try.
        retries: how many tries follow the first.
        backoff_seconds: the wait before the second, doubled each time.
        max_concurrency: most chats that are with the server at once.

    Raises:
        ValueError: when the address is none, or a number is out of range.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str = OPENAI_URL,
        api_key: str | None = None,
        extra_body: Mapping[str, Any] | None = None,
        timeout_seconds: float = 120.0,
        retries: int = 4,
        backoff_seconds: float = 0.5,
        max_concurrency: int = 32,
    ) -> None:
        if not model:
            raise ValueError("an endpoint needs the name of a model")
        self._model = model
        self._extra_body = dict(extra_body or {})
        self._endpoint = Endpoint(
            base_url,
            api_key=api_key or os.environ.get("OPENAI_API_KEY") or None,
            timeout_seconds=timeout_seconds,
            retries=retries,
            backoff_seconds=backoff_seconds,
            max_concurrency=max_concurrency,
        )

    @classmethod
    def named(cls, name: str, **options: Any) -> ChatEndpoint:
        """The endpoint that `MODEL@URL` names, or `MODEL` alone at OpenAI's."""
        model, at, url = name.rpartition("@")
        if not at or "://" not in url:
            model, url = name, OPENAI_URL
        return cls(model, base_url=url, **options)

    def speak(
        self,
        chats: Sequence[Sequence[Message]],
        *,
        max_tokens: int,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        seed: int = 0,
    ) -> list[Reply | EndpointError]:
        """A reply to each chat (see `Speaker.speak`).

        Args:
            chats: each with the message to be answered at its end.
            max_tokens: most tokens of a reply.
            temperature: 0.0 for the most probable tokens.
            top_p: sent where it is below 1.
            top_k: sent where it is above 0; OpenAI's own servers do not know it.
            seed: of sampling; a chat's own depends on its number, too.

        Raises:
            EndpointRefusedError: when the server refuses the key, the model or the address.
        """
        common: dict[str, Any] = {"model": self._model, "max_tokens": max_tokens, "temperature": temperature}
        if top_p < 1.0:
            common["top_p"] = top_p
        if top_k > 0:
            common["top_k"] = top_k
        bodies = []
        for number, chat in enumerate(chats):
            body = common | {"messages": [dict(message) for message in chat]}
            if temperature > 0.0:
                body["seed"] = (seed * 1_000_003 + number) % 2**_SEED_BITS
            body |= self._extra_body
            bodies.append({name: value for name, value in body.items() if value is not None})
        answers = self._endpoint.post_all("/chat/completions", bodies)
        return [answer if isinstance(answer, EndpointError) else self._read(answer) for answer in answers]

    def close(self) -> None:
        """Close the connections."""
        self._endpoint.close()

    def _read(self, answer: Any) -> Reply | EndpointError:
        try:
            choice = answer["choices"][0]
            text = choice["message"]["content"]
            usage = answer.get("usage") or {}
            count = int(usage.get("completion_tokens") or 0)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            return EndpointError(f"{self._endpoint.url}/chat/completions: what came is no chat completion")
        return Reply(
            "" if text is None else str(text), count, "length" if choice.get("finish_reason") == "length" else "stop"
        )
