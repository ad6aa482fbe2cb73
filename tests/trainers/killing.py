"""Runs that are killed by SIGKILL at random moments, again and again, until one is let finish: for test_killing.py.

A process of its own that has imported everything and computed nothing, so that each run can be a fork of it and is at
work in a fraction of a second. Reads its orders from the command line and says as JSON what it did.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft  # noqa: F401  (all that runs would else import)
import torch
import transformers.models.llama.modeling_llama  # noqa: F401

import llm_envs  # noqa: F401
from tests.trainers.toy_runs import register_toys
from trainers.checkpoints import code_version, newest_checkpoint
from trainers.config import TrainConfig
from trainers.train import train

POLL_SECONDS = 0.001
LONGEST_SECONDS = 60


class Run:
    """A fork of this process that trains, or goes on with training."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.pid = os.fork()
        if self.pid == 0:
            self._train()

    def _train(self) -> None:
        code = 1
        try:
            with (self.config.run_dir.parent / "output.txt").open("a") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            train(self.config)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    def wait(self) -> None:
        _, status = os.waitpid(self.pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0, (self.config.run_dir.parent / "output.txt").read_text()[-3000:]

    def kill_when(self, is_time: Callable[[], bool], more_seconds: float) -> bool:
        """Kill it so long after it is time; False where it had finished before."""
        started = time.monotonic()
        while not is_time() and time.monotonic() - started < LONGEST_SECONDS:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                assert os.waitstatus_to_exitcode(status) == 0, "a run failed: see output.txt"
                return False
            time.sleep(POLL_SECONDS)
        time.sleep(more_seconds)
        os.kill(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status) == -signal.SIGKILL


def updates_done(config: TrainConfig) -> int:
    """As the newest checkpoint has it; -1 where there is none."""
    found = newest_checkpoint(config.run_dir)
    return -1 if found is None else int(found.name.removeprefix("update_"))


class Killer:
    """Kills a run again and again, in three ways by turns.

    Args:
        config: of the run, which goes on each time.
        loading_seconds: how long a run takes to begin.
        update_seconds: how long an update takes.
        seed: of when it kills.
    """

    def __init__(self, config: TrainConfig, *, loading_seconds: float, update_seconds: float, seed: int) -> None:
        self.config = config
        self.loading_seconds, self.update_seconds = loading_seconds, update_seconds
        self.chance = random.Random(seed)
        self.killed_at: list[int] = []
        self.partial = 0

    def kill(self) -> bool:
        """Once; False where the run finished."""
        number, before, run = len(self.killed_at), updates_done(self.config), Run(self.config)
        if number % 4 == 3:  # while it loads, or has just begun to go on
            longest = self.loading_seconds + self.update_seconds
            hit = run.kill_when(lambda: True, self.chance.uniform(0.2 * longest, longest))
        elif number % 4 == 1:  # while a checkpoint is being written
            hit = run.kill_when(lambda: updates_done(self.config) > before and self.is_saving(), 0.0)
        else:  # anywhere in an update
            hit = run.kill_when(lambda: updates_done(self.config) > before, self.chance.uniform(0, self.update_seconds))
        if hit:
            self.killed_at.append(updates_done(self.config))
            self.partial += self.is_saving()
        return hit

    def is_saving(self) -> bool:
        return any((self.config.run_dir / "checkpoints").glob("partial_*"))


def main(settings: dict[str, Any], folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """Train once undisturbed into `whole`, and once into `killed`."""
    register_toys()
    code_version()
    whole = TrainConfig(**settings, run_dir=folder / "whole")
    started = time.monotonic()
    run = Run(whole)
    while not (whole.run_dir / "metrics.jsonl").exists():
        time.sleep(POLL_SECONDS)
    loaded = time.monotonic()
    run.wait()
    update_seconds = (time.monotonic() - loaded) / whole.updates
    killer = Killer(
        TrainConfig(**settings, run_dir=folder / "killed", resume=True),
        loading_seconds=loaded - started, update_seconds=update_seconds, seed=seed,
    )  # fmt: skip
    hits = [killer.kill() for _ in range(kills)]
    Run(killer.config).wait()
    return {"killed_at": killer.killed_at, "partial": killer.partial, "all_hit": all(hits)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.stdout.write(json.dumps(main(json.loads(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))))
