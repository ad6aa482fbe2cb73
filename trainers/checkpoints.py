"""Checkpoints: an adapter folder that PEFT and vLLM load as it is, and beside it what the trainer needs to go on.

A checkpoint appears under its name only when all of it is on the disk, with a manifest that says what that is. So
whatever kills a run, a folder `update_...` is whole when it was written; and if it was damaged later, that is noticed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from safetensors import SafetensorError

from trainers.config import ConfigError, TrainConfig
from trainers.policy import Policy

MAY_DIFFER = frozenset(
    {
        # Where the run is, how long it goes on and what is kept of it. (How `updates` may differ: `_check_same_run`.)
        "run_dir", "updates", "save_every", "checkpoints_kept", "record_groups", "save_merged", "track",
        "resume", "overwrite",
        # Evaluation draws nothing that training draws.
        "eval_every", "eval_size", "eval_env_args",
        # How it is computed, which changes no more than how numbers are rounded; with these a run is brought into the
        # memory of another machine. (What `dtype` was counts, and not what it would be now.)
        "device", "sampling_device", "attention", "share_prefix", "gradient_checkpointing", "tokens_per_microbatch",
        "dry_run", "sampler_args",
        # What is done where something breaks.
        "env_retries",
    }
)  # fmt: skip
"""Settings that a run may be resumed with though it was begun with others."""

MUST_AGREE = tuple(field.name for field in fields(TrainConfig) if field.name not in MAY_DIFFER)
"""Settings that decide the numbers of a run."""

# All that a run writes into its folder.
_WRITTEN = (
    "metrics.jsonl", "episodes.jsonl", "config.json", "report.html", "checkpoints", "adapter", "merged", "tensorboard",
    "wandb", "trackers.json",
)  # fmt: skip

_STATE, _MANIFEST = "trainer_state.pt", "manifest.json"
_FULL = (errno.ENOSPC, errno.EDQUOT)


class CheckpointError(OSError):
    """A checkpoint could not be written; those before it are still there. Its message is one line."""


@contextmanager
def claimed_run_dir(config: TrainConfig) -> Iterator[None]:
    """Make the run's folder, and keep other runs out of it while this one lives.

    Raises:
        ConfigError: when another run is going on in it, when it holds one and the user did not say what to do with
            that, or when it cannot be made.
    """
    folder = config.run_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("a")
    except OSError as error:
        raise ConfigError(f"run_dir {folder} cannot be made: {error.strerror}") from error
    with lock:
        if not _locked(lock):
            raise ConfigError(f"another run is going on in {folder}")
        _check_use(config)
        yield


def _locked(file: IO[str]) -> bool:
    """Lock a file until it is closed or this process ends, however it ends; False where another process has done so."""
    try:
        import fcntl
    except ModuleNotFoundError:  # there is no such thing on Windows
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # of the process: its children do not hold it any longer
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN)  # some file systems know no locks
    return True


def _check_use(config: TrainConfig) -> None:
    folder = config.run_dir
    used = (folder / "metrics.jsonl").exists() or any(folder.glob("checkpoints/*"))
    if used and not (config.resume or config.overwrite):
        raise ConfigError(f"{folder} holds a run already: add --resume to go on with it or --overwrite to drop it")


def empty_run_dir(run_dir: Path) -> None:
    """Delete what an earlier run wrote.

    Raises:
        ConfigError: when it cannot be deleted.
    """
    for name in _WRITTEN:
        path = run_dir / name
        is_folder = path.is_dir() and not path.is_symlink()
        try:
            shutil.rmtree(path) if is_folder else path.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigError(f"{path} of the run before cannot be deleted: {error.strerror}") from error


def newest_checkpoint(run_dir: Path) -> Path | None:
    """The checkpoint of the latest update, or None. Unfinished and corrupt ones have another name."""
    return next(reversed(_checkpoints(run_dir)), None)


def _checkpoints(run_dir: Path) -> list[Path]:
    """All checkpoints, the oldest first."""
    found = [path for path in run_dir.glob("checkpoints/update_*") if path.name.removeprefix("update_").isdecimal()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("update_")))


def save_checkpoint(config: TrainConfig, policy: Policy, state: Mapping[str, Any], *, updates_done: int) -> Path:
    """Write a checkpoint, and drop the oldest ones.

    Where the disk is full, the oldest ones are dropped first, but for the last that is whole.

    Args:
        config: of the run.
        policy: whose adapter is written.
        state: everything else, as dictionaries and lists of tensors, numbers and strings.
        updates_done: how many; the checkpoint's name.

    Raises:
        CheckpointError: when it could not be written. Nothing of it is left; the older ones are.
        TypeError: for a state that could be written but not be read again.
    """
    final = config.run_dir / "checkpoints" / f"update_{updates_done:06d}"
    if final.exists():
        if fault(final) is None:
            return final
        _set_aside(final)
    whole = {
        **state,
        "updates_done": updates_done,
        "config": config.as_json(),
        "dtype": str(policy.dtype).removeprefix("torch."),  # what `auto` was: measured anew it might differ
        "commit": code_version(),
        "rng_states": _rng_states(),
    }
    if len(whole) < len(state) + 5:
        raise ValueError("the state has a name that checkpoints need for themselves")
    _check_plain(whole, "state")
    try:
        for left in final.parent.glob("partial_*"):  # of a run that was killed
            shutil.rmtree(left)
        while not _written(final, policy, whole):
            _drop(_checkpoints(config.run_dir)[0])
        for old in _checkpoints(config.run_dir)[: -config.checkpoints_kept]:
            _drop(old)
    except OSError as error:
        why = " ".join((error.strerror or str(error)).split())
        raise CheckpointError(f"{final} could not be written: {why}; the checkpoints before it are kept") from error
    return final


def _written(final: Path, policy: Policy, state: Mapping[str, Any]) -> bool:
    """Write a checkpoint under another name and rename it; False where there is no room and the oldest one may go."""
    partial = final.with_name(final.name.replace("update", "partial"))
    try:
        policy.save_adapter(partial)
        with (partial / _STATE).open("wb") as file:
            torch.save(state, file)
        _seal(partial)
        partial.rename(final)
        _sync(final.parent)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        number = _errno(error)
        later = _checkpoints(final.parent.parent)[1:]
        if number in _FULL and any(fault(checkpoint) is None for checkpoint in later):
            return False
        if number is None or isinstance(error, OSError):
            raise
        raise OSError(number, os.strerror(number)) from error
    return True


def _errno(error: BaseException) -> int | None:
    """The number of the system's error behind an exception: writers of tensors hide that the disk is full."""
    if not isinstance(error, Exception):
        return None
    named = re.search(r"os error (\d+)", str(error)) if isinstance(error, SafetensorError) else None
    if named:
        return int(named[1])
    found: BaseException | None = error
    while found is not None and not isinstance(found, OSError):
        found = found.__cause__ or found.__context__
    return None if found is None else found.errno


def _seal(folder: Path) -> None:
    """Add the manifest, and wait until everything is on the disk."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    listed = {str(path.relative_to(folder)): {"size": path.stat().st_size, "sha256": _digest(path)} for path in files}
    (folder / _MANIFEST).write_text(json.dumps({"files": listed}, indent=2) + "\n", encoding="utf-8")
    for path in (*files, folder / _MANIFEST, *(path for path in folder.rglob("*") if path.is_dir()), folder):
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems cannot do this to a folder
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _drop(checkpoint: Path) -> None:
    """Remove a checkpoint: under another name first, for whatever stops that must not leave half of one."""
    doomed = checkpoint.with_name(checkpoint.name.replace("update", "partial"))
    checkpoint.rename(doomed)
    shutil.rmtree(doomed)


def newest_state(config: TrainConfig, *, say: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint that is whole, and its state; None where there never was a checkpoint.

    One that is broken is renamed to `corrupt_...`, so that nothing is lost, and the one before it is taken.

    Args:
        config: of the run as it is to go on.
        say: is told of every checkpoint that is passed over, in one line.

    Raises:
        ConfigError: when the run that wrote it had other settings, or when there are checkpoints but none is whole.
    """
    for checkpoint in reversed(_checkpoints(config.run_dir)):
        why = fault(checkpoint)
        if why is None:
            try:
                state: dict[str, Any] = torch.load(checkpoint / _STATE, weights_only=True, map_location="cpu")
            except Exception as error:  # unpicklers raise anything
                why = f"{_STATE} cannot be read: {type(error).__name__}"
            else:
                _check_same_run(checkpoint, state["config"], config)
                return checkpoint, state
        if not (checkpoint / _MANIFEST).exists():
            say(f"{checkpoint} was written by another version: it has no {_MANIFEST}. Looking for one before it.")
            continue
        say(f"{checkpoint} is broken ({why}). It is kept as {_set_aside(checkpoint).name}; looking for one before it.")
    if any(config.run_dir.glob("checkpoints/[cu]*")):
        raise ConfigError(f"no checkpoint in {config.run_dir} is whole: add --overwrite to begin again")
    return None


def fault(checkpoint: Path) -> str | None:
    """What is wrong with the files of a checkpoint, in a few words; None where they are as they were written."""
    try:
        listed = json.loads((checkpoint / _MANIFEST).read_text(encoding="utf-8"))["files"]
        for name, entry in listed.items():
            path = checkpoint / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != entry["size"]:
                return f"{name} has {path.stat().st_size} bytes, not {entry['size']}"
            if _digest(path) != entry["sha256"]:
                return f"{name} has another checksum"
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return f"{_MANIFEST} or a file that it lists cannot be read: {type(error).__name__}"
    return None


def _set_aside(checkpoint: Path) -> Path:
    """Give a broken checkpoint a name under which nobody looks for one."""
    name = checkpoint.name.replace("update", "corrupt")
    number = 1
    while (aside := checkpoint.with_name(name if number == 1 else f"{name}_{number}")).exists():
        number += 1
    return checkpoint.rename(aside)


def _check_same_run(checkpoint: Path, then: Mapping[str, Any], config: TrainConfig) -> None:
    now = config.as_json()
    names = MUST_AGREE if config.schedule == "constant" else (*MUST_AGREE, "updates")  # where the rate depends on it
    for name in names:
        was = then.get(name, getattr(TrainConfig, name, None))  # one that was written before there was it
        if was != now[name]:
            raise ConfigError(f"{checkpoint} was written with {name}={was}, not {now[name]}")


def _rng_states() -> dict[str, Any]:
    """Where every global source of chance stands."""
    version, words, gauss = random.getstate()
    legacy = np.random.get_state(legacy=False)  # noqa: NPY002 (libraries may draw from it)
    assert isinstance(legacy, dict)
    return {
        "torch": torch.get_rng_state(),
        # Asked for only where CUDA is in use: asking would start it.
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],  # type: ignore[no-untyped-call]
        "numpy": {**legacy, "state": {**legacy["state"], "key": [int(word) for word in legacy["state"]["key"]]}},
        "python": [version, list(words), gauss],
    }


def restore_rng(state: Mapping[str, Any]) -> None:
    """Set every global source of chance to where it stood when the state of a checkpoint was written.

    Those of CUDA devices that are not there are passed over.
    """
    saved = state["rng_states"]
    torch.set_rng_state(saved["torch"])
    if torch.cuda.is_available():
        for device, of_device in enumerate(saved["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(of_device, device)
    key = np.array(saved["numpy"]["state"]["key"], dtype=np.uint32)
    np.random.set_state(  # noqa: NPY002
        {**saved["numpy"], "state": {**saved["numpy"]["state"], "key": key}}
    )
    version, words, gauss = saved["python"]
    random.setstate((version, tuple(words), gauss))


@lru_cache(maxsize=1)
def code_version() -> str:
    """The commit of this code, `-dirty` where it was changed since; outside of a checkout the package's version."""
    folder = Path(__file__).resolve().parents[1]
    if (folder / ".git").exists():
        command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"]
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version("llm-envs")
    return "unknown"


def _check_plain(value: object, name: str) -> None:
    """Refuse what `torch.load(weights_only=True)` would refuse: too late, when a run is to be gone on with."""
    if type(value) in (dict, OrderedDict):
        for key, entry in value.items():  # type: ignore[attr-defined]
            _check_plain(key, f"a key of {name}")
            _check_plain(entry, f"{name}[{key!r}]")
    elif type(value) in (list, tuple):
        for number, entry in enumerate(value):  # type: ignore[arg-type]
            _check_plain(entry, f"{name}[{number}]")
    elif not isinstance(value, torch.Tensor) and type(value) not in (str, int, float, bool, type(None)):
        raise TypeError(f"{name} is of type {type(value).__name__}, which a checkpoint cannot hold")
