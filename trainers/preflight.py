"""What is checked before any weights are loaded, so that a mistake costs a second and not a minute."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import gymnasium as gym
from transformers import AutoConfig

from trainers.config import ConfigError, TrainConfig
from trainers.games import make_game, observed
from trainers.rendering import Message, Renderer
from trainers.rollouts import messages_of

# Of how many problems the prompts are measured.
_PROMPTS_CHECKED = 32


def preflight(config: TrainConfig) -> tuple[Renderer, int]:
    """Check the settings, the model's name and the prompts.

    Returns:
        The renderer, and how many tokens the model's context holds.

    Raises:
        ConfigError: naming the first thing that cannot work.
    """
    config.validate()
    try:
        model_config = AutoConfig.from_pretrained(config.model)
        renderer = Renderer.from_pretrained(config.model)
    except (OSError, ValueError) as error:
        raise ConfigError(f"model {config.model!r} cannot be read: {str(error).splitlines()[0]}") from error
    context_length = int(model_config.max_position_embeddings)
    for seed, opening in _openings(config, min(_PROMPTS_CHECKED, config.groups_per_batch * config.updates)):
        length = len(renderer.prompt(opening))
        if length + config.max_tokens > context_length:
            raise ConfigError(
                f"the prompt of seed {seed} has {length} tokens; with max_tokens={config.max_tokens} that is over the "
                f"context of {config.model}, {context_length}"
            )
    return renderer, context_length


def _openings(config: TrainConfig, count: int) -> Iterator[tuple[int, Sequence[Message]]]:
    """The first messages of the first seeds."""
    if config.opponent_shares():
        game = make_game(config.env, **config.parsed_env_args())
        for seed in range(count):
            game.reset(seed=seed)
            yield seed, observed(game)[1]
        game.close()
    else:
        env = gym.make(config.env, **config.parsed_env_args())
        for seed in range(count):
            yield seed, messages_of(*env.reset(seed=seed))
        env.close()
