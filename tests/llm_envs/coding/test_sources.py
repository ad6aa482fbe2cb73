"""Each environment on rows of its source's own schema, and on the real rows where they are kept."""

import gzip
import json
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from llm_envs.coding.code_env import DatasetCodeEnv
from llm_envs.coding.deepcoder import DEEPCODER, DeepCoderEnv
from llm_envs.coding.extraction import in_a_block
from llm_envs.coding.human_eval import HUMAN_EVAL, HumanEvalEnv
from llm_envs.coding.judge import Limits, judge
from llm_envs.coding.live_code_bench import LIVE_CODE_BENCH, LiveCodeBenchEnv
from llm_envs.coding.mbpp import MBPP, MBPPEnv
from llm_envs.coding.problems import CallTest, CheckTest, StdinTest
from llm_envs.testing import check_text_env

HUMAN_EVAL_ROW = {
    "task_id": "X/0",
    "prompt": 'import math\n\ndef half(x: float) -> float:\n    """ Halve it. """\n',
    "entry_point": "half",
    "canonical_solution": "    return math.fsum([x / 2])\n",
    "test": "def check(candidate):\n    assert candidate(4) == 2\n    assert abs(candidate(3) - 1.5) < 1e-6\n",
}
MBPP_ROW: dict[str, Any] = {
    "text": "Write a function to add.",
    "code": "def add(a, b):\r\n    return a + b",
    "test_list": ["assert add(1, 2) == 3", "assert add('a', 'b') == 'ab'"],
    "test_setup_code": "",
    "challenge_test_list": ["assert len(add([1], [2])) == 2"],
}


def lcb_row(day: str, name: str = "") -> dict[str, Any]:
    return {
        "question_content": f"Print it. {day}",
        "starter_code": "",
        "public_test_cases": '[{"input": "1", "output": "1", "testtype": "stdin"}]',
        "private_test_cases": '[{"input": "2", "output": "2.0", "testtype": "stdin"}]',
        "metadata": "{}",
        "contest_date": f"{day}T18:30:00",
    }


@pytest.mark.parametrize(
    ("env_id", "row"),
    [("HumanEval-v0", HUMAN_EVAL_ROW), ("MBPP-v0", MBPP_ROW), ("LiveCodeBench-v0", lcb_row("2024-01-01"))],
)
def test_contracts(env_id, row):
    check_text_env(f"llm_envs:{env_id}", vector=False, data=[row, row], max_turns=2)


def test_human_eval(box):
    env = HumanEvalEnv(data=[HUMAN_EVAL_ROW], sandbox=box)
    observation, _ = env.reset(seed=0)
    assert HUMAN_EVAL_ROW["prompt"].rstrip() in observation
    assert "1.5" not in observation
    assert [type(test) for test in env.problem(0).tests] == [CallTest, CheckTest]
    for code, reward in (
        (env.reference or "", 1.0),
        ("def half(x): return math.fsum([x / 2])", 1.0),  # with the prompt's import
        ("def half(x): return x // 2", 0.0),
        ("def half(x): raise ValueError", -0.5),
        ("x = 1", 0.0),
    ):
        env.reset(seed=0)
        assert env.step(in_a_block(code))[1] == reward, code


def test_mbpp(box):
    env = MBPPEnv(data=[MBPP_ROW], sandbox=box, max_turns=2)
    observation, _ = env.reset(seed=0)
    assert "assert add(1, 2) == 3" in observation
    assert "'ab'" not in observation
    assert "add('a'" not in observation
    problem = env.problem(0)
    assert (len(problem.tests), problem.public_tests) == (3, problem.tests[:1])
    assert env.step(in_a_block("def add(a, b): return 3"))[0].startswith("1 of 1 public tests passed.")
    assert env.step(in_a_block("def add(a, b): return 3"))[1] == 0.0
    env.reset(seed=0)
    env.step("")
    assert env.step(in_a_block(env.reference or ""))[1] == 1.0


def test_a_window_of_dates():
    rows = [lcb_row(day) for day in ("2024-07-31", "2024-08-01", "2024-12-31", "2025-01-04")]

    def days(**kwargs: Any) -> list[str]:
        env = LiveCodeBenchEnv(data=rows, **kwargs)
        return [env.problem(index).text[-10:] for index in range(env.num_tasks)]

    assert len(days()) == 4
    assert days(start="2024-08-01", end=date(2024, 12, 31)) == ["2024-08-01", "2024-12-31"]
    assert days(end="2024-07-31") == ["2024-07-31"]
    assert days(start="2025-01-01") == ["2025-01-04"]
    with pytest.raises(ValueError, match="a contest date from 2026-01-01 to the last"):
        days(start="2026-01-01")
    for wrong in ("August", "2024-13-01", 5):
        with pytest.raises(ValueError, match="start must be a day"):
            days(start=wrong)


def test_live_code_bench_compares_numbers_by_value(box):
    env = LiveCodeBenchEnv(data=[lcb_row("2024-08-01")], sandbox=box)
    assert len(env.problem(0).tests) == 2
    env.reset(seed=0)
    assert env.step(in_a_block("print(input())"))[1] == 1.0


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ({"problem": "p", "tests": [{"input": "1", "output": "2"}]}, "print(2)"),
        (
            {
                "problem": "p",
                "starter_code": "class Solution:\n    def f(self): pass",
                "tests": '[{"input": "1\\n[2]", "output": "[3]", "testtype": "functional"}]',
                "metadata": {"func_name": "f"},
            },
            "class Solution:\n    def f(self, a, b): return [3]",
        ),
        (
            {"question": "p", "input_output": '{"inputs": ["1\\n"], "outputs": ["Yes\\n"]}', "special_judge_case": 2},
            "print('YES')",
        ),
    ],
)
def test_deepcoder_takes_every_shape(box, row, code):
    env = DeepCoderEnv(data=[row], sandbox=box)
    env.reset(seed=0)
    assert env.step(in_a_block(code))[1] == 1.0


@pytest.mark.parametrize(
    ("row", "reference"),
    [
        ({"solutions": ["```python\nprint(1)\n```"]}, "print(1)\n"),
        ({"solutions": '["a", "b"]'}, "a"),
        ({"solutions": "print(2)"}, "print(2)"),
        ({"solutions": []}, None),
        ({"solutions": None}, None),
        ({}, None),
    ],
)
def test_references(row, reference):
    env = DeepCoderEnv(data=[{"problem": "p", "tests": [{"input": "", "output": "1"}], **row}])
    assert env.problem(0).reference == reference


@pytest.mark.parametrize("source", [DEEPCODER, LIVE_CODE_BENCH, HUMAN_EVAL, MBPP], ids=lambda source: source.name)
def test_the_hub_is_pinned_and_no_solutions_are_read_where_they_are_many(source):
    assert len(source.revision) == 40
    assert "solutions" not in (*source.columns, *source.optional_columns)


# --- The real rows ---

EVERY = 1 if os.environ.get("LLM_ENVS_TEST_ALL") else 16
"""Every so many-th row; all of them take some minutes."""
LIMITS = Limits(timeout_seconds=10.0, total_seconds=300.0)  # machines that run tests may be busy


def real_file(name: str) -> Path:
    path = Path(os.environ.get("LLM_ENVS_TEST_DATA", "/nonexistent"), "code", name)
    if not path.exists():
        pytest.skip(f"LLM_ENVS_TEST_DATA has no code/{name}")
    return path


def real_rows(name: str) -> list[dict[str, Any]]:
    path = real_file(name)
    if path.suffix == ".json":
        found: list[dict[str, Any]] = json.loads(path.read_text())
        return found
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        return [json.loads(line) for line in lines]


def failing(env: DatasetCodeEnv, box, programs) -> list[int]:
    """Rows for which some program is judged otherwise than told."""

    def agrees(index: int) -> bool:
        problem = env.problem(index)
        return all(
            (judge(problem, code, box, limits=LIMITS).verdict == "correct") is right
            for code, right in programs(index, problem)
        )

    indices = range(0, env.num_tasks, EVERY)
    with ThreadPoolExecutor(2) as pool:
        return [index for index, fine in zip(indices, pool.map(agrees, indices), strict=True) if not fine]


def only_reference(index, problem):
    return [(problem.reference, True)]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_references_of_human_eval(box):
    env = HumanEvalEnv(data=real_rows("HumanEval.jsonl.gz"))
    assert env.num_tasks == 164
    assert failing(env, box, only_reference) == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_references_of_mbpp(box):
    env = MBPPEnv(data=real_file("mbpp.jsonl"))
    known = json.loads(real_file("known_failures.json").read_text())["mbpp"]
    allowed = {int(task) - 1 for task in known}
    assert env.num_tasks == 974
    assert set(failing(env, box, only_reference)) <= allowed


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_references_of_taco(box):
    env = DeepCoderEnv(data=real_file("taco_test_verified.jsonl"))
    assert env.num_tasks == 339
    assert failing(env, box, only_reference) == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_references_and_wrong_programs_of_live_code_bench(box):
    rows = real_rows("lcb_v5_verified.jsonl")
    env = LiveCodeBenchEnv(data=real_file("lcb_v5_verified.jsonl"))
    assert env.num_tasks == 315

    def programs(index, problem):
        row = rows[index]
        wrong = row["wrong_solutions"] if row["wrong_fails_here"] else []
        return [(code, True) for code in row["reference_solutions"]] + [(code, False) for code in wrong]

    assert failing(env, box, programs) == []


def test_every_real_row_is_understood():
    kinds: dict[str, tuple[type[DatasetCodeEnv], dict[type, int]]] = {
        "taco_test_verified.jsonl": (DeepCoderEnv, {StdinTest: 589}),
        "rllm_codeforces_test.json": (DeepCoderEnv, {StdinTest: 468}),
        "lcb_v5_verified.jsonl": (LiveCodeBenchEnv, {StdinTest: 461, CallTest: 2793}),
        "HumanEval.jsonl.gz": (HumanEvalEnv, {CallTest: 1059, CheckTest: 21}),
        "mbpp.jsonl": (MBPPEnv, {CallTest: 2917, CheckTest: 21}),
    }
    for name, (make, expected) in kinds.items():
        env = make(data=real_rows(name))
        problems = [env.problem(index) for index in range(env.num_tasks)]
        assert [problem.broken for problem in problems] == [None] * len(problems)
        assert all(problem.tests for problem in problems)
        counts = {kind: sum(isinstance(t, kind) for p in problems for t in p.tests) for kind in expected}
        assert counts == expected, name
