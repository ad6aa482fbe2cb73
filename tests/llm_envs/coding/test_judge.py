import json
import time

import pytest

from llm_envs.coding.judge import CaseOutcome, Judgement, Limits, judge
from llm_envs.coding.outputs import OutputRule
from llm_envs.coding.problems import CallTest, CheckTest, Problem, StdinTest
from llm_envs.coding.programs import MARKER, PRELUDE, stdin_program
from llm_envs.grading import Verdict
from sandboxes import Job, RunResult, Status
from sandboxes.fake import FakeSandbox, ended

DOUBLE = Problem("", tuple(StdinTest(f"{n}\n", f"{2 * n}\n") for n in (1, 2, 3)))
CALLS = Problem("", (CallTest("f", (1, [2]), ([3],)), CallTest("f", (2, [2]), ([4],))), prelude=PRELUDE)


def outcomes(judgement: Judgement) -> list[str]:
    return [result.outcome.value for result in judgement.results]


@pytest.mark.parametrize(
    ("code", "verdict", "expected"),
    [
        ("print(2 * int(input()))", "correct", ["passed"] * 3),
        ("from __future__ import annotations\nprint(2 * int(input()))", "correct", ["passed"] * 3),
        ("if __name__ == '__main__':\n    print(2 * int(input()))", "correct", ["passed"] * 3),
        ("n = int(input())\nprint(2 * n if n < 2 else 5)", "wrong", ["passed", "wrong"]),
        ("print(2)", "wrong", ["passed", "wrong"]),
        ("", "wrong", ["wrong"]),
        ("import sys\nsys.exit(0)", "wrong", ["wrong"]),
        ("import os\nos._exit(0)", "wrong", ["wrong"]),
        ("print(2 * int(input()))\nraise SystemExit(3)", "wrong", ["error"]),
        ("print(2", "wrong", ["error"]),
        ("print('\ud800')\0", "wrong", ["error"]),
        ("while True: pass", "timeout", ["timeout"]),
        ("while True: print('x' * 1000)", "wrong", ["output_limit"]),
        # Verdicts that nobody reads.
        ("import os\n[os.write(f, b'correct passed 1.0') for f in (1, 2)]", "wrong", ["wrong"]),
    ],
)
def test_programs_that_read_and_write(box, code, verdict, expected):
    judgement = judge(DOUBLE, code, box, limits=Limits(timeout_seconds=0.7))
    assert (judgement.verdict, outcomes(judgement)) == (verdict, expected), judgement
    assert judgement.total == 3


LIE = "class E(list):\n    __eq__ = lambda s, o: True\n    __ne__ = lambda s, o: False\n"


@pytest.mark.parametrize(
    ("code", "verdict", "expected"),
    [
        ("def f(a, b): return [a + b[0]]", "correct", ["passed"] * 2),
        ("def f(a, b): return (a + b[0],)", "correct", ["passed"] * 2),
        ("class Solution:\n    def f(self, a: int, b: List[int]) -> List[int]:\n        return [a + b[0]]", "correct",
         ["passed"] * 2),
        ("from __future__ import annotations\ndef f(a, b):\n    print('debug', a)\n    return [a + b[0]]", "correct",
         ["passed"] * 2),
        # Names that the wrapper uses, and a main part that does not run in a call.
        ("list = dict = encode = decode = json = print = isinstance = None\ndef f(a, b): return [a + b[0]]\n"
         "if __name__ == '__main__': 1 / 0", "correct", ["passed"] * 2),
        ("import sys\nsys.stdout.close()\ndef f(a, b): return [a + b[0]]", "correct", ["passed"] * 2),
        ("def f(a, b): return 3", "wrong", ["wrong"]),
        ("def f(a, b): return a / 0", "wrong", ["error"]),
        ("def g(a, b): return 3", "wrong", ["error"]),
        ("def f(a): return 3", "wrong", ["error"]),
        ("def f(a, b): raise SystemExit(0)", "wrong", ["error"]),
        ("def f(a, b): exit(0)", "wrong", ["error"]),
        ("import os\ndef f(a, b): os._exit(0)", "wrong", ["error"]),
        (LIE + "def f(a, b): return E([7])", "wrong", ["wrong"]),
        (LIE + "def f(a, b): return E()", "wrong", ["wrong"]),
        ("def f(a, b):\n    x = []\n    x.append(x)\n    return x", "wrong", ["error"]),
        ("def f(a, b): return [10 ** 5000]", "wrong", ["wrong"]),
        ("def f(a, b): return [float('nan')]", "wrong", ["wrong"]),
        # A forged line is an answer like any other, and a wrong one.
        (f"import os\ndef f(a, b):\n    os.write(1, {MARKER + '[[5]]'!r}.encode())\n    os._exit(0)", "wrong",
         ["wrong"]),
        (f"import os\ndef f(a, b):\n    os.write(1, {MARKER + '[' * 90000!r}.encode())\n    os._exit(0)", "wrong",
         ["wrong"]),
        (f"import os\ndef f(a, b):\n    os.write(1, {MARKER + 'null'!r}.encode())\n    os._exit(0)", "wrong",
         ["wrong"]),
    ],
)  # fmt: skip
def test_programs_that_are_called(box, code, verdict, expected):
    judgement = judge(CALLS, code, box)
    assert (judgement.verdict, outcomes(judgement)) == (verdict, expected), judgement


SEARCH = """
import gc, os, re, sys
def f(a):
    seen = [repr(sys.argv), repr(os.environ)]
    frame = sys._getframe()
    while frame:
        seen += [repr(frame.f_locals), repr(frame.f_globals)]
        frame = frame.f_back
    seen += [repr(o)[:1000] for o in gc.get_objects() if type(o) in (dict, list, tuple)]
    for folder, _, names in os.walk("."):
        seen += [open(os.path.join(folder, n), errors="replace").read() for n in names]
    return next((int(m[0]) for s in seen for m in [re.search("[9]18273645", s)] if m), None)
"""


@pytest.mark.parametrize(("argument", "verdict"), [(918273645, "correct"), (918273644, "wrong")])
def test_a_search_for_the_answer_finds_it_only_where_it_is(box, argument, verdict):
    """Frames, objects, arguments, environment, files; the first case shows that the search works."""
    problem = Problem("", (CallTest("f", (argument,), (918273645,)),))
    assert judge(problem, SEARCH, box).verdict == verdict


def test_the_sandbox_gets_inputs_and_nothing_that_is_expected():
    jobs = []

    def answer(job: Job) -> RunResult:
        jobs.append(job)
        return ended(stdout="777001\n" if not job.stdin.startswith("[") else f"{MARKER}[777002]\n")

    fake = FakeSandbox(answer)
    problem = Problem("", (StdinTest("1", "777001"), CallTest("f", (1,), (777002,))))
    assert judge(problem, "pass", fake).verdict is Verdict.CORRECT
    assert len(jobs) == 2
    assert "77700" not in "".join(job.code + job.stdin + repr(job.files) for job in jobs)
    assert json.loads(jobs[1].stdin) == [{"name": "f", "args": [1]}]


def test_an_empty_list_of_tests_never_passes(box):
    judgement = judge(Problem("", ()), "pass", box)
    assert (judgement.verdict, judgement.reason) == (Verdict.UNSCORABLE, "there are no tests")
    assert judge(DOUBLE, "pass", box, tests=()).verdict is Verdict.UNSCORABLE


def test_infrastructure_is_tried_again_and_then_unscorable():
    fake = FakeSandbox([ended("infra_error"), ended("infra_error"), "2\n", "4\n", "6\n"])
    assert judge(DOUBLE, "x", fake).verdict is Verdict.CORRECT
    fake = FakeSandbox(["2\n", *[ended("infra_error", stderr="engine down")] * 3])
    judgement = judge(DOUBLE, "x", fake)
    assert (judgement.verdict, judgement.reason, fake.calls) == (Verdict.UNSCORABLE, "engine down", 4)


@pytest.mark.parametrize(("every_test", "runs"), [(False, 1), (True, 3)])
def test_it_goes_on_only_where_asked(every_test, runs):
    fake = FakeSandbox(["x", "4", "y"])
    judgement = judge(DOUBLE, "x", fake, every_test=every_test)
    assert (fake.calls, len(judgement.results), judgement.passed) == (runs, runs, runs // 3)
    fake = FakeSandbox(["2", ended("error"), "6"])
    assert outcomes(judge(DOUBLE, "x", fake, every_test=True)) == ["passed", "error"]


@pytest.mark.parametrize("status", ["error", "timeout", "memory", "output_limit"])
def test_every_status_fails(status):
    judgement = judge(DOUBLE, "x", FakeSandbox([ended(status, "2\n", "Traceback\nValueError: no\n")]))
    assert judgement.verdict is (Verdict.TIMEOUT if status == "timeout" else Verdict.WRONG)
    assert judgement.has_error
    (failure,) = judgement.failures
    assert (failure.outcome, failure.detail, failure.said) == (status, "ValueError: no", "2\n")


def test_the_limit_for_all_tests():
    limits = []

    def answer(job: Job) -> RunResult:
        limits.append(job.timeout_seconds)
        return ended(Status.OK, str(2 * int(job.stdin)), seconds=0.75)

    judgement = judge(DOUBLE, "x", FakeSandbox(answer), limits=Limits(timeout_seconds=1.0, total_seconds=1.5))
    assert limits == [1.0, 0.75]
    assert outcomes(judgement) == ["passed", "passed", "timeout"]
    assert judgement.verdict is Verdict.TIMEOUT


@pytest.mark.parametrize(
    "kwargs", [{"timeout_seconds": 0}, {"total_seconds": float("inf")}, {"memory_mb": 1}, {"memory_mb": 99.5}]
)
def test_limits_that_are_none(kwargs):
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        Limits(**kwargs)


def test_rules_of_the_source_hold(box):
    tests = (StdinTest("", "1\n2.5\n"),)
    code = "print('1.0 ')\nprint(2.50)"
    assert judge(Problem("", tests), code, box).verdict is Verdict.WRONG
    assert judge(Problem("", tests, rule=OutputRule(by_value=True)), code, box).verdict is Verdict.CORRECT


def test_the_prelude(box):
    code = "print(gcd(4, 6), pow(2, 3, 5), sys.getrecursionlimit(), Counter('a')['a'], bisect.bisect([1], 1))"
    problem = Problem("", (StdinTest("", "2 3 600000 1 1"),), prelude=PRELUDE)
    assert judge(problem, code, box).verdict is Verdict.CORRECT
    assert judge(problem, "from __future__ import annotations\n" + code, box).verdict is Verdict.CORRECT
    assert "\n" not in PRELUDE


@pytest.mark.parametrize(
    ("code", "output"),
    [
        ("print(pow(2, 5, 7), abs(-1), sum([1]), max(1, 2))", "4 1 1 2"),  # not math's, not operator's
        ("print(open.__module__ in ('io', '_io'), hex(9))", "True 0x9"),
        ("print(eval('gc' + 'd(4, 6)'))", "2"),
        ("print(globals()['he' + 'apq'].heapify([1]))", "None"),
        ("def f(x: List[int]) -> Optional[Deque]: return deque(x)\nprint(f([1]))", "deque([1])"),
        ("print(math.inf, datetime.datetime.now() is None, ascii_lowercase[:3], randint(1, 1))", "inf False abc 1"),
        ("print(json.dumps([1]), StringIO('x').read(), mean([1, 3]))", "[1] x 2"),
    ],
)
def test_a_program_finds_all_of_the_prelude_that_it_names(box, code, output):
    problem = Problem("", (StdinTest("", output),), prelude=PRELUDE)
    assert judge(problem, code, box).verdict is Verdict.CORRECT


def test_a_future_import_beside_names_that_the_prelude_covers(box):
    problem = Problem("", (StdinTest("", "6"),), prelude=PRELUDE)
    code = "from __future__ import annotations\nA = [6]\nprint(A[0])"
    assert judge(problem, code, box).verdict is Verdict.CORRECT


def test_a_test_that_expects_too_much_is_no_fault_of_the_program(box):
    judgement = judge(Problem("", (StdinTest("", "x" * ((1 << 20) + 1)),)), "print('x' * ((1 << 20) + 1))", box)
    assert judgement.verdict is Verdict.UNSCORABLE
    assert judgement.reason == "the test expects more output than a sandbox takes"


def test_assertions_on_what_a_program_made_up(box):
    test = CheckTest("", "assert dec(enc('ab')) == 'ab'", functions=("dec", "enc"))
    problem = Problem("", (test,))
    right = "def enc(s): return s[::-1]\ndef dec(s): return s[::-1]"
    assert judge(problem, right, box).verdict is Verdict.CORRECT
    assert judge(problem, "def enc(s): return object()\ndef dec(s): return 'ab'", box).verdict is Verdict.WRONG
    chain = CheckTest("", "x = 0\nfor _ in range(12): x = nxt(x)\nassert x == 12", functions=("nxt",))
    assert judge(Problem("", (chain,)), "def nxt(x): return x + 1", box).verdict is Verdict.CORRECT
    endless = CheckTest("", "x = 0\nwhile x != 1: x = nxt(x)", functions=("nxt",))
    assert judge(Problem("", (endless,)), "def nxt(x): return x - 1", box).verdict is Verdict.WRONG


def test_a_prelude_that_nobody_needs_is_left_out():
    assert stdin_program("print(input())", PRELUDE) == "import sys; sys.setrecursionlimit(6 * 10**5)\nprint(input())"
    assert "from typing import *" in stdin_program("x: List[int] = []", PRELUDE)
    assert stdin_program("exec(input())", PRELUDE).startswith(PRELUDE)
    assert stdin_program("pass", "import mine").startswith("import mine\n")


def test_a_detail_says_why(box):
    failures = judge(CALLS, "def f(a, b):\n    raise ValueError('no')", box).failures
    assert (failures[0].outcome, failures[0].detail) == (CaseOutcome.ERROR, "ValueError: no")


def test_twenty_tests_are_quick(box):
    if box.name != "local":
        pytest.skip("a bar of the local sandbox")
    problem = Problem("", tuple(StdinTest(f"{n}\n", f"{2 * n}\n") for n in range(20)))
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        assert judge(problem, "print(2 * int(input()))", box).verdict is Verdict.CORRECT
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 0.5  # 0.05 on a quiet machine; this one may be busy
