"""What is refused before any weights are loaded; that none are is tested in test_train.py."""

import dataclasses

import pytest

from trainers.config import ConfigError, TrainConfig
from trainers.preflight import preflight


@pytest.fixture
def config(tiny_folder):
    return TrainConfig(model=str(tiny_folder), env="llm_envs:GuessNumber-v0", max_tokens=4)


@pytest.fixture
def prompt_length(renderer, config):
    import gymnasium as gym

    return len(renderer.prompt(gym.make(config.env).reset(seed=0)[1]["messages"]))


def test_it_gives_the_renderer_and_the_context(config, renderer):
    found, context_length = preflight(config)
    assert context_length == 128
    assert found.stop_tokens == renderer.stop_tokens
    assert found.prompt([{"role": "user", "content": "Higher!"}]) == renderer.prompt(
        [{"role": "user", "content": "Higher!"}]
    )


def test_prompt_and_completion_must_fit(config, prompt_length):
    preflight(dataclasses.replace(config, max_tokens=128 - prompt_length))
    with pytest.raises(ConfigError) as caught:
        preflight(dataclasses.replace(config, max_tokens=129 - prompt_length))
    assert str(caught.value) == (
        f"the prompt of seed 0 has {prompt_length} tokens; with max_tokens={129 - prompt_length} that is over the "
        f"context of {config.model}, 128"
    )


def test_the_settings_come_first(config):
    with pytest.raises(ConfigError, match="group_size is 1"):
        preflight(dataclasses.replace(config, group_size=1, model="no-such-model"))


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json"])
def test_a_broken_model_folder_is_one_line(config, tiny_folder, tmp_path, missing):
    for path in tiny_folder.iterdir():
        if path.name not in (missing, "model.safetensors"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ConfigError, match="cannot be read: ") as caught:
        preflight(dataclasses.replace(config, model=str(tmp_path)))
    assert "\n" not in str(caught.value)


def test_a_game_of_several_players_is_measured_by_its_first_players_opening(ttt_folder):
    from trainers.games import make_game, observed
    from trainers.rendering import Renderer

    game = TrainConfig(
        model=str(ttt_folder), env="llm_envs:TicTacToe-v0", env_args='{"opening_moves": 3}', opponents='{"self": 1}'
    )
    env = make_game(game.env, opening_moves=3)
    env.reset(seed=0)
    length = len(Renderer.from_pretrained(str(ttt_folder)).prompt(observed(env)[1]))
    assert preflight(dataclasses.replace(game, max_tokens=128 - length))[1] == 128
    with pytest.raises(ConfigError, match=f"the prompt of seed 0 has {length} tokens; with max_tokens={129 - length}"):
        preflight(dataclasses.replace(game, max_tokens=129 - length))
