"""What is trained, and on what."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from trainers.config.checks import at_least_one, json_object, one_line
from trainers.config.errors import ConfigError

Repeated: Any = tyro.conf.UseAppendAction


@dataclass(frozen=True)
class Task:
    """One environment of a run.

    Args:
        name: how metrics call it: the id, numbered where the same id stands in a run twice.
        env_id: what `gymnasium.make` takes.
        args: for training.
        eval_args: for evaluation.
        weight: its share of the problems, relative to the others'.
    """

    name: str
    env_id: str
    args: Mapping[str, Any]
    eval_args: Mapping[str, Any]
    weight: float


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """The model, its environments, and in games of several players who else plays."""

    model: str
    """Base model: a hub id or a transformers folder."""
    env: Annotated[tuple[str, ...], Repeated]
    """Gymnasium id, with the module that registers it: llm_envs:GSM8K-v0. Give the option again to mix several
    environments in every batch."""
    env_weights: tuple[float, ...] = ()
    """Of several environments, what share of the problems each gives, in their order: 2 1. Empty: equal shares."""
    env_args: Annotated[tuple[str, ...], Repeated] = ()
    """Arguments of the environment, as a JSON object; of several environments, once for all or once for each."""
    eval_env_args: Annotated[tuple[str, ...], Repeated] = ()
    """Arguments for evaluation, over those of env_args: '{"split": "test"}'."""
    env_retries: int = 2
    """How often an environment that fails to begin an episode is made anew before the episode is given up."""
    opponents: str = "{}"
    """Games of several players (PettingZoo AEC): who sits in the other seats, and in what share of the games, as a JSON
    object: self, past (what the policy was), base (the model without its adapter), or a solver of the game. Example:
    '{"self": 0.5, "past": 0.2, "random": 0.3}'. Empty: a Gymnasium environment."""
    past_every: int = 10
    """Keep the adapter as an opponent of the future every so many updates."""
    past_kept: int = 10
    """How many such adapters are kept."""

    def __post_init__(self) -> None:
        for name in ("env", "env_args", "eval_env_args"):
            if isinstance(getattr(self, name), str):  # one of them, as people write it
                object.__setattr__(self, name, (getattr(self, name),))

    def tasks(self) -> list[Task]:
        """The environments, with their arguments read.

        A game of several players is evaluated as another environment, the Gymnasium one of the same id, with arguments
        of its own: `eval_env_args` alone.

        Raises:
            ConfigError: where the settings do not fit together.
        """
        count = len(self.env)
        weights = self.env_weights or (1.0,) * count
        if len(weights) != count:
            raise ConfigError(f"env_weights has {len(weights)} numbers for {count} environments")
        if not all(0 < weight < float("inf") for weight in weights):
            raise ConfigError(f"env_weights must be positive, not {' '.join(map(str, weights))}")
        alone = not self.opponent_shares()
        found = []
        for i, env_id in enumerate(self.env):
            args, only_eval = self._nth("env_args", i), self._nth("eval_env_args", i)
            name = env_id.rpartition(":")[2]
            if self.env.count(env_id) > 1:
                name += f"#{self.env[: i + 1].count(env_id)}"
            found.append(Task(name, env_id, args, (args if alone else {}) | only_eval, float(weights[i])))
        return found

    def _nth(self, name: str, number: int) -> dict[str, Any]:
        texts = getattr(self, name)
        if len(texts) not in (0, 1, len(self.env)):
            raise ConfigError(f"{name} is given {len(texts)} times for {len(self.env)} environments")
        return json_object(name, texts[number % len(texts)]) if texts else {}

    def opponent_shares(self) -> dict[str, float]:
        """`opponents` as numbers; empty for an environment of one agent."""
        shares = json_object("opponents", self.opponents)
        for name, share in shares.items():
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < float("inf"):
                raise ConfigError(f"opponents: the share of {name!r} must be a positive number, not {share!r}")
        return shares

    def check_tasks(self, *, evaluates: bool) -> None:
        """Make every environment once.

        Raises:
            ConfigError: naming the first that cannot be made.
        """
        at_least_one(self, ("past_every", "past_kept"))
        if self.env_retries < 0:
            raise ConfigError(f"env_retries must not be negative, not {self.env_retries}")
        if not self.env:
            raise ConfigError("env: name at least one environment")
        shares = self.opponent_shares()
        if shares and len(self.env) > 1:
            raise ConfigError("a game of several players (opponents) cannot be mixed with other environments")
        for task in self.tasks():
            _import_module_of(task)
            if shares:
                _check_game(task, shares)
            else:
                _check_made(task, task.args)
            if evaluates:
                _check_made(task, task.eval_args)


def _import_module_of(task: Task) -> None:
    module = task.env_id.rpartition(":")[0]
    if module:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ConfigError(f"env {task.env_id!r}: there is no module {error.name!r}") from error


def _check_made(task: Task, args: Mapping[str, Any]) -> None:
    import gymnasium as gym

    module, _, name = task.env_id.rpartition(":")
    try:
        gym.spec(name)
    except gym.error.Error as error:
        hint = "" if module else "; write MODULE:ID if a module must be imported first, as in llm_envs:GSM8K-v0"
        raise ConfigError(f"env {task.env_id!r} is not registered{hint}") from error
    try:
        gym.make(task.env_id, **args).close()
    except Exception as error:
        raise ConfigError(f"env {task.env_id!r} cannot be made: {one_line(error)}") from error


def _check_game(task: Task, shares: Mapping[str, float]) -> None:
    from trainers.games import make_game

    try:
        env = make_game(task.env_id, **task.args)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "pettingzoo":
            raise ConfigError("games of several players need PettingZoo: pip install 'pettingzoo>=1.27'") from error
        raise ConfigError(f"game {task.env_id!r} cannot be made: {one_line(error)}") from error
    known = ["self", "past", "base", *getattr(env.unwrapped, "solvers", {})]
    env.close()
    unknown = [name for name in shares if name not in known]
    if unknown:
        raise ConfigError(f"opponents: {unknown[0]!r} is unknown; {task.env_id} has {', '.join(known)}")
