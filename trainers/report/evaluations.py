"""What the folder of an evaluation says: its settings, and its summary as tables."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trainers.evaluation.config import EvalConfig
from trainers.report.reading import date, is_number, model_of, read_object, settings_of, task_names

Cell = tuple[str, str]
"""A value and its interval; either may be empty."""

_ROWS = (
    ("accuracy", "accuracy", True),
    ("return_mean", "mean return", False),
    ("regret", "regret", False),
    ("format", "format kept", True),
    ("truncated", "cut off", True),
)
_NOTHING: Cell = ("\N{EN DASH}", "")
_MINUS = "\N{MINUS SIGN}"


def is_evaluation(run_dir: Path) -> bool:
    """Whether a folder is one of `llm-envs eval`: no run of training, and its settings are those of an evaluation."""
    config = read_object(run_dir / "config.json")
    return not (run_dir / "metrics.jsonl").is_file() and {"problems", "samples"} <= config.keys()


def read_evaluation(run_dir: Path) -> dict[str, Any]:
    """All of an evaluation but its episodes, as JSON values for the page.

    Keys: `title`, `model`, `tasks`, `facts`, `settings` and `notes` as in `read_run`; `tables`, one an environment,
    each `{"name", "columns": [text, ..], "rows": [[label, [value, interval], ..], ..], "notes": [sentence, ..]}`;
    `figures` ([name, value, remark]), those that one looks for first; no `updates` and `evaluations`.
    """
    config = read_object(run_dir / "config.json")
    summary = read_object(run_dir / "summary.json")
    tasks, model = task_names(config), model_of(config)
    tables = [_table(name, found) for name, found in summary.items() if isinstance(found, dict)]
    facts = [("evaluation", run_dir.resolve().name)]
    if is_number(config.get("problems")):
        facts.append(("problems", f"{config['problems']}{' of each environment' if len(tasks) > 1 else ''}, at most"))
    path = run_dir / "summary.json"
    if path.is_file():
        facts.append(("finished", date(path.stat().st_mtime)))
    return {
        "title": f"Evaluation of {model} on {', '.join(tasks) or 'an environment'}",
        "model": model,
        "tasks": tasks,
        "facts": [(name, value) for name, value in facts if value],
        "settings": settings_of(config, EvalConfig, shown_elsewhere=("model", "env", "problems")),
        "tables": tables,
        "figures": _figures(summary),
        "updates": {"update": []},
        "evaluations": {"update": []},
        "notes": [] if tables else ["This evaluation has no summary yet: it is written when the last answer is in."],
    }


def _table(name: str, summary: Mapping[str, Any]) -> dict[str, Any]:
    kinds = {kind: rates for kind in ("greedy", "sampled") if (rates := _dict(summary, kind))}
    rows: list[list[Any]] = []
    for field, label, is_share in _ROWS:
        cells = [_cell(rates.get(field), is_share=is_share) for rates in kinds.values()]
        if any(cell != _NOTHING for cell in cells):
            rows.append([label, *cells])
    for k, estimate in _dict(summary, "pass_at").items():
        # It is of sampled answers alone.
        cell = _cell(estimate, is_share=True)
        rows.append([f"pass@{k}", *(cell if kind == "sampled" else ("", "") for kind in kinds)])
    return {
        "name": name + _in_brackets(_dict(summary, "env_args")),
        "columns": [f"{kind}, {_counted(rates)}" for kind, rates in kinds.items()],
        "rows": rows,
        "notes": [*_notes(summary, kinds)],
    }


def _cell(estimate: Any, *, is_share: bool) -> Cell:
    """A value with its 95 % interval, where either is known."""
    if not isinstance(estimate, dict) or not is_number(estimate.get("value")):
        return _NOTHING
    low, high = estimate.get("low"), estimate.get("high")
    interval = ""
    if is_number(low) and is_number(high):
        interval = f"{_number(low, is_share=is_share)} to {_number(high, is_share=is_share)}"
    return _number(estimate["value"], is_share=is_share), interval


def _number(value: float, *, is_share: bool) -> str:
    text = f"{abs(value):.1%}".replace("%", "\N{THIN SPACE}%") if is_share else f"{abs(value):.3f}"
    return (_MINUS if value < 0 and any(c in "123456789" for c in text) else "") + text


def _counted(rates: Mapping[str, Any]) -> str:
    problems, answers = rates.get("problems"), rates.get("answers")
    of = _count(problems, "problem")
    return of if answers == problems else f"{_count(answers, 'answer')} to {of}"


def _count(number: Any, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _in_brackets(args: Mapping[str, Any]) -> str:
    return f" {json.dumps(args, ensure_ascii=False)}" if args else ""


def _notes(summary: Mapping[str, Any], kinds: Mapping[str, Any]) -> Iterator[str]:
    if not kinds:
        yield "No answer could be judged."
    known = _dict(summary, "reference")
    best, threshold = known.get("best"), known.get("threshold")
    if is_number(best):
        over = f", over all {known['num_tasks']} tasks" if is_number(known.get("num_tasks")) else ""
        yield f"Best known return: {_number(best, is_share=False)} ({known.get('solver')}){over}."
    if is_number(threshold):
        yield f"The environment counts as solved from a mean return of {_number(threshold, is_share=False)}."
    if any(estimate is None for estimate in _dict(summary, "pass_at").values()):
        yield "pass@k is not known where no problem has k answers that could be judged."
    left_out = summary.get("unscorable")
    if is_number(left_out) and left_out:
        yield f"{_count(left_out, 'answer')} could not be judged and {'is' if left_out == 1 else 'are'} left out."


def _figures(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Of one environment; the tables of several say it better."""
    if len(summary) != 1 or not isinstance(found := next(iter(summary.values())), dict):
        return []
    figures = []
    for kind in ("greedy", "sampled"):
        for field, label, is_share in _ROWS[:3]:
            value, interval = _cell(_dict(found, kind).get(field), is_share=is_share)
            if value != _NOTHING[0]:
                figures.append((f"{label}, {kind}", value, interval))
    return figures


def _dict(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = values.get(name)
    return found if isinstance(found, dict) else {}
