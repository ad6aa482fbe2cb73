"""MBPP: 974 small functions, each from one sentence."""

from typing import ClassVar

from llm_envs.coding.asserts import read_asserts
from llm_envs.coding.code_env import DatasetCodeEnv
from llm_envs.coding.problems import Problem
from llm_envs.datasets import DatasetSource, Row

__all__ = ["MBPP", "MBPPEnv"]

MBPP = DatasetSource(
    name="mbpp",
    hub_id="google-research-datasets/mbpp",
    revision="4bb6404fdc6cacfda99d4ac4205087b89d32030c",
    hub_files={
        "train": "full/train-*.parquet",
        "validation": "full/validation-*.parquet",
        "test": "full/test-*.parquet",
        "prompt": "full/prompt-*.parquet",
        "all": "full/*.parquet",
    },
    columns=("text", "code", "test_list", "test_setup_code", "challenge_test_list"),
    file_names={"all": ("all", "mbpp")},
)


class MBPPEnv(DatasetCodeEnv):
    """Write one function, as `CodeEnv` specifies.

    374 tasks in split ``train``, 90 in ``validation``, 500 in ``test``, 10 in ``prompt``, and all 974 in ``all``. The
    first of a row's assertions is public, and shown, for it alone tells the function's name; all of them are hidden
    tests. `llm_envs.coding.asserts` says how they are judged without the program seeing them.

    Args:
        **options: Those of `DatasetCodeEnv`.
    """

    source: ClassVar[DatasetSource] = MBPP

    @staticmethod
    def _text(row: Row) -> str:
        example = next(iter(row["test_list"] or ()), "")
        return f"{str(row['text']).strip()}\n\nIt must pass tests like this one:\n\n{str(example).strip()}"

    @staticmethod
    def _read(row: Row) -> Problem:
        code, setup = str(row["code"]), str(row["test_setup_code"] or "")
        lines = [str(line) for line in (*row["test_list"], *(row["challenge_test_list"] or ()))]
        tests = read_asserts(lines, setup=setup, reference=code)
        return Problem(MBPPEnv._text(row), tests, public_tests=tests[:1], reference=code)
