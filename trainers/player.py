"""A trained adapter as a player of an environment: what `llm-envs play --opponent FOLDER` sits down with."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainers.policy import Policy
from trainers.rendering import Renderer
from trainers.rollouts import messages_of
from trainers.sampling import Session, TorchSampler


class AdapterPlayer:
    """Speaks for an adapter: sees what a policy sees in training, and answers with its most probable tokens.

    Args:
        folder: a PEFT adapter folder, as training writes it. Its base model is looked for where the folder says, and,
            if the run was moved, in `base` beside it.
        max_tokens: most tokens of one answer.
        device: auto, cpu, cuda, ...

    Raises:
        ValueError: in one line, if it is no such folder, its weights are broken, or the base model is nowhere to be
            found.
    """

    def __init__(self, folder: str | Path, *, max_tokens: int = 64, device: str = "auto") -> None:
        from safetensors import SafetensorError

        base = _base_of(Path(folder))
        try:
            with _quiet_loading():
                self._renderer = Renderer.from_pretrained(base)
                policy = Policy.load(base, adapter=folder, device=device)
        except (OSError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{folder} cannot be loaded with the base model {base}: {reason}") from error
        self._sampler = TorchSampler(policy, stop_tokens=self._renderer.stop_tokens)
        self._max_tokens = max_tokens
        self._room = self._context_length = int(policy.config.max_position_embeddings)
        self._session: Session | None = None
        self._opening: Mapping[str, Any] = {}
        self._stopped = True

    def reset(self, observation: str, info: Mapping[str, Any]) -> None:  # noqa: ARG002 (`act` gets it, too)
        """Begin an episode."""
        self._session, self._opening, self._room = None, info, self._context_length

    def act(self, observation: str) -> str:
        """The answer to an observation; empty from when the model's context is full."""
        if self._session is None:
            feed = self._renderer.prompt(messages_of(observation, self._opening))
        else:
            feed = self._renderer.continuation(messages_of(observation, {}), stopped=self._stopped)
        self._room -= len(feed)
        if self._room < 1:
            return ""
        if self._session is None:
            self._session, feed = self._sampler.open([feed]), []
        completion = self._session.sample({0: feed}, max_tokens=self._max_tokens, temperature=0.0)[0]
        self._room -= len(completion.tokens)
        self._stopped = completion.stop_reason == "stop"
        return self._renderer.action(completion.tokens)


@contextmanager
def _quiet_loading() -> Iterator[None]:
    """Without progress bars and advice of the libraries below: whoever sits down to play did not ask for them."""
    from transformers.utils import logging

    had_bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
            yield
    finally:
        if had_bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _base_of(folder: Path) -> str:
    try:
        base = str(json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} is no adapter folder: there is no adapter_config.json to be read") from error
    beside = [run_dir / "base" for run_dir in (folder.parent, folder.parent.parent)]  # of the adapter, of a checkpoint
    if not Path(base).exists():
        return next((str(path) for path in beside if (path / "config.json").exists()), base)
    return base
