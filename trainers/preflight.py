"""What is checked before any weights are loaded, so that a mistake costs a second and not a minute."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from transformers import AutoConfig

from trainers.config import ConfigError, TrainConfig
from trainers.config.sampling import shortened
from trainers.environments import Breakage, BrokenEnvironmentError, EnvMix, GivenUpError, Problem, begin
from trainers.games import observed
from trainers.logs.trackers import check_trackers
from trainers.rendering import Message, Renderer
from trainers.rollouts import messages_of

# Of how many problems of an environment the prompts are measured.
_PROMPTS_CHECKED = 32


@dataclass(frozen=True)
class Checked:
    """What was learnt in passing.

    Args:
        renderer: of the model.
        context_length: how many tokens the model's context holds.
        prompt_tokens: of the longest prompt among those that were looked at.
    """

    renderer: Renderer
    context_length: int
    prompt_tokens: int


def preflight(config: TrainConfig) -> Checked:
    """Check the settings, the model's name and the prompts.

    Raises:
        ConfigError: naming the first thing that cannot work.
    """
    config.validate()
    check_trackers(config.track)
    try:
        model_config = AutoConfig.from_pretrained(config.model)
        renderer = Renderer.from_pretrained(config.model)
        of_model = context_of(model_config)
    except (OSError, ValueError) as error:
        raise ConfigError(f"model {config.model!r} cannot be read: {str(error).splitlines()[0]}") from error
    context_length = shortened(of_model, config.parsed_sampler_args())
    longest = 1
    for name, seed, length in _prompt_lengths(config, renderer):
        longest = max(longest, length)
        if length + config.max_tokens > context_length:
            of_task = f" of {name}" if len(config.env) > 1 else ""
            raise ConfigError(
                f"the prompt of seed {seed}{of_task} has {length} tokens; with max_tokens={config.max_tokens} that is "
                f"over the context of {config.model}, {context_length}"
            )
    return Checked(renderer, context_length, longest)


def context_of(model_config: Any) -> int:
    """How many tokens the context of a model holds, by its configuration.

    Raises:
        ValueError: when that does not say.
    """
    found = getattr(model_config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(found, int):
        raise ValueError(f"a configuration of type {model_config.model_type} does not say how long its context is")  # noqa: TRY004
    return found


def _prompt_lengths(config: TrainConfig, renderer: Renderer) -> Iterator[tuple[str, int, int]]:
    """Task, seed and number of prompt tokens of the first problems.

    Raises:
        ConfigError: when an environment begins none of them.
    """
    mix = EnvMix.of(config)
    problems = mix.draw(min(_PROMPTS_CHECKED * len(mix.tasks), config.groups_per_batch * config.updates))
    messages = _of_game if config.opponent_shares() else _of_episode

    def length(problem: Problem, env: Any) -> int:
        return len(renderer.prompt(messages(env, problem)))

    try:
        for number, pool in enumerate(mix.pools):
            # One that fails now and then is no reason not to train; one that never works is.
            breakage, begun, failure = Breakage(), 0, ""
            for problem in (problem for problem in problems if problem.task == number):
                start, retries = partial(length, problem), config.env_retries
                try:
                    found = begin(pool, 0, problem.seed, start, retries=retries, breakage=breakage)
                except GivenUpError as error:
                    failure = str(error)
                else:
                    begun += 1
                    yield pool.name, problem.seed, found
            if failure and not begun:
                raise ConfigError(f"env {mix.tasks[number].env_id!r} begins no episode: {failure}")
    except BrokenEnvironmentError as error:
        raise ConfigError(str(error)) from error
    finally:
        mix.close()


def _of_episode(env: Any, problem: Problem) -> Sequence[Message]:
    return messages_of(*env.reset(seed=problem.seed))


def _of_game(game: Any, problem: Problem) -> Sequence[Message]:
    game.reset(seed=problem.seed)
    return observed(game)[1]
