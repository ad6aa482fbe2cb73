"""Checkpoints: an adapter folder that PEFT and vLLM load as it is, and beside it what the trainer needs to go on."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from trainers.config import ConfigError, TrainConfig
from trainers.optimizer import MasterAdam
from trainers.policy import Policy

# What decides the numbers of a run; a run that is resumed must agree in these with the one that was stopped.
_MUST_AGREE = (
    "model", "env", "env_args", "groups_per_batch", "group_size", "max_tokens", "temperature", "lora_rank",
    "lora_alpha", "seed", "credit", "learning_rate", "adam_betas", "adam_eps", "max_grad_norm", "warmup_updates",
    "schedule", "max_rows", "opponents", "past_every", "past_kept", "kl_coef",
)  # fmt: skip

_STATE = "trainer_state.pt"
_KEPT = 3


def prepare_run_dir(config: TrainConfig) -> Path | None:
    """Make the run's folder and find where to go on from.

    Returns:
        The newest checkpoint when the run is resumed, else None.

    Raises:
        ConfigError: when the folder is in use and the user did not say what to do with it.
    """
    folder = config.run_dir
    used = (folder / "metrics.jsonl").exists() or any(folder.glob("checkpoints/*"))
    if used and config.overwrite:
        for name in ("metrics.jsonl", "episodes.jsonl", "config.json", "checkpoints", "adapter"):
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    elif used and not config.resume:
        raise ConfigError(f"{folder} holds a run already: add --resume to go on with it or --overwrite to drop it")
    folder.mkdir(parents=True, exist_ok=True)
    return newest_checkpoint(folder) if config.resume else None


def newest_checkpoint(run_dir: Path) -> Path | None:
    """The checkpoint of the latest update, or None. Unfinished ones have another name and are never seen."""
    return max(run_dir.glob("checkpoints/update_*"), default=None)


def save_checkpoint(
    config: TrainConfig,
    policy: Policy,
    optimizer: MasterAdam,
    *,
    updates_done: int,
    opponents: Mapping[str, Any] | None = None,
) -> Path:
    """Write a checkpoint, which appears under its name only when it is whole, and drop the oldest ones."""
    final = config.run_dir / "checkpoints" / f"update_{updates_done:06d}"
    if final.exists():
        return final
    partial = final.with_name(f"partial_{updates_done:06d}")
    shutil.rmtree(partial, ignore_errors=True)
    policy.save_adapter(partial)
    state = {
        "updates_done": updates_done,
        "optimizer": optimizer.state_dict(),
        "opponents": opponents,
        "config": config.as_json(),
        "dtype": str(policy.dtype).removeprefix("torch."),  # what `auto` was: measured anew it might differ
    }
    torch.save(state, partial / _STATE)
    partial.rename(final)
    for old in sorted(final.parent.glob("update_*"))[:-_KEPT]:
        shutil.rmtree(old)
    return final


def load_state(checkpoint: Path, config: TrainConfig) -> dict[str, Any]:
    """The trainer's state of a checkpoint.

    Raises:
        ConfigError: when the run that wrote it had other settings.
    """
    state: dict[str, Any] = torch.load(checkpoint / _STATE, weights_only=True)
    now = config.as_json()
    for name in _MUST_AGREE:
        then = state["config"].get(name, getattr(TrainConfig, name, None))  # one that was written before there was it
        if then != now[name]:
            raise ConfigError(f"{checkpoint} was written with {name}={then}, not {now[name]}")
    return state
