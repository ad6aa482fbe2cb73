"""Evaluate a model: greedy accuracy, pass@k, return and regret, with intervals."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainers.cli import EXIT_CANNOT, TRAIN, lacks

if TYPE_CHECKING:
    from trainers.evaluation import EvalConfig
    from trainers.evaluation.estimates import Estimate, Mean
    from trainers.evaluation.summary import Rates, Summary


@dataclass(frozen=True)
class Evaluated:
    """An evaluation that is over.

    Args:
        records: of every episode, as they stand in `episodes.jsonl`.
        summaries: by the name of the environment's task.
        is_new: whether anything was played now.
    """

    records: Sequence[dict[str, Any]]
    summaries: dict[str, Summary]
    is_new: bool


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `llm-envs eval`.

    Returns:
        The exit code.
    """
    if lacks(TRAIN, command="llm-envs eval"):
        return EXIT_CANNOT
    from trainers.cli.running import run_command
    from trainers.evaluation import EvalConfig

    return run_command(
        EvalConfig, run, description=str(__doc__), arguments=arguments, prog="llm-envs eval", takes_file=True
    )


def run(config: EvalConfig) -> None:
    """Evaluate, print what was found and write it to `summary.json`.

    Raises:
        ConfigError: where a setting cannot work.
        BrokenEnvironmentError: where an environment fails again and again, or no answer at all could be judged.
    """
    evaluate_and_report(config)


def evaluate_and_report(config: EvalConfig) -> Evaluated:
    """The same; returns what was found."""
    from trainers.environments import BrokenEnvironmentError
    from trainers.evaluation.folder import answered_at, write_summary
    from trainers.evaluation.playing import evaluate, references
    from trainers.evaluation.summary import has_failed, is_scorable, summarize

    records, is_new = evaluate(config)
    failures = [record["failure"] for record in records if has_failed(record)]
    if not any(map(is_scorable, records)):
        why = f", the last for {failures[-1]}" if failures else ""
        raise BrokenEnvironmentError(f"none of {len(records)} answers could be judged{why}")
    found = summarize(records, references(config))
    write_summary(config.out, {name: dataclasses.asdict(summary) for name, summary in found.items()})
    if not is_new:
        print(f"Nothing was played: the answers are those in {config.out}, of {answered_at(config.out)}")
    who = config.model if config.adapter is None else f"{config.model} with {config.adapter}"
    for name, summary in found.items():
        print(f"{name}{_in_brackets(summary)}, {who}")
        print("\n".join(lines_of(summary)))
    if failures:
        print(f"The same command plays again what failed, as by {failures[-1]}")
    print(f"95 % intervals. Answers and summary are in {config.out}")
    return Evaluated(records, found, is_new)


def _in_brackets(summary: Summary) -> str:
    return f" {json.dumps(summary.env_args)}" if summary.env_args else ""


def lines_of(summary: Summary) -> list[str]:
    """What was found on one environment, as a table: a row a quantity, a column for greedy and for sampled answers."""
    columns = {name: rates for name, rates in (("greedy", summary.greedy), ("sampled", summary.sampled)) if rates}
    if not columns:
        return ["  no answer could be judged"]
    rows = [["", *(f"{name}, {_counted(rates)}" for name, rates in columns.items())]]
    names = {
        "accuracy": "accuracy", "return_mean": "mean return", "regret": "regret", "format": "format kept",
        "truncated": "cut off",
    }  # fmt: skip
    for field, name in names.items():
        found: list[Estimate | Mean | None] = [getattr(rates, field) for rates in columns.values()]
        if any(found):
            rows.append([name, *("-" if estimate is None else str(estimate) for estimate in found)])
    widths = [max(len(row[i]) for row in rows) for i in range(1 + len(columns))]
    lines = ["  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    for k, estimate in summary.pass_at.items():
        said = "no problem has so many answers that could be judged" if estimate is None else estimate
        lines.append(f"  {f'pass@{k}'.ljust(widths[0])}  {said}")
    return [*lines, *_notes(summary)]


def _counted(rates: Rates) -> str:
    answers = "" if rates.answers == rates.problems else f"{rates.answers} answers to "
    return f"{answers}{rates.problems} problems"


def _notes(summary: Summary) -> list[str]:
    known, found, notes = summary.reference, summary.greedy or summary.sampled, []
    if known.best is not None:
        is_part = known.num_tasks is not None and found is not None and found.problems < known.num_tasks
        over = f", over all {known.num_tasks} tasks" if is_part else ""
        notes.append(f"  best known return {known.best:.4g} ({known.solver}){over}")
    if known.threshold is not None and found is not None:
        reached = "reached" if found.return_mean.value >= known.threshold else "not reached"
        notes.append(f"  counts as solved from {known.threshold:.4g}, {reached}")
    if any(rates is not None and rates.return_mean.low is None for rates in (summary.greedy, summary.sampled)):
        notes.append("  no interval: of one problem, or of problems that agree, chance cannot be told")
    if summary.unscorable:
        notes.append(f"  {summary.unscorable} answers could not be judged and are left out")
    return notes
