"""HumanEval: 164 functions to complete, each from its signature and docstring."""

from typing import ClassVar

from llm_envs.coding.asserts import read_check
from llm_envs.coding.code_env import DatasetCodeEnv
from llm_envs.coding.problems import Problem
from llm_envs.datasets import DatasetSource, Row

__all__ = ["HUMAN_EVAL", "HumanEvalEnv"]

HUMAN_EVAL = DatasetSource(
    name="human_eval",
    hub_id="openai/openai_humaneval",
    revision="7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544",
    hub_files={"test": "openai_humaneval/test-*.parquet"},
    columns=("prompt", "test", "entry_point", "canonical_solution"),
    file_names={"test": ("test", "HumanEval", "test-*")},
)


class HumanEvalEnv(DatasetCodeEnv):
    """Complete one function, as `CodeEnv` specifies.

    164 tasks in split ``test``. The prompt, with its imports and helpers, runs before the program, which may so leave
    them out. `llm_envs.coding.asserts` says how the row's assertions are judged without the program seeing them.
    There are no public tests, so that there is one turn only.

    Args:
        **options: Those of `DatasetCodeEnv`.
    """

    source: ClassVar[DatasetSource] = HUMAN_EVAL

    @staticmethod
    def _text(row: Row) -> str:  # noqa: ARG004 (the prompt is the starter code)
        return "Complete the function below as its docstring says."

    @staticmethod
    def _read(row: Row) -> Problem:
        prompt, entry_point = str(row["prompt"]), str(row["entry_point"])
        return Problem(
            HumanEvalEnv._text(row),
            read_check(str(row["test"]), prompt=prompt, entry_point=entry_point),
            starter_code=prompt,
            prelude=prompt,
            reference=prompt + str(row["canonical_solution"]),
        )
