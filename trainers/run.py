"""All parts of a run, put together from its settings, or from its newest checkpoint."""

from __future__ import annotations

import importlib.metadata
import random
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError

from trainers.checkpoints import CheckpointError, newest_state, restore_rng, save_checkpoint
from trainers.collect import Collector
from trainers.config import ConfigError, TrainConfig
from trainers.config.checks import one_line
from trainers.environments import Breakage, EnvMix, GivenUpError, begin
from trainers.export import save_merged
from trainers.logs.run_log import RunLog
from trainers.memory import dry_run, keep_freed_memory
from trainers.opponents import OpponentPool
from trainers.optimizer import MasterAdam
from trainers.policy import Policy, choose_device
from trainers.preflight import Checked
from trainers.rendering import Renderer
from trainers.rollouts import RolloutSettings
from trainers.sampling import Sampler, TorchSampler, make_sampler
from trainers.schedule import Ahead, InTurn


@dataclass
class Run:
    """All parts of a run, ready to go."""

    config: TrainConfig
    policy: Policy
    optimizer: MasterAdam
    renderer: Renderer
    sampler: Sampler
    """Of training."""
    eval_sampler: Sampler
    """Of evaluation: another one where training samples ahead."""
    settings: RolloutSettings
    mix: EnvMix
    opponents: OpponentPool | None
    schedule: InTurn | Ahead
    log: RunLog
    updates_done: int = 0
    drawn: dict[str, Any] = field(default_factory=dict)
    """Where in the order of problems the next batch begins."""

    @property
    def corrects(self) -> bool:
        """Whether the loss makes up for sampler and trainer computing the policy differently."""
        if self.config.correction == "auto":
            return self.config.has_full_support and not (self.sampler.shares_weights and not self.config.max_staleness)
        return self.config.correction != "none"

    def save(self) -> Path | None:
        """Write a checkpoint of the last finished update; None, and a line that says so, where it cannot be written."""
        state = {
            "optimizer": self.optimizer.state_dict(),
            "opponents": None if self.opponents is None else self.opponents.state_dict(),
            "drawn": self.drawn,
            "schedule": self.schedule.state_dict(self.updates_done),
        }
        try:
            return save_checkpoint(self.config, self.policy, state, updates_done=self.updates_done)
        except CheckpointError as error:
            self.log.say(str(error))
            return None

    def export(self) -> None:
        """Write the trained adapter, and where that is wanted the whole model with the adapter in it.

        Raises:
            CheckpointError: when they cannot be written.
        """
        folder = self.config.run_dir / "adapter"
        try:
            self.policy.save_adapter(folder)
            if self.config.save_merged:
                folder = self.config.run_dir / "merged"
                save_merged(self.policy, self.config.model, folder)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{folder} could not be written: {one_line(error)}") from error

    def close(self) -> None:
        """Give back what it holds, all of it though some of it should not want to go."""
        with ExitStack() as last:  # in reverse
            last.callback(self.mix.close)
            last.callback(self.sampler.close)
            if self.eval_sampler is not self.sampler:
                last.callback(self.eval_sampler.close)
            last.callback(self.schedule.close)


def open_run(config: TrainConfig, checked: Checked, log: RunLog) -> Run:
    """Load the model, or the newest checkpoint when the run is resumed, and make everything else.

    Raises:
        ConfigError: when the model cannot be loaded, does not fit into memory, or the checkpoint is of another run.
    """
    found = newest_state(config, say=log.say) if config.resume else None
    state = {} if found is None else found[1]
    if config.resume and found is None:
        log.say(f"There is no checkpoint in {config.run_dir}: the run begins at its first update")
    log.say(f"Loading {config.model}")
    policy = _load_policy(config, adapter=found and found[0], dtype=state.get("dtype", config.dtype))
    if policy.device.type == "cpu":
        keep_freed_memory()
    if config.sampling_device:
        usable_device(config.sampling_device, "sampling_device")
    if config.dry_run:
        log.say("Trying the longest batch")
        dry_run(policy, config, prompt_tokens=checked.prompt_tokens, context_length=checked.context_length)
    optimizer = MasterAdam(
        policy.trainable, learning_rate=config.learning_rate, betas=config.adam_betas, eps=config.adam_eps
    )
    opponents = None
    if config.opponent_shares():
        opponents = OpponentPool(policy, config.opponent_shares(), kept=config.past_kept)
    mix = EnvMix.of(config)
    random.seed(config.seed)  # nothing here draws from these two, but an environment's libraries may; torch is seeded
    np.random.seed(config.seed)  # noqa: NPY002
    if state:
        optimizer.load_state_dict(state["optimizer"])
        mix.load_state_dict(state["drawn"])
        if opponents is not None:
            opponents.load_state_dict(state["opponents"])
        restore_rng(state)
    renderer, context = checked.renderer, checked.context_length
    of_trainer = TorchSampler(
        policy, stop_tokens=renderer.stop_tokens, context_length=context, max_rows=config.max_rows
    )
    sampler: Sampler = of_trainer
    if config.sampler != "torch" or config.max_staleness:
        sampler = make_sampler(
            config.sampler,
            _twin(policy, config) if config.sampler == "torch" else policy,
            stop_tokens=renderer.stop_tokens,
            context_length=context,
            max_rows=config.max_rows,
            arguments=config.parsed_sampler_args(),
            logprobs_at=config.temperature if _needs_logprobs(config) else None,
            cuts=not config.has_full_support,
        )
    settings = RolloutSettings(
        group_size=config.group_size, max_tokens=config.max_tokens, temperature=config.temperature,
        context_length=context, top_p=config.top_p, top_k=config.top_k, env_retries=config.env_retries,
    )  # fmt: skip
    collector = Collector(config, mix, sampler, renderer, settings, opponents, Breakage(say=log.say))
    schedule: InTurn | Ahead = InTurn(collector, policy)
    if config.max_staleness:
        sampled_from = state["schedule"]["adapter"] if state else None
        schedule = Ahead(collector, policy, updates=config.updates, adapter=sampled_from)
    return Run(
        config=config, policy=policy, optimizer=optimizer, renderer=renderer, sampler=sampler,
        eval_sampler=of_trainer if config.max_staleness else sampler, settings=settings, mix=mix, opponents=opponents,
        schedule=schedule, log=log, updates_done=int(state.get("updates_done", 0)), drawn=mix.state_dict(),
    )  # fmt: skip


def _load_policy(config: TrainConfig, *, adapter: Path | None, dtype: str) -> Policy:
    try:
        policy = Policy.load(
            config.model, lora_rank=config.lora_rank, lora_alpha=config.lora_alpha, seed=config.seed,
            device=usable_device(config.device, "device"), dtype=dtype, attention=config.attention, adapter=adapter,
        )  # fmt: skip
    except (OSError, RuntimeError, SafetensorError, ValueError) as error:
        raise ConfigError(f"model {config.model!r} cannot be loaded: {str(error).splitlines()[0]}") from error
    if config.gradient_checkpointing:
        policy.checkpoint_gradients()
    return policy


def _twin(policy: Policy, config: TrainConfig) -> Policy:
    """What samples while the other one is trained."""
    if not config.sampling_device:
        return policy.twin()
    return policy.twin(usable_device(config.sampling_device, "sampling_device"))


def usable_device(name: str, setting: str) -> torch.device:
    """A device that there is."""
    try:
        device = choose_device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter from a torch without CUDA
        raise ConfigError(f"{setting} {name!r}: {str(error).splitlines()[0]}") from error
    return device


def _needs_logprobs(config: TrainConfig) -> bool:
    """Whether training asks under what probabilities tokens were sampled."""
    corrects = config.has_full_support and config.correction != "none"
    return config.loss != "reinforce" or config.kl_coef > 0 or corrects


def known_returns(mix: EnvMix, *, several_players: bool, retries: int) -> dict[str, dict[str, float]]:
    """What the environments' own solvers earn in expectation, where an environment says so: by task and solver.

    Of a game of several players that is the environment in which it is evaluated.
    """
    found = {}
    for task, pool in zip(mix.tasks, mix.eval_pools if several_players else mix.pools, strict=True):
        try:
            known = begin(pool, 0, 0, _solver_returns, retries=retries, breakage=Breakage())
        except GivenUpError:  # then nothing is drawn into the curves
            continue
        if known:
            found[task.name] = known
    return found


def _solver_returns(env: Any) -> dict[str, float]:
    env = env.unwrapped
    known = {name: env.solver_return(name) for name in env.solvers} if hasattr(env, "solver_return") else {}
    return {name: value for name, value in known.items() if value is not None}


def library_versions() -> dict[str, str]:
    """Of what decides the numbers of a run."""
    return {name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft", "gymnasium", "numpy")}
