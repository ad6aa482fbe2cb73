r"""How good is a model at problems of LiveCodeBench that are newer than its training data? Pass@1 and pass@8.

python -m benchmarks.code_eval --model models/Qwen2.5-Coder-0.5B-Instruct --start 2024-08-01 --end 2025-01-31
python -m benchmarks.code_eval --data lcb_v5_verified.jsonl --reference

A model is evaluated as `llm-envs eval` does it, on the problems of `LiveCodeBench-v0` whose contest was in the window
(both ends included), with the estimator of pass@k that has no bias; the same command goes on where it was stopped. A
row goes to `results/code_eval.csv`.

With `--reference` no model is loaded: the rows' own `reference_solutions` are judged, all of which must pass, and of
their `wrong_solutions` those known to fail on the tests at hand, none of which may. It exits with 1 where one does not:
then the judge is wrong, or the machine too slow for the time limits.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.results import append_row
from llm_envs.coding.extraction import in_a_block
from trainers.cli.evaluate import evaluate_and_report
from trainers.config import ConfigError
from trainers.evaluation import EvalConfig
from trainers.evaluation.summary import Summary
from trainers.recipes.cli import run_recipe

ENV = "llm_envs:LiveCodeBench-v0"
KS = (1, 8)
_SHOWN = 20  # of the solutions that were judged wrongly


@dataclass(frozen=True)
class Config:
    """Options of the evaluation."""

    model: str = "Qwen/Qwen2.5-Coder-0.5B-Instruct"
    """Hub id or transformers folder."""
    adapter: Path | None = None
    """A PEFT adapter folder to put on the model."""
    start: str | None = None
    """First day of the window, as YYYY-MM-DD; default: that of the first problem."""
    end: str | None = None
    """Last day of the window; default: that of the last problem."""
    data: Path | None = None
    """A file of rows; default: where the environment finds them ($LLM_ENVS_DATA, or the hub)."""
    sandbox: str | None = None
    """The backend that runs the answers; default: the environment's."""
    problems: int = 1_000_000
    """Most problems."""
    samples: int = 8
    """Answers to each; at least 8 for pass@8."""
    temperature: float = 0.8
    """Of sampling; 0: greedy, with one answer a problem and pass@1 alone."""
    max_tokens: int = 1024
    """Most tokens of an answer."""
    rows: int = 64
    """Answers sampled at once."""
    device: str = "auto"
    """auto, cpu, cuda, ..."""
    dtype: str = "auto"
    """auto, bfloat16 or float32."""
    seed: int = 0
    """Of sampling."""
    reference: bool = False
    """Judge the rows' own solutions instead of a model's."""
    workers: int = os.cpu_count() or 1
    """Solutions judged at once, with --reference."""
    out: Path = Path("runs/code_eval")
    """Where a model's answers and the summary go. One evaluation a folder."""
    record: bool = True
    """Append to results/."""

    def env_args(self) -> dict[str, Any]:
        """The environment's arguments; what was left at its default is left to the environment."""
        given = {
            "start": self.start,
            "end": self.end,
            "data": None if self.data is None else str(self.data),
            "sandbox": self.sandbox,
        }
        return {name: value for name, value in given.items() if value is not None}

    def of_model(self) -> EvalConfig:
        """The same evaluation in the words of `llm-envs eval`."""
        names = {option.name for option in dataclasses.fields(EvalConfig)}
        shared = {
            option.name: getattr(self, option.name) for option in dataclasses.fields(self) if option.name in names
        }
        shared |= {"samples": self.samples if self.temperature else 0, "temperature": self.temperature or 1.0}
        return EvalConfig(
            **shared,
            env=(ENV,),
            env_args=(json.dumps(self.env_args()),),
            greedy=not self.temperature,
            max_rows=self.rows,
        )


# --- A model ---


def report_model(config: Config, records: Sequence[Mapping[str, Any]], summary: Summary, *, is_new: bool) -> None:
    """Print, and append the row of an evaluation that has none yet."""
    verdicts = Counter(record["verdicts"][-1] for record in records)
    rates = summary.sampled or summary.greedy
    if rates is None:
        return
    pass_at = summary.pass_at or {1: rates.accuracy}
    print(f"\n{config.model} on {window(config)}: {rates.problems} problems, {rates.answers} answers")
    row: dict[str, object] = {
        "model": Path(config.model).name,  # a folder's place on this machine is nobody's business
        "adapter": "" if config.adapter is None else config.adapter.name,
        "data": "" if config.data is None else config.data.name,
        "start": config.start or "",
        "end": config.end or "",
        "problems": rates.problems,
        "samples": config.samples if config.temperature else 1,
        "temperature": config.temperature,
        "max_tokens": config.max_tokens,
        "dtype": config.dtype,
        "seed": config.seed,
    }
    for k in KS:
        estimate = pass_at.get(k)
        print(f"  pass@{k:<3}{estimate or f'not estimated: no problem has {k} answers that could be judged'}")
        for end in ("", "_low", "_high"):
            value = None if estimate is None else getattr(estimate, end.removeprefix("_") or "value")
            row[f"pass_at_{k}{end}"] = "" if value is None else round(value, 4)
    said = ", ".join(f"{verdict} {count}" for verdict, count in verdicts.most_common())
    print(f"  verdicts  {said}; what is unscorable is left out")
    if config.record and is_new:
        append_row("code_eval", {**row, "verdicts": json.dumps(dict(sorted(verdicts.items())))})


def window(config: Config) -> str:
    """The data set and its dates, in words."""
    return f"LiveCodeBench, {config.start or 'the first problem'} to {config.end or 'the last'}"


# --- The judge ---


@dataclass(frozen=True)
class Solution:
    """A program for a row's problem, and whether it is right."""

    row: Mapping[str, Any]
    code: str
    is_right: bool


@dataclass(frozen=True)
class Judged:
    """What the environment said of a solution, and how long it took to."""

    solution: Solution
    verdict: str
    seconds: float

    @property
    def is_as_known(self) -> bool:
        """A wrong solution may fail in any way; that nothing could be said of one counts against us."""
        if self.solution.is_right or self.verdict == "unscorable":
            return self.solution.is_right and self.verdict == "correct"
        return self.verdict != "correct"


def read_solutions(config: Config) -> list[Solution]:
    """The solutions of the rows in the window: right ones, and wrong ones that are known to fail on the row's tests.

    Raises:
        ConfigError: If there is no file of rows, or none of its rows in the window has a solution.
    """
    if config.data is None or config.data.suffix != ".jsonl":
        raise ConfigError("--reference needs --data, a JSONL file of rows with reference_solutions")
    if not config.data.is_file():
        raise ConfigError(f"there is no file {config.data}")
    found: list[Solution] = []
    with config.data.open(encoding="utf-8") as file:
        rows = [row for row in map(json.loads, file) if _is_in_window(config, row["contest_date"])]
    for row in rows[: config.problems]:
        tests = {name: row[name] for name in row if name not in ("reference_solutions", "wrong_solutions")}
        found += [Solution(tests, code, True) for code in row.get("reference_solutions") or ()]
        if row.get("wrong_fails_here"):
            found += [Solution(tests, code, False) for code in row["wrong_solutions"]]
    if not found:
        raise ConfigError(f"no row of {config.data} in {window(config)} has a solution")
    return found


def _is_in_window(config: Config, contest_date: str) -> bool:
    day = contest_date[: len("2024-01-31")]
    return (config.start or day) <= day <= (config.end or day)


def judge(config: Config, solution: Solution) -> Judged:
    """Play the solution as an answer, in an environment of its problem alone."""
    import gymnasium as gym

    options = {name: value for name, value in config.env_args().items() if name == "sandbox"}
    env = gym.make(ENV, data=[solution.row], **options)
    try:
        env.reset(options={"index": 0})
        started = time.perf_counter()
        info = env.step(in_a_block(solution.code))[4]
        return Judged(solution, str(info["verdict"]), time.perf_counter() - started)
    finally:
        env.close()


def check_judge(config: Config) -> bool:
    """Judge all solutions, print what came of them and append a row; whether each came out as it is known to."""
    solutions = read_solutions(config)
    started = time.perf_counter()
    with ThreadPoolExecutor(config.workers) as pool:
        judged = list(pool.map(lambda solution: judge(config, solution), solutions))
    seconds = time.perf_counter() - started
    right = [found for found in judged if found.solution.is_right]
    wrong = [found for found in judged if not found.solution.is_right]
    passed, rejected = (sum(found.is_as_known for found in some) for some in (right, wrong))
    print(
        f"{window(config)}: {passed} of {len(right)} right solutions pass, {rejected} of {len(wrong)} wrong ones fail"
    )
    print(f"  {seconds:.1f} s, at the median {statistics.median(found.seconds for found in judged) * 1e3:.0f} ms each")
    mistakes = [found for found in judged if not found.is_as_known]
    for found in mistakes[:_SHOWN]:
        kind = "right" if found.solution.is_right else "wrong"
        print(f"  {found.solution.row.get('question_id')}: a {kind} solution was judged {found.verdict}")
    if len(mistakes) > _SHOWN:
        print(f"  and {len(mistakes) - _SHOWN} more")
    if config.record:
        row: dict[str, object] = {
            "data": config.data.name if config.data else "",
            "start": config.start or "",
            "end": config.end or "",
            "right": len(right),
            "right_passed": passed,
            "wrong": len(wrong),
            "wrong_failed": rejected,
            "workers": config.workers,
            "seconds": round(seconds, 1),
        }
        append_row("code_eval_reference", row)
    return not mistakes


def main(config: Config) -> int:
    """Evaluate and report; returns 1 when the judge was checked and is wrong, else 0.

    Raises:
        ConfigError: Where a setting cannot work.
    """
    for name in ("problems", "workers"):
        if getattr(config, name) < 1:
            raise ConfigError(f"{name} must be at least 1, not {getattr(config, name)}")
    for name in ("start", "end"):
        _check_date(name, getattr(config, name))
    if config.reference:
        return 0 if check_judge(config) else 1
    found = evaluate_and_report(config.of_model())
    for summary in found.summaries.values():
        report_model(config, found.records, summary, is_new=found.is_new)
    return 0


def _check_date(name: str, value: str | None) -> None:
    try:
        is_date = value is None or date.fromisoformat(value).isoformat() == value
    except ValueError:
        is_date = False
    if not is_date:
        raise ConfigError(f"{name} must be a date as in 2024-08-01, not {value!r}")


if __name__ == "__main__":
    run_recipe(Config, lambda config: sys.exit(main(config)), description="Pass@1 and pass@8 on LiveCodeBench.")
