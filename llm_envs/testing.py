"""A conformance test that ships with the package: the test of a new environment is three lines.

>>> def test_my_env():
...     check_text_env("my_module:MyEnv-v0")
"""

import json
import math
import random
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from typing import Any, cast

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from llm_envs.grading import Verdict
from llm_envs.text_env import TextEnv

__all__ = ["JUNK_ACTIONS", "check_text_env"]

JUNK_ACTIONS: tuple[str, ...] = (
    "",
    " \t\r\n\x0b\x85\u2028",
    "\0",
    "\ud800",
    "\udfff\ud800",
    "\x1b[2J\u202e\ufeff",
    "\U0001f98a\u0301\u00bd\u0663\uff15\u00b2",
    "1" * 10_000,
    "-" + "9" * 10_000 + "." + "9" * 10_000,
    "\\boxed{" + "7" * 10_000 + "}",
    "\\boxed{1e999999999}",
    "\\boxed{9^{9^{9}}}",
    "x" * 100_000,
    " " * 100_000,
    "{" * 50_000 + "}" * 50_000,
    "\\boxed{" * 14_000,
    "([<" * 30_000,
    "\\" * 100_000,
)
"""Actions that no environment may choke on."""

_MAX_TURNS = 10_000
_MAX_JUNK_SECONDS = 2.0  # a turn; only reading that is not linear in the text takes so long
_VECTOR_ACTIONS = ("50", "\\boxed{5}", "", "25 \ud800", "\U0001f98a", "1", "\\boxed{7", "99", "\0")

Event = tuple[Any, ...]
Policy = Callable[[str], str]


def check_text_env(env: str | Callable[[], gym.Env[str, str]], *, vector: bool = True, **kwargs: Any) -> None:
    """Check every contract of `TextEnv`.

    Args:
        env: An id for `gymnasium.make`, or a function without arguments that makes the environment anew.
        vector: Whether to check vector environments, too; this starts six processes.
        **kwargs: Constructor arguments, for an id.

    Raises:
        AssertionError: If a contract is broken; the message says which.
        TypeError: If arguments are given for a function, or what is made is not a `TextEnv`.
    """
    if not isinstance(env, str) and kwargs:
        raise TypeError("constructor arguments go with an id; bind them to the function yourself")

    def make(**more: Any) -> TextEnv:
        made = (gym.make(env, **kwargs, **more) if isinstance(env, str) else env()).unwrapped
        if not isinstance(made, TextEnv):
            raise TypeError(f"{type(made).__name__} is not a TextEnv")
        return made

    with _no_global_chance():
        _check_seeds(make)
        _check_junk(make)
        _check_misuse(make)
        _check_states(make)
        _check_tasks(make)
        _check_solvers(make)
        _check_render(make, env, kwargs)
    _check_gymnasium(make)
    if vector:
        for mode in AutoresetMode:
            _check_vectors(make, mode)


def _require(condition: object, contract: str) -> None:
    if not condition:
        raise AssertionError(contract)


@contextmanager
def _raises(errors: type[Exception] | tuple[type[Exception], ...], contract: str) -> Iterator[None]:
    try:
        yield
    except errors:
        return
    except Exception as error:
        raise AssertionError(f"{contract}; it raised {error!r}") from error
    raise AssertionError(f"{contract}; nothing was raised")


# --- Calls that check what comes back ---


def _reset(env: TextEnv, seed: int | None = None, options: dict[str, Any] | None = None) -> Event:
    observation, info = env.reset(seed=seed, options=options)
    _check_text(env, observation, info, "reset()")
    return observation, info


def _step(env: TextEnv, action: str) -> Event:
    try:
        event: Any = env.step(action)
    except Exception as error:
        shown = f"{action[:20]!r} ({len(action)} characters)"
        raise AssertionError(f"any str is a legal action; {shown} raised {error!r}") from error
    _require(isinstance(event, tuple) and len(event) == 5, "step() returns five things")
    observation, reward, terminated, truncated, info = event
    _check_text(env, observation, info, "step()")
    _require(type(reward) is float and math.isfinite(reward), f"a reward is a finite float, got {reward!r}")
    _require(type(terminated) is bool and type(truncated) is bool, "terminated and truncated are bool")
    _require(not truncated, "an environment does not truncate: a limit on turns is a rule of the game")
    verdict, parts = info.get("verdict"), info.get("reward_parts")
    _require(type(verdict) is str and verdict in set(Verdict), f"info['verdict'] is one of Verdict, got {verdict!r}")
    finite = isinstance(parts, dict) and all(type(part) is float and math.isfinite(part) for part in parts.values())
    _require(finite, f"info['reward_parts'] maps names to finite floats, got {parts!r}")
    _require(math.isclose(sum(parts.values()), reward, abs_tol=1e-12), f"the reward {reward} is the sum of {parts}")
    return observation, reward, terminated, truncated, info


def _check_text(env: TextEnv, observation: Any, info: Any, call: str) -> None:
    _require(isinstance(observation, str), f"the observation of {call} is a str, got {observation!r}")
    _require(observation in env.observation_space, f"the observation of {call} lies in the observation space")
    _require(isinstance(info, dict), f"the info of {call} is a dict")
    messages = info.get("messages")
    _require(
        isinstance(messages, list)
        and all(isinstance(m, dict) and set(m) == {"role", "content"} for m in messages)
        and all(m["role"] in {"system", "user", "assistant"} and isinstance(m["content"], str) for m in messages),
        f"info['messages'] of {call} is a list of role and content, got {messages!r}",
    )
    joined = "\n\n".join(m["content"] for m in messages)
    _require(observation == joined, f"the observation of {call} is the messages, joined: {observation!r} != {joined!r}")
    _require(json.loads(_dumps(info, f"the info of {call}")) == info, f"the info of {call} survives JSON")


def _dumps(value: Any, name: str) -> str:
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise AssertionError(f"{name} is JSON-able: {error}") from error


def _finish(env: TextEnv, policy: Policy, observation: str) -> list[Event]:
    """Play a running episode to its end."""
    events = []
    for _ in range(_MAX_TURNS):
        events.append(_step(env, policy(observation)))
        observation = events[-1][0]
        if events[-1][2]:
            return events
    raise AssertionError(f"every episode ends, here not within {_MAX_TURNS} turns")


def _episode(env: TextEnv, policy: Policy, seed: int | None = None) -> list[Event]:
    start = _reset(env, seed)
    return [start, *_finish(env, policy, start[0])]


def _sampler(env: TextEnv, seed: int = 0) -> Policy:
    env.action_space.seed(seed)
    return lambda _: env.action_space.sample()


def _always(action: str) -> Policy:
    return lambda _: action


def _solver(env: TextEnv, name: str, start: Event) -> Policy:
    solver = env.solver(name, seed=0)
    solver.reset(*start)
    return solver.act


def _probe(env: TextEnv, start: Event) -> Policy:
    """The most telling policy there is: junk draws the same reply whatever the secret."""
    name = env.best_solver or next(iter(env.solvers), None)
    return _always("50") if name is None else _solver(env, name, start)


def _set_state(env: TextEnv, state: dict[str, Any]) -> None:
    try:
        env.set_state(state)
    except Exception as error:
        raise AssertionError(f"set_state() takes what get_state() gave; it raised {error!r}") from error


# --- The contracts ---


@contextmanager
def _no_global_chance() -> Iterator[None]:
    def states() -> list[str]:
        return [repr(random.getstate()), repr(np.random.get_state())]  # noqa: NPY002 (what must stay untouched)

    before = states()
    yield
    _require(states() == before, "chance comes from np_random alone; the global generators were used")


def _check_seeds(make: Callable[[], TextEnv]) -> None:
    env, other = make(), make()
    for seed in (0, 1, 2, 12_345, 2**40):
        first = _reset(env, seed)
        group = [_reset(env, seed), _reset(other, seed), _reset(env, seed, {})]
        played = _episode(env, _sampler(env), seed)
        _reset(env)
        group += [played[0], _reset(env, seed)]
        same = f"seed {seed} always gives the same first observation and info"
        _require(all(start == first for start in group), same)
        same = f"seed {seed} and the same actions always give the same episode (no timings, no chance)"
        _require(_episode(other, _sampler(other), seed) == played, same)
        plays = [_finish(player, _probe(player, _reset(player, seed)), "") for player in (env, other, env)]
        _require(plays[0] == plays[1] == plays[2], same)


def _check_junk(make: Callable[[], TextEnv]) -> None:
    env = make()
    for junk in JUNK_ACTIONS:
        name = f"junk of {len(junk)} characters, {junk[:20]!r},"
        _require(junk in env.action_space, f"{name} lies in the action space")
        _reset(env, seed=0)
        began = time.perf_counter()
        turns = len(_finish(env, _always(junk), ""))
        seconds_a_turn = (time.perf_counter() - began) / turns
        _require(seconds_a_turn < _MAX_JUNK_SECONDS, f"{name} is read in linear time; it took {seconds_a_turn:.1f} s")


def _check_misuse(make: Callable[[], TextEnv]) -> None:
    env = make()
    with _raises(ResetNeeded, "step() before reset() raises ResetNeeded"):
        env.step("50")
    _reset(env, seed=0)
    for action in (50, None, b"50", ["50"]):
        with _raises(TypeError, f"an action that is not a str, {action!r}, raises TypeError"):
            env.step(cast("str", action))
    _finish(env, _sampler(env), "")
    with _raises(ResetNeeded, "step() after the end raises ResetNeeded"):
        env.step("50")
    with _raises(ValueError, "an unknown option raises ValueError"):
        env.reset(options={"no such option": 1})
    with _raises(ValueError, "an unknown solver raises ValueError"):
        env.solver("no such solver")


def _check_states(make: Callable[[], TextEnv]) -> None:
    env, other = make(), make()
    for turns in range(4):  # from the opening on; for short games to after the end
        start, policy = _reset(env, seed=7), _sampler(env)
        ended = any(_step(env, policy(""))[2] for _ in range(turns))
        state = env.get_state()
        saved = _dumps(state, "get_state()")
        rest = _rest(env, start, ended)
        _require(json.dumps(state) == saved, "a state does not change when the episode goes on")
        for target in (other, env, make()):
            _set_state(target, json.loads(saved))
            exact = _rest(target, start, ended) == rest
            _require(exact, f"set_state() after turn {turns} continues exactly, up to the next reset()")
        if ended:
            break
    for broken in ({}, {**state, "env": "no such environment"}, {**state, "rng": {}}, {**state, "task": 5}):
        with _raises(ValueError, f"a broken state, {broken!r:.60}, raises ValueError"):
            env.set_state(broken)


def _rest(env: TextEnv, start: Event, ended: bool) -> list[Event]:
    return [*([] if ended else _finish(env, _probe(env, start), start[0])), _reset(env)]


def _check_tasks(make: Callable[[], TextEnv]) -> None:
    env, num_tasks = make(), make().num_tasks
    if num_tasks is None:
        with _raises(ValueError, "without a finite num_tasks the option 'index' raises ValueError"):
            env.reset(options={"index": 0})
        return
    _require(type(num_tasks) is int and num_tasks > 0, f"num_tasks is None or a positive int, got {num_tasks!r}")
    for index in sorted({0, num_tasks // 2, num_tasks - 1}):
        plays = []
        for seed in (None, 0, 1):
            start = _reset(env, seed, {"index": index})
            plays.append([start, *_finish(env, _probe(env, start), start[0])])
        _require(plays[0] == plays[1] == plays[2], f"option index={index} picks the task, whatever the seed")
        _require(plays[0][0][1].get("index", index) == index, f"info['index'] is {index} after reset with that option")
    for index in (-1, num_tasks):
        with _raises((IndexError, ValueError), f"option index={index} of {num_tasks} tasks raises IndexError"):
            env.reset(options={"index": index})
    for wrong in ("0", 0.0, None, True):
        with _raises(TypeError, f"option index={wrong!r} raises TypeError"):
            env.reset(options={"index": wrong})
    if "index" in _reset(env, seed=0)[1] and num_tasks <= _MAX_TURNS:
        visited = sorted(env.reset(seed=seed)[1]["index"] for seed in range(num_tasks))
        _require(visited == list(range(num_tasks)), "seeds 0 .. num_tasks - 1 visit every task exactly once")


def _check_solvers(make: Callable[[], TextEnv]) -> None:
    env, other = make(), make()
    best = env.optimal_return
    _require(best is None or math.isfinite(best), f"optimal_return is None or finite, got {best}")
    said: set[str] = set()
    for name in env.solvers:
        plays = [_recorded(player, name) for player in (env, other)]
        _require(plays[0] == plays[1], f"solver {name!r} plays the same with the same seed")
        said.update(plays[0])
        expected = env.solver_return(name)
        finite = expected is None or math.isfinite(expected)
        _require(finite, f"solver_return({name!r}) is None or finite, got {expected}")
        if best is not None and expected is not None:
            _require(expected <= best + 1e-9, f"solver {name!r} returns {expected}, more than the optimal {best}")
    try:
        vocabulary = env.vocabulary()
    except NotImplementedError:
        return
    _require(len(set(vocabulary)) == len(vocabulary), "no text is twice in the vocabulary")
    unknown = sorted(said - set(vocabulary))[:3]
    _require(not unknown, f"the vocabulary holds all that is said, here not {unknown}")


def _recorded(env: TextEnv, name: str) -> list[str]:
    """All that is said in an episode of a solver, by either side."""
    start = _reset(env, seed=3)
    act, actions = _solver(env, name, start), []

    def speak(observation: str) -> str:
        actions.append(act(observation))
        return actions[-1]

    events = [start, *_finish(env, speak, start[0])]
    return [message["content"] for event in events for message in event[-1]["messages"]] + actions


def _check_render(make: Callable[..., TextEnv], env: object, kwargs: dict[str, Any]) -> None:
    if not isinstance(env, str) or "render_mode" in kwargs:
        return  # a function decides by itself
    silent, loud = make(), make(render_mode="ansi")
    for player in (silent, loud):
        _reset(player, seed=0)
    _require(silent.render() is None, "render() without a render mode returns None")
    _require(isinstance(loud.render(), str), "render() returns text after reset()")
    _step(loud, "50")
    _require(isinstance(loud.render(), str), "render() returns text after step()")


def _check_gymnasium(make: Callable[[], TextEnv]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = make()
        try:
            check_env(env, skip_render_check=env.spec is None)
            if env.spec is not None:
                wrapped = gym.make(env.spec, disable_env_checker=False)
                wrapped.reset(seed=0)
                wrapped.step("50")
        except Warning as warning:
            raise AssertionError(f"gymnasium's checkers are content, without a warning: {warning}") from warning


def _check_vectors(make: Callable[[], TextEnv], mode: AutoresetMode) -> None:
    with warnings.catch_warnings():  # from Python 3.12 on, forking a process with threads warns
        warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
        plays = [
            _play_vector(SyncVectorEnv([make, make], autoreset_mode=mode)),
            _play_vector(AsyncVectorEnv([make, make], autoreset_mode=mode)),
        ]
    for turn, (sync, parallel) in enumerate(zip(*plays, strict=True)):
        contract = f"sync and async vectors agree in mode {mode.value}, turn {turn}: {sync!r} != {parallel!r}"
        _require(data_equivalence(sync, parallel, exact=True), contract)


def _play_vector(env: Any) -> list[Event]:
    try:
        events: list[Event] = [env.reset(seed=[0, 1])]
        actions = cycle(_VECTOR_ACTIONS)
        done = np.zeros(2, dtype=np.bool_)
        for _ in range(2 * len(_VECTOR_ACTIONS)):
            if done.any() and env.metadata["autoreset_mode"] is AutoresetMode.DISABLED:
                events.append(env.reset(seed=[2, 3], options={"reset_mask": done}))
            events.append(env.step((next(actions), next(actions))))
            done = events[-1][2] | events[-1][3]
            texts = events[-1][0]
            _require(isinstance(texts, tuple) and all(type(t) is str for t in texts), "vectors observe tuples of str")
    finally:
        env.close()
    return events
