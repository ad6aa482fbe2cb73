"""Who answers in an evaluation: a model that is sampled from, or an endpoint that chats."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Protocol

from safetensors import SafetensorError

from trainers.chats import chat_groups
from trainers.config import ConfigError
from trainers.config.checks import json_object, one_line
from trainers.config.sampling import shortened
from trainers.environments import Breakage, EnvPool, described
from trainers.evaluation.config import EvalConfig
from trainers.policy import Policy, choose_dtype
from trainers.preflight import context_of
from trainers.rendering import Renderer
from trainers.rollouts import RolloutSettings, TextEnv, rollout_groups
from trainers.run import usable_device
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
    arguments = json_object("sampler_args", config.sampler_args)
    policy, renderer, of_model = _load(config)
    context_length = shortened(of_model, arguments)
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


def _load(config: EvalConfig) -> tuple[Policy, Renderer, int]:
    """The model with its adapter, its renderer, and how many tokens its context holds.

    Raises:
        ConfigError: naming the setting that is to blame.
    """
    from transformers import AutoConfig

    device = usable_device(config.device, "device")
    try:
        dtype = choose_dtype(config.dtype, device)
    except ValueError as error:
        raise ConfigError(f"dtype: {one_line(error)}") from error
    try:
        context_length = context_of(AutoConfig.from_pretrained(config.model))
        renderer = Renderer.from_pretrained(config.model)
        # Without an adapter a fresh one, which is switched off by the caller.
        policy = Policy.load(config.model, adapter=config.adapter, lora_rank=1, device=device, dtype=dtype)
    except Exception as error:
        if config.adapter is not None and _arose_in_adapter(error):  # peft raises whatever the files make it
            raise ConfigError(
                f"adapter {str(config.adapter)!r} cannot be put on the model: {described(error)}"
            ) from error
        if not isinstance(error, OSError | RuntimeError | SafetensorError | ValueError):
            raise
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigError(f"model {config.model!r} cannot be read: {said}") from error
    return policy, renderer, context_length


def _arose_in_adapter(error: Exception) -> bool:
    """Whether it was peft that failed, reading an adapter; the model was read before."""
    return any(
        frame.f_code.co_name == "from_pretrained" and frame.f_globals.get("__name__") == "peft.peft_model"
        for frame, _ in traceback.walk_tb(error.__traceback__)
    )


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
