"""Everything that one can set about a run, with its reason; checked before anything is loaded."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

Baseline = Literal["group", "turn", "state"]


class ConfigError(ValueError):
    """A setting that cannot work. Its message is one line, meant for the person who typed it."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, after everything was saved; `run_dir` is where to go on from."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__(f"stopped by the user; everything is in {run_dir}")
        self.run_dir = run_dir


@dataclass(frozen=True)
class TrainConfig:
    """Grouped rollouts and LoRA policy gradient: the defaults are those of the recipe `rl_basic`."""

    model: str
    """Base model: a hub id or a transformers folder."""
    env: str
    """Gymnasium id, with the module that registers it: llm_envs:GSM8K-v0."""
    env_args: str = "{}"
    """Arguments of the environment, as a JSON object."""
    eval_env_args: str = "{}"
    """Arguments for evaluation, over those of env_args: '{"split": "test"}'."""
    run_dir: Path = Path("runs/rl_basic")
    """Where metrics, checkpoints and the final adapter go."""
    updates: int = 58
    """How many optimizer steps (58 batches of 128 problems are one epoch of GSM8K)."""
    groups_per_batch: int = 128
    """Problems a batch."""
    group_size: int = 16
    """Tries at each problem; their mean reward is the baseline."""
    baseline: Baseline = "group"
    """What a turn's advantage is measured against: the mean return of the group; in games of many turns the mean of
    what is still to come over those of the group that got as far (turn); or, where an observation shows all that
    matters, as a board does, over all turns of the batch that answered the same one (state)."""
    opponents: str = "{}"
    """Games of several players (PettingZoo AEC): who sits in the other seats, and in what share of the games, as a JSON
    object: self, past (what the policy was), base (the model without its adapter), or a solver of the game. Example:
    '{"self": 0.5, "past": 0.2, "random": 0.3}'. Empty: a Gymnasium environment."""
    past_every: int = 10
    """Keep the adapter as an opponent of the future every so many updates."""
    past_kept: int = 10
    """How many such adapters are kept."""
    max_tokens: int = 256
    """Most tokens sampled in one turn."""
    temperature: float = 1.0
    """Of sampling, and of the policy that is trained: both divide the logits by it."""
    learning_rate: float = 4e-5
    """Of Adam."""
    warmup_updates: int = 0
    """Raise the learning rate from zero over so many updates: Adam's first steps follow noise as much as signal."""
    schedule: Literal["constant", "linear"] = "constant"
    """Keep the learning rate, or let it fall in a line that reaches zero after the last update."""
    adam_betas: tuple[float, float] = (0.9, 0.95)
    """Decay of Adam's moments."""
    adam_eps: float = 1e-8
    """Adam's epsilon."""
    kl_coef: float = 0.0
    """What it costs to leave the base model, in reward for every nat of log-ratio of a sampled token. It keeps a policy
    from settling on the first thing that is better than nothing, before it has seen what is best."""
    max_grad_norm: float | None = None
    """Clip the gradient to this norm; None: leave it."""
    lora_rank: int = 32
    """Rank of the adapter on every linear layer."""
    lora_alpha: int = 32
    """The adapter's output is scaled by lora_alpha / lora_rank."""
    eval_every: int = 20
    """Evaluate (greedily) every so many updates, and at the end; 0: never. A game of several players is evaluated as
    the Gymnasium environment of the same id, with eval_env_args."""
    eval_size: int = 128
    """Problems an evaluation: the first of a finite set of tasks, or held-out seeds of an endless one."""
    save_every: int = 20
    """Checkpoint every so many updates; 0: only at the end."""
    seed: int = 0
    """Of the adapter's first weights, of sampling, and of where in the order of problems training starts."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    dtype: str = "auto"
    """auto, bfloat16 or float32."""
    attention: str = "sdpa"
    """Attention kernel in training: sdpa, or eager, which is faster on a CPU for rows of some hundred tokens."""
    tokens_per_microbatch: int = 16_384
    """Most tokens (with padding) in one backward pass: bounds memory, changes no result."""
    max_rows: int = 512
    """Most episodes sampled at once: bounds memory. (With another number other episodes are sampled.)"""
    resume: bool = False
    """Go on from the newest checkpoint in run_dir."""
    overwrite: bool = False
    """Throw away what is in run_dir."""

    def validate(self) -> None:
        """Check all that can be checked without the model.

        Raises:
            ConfigError: naming the first setting that cannot work.
        """
        if self.group_size < 2:
            raise ConfigError(
                f"group_size is {self.group_size}: advantages are rewards minus the mean of their group, "
                "which is always 0 for a group of one; use at least 2"
            )
        for name in ("updates", "groups_per_batch", "max_tokens", "lora_rank", "lora_alpha", "max_rows", "eval_size",
                     "past_every", "past_kept"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("learning_rate", "temperature", "adam_eps"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive, not {getattr(self, name)}")
        for name in ("eval_every", "save_every", "seed", "warmup_updates", "kl_coef"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, not {getattr(self, name)}")
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise ConfigError(f"max_grad_norm must be positive, not {self.max_grad_norm}")
        if self.baseline not in get_args(Baseline):
            raise ConfigError(f"baseline must be one of {', '.join(get_args(Baseline))}, not {self.baseline!r}")
        if self.resume and self.overwrite:
            raise ConfigError("resume and overwrite exclude each other")
        self._check_env()

    def _check_env(self) -> None:
        import gymnasium as gym

        shares = self.opponent_shares()
        module = self.env.rpartition(":")[0]
        if module:
            try:
                importlib.import_module(module)
            except ModuleNotFoundError as error:
                raise ConfigError(f"env {self.env!r}: there is no module {error.name!r}") from error
        if shares:
            self._check_game(shares)
            makers = [self._eval_args] if self.eval_every else []
        else:
            makers = [self.parsed_env_args, self._eval_args]
        if makers:
            try:
                gym.spec(self.env.rpartition(":")[2])
            except gym.error.Error as error:
                hint = "" if module else "; write MODULE:ID if a module must be imported first, as in llm_envs:GSM8K-v0"
                raise ConfigError(f"env {self.env!r} is not registered{hint}") from error
        for arguments in [maker() for maker in makers]:
            try:
                gym.make(self.env, **arguments).close()
            except Exception as error:
                raise ConfigError(f"env {self.env!r} cannot be made: {_one_line(error)}") from error

    def _check_game(self, shares: Mapping[str, float]) -> None:
        from trainers.games import make_game

        try:
            env = make_game(self.env, **self.parsed_env_args())
        except Exception as error:
            if isinstance(error, ModuleNotFoundError) and error.name == "pettingzoo":
                raise ConfigError("games of several players need PettingZoo: pip install 'pettingzoo>=1.27'") from error
            raise ConfigError(f"game {self.env!r} cannot be made: {_one_line(error)}") from error
        known = ["self", "past", "base", *getattr(env.unwrapped, "solvers", {})]
        env.close()
        unknown = [name for name in shares if name not in known]
        if unknown:
            raise ConfigError(f"opponents: {unknown[0]!r} is unknown; {self.env} has {', '.join(known)}")

    def opponent_shares(self) -> dict[str, float]:
        """`opponents` as numbers; empty for an environment of one agent."""
        shares = _json_object("opponents", self.opponents)
        for name, share in shares.items():
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < float("inf"):
                raise ConfigError(f"opponents: the share of {name!r} must be a positive number, not {share!r}")
        return shares

    def parsed_env_args(self, *, evaluation: bool = False) -> dict[str, Any]:
        """`env_args` as a dictionary, for evaluation with `eval_env_args` over it.

        A game of several players is evaluated as another environment, with arguments of its own: `eval_env_args` alone.
        """
        found = _json_object("env_args", self.env_args)
        if evaluation:
            found = ({} if self.opponent_shares() else found) | _json_object("eval_env_args", self.eval_env_args)
        return found

    def _eval_args(self) -> dict[str, Any]:
        return self.parsed_env_args(evaluation=True)

    def learning_rate_at(self, update: int) -> float:
        """The learning rate of update number `update`, counted from 0."""
        warmup = min(1.0, (update + 1) / (self.warmup_updates + 1))
        decay = 1.0 if self.schedule == "constant" else 1.0 - update / self.updates
        return self.learning_rate * min(warmup, decay)

    def as_json(self) -> dict[str, Any]:
        """All settings as JSON values."""
        return {name: str(v) if isinstance(v, Path) else v for name, v in dataclasses.asdict(self).items()}


def _json_object(name: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{name} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{name} must be a JSON object, not {text}")
    return value


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
