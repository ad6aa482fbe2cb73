"""The training loop: sample, grade, centre, update, repeat."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from trainers.checkpoints import claimed_run_dir, code_version, empty_run_dir
from trainers.config import Interrupted, TrainConfig
from trainers.environments import described
from trainers.evaluation.greedy import evaluate
from trainers.learn import learn
from trainers.logs.metrics import evaluation_metrics, records_of, update_metrics
from trainers.logs.run_log import RunLog
from trainers.preflight import preflight
from trainers.report import write_report
from trainers.rollouts import Progress
from trainers.run import Run, known_returns, library_versions, open_run

__all__ = ["Run", "train"]


def train(config: TrainConfig, *, log: RunLog | None = None) -> Run:
    """Train an adapter as `config` says.

    Writes to `config.run_dir`: `config.json`, `metrics.jsonl` (a line for every update and evaluation),
    `episodes.jsonl` (some groups of every update, as text), `checkpoints/`, `report.html`, and at the end `adapter/`.

    Raises:
        ConfigError: before anything is sampled, when a setting cannot work.
        Interrupted: on Ctrl-C, after a checkpoint of the last finished update was written. (So it is on any error.)
        BrokenEnvironmentError: when too many problems in a row cannot be played.
        CheckpointError: when the adapter cannot be written in the end.
    """
    checked = preflight(config)
    with ExitStack() as last:  # in reverse: sampling has ended before trackers are waited for
        last.enter_context(claimed_run_dir(config))
        log = log or RunLog(config)
        run = open_run(config, checked, log)
        last.callback(_report, run)
        last.callback(log.stop)
        last.callback(_close, run)
        if config.overwrite:  # not before this one has what it needs
            empty_run_dir(config.run_dir)
        log.start(
            run.updates_done,
            known_returns(run.mix, several_players=run.opponents is not None, retries=config.env_retries)
            if _knows(run)
            else {},
            versions=library_versions(),
            commit=code_version(),
            device=str(run.policy.device),
        )
        try:
            _go_on(run)
        except KeyboardInterrupt:
            _rescue(run, "Interrupted")
            raise Interrupted(config.run_dir) from None
        except (Exception, SystemExit):
            _rescue(run, "Stopped by an error")
            raise
    return run


def _go_on(run: Run) -> None:
    """Everything from here to the last update."""
    config = run.config
    _evaluate_if_due(run)
    while run.updates_done < config.updates:
        _update(run)
        _evaluate_if_due(run)
        if config.save_every and run.updates_done % config.save_every == 0:
            run.save()
    run.save()
    run.export()


def _update(run: Run) -> None:
    """One batch: roll out, compute advantages, take the optimizer's steps, log."""
    config, number, log, started = run.config, run.updates_done, run.log, time.perf_counter()
    batch = run.schedule.collect(number, progress=_as_stages(log))
    collected = time.perf_counter()
    log.stage("training", 100, "%")
    with _ctrl_c_waits() as hold:  # from the first step on: steps, count and log agree, whenever it comes
        learned = learn(
            run.policy, run.optimizer, batch.credit, config, update=number, corrects=run.corrects,
            before_step=hold, progress=lambda done, total: log.advance(100 * done // total),
        )  # fmt: skip
        hold()
        run.updates_done += 1
        run.drawn = dict(batch.drawn)
        if run.opponents is not None and run.updates_done % config.past_every == 0:
            run.opponents.remember(run.updates_done)
        metrics = update_metrics(batch, learned, group_size=config.group_size) | {
            "sampling_seconds": batch.clock.sampling_seconds,
            "env_seconds": batch.clock.env_seconds,
            "training_seconds": time.perf_counter() - collected,
            "seconds": time.perf_counter() - started,
            **({"staleness": 1.0} if config.max_staleness and number else {}),
        }
        log.update(run.updates_done, metrics, records_of(batch, learned, run.renderer, config))


def _evaluate_if_due(run: Run) -> None:
    config, every, done = run.config, run.config.eval_every, run.updates_done
    if not every or (done % every and done != config.updates) or done in dict(run.log.evaluations):
        return
    run.log.stage("evaluating", len(run.mix.tasks), "environments")
    run.eval_sampler.load_adapter(run.policy)
    played = {}
    for i, (task, pool) in enumerate(zip(run.mix.tasks, run.mix.eval_pools, strict=True)):
        played[task.name] = evaluate(pool, run.eval_sampler, run.renderer, size=config.eval_size, settings=run.settings)
        run.log.advance(i + 1)
    run.log.evaluation(done, evaluation_metrics(played))


def _rescue(run: Run, what: str) -> None:
    """Save the last finished update; whatever was under way had not touched the weights yet."""
    saved = run.save()
    run.log.say(f"{what} after update {run.updates_done}." + (f" Adapter and trainer state: {saved}" if saved else ""))


def _report(run: Run) -> None:
    """A report that cannot be written is no reason to lose the run, or to hide why it ended."""
    try:
        write_report(run.config.run_dir)
    except Exception as error:
        run.log.say(f"There is no report: {described(error)}")


def _close(run: Run) -> None:
    """Neither is an environment that will not go."""
    try:
        run.close()
    except Exception as error:
        run.log.say(f"Not everything could be closed: {described(error)}")


def _knows(run: Run) -> bool:
    return run.opponents is None or run.config.eval_every > 0


def _as_stages(log: RunLog) -> Progress:
    """Shows a rollout's progress: a new stage whenever it does something else."""
    doing = ""

    def show(stage: str, done: int, total: int) -> None:
        nonlocal doing
        if stage != doing:
            doing = stage
            log.stage(stage, total, "episodes")
        log.advance(done)

    return show


@contextmanager
def _ctrl_c_waits() -> Iterator[Callable[[], None]]:
    """Gives a function; once that was called, Ctrl-C is held back until the block is done."""
    pressed: list[bool] = []
    previous: list[Any] = []

    def hold() -> None:
        if not previous and threading.current_thread() is threading.main_thread():  # no signal arrives elsewhere
            previous.append(signal.signal(signal.SIGINT, lambda *_: pressed.append(True)))

    try:
        yield hold
    finally:
        if previous:
            signal.signal(signal.SIGINT, previous[0])
    if pressed:
        raise KeyboardInterrupt
