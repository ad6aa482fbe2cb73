import base64
import json
import os
import pickle
import zlib

import pytest

from llm_envs.coding.outputs import OutputRule
from llm_envs.coding.problems import (
    BrokenRowError,
    CallTest,
    StdinTest,
    decode_private_tests,
    output_rule,
    read_tests,
)

PRIME = [
    {"type": "stdin_stdout", "fn_name": None, "input": "1\n", "output": "2\n"},
    {"type": "function_call", "fn_name": "f", "input": [1, [2]], "output": [3]},
]
LCB = [
    {"input": "1", "output": "2", "testtype": "stdin"},
    {"input": '[1, 2]\n"a b"\n', "output": "[3]", "testtype": "functional"},
]
F_TEST = CallTest("f", (1, [2]), ([3], 3))


def packed(value: object) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


@pytest.mark.parametrize("form", [json.dumps, repr, lambda tests: tests, lambda t: json.dumps({"test_cases": t})])
def test_primeintellect(form):
    assert read_tests(form(PRIME)) == (StdinTest("1\n", "2\n"), F_TEST)


@pytest.mark.parametrize("form", [json.dumps, repr, lambda tests: tests])
def test_taco(form):
    assert read_tests(form({"inputs": ["1\n", ["2", "3"]], "outputs": ["2\n", ["4"]]})) == (
        StdinTest("1\n", "2\n"),
        StdinTest("2\n3", "4"),
    )
    calls = {"fn_name": "f", "inputs": [[1, [2]], []], "outputs": [[3], 4]}
    assert read_tests(form(calls)) == (F_TEST, CallTest("f", (), (4,)))


@pytest.mark.parametrize("form", [json.dumps, repr, lambda tests: tests])
def test_live_code_bench(form):
    assert read_tests(form(LCB), function="g") == (StdinTest("1", "2"), CallTest("g", ([1, 2], "a b"), ([3],)))


def test_codeforces():
    assert read_tests(json.dumps([{"input": "1", "output": "2"}])) == (StdinTest("1", "2"),)


def test_many_functional_tests_stay_functional():
    """A loader in use forgets the name of the function beyond 15 tests."""
    calls = {"fn_name": "f", "inputs": [[n] for n in range(40)], "outputs": list(range(40))}
    assert all(isinstance(test, CallTest) for test in read_tests(calls))


@pytest.mark.parametrize("form", [json.dumps, packed, lambda text: packed(json.dumps(text)), lambda text: text])
def test_private_tests(form):
    if form is packed:
        assert decode_private_tests(packed(json.dumps(LCB))) == LCB
    else:
        assert decode_private_tests(form(LCB)) == LCB


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/llm_envs_was_here",)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (packed(Evil()), "refused: posix.system"),
        (packed([1]), "no text but list"),
        (packed("not JSON"), "not JSON"),
        ("%%%", "cannot be unpacked"),
        (base64.b64encode(b"abc").decode(), "cannot be unpacked"),
    ],
)
def test_private_tests_that_are_none(column, message):
    with pytest.raises(BrokenRowError, match=message):
        decode_private_tests(column)


@pytest.mark.parametrize(
    "tests",
    [
        "what?",
        "__import__('os')",
        5,
        None,
        [5],
        [{"input": "1"}],
        {"inputs": ["1"], "outputs": []},
        {"inputs": ["1"]},
        {"fn_name": "f", "inputs": ["1"], "outputs": ["1"]},
        [{"type": "function_call", "fn_name": None, "input": [], "output": 1}],
        [{"input": "1", "output": "2", "testtype": "functional"}],
        [{"input": None, "output": "2"}],
        "[" * 100_000,
    ],
)
def test_broken_tests(tests):
    with pytest.raises(BrokenRowError):
        read_tests(tests)


def test_only_marked_rows_have_a_tolerance():
    assert output_rule({}) == output_rule({"special_judge_case": 1}) == OutputRule(by_value=True, ignore_blank=True)
    assert output_rule({"special_judge_case": 2}).ignore_case
    assert output_rule({"special_judge_case": 3}).tolerance == 1e-6
