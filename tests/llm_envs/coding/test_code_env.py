import copy
import json
import os
from typing import Any

import pytest

from llm_envs.coding.deepcoder import DeepCoderEnv
from llm_envs.coding.extraction import in_a_block
from llm_envs.coding.live_code_bench import LiveCodeBenchEnv
from llm_envs.coding.shared import shared_sandbox
from llm_envs.testing import check_text_env
from sandboxes.fake import FakeSandbox, ended

TESTS = [{"input": f"{n}", "output": f"{2 * n}"} for n in (1, 2, 3, 1234567)]
ROWS: list[dict[str, Any]] = [
    {"problem": "Double it.", "tests": json.dumps(TESTS), "solutions": ["print(2 * int(input()))"]},
    {"problem": "Broken.", "tests": "what?"},
    {"problem": "None.", "tests": "[]"},
]
LCB_ROWS: list[dict[str, Any]] = [
    {
        "question_content": "Add them.",
        "starter_code": "class Solution:\n    def add(self, a: int, b: int) -> int:\n        ",
        "public_test_cases": '[{"input": "1\\n2", "output": "3", "testtype": "functional"}]',
        "private_test_cases": '[{"input": "5\\n7000", "output": "7005", "testtype": "functional"}]',
        "metadata": '{"func_name": "add"}',
        "contest_date": "2024-08-01T00:00:00",
        "reference_solutions": ["class Solution:\n    def add(self, a: int, b: int) -> int:\n        return a + b"],
    }
]
RIGHT = in_a_block("print(2 * int(input()))")


@pytest.mark.parametrize(
    ("env_id", "rows", "kwargs"),
    [
        ("DeepCoder-v0", ROWS[:1], {}),
        ("LiveCodeBench-v0", LCB_ROWS, {"max_turns": 2, "reward": "shaped"}),
    ],
)
def test_contracts(env_id, rows, kwargs):
    check_text_env(f"llm_envs:{env_id}", data=rows, **kwargs)


def test_the_opening():
    observation, info = DeepCoderEnv(data=ROWS).reset(options={"index": 0})
    assert info["index"] == 0
    assert observation.startswith("Double it.\n\nWrite a Python program that reads standard input")
    assert "1234567" not in observation
    observation, _ = LiveCodeBenchEnv(data=LCB_ROWS).reset(seed=0)
    assert "keep its signatures:\n\nclass Solution:\n    def add(self, a: int, b: int) -> int:" in observation
    assert "public tests" not in observation
    rows = [{"problem": "Go.", "tests": {"fn_name": "go", "inputs": [[1, 2]], "outputs": [3]}}]
    assert "a Python function `go` that takes 2 arguments" in DeepCoderEnv(data=rows).reset(seed=0)[0]


@pytest.mark.parametrize(
    ("outputs", "verdict", "outcome_reward", "shaped_reward"),
    [
        (["2", "4", "6", "2469134"], "correct", 1.0, 1.0),
        (["2", "4", "7", "2469134"], "wrong", 0.0, 0.2 + 0.6 * 3 / 4),
        (["", "", "", ""], "wrong", 0.0, 0.2),
        (["2", ended("error"), "6", "2469134"], "wrong", -0.5, -0.5),
        (["2", ended("timeout"), "6", "2469134"], "timeout", -0.5, -0.5),
        (["2", ended("memory"), "6", "2469134"], "wrong", -0.5, -0.5),
        (["2", ended("output_limit"), "6", "2469134"], "wrong", -0.5, -0.5),
        (["2", ended("infra_error"), ended("infra_error"), ended("infra_error")], "unscorable", 0.0, 0.0),
    ],
)
def test_rewards(outputs, verdict, outcome_reward, shaped_reward):
    for preset, expected in (("outcome", outcome_reward), ("shaped", shaped_reward)):
        env = DeepCoderEnv(data=ROWS, reward=preset, sandbox=FakeSandbox(list(outputs)))
        env.reset(options={"index": 0})
        observation, reward, terminated, truncated, info = env.step(RIGHT)
        assert (observation, terminated, truncated) == ("", True, False)
        assert reward == pytest.approx(expected)
        assert info["verdict"] == verdict
        assert sum(info["reward_parts"].values()) == reward


def test_the_info_says_which_tests_failed_and_why_but_not_what_was_expected():
    fake = FakeSandbox(["2", "5", ended("error", stderr="KeyError: 1"), "x"])
    env = DeepCoderEnv(data=ROWS, reward="shaped", sandbox=fake)
    env.reset(options={"index": 0})
    info = env.step(RIGHT)[4]
    assert info["tests"] == {
        "total": 4,
        "run": 3,
        "passed": 1,
        "public": False,
        "reason": None,
        "failures": [
            {"test": 1, "outcome": "wrong", "detail": "line 1 is wrong"},
            {"test": 2, "outcome": "error", "detail": "KeyError: 1"},
        ],
    }


@pytest.mark.parametrize(("preset", "format_coef"), [("outcome", 0.1), ("shaped", 0.25), ("shaped", 0)])
def test_no_code_block_costs_the_format_penalty(preset, format_coef):
    env = DeepCoderEnv(data=ROWS, sandbox=FakeSandbox(), reward=preset, format_coef=format_coef)
    env.reset(options={"index": 0})
    _, reward, terminated, _, info = env.step("print(2 * int(input()))")
    assert (reward, terminated, info["verdict"]) == (-format_coef, True, "unparsed")


@pytest.mark.parametrize(("index", "reason"), [(1, "neither JSON nor"), (2, "there are no tests")])
@pytest.mark.parametrize("action", [RIGHT, "no code"])
def test_broken_rows_are_unscorable(index, reason, action):
    env = DeepCoderEnv(data=ROWS, sandbox=FakeSandbox())
    env.reset(options={"index": index})
    _, reward, _, _, info = env.step(action)
    assert (reward, info["verdict"]) == (0.0, "unscorable")
    if action == RIGHT:
        assert reason in info["tests"]["reason"]


def test_two_turns(box):
    env = LiveCodeBenchEnv(data=LCB_ROWS, max_turns=2, sandbox=box)
    observation, _ = env.reset(seed=0)
    trial = "Your first answer is run on the public tests and you see the results. Your second one counts."
    assert observation.endswith(trial)
    wrong = in_a_block("class Solution:\n    def add(self, a, b): return 4")
    reply, reward, terminated, _, info = env.step(wrong)
    assert (reward, terminated, info["verdict"], info["tests"]["public"]) == (0.0, False, "wrong", True)
    assert reply == (
        "0 of 1 public tests passed.\n\nTest 1: wrong. the value is wrong\nInput:\nadd(1, 2)\nExpected:\n3\n"
        "Yours:\n4\n\nNow give your final answer."
    )
    assert info["messages"] == [{"role": "user", "content": reply}]
    # Public tests can be learnt by heart; the hidden one decides.
    _, reward, terminated, _, info = env.step(wrong.replace("return 4", "return 3"))
    assert (reward, terminated, info["verdict"], info["tests"]["passed"]) == (0.0, True, "wrong", 1)

    env.reset(seed=0)
    reply, reward, _, _, info = env.step(in_a_block(env.reference or ""))
    assert (reply, reward) == ("1 of 1 public tests passed.\n\nNow give your final answer.", 0.0)
    assert info["verdict"] == "wrong"  # correct is only what passed the hidden tests
    assert "7005" not in str(info) + reply
    assert env.step(in_a_block(env.reference or ""))[1] == 1.0

    env.reset(seed=0)
    reply, reward, terminated, _, info = env.step("no code")
    assert (reward, terminated, info["verdict"]) == (-0.1, False, "unparsed")
    assert reply == "There is no fenced code block in your answer. Answer once more."
    one = DeepCoderEnv(data=ROWS, max_turns=2, sandbox=box)  # no public tests, one turn
    one.reset(options={"index": 0})
    assert one.step(RIGHT)[1:3] == (1.0, True)


def test_a_state_of_other_rows_is_refused():
    env = DeepCoderEnv(data=ROWS)
    env.reset(options={"index": 2})
    state = env.get_state()
    assert "1234567" not in json.dumps(state)
    with pytest.raises(ValueError, match="index is 2, but the number of tasks is 1"):
        DeepCoderEnv(data=ROWS[:1]).set_state(state)
    with pytest.raises(ValueError, match="another one"):
        DeepCoderEnv(data=ROWS[::-1]).set_state(state)


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"reward": "generous"}, "unknown reward 'generous'"),
        ({"format_coef": -1.0}, "format_coef"),
        ({"max_turns": 3}, "max_turns must be 1 or 2"),
        ({"timeout_seconds": 0.0}, "timeout_seconds"),
        ({"total_seconds": float("nan")}, "total_seconds"),
        ({"memory_mb": 0}, "memory_mb"),
        ({"order_seed": -1}, "order_seed"),
        ({"split": "dev"}, "unknown split"),
        ({"sandbox": "castle"}, "unknown sandbox 'castle'; known: auto, local"),
        ({"data": []}, "no rows"),
        ({"data": [{"problem": "no tests"}]}, r"no column \['tests'\]"),
    ],
)
def test_bad_arguments(kwargs, match):
    with pytest.raises(ValueError, match=match):
        DeepCoderEnv(**{"data": ROWS, **kwargs})


def test_the_sandbox_is_made_when_it_is_needed_and_shared(monkeypatch):
    made = []

    def make(name):
        made.append(FakeSandbox(lambda job: str(2 * int(job.stdin))))
        return made[-1]

    monkeypatch.setattr("sandboxes.make", make)
    monkeypatch.setattr("llm_envs.coding.shared._made", {})
    envs = [DeepCoderEnv(data=ROWS, sandbox="local") for _ in range(2)]
    for env in envs:
        env.reset(options={"index": 0})
    assert made == []
    assert [env.step(RIGHT)[1] for env in envs] == [1.0, 1.0]
    assert len(made) == 1
    monkeypatch.setattr(os, "getpid", lambda: -5)  # as in a forked process
    assert shared_sandbox("local") is made[1]
    assert not made[0].closed


def test_a_lone_surrogate_in_a_program_is_its_own_fault(box):
    env = DeepCoderEnv(data=ROWS, sandbox=box)
    env.reset(options={"index": 0})
    _, reward, _, _, info = env.step(in_a_block("print('\ud800')"))
    assert (reward, info["verdict"]) == (-0.5, "wrong")


def test_what_a_step_returns_can_be_kept():
    env = DeepCoderEnv(data=ROWS, sandbox=FakeSandbox(["1", "1"]))
    env.reset(options={"index": 0})
    info = env.step(RIGHT)[4]
    kept = copy.deepcopy(info)
    env.reset(options={"index": 0})
    env.step(RIGHT)
    assert info == kept
