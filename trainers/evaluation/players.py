"""Who answers in an evaluation: a model that is sampled from, or an endpoint that chats."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Protocol

from safetensors import SafetensorError

from trainers.chats import chat_groups
from trainers.config import ConfigError
from trainers.config.checks import json_object, one_line
from trainers.environments import Breakage, EnvPool
from trainers.evaluation.config import EvalConfig
from trainers.policy import Policy
from trainers.preflight import context_of
from trainers.rendering import Renderer
from trainers.rollouts import RolloutSettings, TextEnv, rollout_groups
from trainers.sampling.choose import make_sampler
from trainers.sampling.endpoint import EndpointRefusedError
from trainers.sampling.openai_sampler import OPENAI_URL, ChatEndpoint
from trainers.trajectories import Group


class Player(Protocol):
    """Plays groups of episodes."""

    def __call__(
        self,
        pool: EnvPool[TextEnv],
        *,
        seeds: Sequence[int],
        settings: RolloutSettings,
        sampling_seed: int,
        options: Sequence[Mapping[str, Any] | None],
        breakage: Breakage,
    ) -> Iterator[Group]:
        """A group for every seed that can be played, in order (see `trainers.rollouts.rollout_groups`)."""
        ...


def open_player(config: EvalConfig) -> AbstractContextManager[tuple[Player, int]]:
    """The player that the settings name, ready while the context lasts, and how many tokens an episode may have.

    Another way to answer is another branch here.

    Raises:
        ConfigError: where the model cannot be loaded or reached.
    """
    return _endpoint(config) if config.sampler == "openai" else _model(config)


@contextlib.contextmanager
def _model(config: EvalConfig) -> Iterator[tuple[Player, int]]:
    """A model that is loaded here, and sampled from here or by an engine of vLLM."""
    from transformers import AutoConfig

    try:
        arguments = json_object("sampler_args", config.sampler_args)
        of_model = context_of(AutoConfig.from_pretrained(config.model))
        context_length = min(of_model, arguments.get("max_model_len", of_model))
        renderer = Renderer.from_pretrained(config.model)
        # Without an adapter a fresh one, which is switched off below.
        policy = Policy.load(
            config.model, adapter=config.adapter, lora_rank=1, device=config.device, dtype=config.dtype
        )
    except (OSError, RuntimeError, SafetensorError, ValueError) as error:
        raise ConfigError(f"model {config.model!r} cannot be read: {str(error).splitlines()[0]}") from error
    with contextlib.ExitStack() as stack:
        if config.adapter is None:
            stack.enter_context(policy.model.disable_adapter())
        sampler = make_sampler(
            config.sampler,
            policy,
            stop_tokens=renderer.stop_tokens,
            context_length=context_length,
            arguments=arguments,
        )
        stack.callback(sampler.close)
        yield partial(_sampled, sampler, renderer), context_length


def _sampled(sampler: Any, renderer: Renderer, pool: EnvPool[TextEnv], **options: Any) -> Iterator[Group]:
    return rollout_groups(pool, sampler, renderer, **options)


@contextlib.contextmanager
def _endpoint(config: EvalConfig) -> Iterator[tuple[Player, int]]:
    try:
        speaker = ChatEndpoint(config.model, base_url=config.base_url or OPENAI_URL, max_concurrency=config.max_rows)
    except ValueError as error:
        raise ConfigError(one_line(error)) from error
    with contextlib.closing(speaker):
        try:
            yield partial(_chatted, speaker), 0
        except EndpointRefusedError as error:
            raise ConfigError(one_line(error)) from error


def _chatted(speaker: ChatEndpoint, pool: EnvPool[TextEnv], **options: Any) -> Iterator[Group]:
    return chat_groups(pool, speaker, **options)
