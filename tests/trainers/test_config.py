"""Every setting that cannot work is refused in one line."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from trainers.config import ConfigError, Interrupted, TrainConfig

GOOD = TrainConfig(model="nobody/reads-this", env=("llm_envs:Arithmetic-v0",))


def changed(config: TrainConfig, **changes: Any) -> TrainConfig:
    return dataclasses.replace(config, **changes)


def refusal(**changes: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        changed(GOOD, **changes).validate()
    message = str(caught.value)
    assert message
    assert "\n" not in message
    return message


def test_the_defaults_pass():
    GOOD.validate()
    changed(GOOD, eval_every=0, save_every=0, max_grad_norm=1.0, warmup_updates=3).validate()


def test_a_group_of_one():
    assert "group_size is 1" in refusal(group_size=1)
    assert "use at least 2" in refusal(group_size=0)


@pytest.mark.parametrize(
    "name",
    [
        "updates", "groups_per_batch", "max_tokens", "max_rows", "lora_rank", "lora_alpha", "tokens_per_microbatch",
        "minibatches", "epochs", "checkpoints_kept", "past_every", "past_kept",
    ],
)  # fmt: skip
@pytest.mark.parametrize("value", [0, -1])
def test_counts_are_at_least_one(name, value):
    assert refusal(**{name: value}) == f"{name} must be at least 1, not {value}"


@pytest.mark.parametrize(
    "name",
    [
        "learning_rate", "temperature", "adam_eps", "max_grad_norm", "clip_low", "clip_high", "correction_limit",
        "overlong_buffer",
    ],
)  # fmt: skip
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_rates_are_positive(name, value):
    assert refusal(**{name: value}) == f"{name} must be positive, not {value}"


@pytest.mark.parametrize(
    "name",
    [
        "eval_every", "save_every", "seed", "record_groups", "warmup_updates", "kl_coef", "overlong_penalty",
        "dynamic_sampling", "top_k", "max_staleness",
    ],
)  # fmt: skip
def test_intervals_are_not_negative(name):
    assert refusal(**{name: -1}) == f"{name} must not be negative, not -1"


CHOICES = {
    "sampler": "torch, vllm",
    "advantage": "mean, grpo, rloo, global, none",
    "credit": "trajectory, turn, state",
    "overlong": "keep, mask, penalize",
    "loss": "importance_sampling, ppo, cispo, gspo, reinforce",
    "aggregation": "token, sequence, constant",
    "kl_in": "reward, loss",
    "kl_estimator": "k1, k2, k3",
    "correction": "auto, none, truncate, mask",
    "correction_level": "token, sequence",
    "schedule": "constant, linear",
    "attention": "auto, sdpa, eager",
}


@pytest.mark.parametrize(("name", "known"), CHOICES.items())
def test_words_that_mean_nothing(name, known):
    assert refusal(**{name: "other"}) == f"{name} must be one of {known}, not 'other'"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"top_p": 0.0}, "top_p must lie above 0 and not above 1, not 0.0"),
        ({"top_p": 1.1}, "top_p must lie above 0 and not above 1, not 1.1"),
        ({"discount": 0.0}, "discount must lie above 0 and not above 1, not 0.0"),
        ({"discount": 1.5}, "discount must lie above 0 and not above 1, not 1.5"),
        ({"credit": "state", "advantage": "rloo"},
         "credit=state has a baseline of its own: it goes with advantage=mean, not rloo"),
        ({"overlong": "penalize", "overlong_buffer": 65, "max_tokens": 64},
         "overlong_buffer must not be above max_tokens, 64, not 65"),
        ({"correction_limit": 0.99},
         "correction_limit must be at least 1, the weight where two policies agree, not 0.99"),
        ({"clip_low": 1.5}, "clip_low must not be above 1, for no ratio is below 0; it is 1.5"),
        ({"dual_clip": 1.2}, "dual_clip must be above 1 + clip_high, 1.2, not 1.2"),
        ({"kl_coef": 0.1, "kl_in": "loss"},
         "kl_estimator=k1 has a gradient of mean 0 as a loss: use k2 or k3, or kl_in=reward"),
        ({"top_p": 0.9},
         "top_p and top_k leave tokens out, and loss=importance_sampling needs the ratio of two policies that may say "
         "the same: sample with top_p=1 and top_k=0, or use loss=reinforce"),
        ({"top_k": 5, "loss": "ppo"}, "top_p and top_k leave tokens out, and loss=ppo needs the ratio of two policies "
         "that may say the same: sample with top_p=1 and top_k=0, or use loss=reinforce"),
        ({"top_k": 5, "loss": "reinforce", "correction": "mask"},
         "correction needs a ratio, which top_p and top_k leave without a meaning"),
        ({"sampler_args": '{"dtype": "auto"}'}, "sampler_args are those of sampler=vllm"),
        ({"max_staleness": 2}, "max_staleness is 0 or 1, not 2"),
        ({"sampling_device": "cuda:1"},
         "sampling_device needs max_staleness=1: else one device would wait for the other"),
        ({"sampling_device": "cuda:1", "max_staleness": 1, "sampler": "vllm"},
         "sampling_device is for sampler=torch; vllm has sampler_args"),
        ({"adam_betas": (0.9, 1.0)}, "adam_betas must lie from 0 to below 1, not 0.9 1.0"),
        ({"adam_betas": (-0.1, 0.9)}, "adam_betas must lie from 0 to below 1, not -0.1 0.9"),
        ({"seed": 2**31}, "seed must be below 2147483648, not 2147483648: runs of larger ones would share problems"),
        ({"track": ("tensorboard", "paper")}, "track must be one of tensorboard, wandb, trackio, not 'paper'"),
        ({"env": ()}, "env: name at least one environment"),
        ({"env_retries": -1}, "env_retries must not be negative, not -1"),
        ({"env_weights": (1.0, 2.0)}, "env_weights has 2 numbers for 1 environments"),
        ({"env_weights": (0.0,)}, "env_weights must be positive, not 0.0"),
        ({"env_weights": (float("inf"),)}, "env_weights must be positive, not inf"),
        ({"env": ("llm_envs:Arithmetic-v0",) * 3, "env_args": ("{}", "{}")},
         "env_args is given 2 times for 3 environments"),
    ],
)  # fmt: skip
def test_what_cannot_work(changes, message):
    assert refusal(**changes) == message


@pytest.mark.parametrize(
    "changes",
    [
        {"overlong_buffer": 500, "max_tokens": 64},  # nothing is penalised
        {"overlong": "penalize", "overlong_buffer": 64, "max_tokens": 64},
        {"correction_limit": 1.0},
        {"clip_low": 1.0, "clip_high": 4.0, "loss": "cispo"},  # as in its paper
        {"loss": "ppo", "dual_clip": 3.0},
        {"kl_coef": 0.1, "kl_in": "loss", "kl_estimator": "k3"},
        {"top_p": 0.9, "top_k": 40, "loss": "reinforce"},
        {"sampler": "vllm", "sampler_args": '{"gpu_memory_utilization": 0.4}'},
        {"max_staleness": 1, "sampling_device": "cuda:1"},
        {"adam_betas": (0.0, 0.999)},
        {"seed": 2**31 - 1},
        {"kl_coef": 0.0, "kl_in": "loss"},
    ],
)
def test_what_can(changes):
    changed(GOOD, **changes).validate()


def test_one_environment_needs_no_tuple():
    config = changed(GOOD, env="llm_envs:Arithmetic-v0", env_args='{"operands": 3}', eval_env_args="{}")
    assert (config.env, config.env_args, config.eval_env_args) == (GOOD.env, ('{"operands": 3}',), ("{}",))


def test_environments_in_a_mix_have_names_arguments_and_shares():
    config = changed(
        GOOD, env=("llm_envs:Arithmetic-v0", "llm_envs:GuessNumber-v0", "llm_envs:Arithmetic-v0"),
        env_weights=(2, 1, 1), env_args=('{"operands": 3}', "{}", '{"operands": 4}'), eval_env_args='{"high": 9}',
    )  # fmt: skip
    config.tasks()
    assert [task.name for task in config.tasks()] == ["Arithmetic-v0#1", "GuessNumber-v0", "Arithmetic-v0#2"]
    assert [task.weight for task in config.tasks()] == [2.0, 1.0, 1.0]
    assert [task.args for task in config.tasks()] == [{"operands": 3}, {}, {"operands": 4}]
    assert config.tasks()[1].eval_args == {"high": 9}
    assert [task.args for task in changed(config, env_args='{"high": 7}').tasks()] == [{"high": 7}] * 3


def test_an_evaluation_of_nothing():
    assert "eval_size" in refusal(eval_size=0)
    assert "eval_size" in refusal(eval_size=-1)


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_limit_that_would_turn_the_gradient_around(value):
    assert "max_grad_norm" in refusal(max_grad_norm=value)


def test_no_resume_with_overwrite():
    assert refusal(resume=True, overwrite=True) == "resume and overwrite exclude each other"


def test_an_unknown_module():
    assert refusal(env="no_such_module:X-v0") == "env 'no_such_module:X-v0': there is no module 'no_such_module'"


@pytest.mark.parametrize("env", ["llm_envs:Nothing-v0", "llm_envs:Arithmetic-v99", "llm_envs:not an id"])
def test_an_unknown_environment(env):
    assert refusal(env=env) == f"env {env!r} is not registered"


def test_an_unknown_environment_without_module():
    message = refusal(env="Nothing-v0")
    assert message.startswith("env 'Nothing-v0' is not registered; write MODULE:ID")


@pytest.mark.parametrize("name", ["env_args", "eval_env_args"])
def test_bad_json(name):
    assert refusal(**{name: "{low: 1}"}).startswith(f"{name} is not JSON: ")
    assert refusal(**{name: "[1]"}) == f"{name} must be a JSON object, not [1]"
    assert refusal(**{name: "{"}).startswith(f"{name} is not JSON: ")


@pytest.mark.parametrize("name", ["env_args", "eval_env_args"])
def test_an_environment_that_cannot_be_made(name):
    message = refusal(**{name: '{"operands": 1}'})
    assert message.startswith("env 'llm_envs:Arithmetic-v0' cannot be made: ")
    assert "operands must lie in 2..16, got 1" in message
    assert "no_such_argument" in refusal(**{name: '{"no_such_argument": 1}'})


def test_evaluation_has_its_own_arguments():
    [task] = changed(GOOD, env_args='{"low": 1, "high": 5}', eval_env_args='{"high": 9}').tasks()
    assert (task.args, task.eval_args) == ({"low": 1, "high": 5}, {"low": 1, "high": 9})


def rates(**changes: Any) -> list[float]:
    config = changed(GOOD, learning_rate=1.0, **changes)
    return [config.learning_rate_at(update) for update in range(config.updates)]


def test_the_learning_rate():
    assert rates(updates=3) == [1.0, 1.0, 1.0]
    assert rates(updates=4, schedule="linear") == pytest.approx([1.0, 0.75, 0.5, 0.25])
    assert rates(updates=5, warmup_updates=3) == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert rates(updates=4, warmup_updates=1, schedule="linear") == pytest.approx([0.5, 0.75, 0.5, 0.25])
    assert rates(updates=1, schedule="linear") == [1.0]


def test_settings_as_json():
    settings = changed(GOOD, run_dir=Path("runs") / "x").as_json()
    assert settings["run_dir"] == str(Path("runs") / "x")
    assert settings.keys() == {field.name for field in dataclasses.fields(TrainConfig)}
    assert json.loads(json.dumps(settings))["adam_betas"] == [0.9, 0.95]


def test_interrupted_is_a_keyboard_interrupt_that_knows_where():
    error = Interrupted(Path("runs/x"))
    assert isinstance(error, KeyboardInterrupt)
    assert error.run_dir == Path("runs/x")
    assert str(Path("runs/x")) in str(error)


GAME = TrainConfig(model="nobody/reads-this", env=("llm_envs:TicTacToe-v0",), opponents='{"self": 1}')


def game_refusal(**changes: Any) -> str:
    return refusal(**{"env": GAME.env, "opponents": GAME.opponents, **changes})


def test_games_pass():
    GAME.validate()
    everybody = '{"self": 0.5, "past": 2, "base": 1e-9, "random": 3, "minimax": 1}'
    changed(GAME, opponents=everybody, credit="state", env_args='{"opening_moves": 2}').validate()
    changed(GAME, eval_env_args='{"opponent": "optimal"}').validate()
    assert changed(GAME, opponents=everybody).opponent_shares()["past"] == 2
    assert GOOD.opponent_shares() == {}


def test_unknown_opponents():
    message = game_refusal(opponents='{"self": 1, "optimal": 1}')
    known = "self, past, base, random, minimax"
    assert message == f"opponents: 'optimal' is unknown; llm_envs:TicTacToe-v0 has {known}"


@pytest.mark.parametrize("share", ["0", "-1", "true", "null", '"1"', "NaN", "Infinity", "[1]"])
def test_a_share_is_a_positive_number(share):
    message = game_refusal(opponents=f'{{"random": 1, "self": {share}}}')
    assert message.startswith("opponents: the share of 'self' must be a positive number, not ")


@pytest.mark.parametrize("text", ["{", "{self: 1}", "[1]", '"self"', "1"])
def test_opponents_are_a_json_object(text):
    assert game_refusal(opponents=text).startswith("opponents ")


@pytest.mark.parametrize("name", ["past_every", "past_kept"])
def test_a_past_that_is_never_kept(name):
    assert game_refusal(**{name: 0}) == f"{name} must be at least 1, not 0"


def test_a_game_is_neither_mixed_nor_sampled_ahead():
    assert game_refusal(env=("llm_envs:TicTacToe-v0",) * 2) == (
        "a game of several players (opponents) cannot be mixed with other environments"
    )
    assert game_refusal(max_staleness=1) == (
        "max_staleness: a game of several players is sampled by models in turn, not beside training"
    )


def test_without_pettingzoo_one_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pettingzoo", None)
    assert game_refusal() == "games of several players need PettingZoo: pip install 'pettingzoo>=1.27'"
    GOOD.validate()  # who plays alone needs none


def test_a_game_that_misses_something_else_does_not_blame_pettingzoo(monkeypatch):
    from trainers import games

    def make_game(env_id: str, **kwargs: Any) -> None:
        raise ModuleNotFoundError("No module named 'pygame'", name="pygame")

    monkeypatch.setattr(games, "make_game", make_game)
    assert game_refusal() == "game 'llm_envs:TicTacToe-v0' cannot be made: No module named 'pygame'"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"env": "llm_envs:Arithmetic-v0"}, "game 'llm_envs:Arithmetic-v0' cannot be made: "),  # of one player only
        ({"env": "llm_envs:Nothing-v0"}, "game 'llm_envs:Nothing-v0' cannot be made: "),
        ({"env": "no_such_module:X-v0"}, "env 'no_such_module:X-v0': there is no module 'no_such_module'"),
        ({"env_args": '{"opening_moves": 9}'}, "cannot be made: opening_moves must lie in 0..8, got 9"),
        ({"env_args": '{"opponent": "random"}'}, "cannot be made: "),  # an argument of the form for one player
        ({"eval_env_args": '{"opening_moves": 2}'}, "env 'llm_envs:TicTacToe-v0' cannot be made: "),
    ],
)
def test_games_that_cannot_be_made(changes, words):
    assert words in game_refusal(**changes)


def test_a_game_that_is_not_evaluated_needs_no_form_for_one_player():
    changed(GAME, eval_env_args='{"opening_moves": 2}', eval_every=0).validate()


def test_a_game_is_evaluated_with_arguments_of_its_own():
    changes = {"env_args": '{"opening_moves": 2}', "eval_env_args": '{"opponent": "mixed"}'}
    [task] = changed(GAME, **changes).tasks()
    assert (task.args, task.eval_args) == ({"opening_moves": 2}, {"opponent": "mixed"})
