"""Everything that one can set about an evaluation."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from trainers.config import ConfigError, Task, TaskOptions
from trainers.config.checks import at_least_one, json_object, not_negative, one_line, positive
from trainers.config.tasks import Repeated

PlayerName = Literal["torch", "vllm", "openai"]

_ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


@dataclass(frozen=True, kw_only=True)
class PlayerOptions:
    """Who answers."""

    model: str
    """A hub id or a transformers folder; of an endpoint (openai), the name that it knows the model by."""
    adapter: Path | None = None
    """A PEFT adapter folder to put on the model."""
    sampler: PlayerName = "torch"
    """Who samples: the model in this process (torch), an engine of vLLM, or an OpenAI-compatible endpoint."""
    sampler_args: str = "{}"
    """Arguments of the vLLM engine or its server, as a JSON object."""
    base_url: str = ""
    """With sampler=openai: where the endpoint is: http://localhost:8000/v1; empty: OpenAI's own. Its key, if it wants
    one, is in the environment variable OPENAI_API_KEY."""
    device: str = "auto"
    """auto, cpu, cuda, ..."""
    dtype: str = "auto"
    """auto, bfloat16 or float32."""


@dataclass(frozen=True, kw_only=True)
class ProblemOptions:
    """What is asked."""

    env: Annotated[tuple[str, ...], Repeated]
    """Gymnasium id, with the module that registers it: llm_envs:GSM8K-v0. Give the option again for several."""
    env_args: Annotated[tuple[str, ...], Repeated] = ()
    """Arguments of the environment, as a JSON object: '{"split": "test"}'; of several environments, once for all or
    once for each."""
    problems: int = 100
    """How many, of each environment: the first of a finite set of tasks and no more than there are, or held-out seeds
    of an endless one, which training never draws."""

    def __post_init__(self) -> None:
        for name in ("env", "env_args"):
            if isinstance(getattr(self, name), str):  # one of them, as people write it
                object.__setattr__(self, name, (getattr(self, name),))


@dataclass(frozen=True, kw_only=True)
class AnswerOptions:
    """How it is answered, and where the answers are kept."""

    greedy: bool = True
    """Answer every problem once with the most probable tokens: for greedy accuracy."""
    samples: int = 0
    """And so often by sampling: for pass@k with k = 1, 2, 4, ... up to this."""
    temperature: float = 1.0
    """Of sampling."""
    top_p: float = 1.0
    """Sample from the most probable tokens that hold this much probability."""
    top_k: int = 0
    """Sample from so many of the most probable tokens; 0: from all."""
    max_tokens: int = 512
    """Most tokens sampled in one turn."""
    max_rows: int = 64
    """Answers sampled at once: bounds memory, and is what a stop loses at most. (Another number, other samples.)"""
    seed: int = 0
    """Of sampling."""
    out: Path = Path("runs/eval")
    """Where answers and summary go, one evaluation a folder. The same command goes on where it was stopped, and plays
    again what failed."""
    overwrite: bool = False
    """Begin again, and drop the evaluation that the folder holds."""


@dataclass(frozen=True, kw_only=True)
class EvalConfig(AnswerOptions, ProblemOptions, PlayerOptions):
    """An evaluation: greedy accuracy, pass@k, return and regret of a model on text environments."""

    def validate(self) -> None:
        """Check all that can be checked without the model.

        Raises:
            ConfigError: naming the first setting that cannot work.
        """
        at_least_one(self, ("problems", "max_tokens", "max_rows"))
        positive(self, ("temperature",))
        not_negative(self, ("samples", "top_k", "seed"))
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p must lie above 0 and not above 1, not {self.top_p}")
        if not self.greedy and not self.samples:
            raise ConfigError("samples is 0 and greedy is off: there is nothing to play")
        if self.sampler not in get_args(PlayerName):
            raise ConfigError(f"sampler must be one of {', '.join(get_args(PlayerName))}, not {self.sampler!r}")
        if json_object("sampler_args", self.sampler_args) and self.sampler != "vllm":
            raise ConfigError("sampler_args are those of sampler=vllm")
        if self.base_url and self.sampler != "openai":
            raise ConfigError("base_url is that of sampler=openai")
        if self.sampler == "openai" and self.adapter is not None:
            raise ConfigError("adapter: an endpoint has its own; name it with model")
        if self.adapter is not None:
            _check_adapter(self.adapter)
        try:
            self._task_options().check_tasks(evaluates=False)
        except ConfigError:
            self._refuse_games()
            raise

    def tasks(self) -> list[Task]:
        """The environments, with their arguments read."""
        return self._task_options().tasks()

    def _task_options(self) -> TaskOptions:
        return TaskOptions(model=self.model, env=self.env, env_args=self.env_args)

    def _refuse_games(self) -> None:
        """Say so where there is an environment for several agents alone: who would play the others?"""
        import gymnasium as gym

        try:
            from pettingzoo import aec_registry
        except ImportError:
            return
        for task in self.tasks():
            name = task.env_id.rpartition(":")[2]
            if name in aec_registry and name not in gym.registry:
                raise ConfigError(f"env {task.env_id!r} is a game of several players, and these are not evaluated")

    def identity(self) -> dict[str, Any]:
        """The settings that the answers depend on, as JSON values: an evaluation is gone on with under the same only.

        What lies in the folders that they name is compared by `folder.weights_of`.
        """
        values = {name: str(v) if isinstance(v, Path) else v for name, v in dataclasses.asdict(self).items()}
        values = {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}
        return {name: v for name, v in values.items() if name not in ("out", "overwrite", "device")}


def _check_adapter(folder: Path) -> None:
    """Refuse what peft would look for on the network, or fail to understand."""
    settings = folder / "adapter_config.json"
    if not settings.is_file():
        raise ConfigError(f"adapter: {folder} is no adapter folder, for it holds no adapter_config.json")
    if not any((folder / name).is_file() for name in _ADAPTER_WEIGHTS):
        raise ConfigError(f"adapter: {folder} holds no weights: neither {' nor '.join(_ADAPTER_WEIGHTS)}")
    try:
        found = json.loads(settings.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"adapter: {settings} cannot be read: {one_line(error)}") from error
    if not isinstance(found, dict) or "peft_type" not in found:
        raise ConfigError(f"adapter: {settings} does not say what kind of adapter it is (peft_type)")
