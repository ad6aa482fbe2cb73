"""What is refused before any weights are loaded; that none are is tested in test_train.py."""

import dataclasses
from typing import Any

import gymnasium as gym
import pytest
from transformers import AutoConfig, LlamaConfig, LlavaConfig, MambaConfig

from trainers.config import ConfigError, TrainConfig
from trainers.preflight import context_of, preflight


@pytest.fixture
def config(tiny_folder):
    return TrainConfig(model=str(tiny_folder), env=("llm_envs:GuessNumber-v0",), max_tokens=4)


@pytest.fixture
def prompt_length(renderer, config):
    return len(renderer.prompt(gym.make(config.env[0]).reset(seed=0)[1]["messages"]))


def test_it_gives_the_renderer_the_context_and_the_longest_prompt(config, renderer, prompt_length):
    checked = preflight(config)
    found = checked.renderer
    assert checked.context_length == 128
    assert checked.prompt_tokens == prompt_length
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
        model=str(ttt_folder),
        env=("llm_envs:TicTacToe-v0",),
        env_args=('{"opening_moves": 3}',),
        opponents='{"self": 1}',
    )
    env = make_game(game.env[0], opening_moves=3)
    env.reset(seed=0)
    length = len(Renderer.from_pretrained(str(ttt_folder)).prompt(observed(env)[1]))
    assert preflight(dataclasses.replace(game, max_tokens=128 - length)).prompt_tokens == length
    with pytest.raises(ConfigError, match=f"the prompt of seed 0 has {length} tokens; with max_tokens={129 - length}"):
        preflight(dataclasses.replace(game, max_tokens=129 - length))


class Opening(gym.Env[str, str]):
    """Begins with so many words; every so many resets it fails, whatever the seed."""

    resets = 0
    seeds: list[int | None] = []  # noqa: RUF012

    def __init__(self, *, words: int = 1, fails_every: int = 0, refuses: tuple[int, ...] = ()) -> None:
        self.words, self.fails_every, self.refuses = words, fails_every, refuses
        self.observation_space = self.action_space = gym.spaces.Text(1000, min_length=0)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        Opening.resets += 1
        Opening.seeds.append(seed)
        if (self.fails_every and Opening.resets % self.fails_every == 0) or seed in self.refuses:
            raise OSError("no\nroom")
        return " ".join(["Higher!"] * self.words), {}


@pytest.fixture
def opening(config):
    gym.register("PreflightOpening-v0", entry_point=Opening, disable_env_checker=True)  # type: ignore[arg-type]
    Opening.resets = 0
    Opening.seeds.clear()

    def of(*args: str, **changes: Any) -> TrainConfig:
        env = ("PreflightOpening-v0",) * len(args)
        found: TrainConfig = dataclasses.replace(config, env=env, env_args=args, eval_every=0, **changes)
        return found

    yield of
    del gym.registry["PreflightOpening-v0"]


def test_the_prompts_are_those_that_training_begins_with(opening):
    preflight(opening("{}", seed=2))
    assert Opening.seeds == [2_000_000_014 + i for i in range(32)]
    Opening.seeds.clear()
    preflight(opening("{}", groups_per_batch=2, updates=3))  # no more than there will be
    assert Opening.seeds == list(range(6))


def test_every_environment_of_a_mix_is_measured(opening):
    preflight(opening('{"words": 1}', '{"words": 2}', max_tokens=4))
    with pytest.raises(
        ConfigError, match=r"the prompt of seed 0 of PreflightOpening-v0#2 has 126 tokens; with max_tokens=4 "
    ):
        preflight(opening('{"words": 1}', '{"words": 125}', max_tokens=4))


def test_an_environment_that_fails_now_and_then_is_let_pass(opening):
    preflight(opening('{"fails_every": 3}'))
    preflight(opening('{"refuses": [0, 7]}'))  # these two are given up when their time comes, too


def test_one_that_never_begins_is_one_line(opening):
    with pytest.raises(ConfigError) as caught:
        preflight(opening('{"fails_every": 1}'))
    assert str(caught.value) == (
        "10 problems in a row could not be played, the last one PreflightOpening-v0 with seed 9: OSError: no room"
    )
    with pytest.raises(ConfigError) as caught:
        preflight(opening('{"fails_every": 1}', groups_per_batch=2, updates=1))
    assert str(caught.value) == "env 'PreflightOpening-v0' begins no episode: OSError: no room"


def test_a_shorter_context_can_be_asked_of_vllm(config, prompt_length):
    shorter = dataclasses.replace(config, sampler="vllm", sampler_args=f'{{"max_model_len": {prompt_length + 4}}}')
    assert preflight(shorter).context_length == prompt_length + 4
    with pytest.raises(ConfigError, match="over the context"):
        preflight(dataclasses.replace(shorter, max_tokens=5))


def test_a_context_that_is_nowhere_said_is_one_line(config, monkeypatch):
    found = AutoConfig.from_pretrained
    monkeypatch.setattr(
        "trainers.preflight.AutoConfig.from_pretrained",
        lambda name, **options: found(name, **options) if options else MambaConfig(),
    )
    with pytest.raises(ConfigError, match="a configuration of type mamba does not say how long its context is"):
        preflight(config)
    nested = LlavaConfig(text_config=LlamaConfig(max_position_embeddings=77))
    assert context_of(nested) == 77


@pytest.mark.parametrize("asked", ['"8k"', "0", "-1", "1.5", "true", "null"])
def test_a_context_that_is_no_number_of_tokens_is_one_line(config, asked):
    wrong = dataclasses.replace(config, sampler="vllm", sampler_args=f'{{"max_model_len": {asked}}}')
    with pytest.raises(ConfigError, match="max_model_len in sampler_args must be a whole number of tokens, not "):
        preflight(wrong)
