"""`check_text_env` catches what it says it catches: each environment here breaks one contract."""

import random
import time
from typing import Any

import numpy as np
import pytest

from llm_envs.games.guess_number import GuessNumberEnv
from llm_envs.testing import check_text_env


class Small(GuessNumberEnv):
    def __init__(self, render_mode=None):
        super().__init__(high=10, max_guesses=3, render_mode=render_mode)


def test_a_sound_environment_passes():
    check_text_env(Small)
    with pytest.raises(TypeError, match="go with an id"):
        check_text_env(Small, render_mode="ansi")
    with pytest.raises(TypeError, match="not a TextEnv"):
        check_text_env("CartPole-v1")


def broken(name, **methods) -> Any:
    return type(name, (Small,), methods)


def changed_step(change) -> Any:
    """A `step` whose five things go through ``change`` as a list."""

    def step(self, action):
        event = list(super(type(self), self).step(action))
        change(self, event)
        return tuple(event)

    return step


def changed_reset(change) -> Any:
    def reset(self, *, seed=None, options=None):
        observation, info = super(type(self), self).reset(seed=seed, options=options)
        return change(self, observation, info)

    return reset


def set_info(key, value) -> Any:
    return changed_step(lambda env, event: event[4].__setitem__(key, value() if callable(value) else value))


def put(position, value) -> Any:
    return changed_step(lambda env, event: event.__setitem__(position, value))


def stateless(self, state):
    self.reset(seed=0)


def chance(draw) -> Any:
    def _begin(self, seed, index):
        draw()
        return super(type(self), self)._begin(seed, index)

    return _begin


def raising_play(self, action):
    if "\0" in action:
        raise RuntimeError("null byte")
    return super(type(self), self)._play(action)


def any_step(self, action):
    return super(type(self), self).step(str(action))


def any_options(self, *, seed=None, options=None):
    known = {key: value for key, value in (options or {}).items() if key == "index"}
    return super(type(self), self).reset(seed=seed, options=known)


def shifted_index(self, *, seed=None, options=None):
    return super(type(self), self).reset(seed=seed, options=None)


def deaf_to_index(self, seed, index):
    return super(type(self), self)._begin(seed, None)


def deaf_to_state(self, task):
    raise ValueError("no")


def endless_play(self, action):
    self._turn = 0
    return super(type(self), self)._play("")


def saved_without_turn(self):
    return {**super(type(self), self)._save(), "turn": 0}


def aliasing_state(self):
    state = super(type(self), self).get_state()
    self._shared = getattr(self, "_shared", state)
    self._shared.update(state)
    return self._shared


def changing_alias(self, action):
    event = super(type(self), self).step(action)
    self.get_state()
    return event


class FromTheClock(Small):
    def _begin(self, seed, index):
        messages, extras = super()._begin(seed, index)
        return messages, {**extras, "seconds": time.perf_counter()}


class Deaf:
    """Says one more thing than the vocabulary has."""

    def __init__(self, env, seed=0):
        pass

    def reset(self, observation, info):
        pass

    def act(self, observation):
        return "eleven"


class Moody(Deaf):
    def act(self, observation):
        return str(np.random.default_rng().integers(10**9))


def empty_info_reset(env, observation, info):
    return observation, {}


def extra_text_reset(env, observation, info):
    return observation + "!", info


BROKEN = [
    (broken("A", step=put(0, "other text")), "the observation of step"),
    (broken("A", reset=changed_reset(extra_text_reset)), r"the observation of reset\(\) is the messages, joined"),
    (broken("A", reset=changed_reset(empty_info_reset)), r"info\['messages'\] of reset"),
    (broken("A", step=put(1, 1)), "finite float"),
    (broken("A", step=put(1, float("nan"))), "finite float"),
    (broken("A", step=put(1, 0.5)), "is the sum of"),
    (broken("A", step=put(2, 0)), "are bool"),
    (broken("A", step=put(3, True)), "does not truncate"),
    (broken("A", step=set_info("verdict", "maybe")), r"info\['verdict'\]"),
    (broken("A", step=set_info("reward_parts", {"found": 1})), r"info\['reward_parts'\]"),
    (broken("A", step=set_info("answer", {5})), "JSON-able"),
    (broken("A", step=set_info("pair", (1, 2))), "survives JSON"),
    (broken("A", step=set_info("seconds", time.perf_counter)), "no timings"),
    (FromTheClock, "same first observation and info"),
    (broken("A", _begin=chance(random.random)), "np_random alone"),
    (broken("A", _begin=chance(np.random.random)), "np_random alone"),
    (broken("A", step=set_info("luck", random.SystemRandom().random)), "always give the same episode"),
    (broken("A", _play=raising_play), "any str is a legal action; .* raised RuntimeError"),
    (broken("A", _play=endless_play), "every episode ends"),
    (broken("A", step=any_step), "not a str, 50, raises TypeError"),
    (broken("A", reset=any_options), "an unknown option raises ValueError; nothing was raised"),
    (broken("A", reset=shifted_index), "unknown option"),
    (broken("A", _load=deaf_to_state), r"set_state\(\) takes what get_state\(\) gave"),
    (broken("A", set_state=stateless), "continues exactly"),
    (broken("A", _save=saved_without_turn), "continues exactly"),
    (broken("A", get_state=aliasing_state, step=changing_alias), "a state does not change"),
    (
        broken("A", solvers={**Small.solvers, "deaf": Deaf}, _solver_return=lambda self, name: 1.0),
        "the vocabulary holds all",
    ),
    (broken("A", solvers={"moody": Moody}, best_solver=None, _solver_return=lambda self, name: None), "plays the same"),
    (broken("A", _solver_return=lambda self, name: {"optimal": 1.0}.get(name, 2.0)), "more than the optimal"),
    (broken("A", _begin=deaf_to_index), "option index=0 picks the task"),
    (broken("A", num_tasks=property(lambda self: 0)), "num_tasks is None or a positive int"),
    (broken("A", seed=lambda self: None), "gymnasium's checkers are content"),
]


@pytest.mark.parametrize(("env", "contract"), BROKEN, ids=[contract for _, contract in BROKEN])
def test_a_broken_contract_is_named(env, contract):
    with pytest.raises(AssertionError, match=contract):
        check_text_env(env, vector=False)


class DifferentInAWorker(Small):
    """Says something else when it does not live in the main process."""

    def _play(self, action):
        import multiprocessing

        outcome = super()._play(action)
        return outcome if multiprocessing.parent_process() is None else outcome._replace(reply="I am a worker.")


def test_vectors_that_disagree_are_caught():
    with pytest.raises(AssertionError, match="sync and async vectors agree"):
        check_text_env(DifferentInAWorker)
    check_text_env(DifferentInAWorker, vector=False)
