"""Steps of this project's trainer: asked by `benchmarks.train_step`, see `process`.

The parts are those of a run (`trainers.run.open_run`), and a step is what `trainers.train` does in one: draw problems,
sample, grade, compare, take the optimizer's step, add up the figures, and what is kept of the episodes. Answers never
stop early: no token is a stop.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from benchmarks.contest.bare import stand_in
from benchmarks.contest.process import (
    Step,
    Steps,
    StepSpec,
    Stopwatch,
    forget_peak,
    library_versions,
    peak_bytes,
    serve,
)

if TYPE_CHECKING:
    from trainers.config import TrainConfig
    from trainers.logs.run_log import RunLog
    from trainers.run import Run

_NO_TOKEN = -1


def settings(spec: StepSpec, run_dir: Path) -> TrainConfig:
    """The settings of such a run."""
    import json

    from benchmarks.contest.task import ENV_ID
    from trainers.config import TrainConfig

    config = TrainConfig(
        model=spec.model, env=(ENV_ID,), env_args=(json.dumps({"env_id": spec.env_id}),), run_dir=run_dir,
        updates=spec.steps + 1, eval_every=0, save_every=0, groups_per_batch=spec.groups, group_size=spec.group_size,
        max_tokens=spec.max_tokens, lora_rank=spec.lora_rank, lora_alpha=spec.lora_rank, device=spec.device,
        dtype="bfloat16", seed=0,
    )  # fmt: skip
    if spec.tokens_per_microbatch:
        config = dataclasses.replace(config, tokens_per_microbatch=spec.tokens_per_microbatch)
    return config


def measure(spec: StepSpec) -> Steps:
    """Time the steps; the first does not count."""
    import torch

    from trainers.cli.running import quiet_libraries
    from trainers.preflight import preflight
    from trainers.run import open_run
    from trainers.sampling import TorchSampler

    quiet_libraries()
    with tempfile.TemporaryDirectory() as folder:
        config = settings(spec, Path(folder) / "run")
        run = open_run(config, preflight(config), cast("RunLog", _Silent()))
        assert isinstance(run.sampler, TorchSampler)
        run.sampler.stop_tokens = torch.tensor([_NO_TOKEN], device=run.policy.device)
        try:
            _step(run, 0, Stopwatch(spec.device))
            forget_peak(spec.device)
            steps = [_step(run, number, Stopwatch(spec.device)) for number in range(1, spec.steps + 1)]
        finally:
            run.close()
    trained = sum(p.numel() for p in run.policy.trainable.values())
    return Steps(steps, trained, peak_bytes(spec.device), library_versions(("torch", "transformers", "peft")))


def _step(run: Run, number: int, watch: Stopwatch) -> Step:
    from trainers.learn import learn
    from trainers.logs.metrics import records_of, update_metrics

    started = watch.now()
    batch = run.schedule.collect(number)
    collected = watch.now()
    learned = learn(run.policy, run.optimizer, batch.credit, run.config, update=number, corrects=run.corrects)
    learnt = watch.now()
    run.updates_done += 1
    run.drawn = dict(batch.drawn)
    update_metrics(batch, learned, group_size=run.config.group_size)
    records_of(batch, learned, run.renderer, run.config)
    ended = watch.now()
    groups = []
    for group in batch.groups:
        answers = [t.num_action_tokens for t in group.trajectories]
        groups.append((len(group.trajectories[0].tokens) - answers[0], answers))
    return Step(
        seconds=ended - started,
        sampling=batch.clock.sampling_seconds,
        grading=batch.clock.env_seconds,
        training=learnt - collected,
        rows=len(batch.credit.trajectories),
        prompt_tokens=sum(prompt * len(answers) for prompt, answers in groups),
        sampled_tokens=sum(sum(answers) for _, answers in groups),
        trained_tokens=sum(t.num_action_tokens for t in batch.credit.trajectories),
        groups=groups,
    )


class _Silent:
    """All of a run's log that is needed to open one."""

    def say(self, line: str) -> None:
        """Nobody listens."""


def _answer(question: dict[str, Any]) -> dict[str, Any]:
    return dataclasses.asdict(measure(StepSpec(**question)))


if __name__ == "__main__":
    stand_in()
    serve(_answer)
