"""Every setting that cannot work is refused in one line."""

import dataclasses
import json
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


@pytest.mark.parametrize("name", ["eval_every", "save_every", "seed", "warmup_updates"])
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
