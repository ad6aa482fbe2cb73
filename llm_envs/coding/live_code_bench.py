"""LiveCodeBench: contest problems with the date on which each was first published."""

from dataclasses import dataclass
from datetime import date
from typing import Any, ClassVar, Unpack

from llm_envs.coding.code_env import CodeOptions, DatasetCodeEnv
from llm_envs.coding.deepcoder import read_metadata, read_reference
from llm_envs.coding.outputs import OutputRule
from llm_envs.coding.problems import Problem, decode_private_tests, read_tests
from llm_envs.coding.programs import PRELUDE
from llm_envs.datasets import DatasetSource, Filter, Row

__all__ = ["LIVE_CODE_BENCH", "LiveCodeBenchEnv"]

LIVE_CODE_BENCH = DatasetSource(
    name="live_code_bench",
    hub_id="livecodebench/code_generation_lite",
    revision="0fe84c3912ea0c4d4a78037083943e8f0c4dd505",
    hub_files={"test": "test*.jsonl"},
    columns=(
        "question_content",
        "starter_code",
        "public_test_cases",
        "private_test_cases",
        "metadata",
        "contest_date",
    ),
    optional_columns=("reference_solutions",),
    file_names={"test": ("test", "test*")},
)


@dataclass(frozen=True)
class _Within:
    start: str
    end: str

    def __call__(self, row: Row) -> bool:
        return self.start <= str(row["contest_date"])[:10] <= self.end


class LiveCodeBenchEnv(DatasetCodeEnv):
    """Problems of LeetCode, AtCoder and Codeforces, as `CodeEnv` specifies.

    1,055 tasks from May 2023 on, all in split ``test``. Programs read standard input, or complete a class ``Solution``.
    Hidden are the private and the public tests, public the latter. Before every program runs what LiveCodeBench itself
    runs: ``from math import *`` and the like, and a greater limit of recursion. A line of numbers is compared by value,
    and white space around a line does not count.

    Args:
        start: The first day of the contests, as ``"2024-08-01"`` or a date; None: from the first on.
        end: The last day, included; None: to the last.
        **options: Those of `DatasetCodeEnv`.

    Raises:
        ValueError: If a day is none, or no contest was held within them.
    """

    source: ClassVar[DatasetSource] = LIVE_CODE_BENCH

    def __init__(
        self, *, start: str | date | None = None, end: str | date | None = None, **options: Unpack[CodeOptions]
    ) -> None:
        self.start, self.end = _read_day(start, "start"), _read_day(end, "end")
        super().__init__(**options)

    def _filter(self) -> Filter | None:
        if self.start is None and self.end is None:
            return None
        asked = f"a contest date from {self.start or 'the first'} to {self.end or 'the last'}"
        return Filter(asked, ("contest_date",), _Within(self.start or "", self.end or "9999"))

    @staticmethod
    def _text(row: Row) -> str:
        return str(row["question_content"])

    @staticmethod
    def _read(row: Row) -> Problem:
        function = read_metadata(row["metadata"]).get("func_name")
        public = read_tests(row["public_test_cases"], function=function)
        return Problem(
            LiveCodeBenchEnv._text(row),
            public + read_tests(decode_private_tests(row["private_test_cases"]), function=function),
            starter_code=str(row["starter_code"] or ""),
            public_tests=public,
            prelude=PRELUDE,
            rule=OutputRule(by_value=True, ignore_indent=True),
            reference=read_reference(row),
        )


def _read_day(given: Any, name: str) -> str | None:
    if given is None:
        return None
    try:
        return (given if isinstance(given, date) else date.fromisoformat(given)).isoformat()[:10]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be a day, as '2024-08-01', got {given!r}") from error
