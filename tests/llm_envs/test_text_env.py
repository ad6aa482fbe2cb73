import json

import gymnasium as gym
import pytest
from gymnasium.error import ResetNeeded

from llm_envs.games.guess_number import GuessNumberEnv
from llm_envs.maths.arithmetic import ArithmeticEnv


def test_misuse_says_what_to_do():
    env = GuessNumberEnv(max_guesses=1)
    with pytest.raises(ResetNeeded, match=r"before the first reset\(\): call reset\(\) first"):
        env.step("50")
    env.reset(seed=0)
    with pytest.raises(TypeError, match="an action is a str, got int"):
        env.step(50)  # type: ignore[arg-type]
    env.step("101")
    with pytest.raises(ResetNeeded, match="after the end of an episode"):
        env.step("50")
    with pytest.raises(ValueError, match=r"unknown option 'idx' of GuessNumberEnv; known: \['index'\]"):
        env.reset(options={"idx": 1})
    with pytest.raises(IndexError, match=r"'index' must lie in 0\.\.99, got 100"):
        env.reset(options={"index": 100})
    with pytest.raises(TypeError, match="'index' must be an integer, got '1'"):
        env.reset(options={"index": "1"})
    with pytest.raises(ValueError, match=r"unknown option 'index' of ArithmeticEnv; known: \[\]"):
        ArithmeticEnv().reset(options={"index": 0})


def test_a_failed_reset_leaves_no_running_episode():
    env = GuessNumberEnv()
    env.reset(seed=0)
    with pytest.raises(IndexError):
        env.reset(options={"index": -1})
    with pytest.raises(ResetNeeded):
        env.step("50")


def test_render():
    env = GuessNumberEnv(render_mode="ansi")
    with pytest.raises(ResetNeeded):
        env.render()
    opening, _ = env.reset(options={"index": 99})
    assert env.render() == opening
    env.step("Is it 50?")
    assert env.render() == "> Is it 50?\nHigher!"
    assert GuessNumberEnv().render() is None


def test_a_state_continues_in_a_fresh_wrapped_environment():
    env, other = gym.make("llm_envs:GuessNumber-v0", render_mode="ansi"), gym.make("GuessNumber-v0", render_mode="ansi")
    env.reset(seed=3)
    env.step("50 \ud83e\udd8a")
    state = json.loads(json.dumps(env.get_wrapper_attr("get_state")()))
    other.get_wrapper_attr("set_state")(state)
    assert other.render() == env.render()
    assert other.unwrapped.np_random_seed == 3
    assert [other.step("60"), other.reset()] == [env.step("60"), env.reset()]
    assert other.get_wrapper_attr("get_state")() == env.get_wrapper_attr("get_state")()


def test_a_broken_state_changes_nothing():
    env = GuessNumberEnv()
    env.reset(seed=3)
    before = env.get_state()
    other = GuessNumberEnv()
    other.reset(seed=4)
    for key in before:
        broken = {**other.get_state(), key: None if key not in {"last_action", "running"} else object()}
        if key == "running":
            broken["task"] = None
        with pytest.raises(ValueError, match="state of GuessNumberEnv"):
            env.set_state(broken)
        assert env.get_state() == before


def test_no_vocabulary_of_endless_texts():
    with pytest.raises(NotImplementedError, match="ArithmeticEnv says more texts than can be listed"):
        ArithmeticEnv().vocabulary()


def test_prepare_is_a_hint_that_changes_nothing():
    env, other = GuessNumberEnv(), GuessNumberEnv()
    env.prepare("50")
    assert env.reset(seed=3) == other.reset(seed=3)
    before = env.get_state()
    env.prepare("50")
    assert env.get_state() == before
    assert env.step("60") == other.step("60")
