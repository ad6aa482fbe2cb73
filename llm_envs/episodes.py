"""Recorded episodes: how they are written and read, and whether they happen again when they are played again.

An episode is one JSON object. Of one agent, in a Gymnasium environment::

    {"env": "llm_envs:GuessNumber-v0", "env_args": {}, "seed": 3, "options": null,
     "observations": [o0, ..., oN], "actions": [a1, ..., aN], "rewards": [r1, ..., rN], "verdicts": [v1, ..., vN]}

Of several agents, in a PettingZoo AEC environment, the same first four and::

    "agents": [who acted, ...], "observations": [what they saw before, ...], "actions": [...],
    "returns": {agent: sum of rewards}, "endings": {agent: the last that it saw}

A file holds one object a line. Keys that are not named here are overlooked, such as a trainer adds. A text is a string
or, where JSON would not give it back, a list of code points.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym

from llm_envs.grading import Verdict
from llm_envs.spaces import text_from_jsonable, text_to_jsonable

__all__ = [
    "Difference",
    "Heard",
    "Policy",
    "Record",
    "append_episode",
    "differences",
    "is_game",
    "is_unscorable",
    "make_recorded",
    "new_record",
    "play",
    "read_episodes",
    "replay",
    "to_jsonable",
]

Record = dict[str, Any]


class Heard(NamedTuple):
    """What a player hears when it is their turn, and once more at the end.

    Attributes:
        agent: Whose turn it is; empty in a game of one agent.
        text: The observation.
        info: Gymnasium's or PettingZoo's.
        reward: For the last action; None before the first.
        verdict: On the last action; None before the first and where the environment gives none.
        is_over: Whether this is the end, so that nothing is asked.
    """

    agent: str
    text: str
    info: Mapping[str, Any]
    reward: float | None
    verdict: str | None
    is_over: bool


Policy = Callable[[Heard], str | None]
"""The next action; None to leave the episode as it is. At the end nobody listens to the answer."""


@dataclass(frozen=True)
class Difference:
    """Where an episode went otherwise than its record says.

    Attributes:
        step: After how many actions.
        what: ``observation``, ``reward``, ``verdict``, ``agent``, ``length``, ``return of X`` or ``ending of X``.
        recorded: What the record says.
        found: What happened now.
    """

    step: int
    what: str
    recorded: Any
    found: Any

    def __str__(self) -> str:
        return f"step {self.step}, {self.what}: recorded {self.recorded!r:.300}, found {self.found!r:.300}"


# --- Playing ---


def new_record(
    env_id: str, env_args: Mapping[str, Any], *, seed: int | None, options: Mapping[str, Any] | None = None
) -> Record:
    """An episode of which nothing is known yet but how it begins."""
    return {"env": env_id, "env_args": dict(env_args), "seed": seed, "options": options and dict(options)}


def is_game(record: Mapping[str, Any]) -> bool:
    """Whether it is an episode of several agents."""
    return "agents" in record


def play(env: Any, record: Record, policy: Policy) -> None:
    """Play an episode and write it into ``record``, which is true at any moment, also when the play is interrupted.

    Args:
        env: A Gymnasium or a PettingZoo AEC environment of texts.
        record: From `new_record`; its seed and options begin the episode.
        policy: Answers for every agent.
    """
    (_play_game if hasattr(env, "possible_agents") else _play_single)(env, record, policy)


def _play_single(env: gym.Env[str, str], record: Record, policy: Policy) -> None:
    text, info = env.reset(seed=record["seed"], options=record["options"])
    record.update(observations=[text], actions=[], rewards=[], verdicts=[])
    action = policy(Heard("", text, info, None, None, is_over=False))
    while action is not None:
        text, reward, terminated, truncated, info = env.step(action)
        verdict = info.get("verdict", "")
        new = {"observations": text, "actions": action, "rewards": float(reward), "verdicts": verdict}
        for key, value in new.items():
            record[key].append(value)
        is_over = terminated or truncated
        action = policy(Heard("", text, info, float(reward), verdict or None, is_over=is_over))
        if is_over:
            return


def _play_game(env: Any, record: Record, policy: Policy) -> None:
    env.reset(seed=record["seed"], options=record["options"])
    agents = list(env.possible_agents)
    record.update(agents=[], observations=[], actions=[], returns=dict.fromkeys(agents, 0.0), endings={})
    record["endings"] = {agent: _observed(env, agent) for agent in agents}
    while env.agents:
        agent = env.agent_selection
        _, reward, terminated, truncated, info = env.last(observe=False)
        text, is_over = _observed(env, agent), terminated or truncated
        record["returns"][agent] += float(reward)
        record["endings"][agent] = text
        earned = float(reward) if agent in record["agents"] else None
        action = policy(Heard(agent, text, info, earned, info.get("verdict"), is_over=is_over))
        if is_over:
            action = None
        elif action is None:
            return
        env.step(action)
        if action is not None:
            for key, value in (("agents", agent), ("observations", text), ("actions", action)):
                record[key].append(value)


def _observed(env: Any, agent: str) -> str:
    seen = env.observe(agent)
    return str(seen["text"] if isinstance(seen, Mapping) else seen)


def is_unscorable(record: Mapping[str, Any]) -> bool:
    """Whether something else than the player failed in it, an answerer that was down, say; that need not come again."""
    return Verdict.UNSCORABLE.value in record.get("verdicts", ())


# --- Playing again ---


def make_recorded(record: Mapping[str, Any]) -> Any:
    """Make the environment of an episode. The module that its id names is imported, as `gymnasium.make` does.

    Raises:
        ValueError: If it cannot be made.
    """
    module, _, env_id = record["env"].rpartition(":")
    try:
        if not is_game(record):
            return gym.make(record["env"], **record["env_args"])
        if module:
            import_module(module)
        pettingzoo = import_module("pettingzoo")
        return pettingzoo.make("aec", env_id, **record["env_args"])
    except Exception as error:  # whatever it is, it is said in one line
        raise ValueError(f"cannot make {record['env']}: {error}") from error


def replay(env: Any, record: Record) -> Record:
    """Play an episode again: as it would be recorded now.

    Args:
        env: From `make_recorded`; any number of episodes can be played on it, one after the other.
        record: As `read_episodes` gives it.

    Raises:
        ValueError: If the environment does not take the record's seed or options.
    """
    actions = iter(record["actions"])
    again = new_record(record["env"], record["env_args"], seed=record["seed"], options=record["options"])
    try:
        play(env, again, lambda heard: None if heard.is_over else next(actions, None))
    except (IndexError, TypeError, ValueError, gym.error.Error) as error:
        if "actions" in again:
            raise
        raise ValueError(f"cannot reset {record['env']}: {error}") from error
    return again


def differences(record: Record, again: Record) -> Iterator[Difference]:
    """Where two records of one episode differ, in order; rewards are compared exactly."""
    played = len(again["actions"])
    keys = ("agents", "observations") if is_game(record) else ("observations", "rewards", "verdicts")
    for step in range(played + 1):
        for key in keys:
            at = step if key in {"observations", "agents"} else step - 1
            if key in record and 0 <= at < min(len(record[key]), len(again[key])):
                recorded, found = record[key][at], again[key][at]
                if not _is_same(recorded, found):
                    yield Difference(step, key.removesuffix("s"), recorded, found)
    if played < len(record["actions"]):
        yield Difference(played, "length", f"{len(record['actions'])} actions", f"over after {played}")
    for key, what in (("returns", "return"), ("endings", "ending")) if is_game(record) else ():
        for agent, recorded in record.get(key, {}).items():
            found = again[key].get(agent)
            if not _is_same(recorded, found):
                yield Difference(played, f"{what} of {agent}", recorded, found)


def _is_same(recorded: Any, found: Any) -> bool:
    both = isinstance(recorded, float) and isinstance(found, float) and math.isnan(recorded) and math.isnan(found)
    return bool(both or recorded == found)


# --- Files ---


def append_episode(path: str | Path, record: Mapping[str, Any]) -> None:
    """Write an episode behind those of a file.

    Raises:
        OSError: If it cannot be written.
    """
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(json.dumps(to_jsonable(record)) + "\n")


def to_jsonable(record: Mapping[str, Any]) -> Record:
    """An episode whose texts JSON gives back as they are."""
    found = {**record, **{key: [text_to_jsonable(text) for text in record[key]] for key in ("observations", "actions")}}
    if is_game(record):
        found["endings"] = {agent: text_to_jsonable(text) for agent, text in record["endings"].items()}
    return found


def read_episodes(path: str | Path) -> Iterator[tuple[int, Record]]:
    """The episodes of a file, each with the number of its line.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If a line holds no episode; the message names it.
    """
    with Path(path).open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                record = _read_line(line)
            except _NoEpisodeError as error:
                raise ValueError(f"line {number}: {error}") from error
            yield number, record


class _NoEpisodeError(ValueError):
    """What is wrong with a line."""


def _read_line(line: bytes) -> Record:
    try:
        found = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise _NoEpisodeError(f"not JSON: {error}") from error
    if not isinstance(found, dict):
        raise _NoEpisodeError(f"an episode is a JSON object, got {found!r:.100}")
    seed, options, env_args = found.get("seed"), found.get("options"), found.get("env_args") or {}
    _require(isinstance(found.get("env"), str) and found["env"], "'env' must be the id of an environment")
    _require(isinstance(env_args, dict), "'env_args' must be a JSON object")
    _require(seed is None or type(seed) is int, "'seed' must be a whole number or null")
    _require(options is None or isinstance(options, dict), "'options' must be a JSON object or null")
    record: Record = {"env": found["env"], "env_args": env_args, "seed": seed, "options": options}
    for key in ("observations", "actions"):
        record[key] = _read_texts(found.get(key), key)
    steps, seen = len(record["actions"]), len(record["observations"])
    if not is_game(found):
        _require(seen in {steps, steps + 1}, f"{seen} observations do not go with {steps} actions")
        record["rewards"] = _read_list(found.get("rewards"), "rewards", steps, int | float)
    else:
        _require(seen == steps, f"{seen} observations do not go with {steps} actions")
        record["agents"] = _read_list(found["agents"], "agents", steps, str)
        record["returns"] = _read_mapping(found, "returns", int | float)
        endings = _read_mapping(found, "endings", str | list)
        record["endings"] = dict(zip(endings, _read_texts(list(endings.values()), "endings"), strict=True))
    if found.get("verdicts") is not None and not is_game(found):
        record["verdicts"] = _read_list(found["verdicts"], "verdicts", steps, str)
    return record


def _require(condition: object, what: str) -> None:
    if not condition:
        raise _NoEpisodeError(what)


def _read_list(values: Any, key: str, length: int, kind: Any) -> list[Any]:
    is_list = isinstance(values, list) and all(isinstance(v, kind) and not isinstance(v, bool) for v in values)
    _require(is_list and len(values) == length, f"'{key}' must be a list, an entry an action ({length})")
    return list(values)


def _read_mapping(found: dict[str, Any], key: str, kind: Any) -> dict[str, Any]:
    values = found.get(key) or {}
    _require(
        isinstance(values, dict) and all(isinstance(v, kind) for v in values.values()), f"'{key}' is no such thing"
    )
    return dict(values)


def _read_texts(values: Any, key: str) -> list[str]:
    _require(isinstance(values, list), f"'{key}' must be a list of texts")
    try:
        return [text_from_jsonable(value) for value in values]
    except (OverflowError, TypeError, ValueError) as error:
        raise _NoEpisodeError(f"'{key}' must be a list of texts: {error}") from error
