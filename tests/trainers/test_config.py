"""Every setting that cannot work is refused in one line."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from trainers.config import ConfigError, Interrupted, TrainConfig

GOOD = TrainConfig(model="nobody/reads-this", env="llm_envs:Arithmetic-v0")


def refusal(**changes: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        dataclasses.replace(GOOD, **changes).validate()
    message = str(caught.value)
    assert message
    assert "\n" not in message
    return message


def test_the_defaults_pass():
    GOOD.validate()
    dataclasses.replace(GOOD, eval_every=0, save_every=0, max_grad_norm=1.0, warmup_updates=3).validate()


def test_a_group_of_one():
    assert "group_size is 1" in refusal(group_size=1)
    assert "use at least 2" in refusal(group_size=0)


@pytest.mark.parametrize("name", ["updates", "groups_per_batch", "max_tokens", "lora_rank", "lora_alpha", "max_rows"])
@pytest.mark.parametrize("value", [0, -1])
def test_counts_are_at_least_one(name, value):
    assert refusal(**{name: value}) == f"{name} must be at least 1, not {value}"


@pytest.mark.parametrize("name", ["learning_rate", "temperature", "adam_eps"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_rates_are_positive(name, value):
    assert refusal(**{name: value}) == f"{name} must be positive, not {value}"


@pytest.mark.parametrize("name", ["eval_every", "save_every", "seed", "warmup_updates", "kl_coef"])
def test_intervals_are_not_negative(name):
    assert refusal(**{name: -1}) == f"{name} must not be negative, not -1"


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
    config = dataclasses.replace(GOOD, env_args='{"low": 1, "high": 5}', eval_env_args='{"high": 9}')
    assert config.parsed_env_args() == {"low": 1, "high": 5}
    assert config.parsed_env_args(evaluation=True) == {"low": 1, "high": 9}


def rates(**changes: Any) -> list[float]:
    config = dataclasses.replace(GOOD, learning_rate=1.0, **changes)
    return [config.learning_rate_at(update) for update in range(config.updates)]


def test_the_learning_rate():
    assert rates(updates=3) == [1.0, 1.0, 1.0]
    assert rates(updates=4, schedule="linear") == pytest.approx([1.0, 0.75, 0.5, 0.25])
    assert rates(updates=5, warmup_updates=3) == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert rates(updates=4, warmup_updates=1, schedule="linear") == pytest.approx([0.5, 0.75, 0.5, 0.25])
    assert rates(updates=1, schedule="linear") == [1.0]


def test_settings_as_json():
    settings = dataclasses.replace(GOOD, run_dir=Path("runs") / "x").as_json()
    assert settings["run_dir"] == str(Path("runs") / "x")
    assert settings.keys() == {field.name for field in dataclasses.fields(TrainConfig)}
    assert json.loads(json.dumps(settings))["adam_betas"] == [0.9, 0.95]


def test_interrupted_is_a_keyboard_interrupt_that_knows_where():
    error = Interrupted(Path("runs/x"))
    assert isinstance(error, KeyboardInterrupt)
    assert error.run_dir == Path("runs/x")
    assert str(Path("runs/x")) in str(error)


GAME = TrainConfig(model="nobody/reads-this", env="llm_envs:TicTacToe-v0", opponents='{"self": 1}')


def game_refusal(**changes: Any) -> str:
    return refusal(**{"env": GAME.env, "opponents": GAME.opponents, **changes})


def test_games_pass():
    GAME.validate()
    everybody = '{"self": 0.5, "past": 2, "base": 1e-9, "random": 3, "minimax": 1}'
    dataclasses.replace(GAME, opponents=everybody, credit="state", env_args='{"opening_moves": 2}').validate()
    dataclasses.replace(GAME, eval_env_args='{"opponent": "optimal"}').validate()
    assert dataclasses.replace(GAME, opponents=everybody).opponent_shares()["past"] == 2
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


def test_a_baseline_of_another_name():
    assert refusal(baseline="position") == "baseline must be one of group, turn, state, not 'position'"


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
    dataclasses.replace(GAME, eval_env_args='{"opening_moves": 2}', eval_every=0).validate()


def test_a_game_is_evaluated_with_arguments_of_its_own():
    config = dataclasses.replace(GAME, env_args='{"opening_moves": 2}', eval_env_args='{"opponent": "mixed"}')
    assert config.parsed_env_args() == {"opening_moves": 2}
    assert config.parsed_env_args(evaluation=True) == {"opponent": "mixed"}
