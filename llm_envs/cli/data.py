"""``llm-envs check-data``: whether data can be graded."""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import gymnasium as gym

from llm_envs import grading
from llm_envs.cli.shared import add_env_args, complain, positive, show_progress
from llm_envs.datasets import DataUnavailableError
from llm_envs.grading import Verdict
from llm_envs.maths.dataset_env import DatasetMathEnv, why_ungradable
from llm_envs.registration import REGISTRY

__all__ = ["DataReport", "TextOnlyRow", "UngradableRow", "add_parser", "check_data"]

_GOLD_WIDTH = 80


@dataclass(frozen=True)
class UngradableRow:
    """A row that no answer can be graded against.

    Attributes:
        index: Its number among the environment's tasks.
        verdict: ``unscorable``.
        reason: What is wrong, in a few words.
        gold: The gold answer in one line, shortened; None if there is none.
    """

    index: int
    verdict: str
    reason: str
    gold: str | None


@dataclass(frozen=True)
class TextOnlyRow:
    """A row whose gold answer is no formula or anything else that is known, so that only the same text is correct.

    Attributes:
        index: Its number among the environment's tasks.
        gold: The gold answer in one line, shortened.
    """

    index: int
    gold: str


@dataclass(frozen=True)
class DataReport:
    """What `check_data` found.

    Attributes:
        env: The environment's id.
        rows: How many rows were looked at.
        gradable: How many of them can be graded.
        duplicates: How many repeat the question of an earlier one, white space aside.
        text_only: Those of the gradable rows for which only the same text is correct.
        ungradable: The rows that cannot be graded.
    """

    env: str
    rows: int
    gradable: int
    duplicates: int
    text_only: list[TextOnlyRow]
    ungradable: list[UngradableRow]


def check_data(env_id: str, *, limit: int | None = None, **kwargs: Any) -> DataReport:
    """Find the rows of an environment that no answer can be graded against: the gold answer is damaged, say.

    Whether a gold answer is right for its question nobody checks.

    Args:
        env_id: An id of `llm_envs.registration.REGISTRY`; ``llm_envs:`` may stand in front of it.
        limit: How many rows to look at; None: all.
        **kwargs: Constructor arguments of the environment, such as ``split`` and ``data``.

    Raises:
        ValueError: If the id is not known or has no rows, or an argument is wrong.
        OSError: If ``data`` does not exist.
        ImportError: If a package is missing that the environment needs.
        DataUnavailableError: If the rows are nowhere to be had.
    """
    return _check_rows(*_make(env_id, kwargs), limit)


def _check_rows(env_id: str, env: DatasetMathEnv, limit: int | None) -> DataReport:
    total = env.num_tasks if limit is None else min(limit, env.num_tasks)
    texts: Counter[str] = Counter()
    text_only = []
    ungradable = []
    for index in range(total):
        text, gold, reason = _look_at(env, index)
        texts[" ".join(text.split())] += 1
        if reason is not None:
            ungradable.append(UngradableRow(index, Verdict.UNSCORABLE.value, reason, _one_line(gold)))
        elif grading.is_text_only(gold or ""):
            text_only.append(TextOnlyRow(index, _one_line(gold) or ""))
        show_progress(index + 1, total, "rows")
    return DataReport(
        env=env_id,
        rows=total,
        gradable=total - len(ungradable),
        duplicates=sum(count - 1 for text, count in texts.items() if text),
        text_only=text_only,
        ungradable=ungradable,
    )


def _make(env_id: str, kwargs: dict[str, Any]) -> tuple[str, DatasetMathEnv]:
    env_id = env_id.removeprefix("llm_envs:")
    known = [name for name, entry in REGISTRY.items() if entry.data is not None]
    if env_id not in known:
        raise ValueError(f"no environment {env_id!r} with rows; there are {', '.join(known)}")
    try:
        env = gym.make(env_id, **kwargs).unwrapped
    except (TypeError, gym.error.Error) as error:  # such as an argument that it does not have
        raise ValueError(f"{env_id}: {error}") from error
    if not isinstance(env, DatasetMathEnv):
        raise ValueError(f"{env_id} has no answers that stand in its rows")  # noqa: TRY004 (of the id)
    return env_id, env


class _Looked(NamedTuple):
    text: str
    gold: str | None
    reason: str | None


def _look_at(env: DatasetMathEnv, index: int) -> _Looked:
    try:
        question = env.question(index)
    except ValueError as error:  # a broken line
        return _Looked("", None, str(error))
    return _Looked(question.text, question.gold, why_ungradable(question.text, question.gold))


def _one_line(gold: str | None) -> str | None:
    if gold is None:
        return None
    line = " ".join(gold.split()).encode("utf-8", "backslashreplace").decode()  # a lone surrogate cannot be printed
    return line if len(line) <= _GOLD_WIDTH else line[: _GOLD_WIDTH - 1] + "…"


# --- The command ---


def add_parser(commands: Any) -> None:
    """The arguments of ``llm-envs check-data``."""
    check = commands.add_parser(
        "check-data",
        help="name the rows of an environment that cannot be graded",
        description="Names the rows that no answer can be graded against, for the gold answer is missing, damaged or "
        "cannot be read, and those for which only the same text is correct. Whether a gold answer is right for its "
        "question is not checked. Exit code 0: all rows can be graded; 1: some cannot; 2: nothing could be checked.",
    )
    check.add_argument("env", help="an id, such as MATH-v0")
    check.add_argument("--split", help="the split (default: the environment's)")
    check.add_argument("--data", help="a JSONL or Parquet file, or a pattern of such (default: where the env looks)")
    add_env_args(check)
    check.add_argument("--limit", type=positive, help="look at the first rows only")
    check.add_argument("--json", action="store_true", help="print one JSON object")
    check.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    given = {name: getattr(options, name) for name in ("split", "data") if getattr(options, name) is not None}
    try:
        report = _check_rows(*_make(options.env, {**options.env_args, **given}), options.limit)
    except (DataUnavailableError, ImportError, OSError, ValueError) as error:
        return complain(error)
    if options.json:
        sys.stdout.write(json.dumps(asdict(report)) + "\n")
    else:
        sys.stdout.writelines(line + "\n" for line in _report_lines(report))
    return 1 if report.ungradable else 0


def _report_lines(report: DataReport) -> Iterator[str]:
    yield f"{report.env}: {report.rows} rows, {report.gradable} can be graded, {len(report.ungradable)} cannot"
    if report.duplicates:
        yield f"questions that occur before: {report.duplicates}"
    if report.text_only:
        yield f"answers for which only the same text is correct: {len(report.text_only)}"
    for row in report.ungradable:
        gold = f": {row.gold}" if row.gold else ""
        yield f"  row {row.index}, {row.verdict}, {row.reason}{gold}"
    for text_only in report.text_only:
        yield f"  row {text_only.index}, only the same text: {text_only.gold}"
