"""DeepCoder: 24,000 problems of programming contests, from four sources."""

import os
from dataclasses import replace
from typing import Any, ClassVar

from llm_envs.coding.code_env import DatasetCodeEnv
from llm_envs.coding.problems import BrokenRowError, Problem, load_literal, output_rule, read_tests
from llm_envs.coding.programs import PRELUDE
from llm_envs.datasets import DATA_VARIABLE, Data, DatasetSource, Row, Rows, load_rows

__all__ = ["DEEPCODER", "DeepCoderEnv", "read_metadata"]

DEEPCODER = DatasetSource(
    name="deepcoder",
    hub_id="agentica-org/DeepCoder-Preview-Dataset",
    revision="177913a7bd43791646ef6a43645caa3c871ab3db",
    hub_files={
        "train": "*/train-*.parquet",
        "test": "*/test-*.parquet",
        "primeintellect": "primeintellect/train-*.parquet",
        "taco": "taco/train-*.parquet",
        "lcbv5": "lcbv5/train-*.parquet",
        "lcbv5_test": "lcbv5/test-*.parquet",
        "codeforces": "codeforces/test-*.parquet",
    },
    columns=("problem", "tests"),
    optional_columns=("starter_code", "metadata"),
)
_REFERENCES = ("solutions", "reference_solutions")
_TACO = replace(
    DEEPCODER,
    columns=("question", "input_output"),
    optional_columns=("starter_code", *_REFERENCES, "special_judge_case"),
)


class DeepCoderEnv(DatasetCodeEnv):
    """Problems of PrimeIntellect, TACO, LiveCodeBench (until July 2024) and Codeforces, as `CodeEnv` specifies.

    About 24,000 tasks in split ``train``; LiveCodeBench's from August 2024 on and Codeforces's in ``test``. A split of
    one source alone is a great deal smaller: ``primeintellect``, ``taco``, ``lcbv5``, ``lcbv5_test``, ``codeforces``.

    Programs read standard input, or are called where the row names a function. The rows have no public tests, so that
    there is one turn only. They may also be TACO's own, with ``question`` and ``input_output``. Reference programs are
    read from files and rows, and not from the hub, where they would only cost time.

    Args:
        **options: Those of `DatasetCodeEnv`.
    """

    source: ClassVar[DatasetSource] = DEEPCODER
    default_split: ClassVar[str] = "train"

    def _load_rows(self, data: Data | None, split: str) -> Rows:
        if data is None and not os.environ.get(DATA_VARIABLE):
            return load_rows(DEEPCODER, split=split)
        source = replace(DEEPCODER, optional_columns=(*DEEPCODER.optional_columns, *_REFERENCES))
        try:
            return load_rows(source, data=data, split=split)
        except ValueError:
            try:
                return load_rows(_TACO, data=data, split=split)
            except ValueError:
                pass
            raise

    @staticmethod
    def _text(row: Row) -> str:
        return str(row["problem"] if "problem" in row else row["question"])

    @staticmethod
    def _read(row: Row) -> Problem:
        function = read_metadata(row.get("metadata")).get("func_name")
        return Problem(
            DeepCoderEnv._text(row),
            read_tests(row["tests"] if "tests" in row else row["input_output"], function=function),
            starter_code=str(row.get("starter_code") or ""),
            prelude=PRELUDE,
            rule=output_rule(row),
            reference=read_reference(row),
        )


def read_metadata(column: Any) -> dict[str, Any]:
    """A ``metadata`` column, which is an object or JSON of one, or missing."""
    if isinstance(column, str):
        column = load_literal(column) if column.strip() else {}
    if column is None:
        return {}
    if not isinstance(column, dict):
        raise BrokenRowError(f"the metadata is no object but {type(column).__name__}")
    return column


def read_reference(row: Row) -> str | None:
    """The first right program of a row, without a fence; None if there is none."""
    for name in _REFERENCES:
        programs = row.get(name)
        if isinstance(programs, str) and programs.lstrip().startswith("["):
            programs = load_literal(programs)
        first = programs if isinstance(programs, str) else next(iter(programs or ()), None)
        if isinstance(first, str) and first.strip():
            return _without_fence(first)
    return None


def _without_fence(program: str) -> str:
    body = program.strip()
    if body.startswith("```") and body.endswith("```"):
        return body.split("\n", 1)[-1].removesuffix("```").rstrip() + "\n"
    return program
