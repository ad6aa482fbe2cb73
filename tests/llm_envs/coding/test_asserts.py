import pytest

from llm_envs.coding.asserts import defined_names, read_asserts, read_check
from llm_envs.coding.judge import CaseOutcome, judge
from llm_envs.coding.problems import BrokenRowError, CallTest, CheckTest, Problem
from llm_envs.grading import Verdict

CHECK = """
METADATA = {}

def check(candidate):
    assert candidate([1], 2) == (3, "x"), "message"
    assert candidate({1, 2}) == None
    assert True, "this prints if it fails"
    "a comment"
    assert abs(candidate(1.5) - 0.5) < 1e-6
    for i in range(3):
        value = candidate(i * 10)
        assert value == i
"""


def test_calls_with_literals_are_taken_out_of_a_check():
    tests = read_check(CHECK, prompt="import math\n", entry_point="f")
    assert tests[:2] == (
        CallTest("f", ([1], 2), ((3, "x"),), as_json=False),
        CallTest("f", ({1, 2},), (None,), as_json=False),
    )
    (rest,) = tests[2:]
    assert isinstance(rest, CheckTest)
    assert rest.functions == ("f",)
    assert "message" not in rest.source
    assert "this prints" not in rest.source
    assert rest.source.endswith("check(f)\n")


def test_assertions_by_line():
    reference = "class Pair: pass\ndef f(x): pass\ndef sum(x): pass\n"
    lines = ["assert f(-1) == {1: 'a'} ", "assert sum((1, 2)) == 3", "assert f(Pair(1)) == 3", "assert len(f(1)) == 2"]
    first, second, *rest = read_asserts(lines, setup="", reference=reference)
    assert first == CallTest("f", (-1,), ({1: "a"},), as_json=False)
    assert second == CallTest("sum", ((1, 2),), (3,), as_json=False)
    assert [type(test) for test in rest] == [CheckTest, CheckTest]
    assert all(isinstance(t, CheckTest) and t.functions == ("f", "sum") and t.classes == ("Pair",) for t in rest)


def test_names():
    assert defined_names("import a\ndef f(): pass\nclass C:\n  def g(self): pass\nx = 1") == (("f",), ("C",))
    assert defined_names("def (") == defined_names("\0") == ((), ())


@pytest.mark.parametrize("test", ["", "def check(): pass", "def check(a", "x" * 5])
def test_a_check_that_is_none(test):
    with pytest.raises(BrokenRowError):
        read_check(test, prompt="", entry_point="f")


RIGHT = """
def f(x, y=None):
    if y: return (3, "x")
    if isinstance(x, set): return None
    return 0.5 if x == 1.5 else x // 10
"""


@pytest.mark.parametrize(
    ("code", "verdict", "outcome"),
    [
        (RIGHT, "correct", None),
        (RIGHT.replace("x // 10", "x // 11"), "wrong", CaseOutcome.WRONG),
        (RIGHT.replace("0.5 if", "'half' if"), "wrong", CaseOutcome.WRONG),
        (RIGHT.replace("0.5 if", "1 / 0 if"), "wrong", CaseOutcome.ERROR),
        (RIGHT.replace("0.5 if", "exit() if"), "wrong", CaseOutcome.ERROR),
        (RIGHT.replace("0.5 if", "object() if"), "wrong", CaseOutcome.WRONG),
        (RIGHT + "import builtins\nAssertionError = builtins.AssertionError = int\nabs = builtins.abs = min\n"
         "builtins.len = builtins.range = lambda *a: []\nassert_ = 1\n", "correct", None),
        # What cheats a check in the same process: an object that is equal to all, and within every distance.
        ("class E(float):\n    __eq__ = lambda s, o: True\n    __sub__ = lambda s, o: s\n    __abs__ = lambda s: s\n"
         "    __lt__ = lambda s, o: True\ndef f(*a): return E(5)", "wrong", CaseOutcome.WRONG),
        ("import os\ndef f(*a): os._exit(0)", "wrong", CaseOutcome.ERROR),
        ("import sys\nsys.exit(0)", "wrong", CaseOutcome.ERROR),
        ("def f(*a):\n  import sys\n  g = sys._getframe()\n  while g:\n    g.f_globals['check'] = lambda c: None\n"
         "    g = g.f_back", "wrong", CaseOutcome.WRONG),
    ],
)  # fmt: skip
def test_a_check_is_judged_apart_from_the_program(box, code, verdict, outcome):
    tests = read_check(CHECK, prompt="import math\n", entry_point="f")
    judgement = judge(Problem("", tests), code, box)
    assert judgement.verdict == verdict, judgement
    assert [failure.outcome for failure in judgement.failures] == ([] if outcome is None else [outcome])


PAIR = "class Pair:\n    def __init__(self, a, b): self.c = a + b\n"


@pytest.mark.parametrize(
    ("line", "code", "verdict"),
    [
        ("assert f(Pair(1, 2)) == 3", PAIR + "def f(p): return p.c", "correct"),
        ("assert f([Pair(1, 2)]) == 4", PAIR + "def f(p): return 3", "wrong"),
        ("assert set(f((1, int))) == {1, 2}", "def f(p): return [2, p[0]]", "correct"),
        ("assert f(f(1)) == 3 and f(5 * 1) == 6", "def f(p): return p + 1", "correct"),
        ("assert f(3, key=1 + 1) == 5", "def f(p, key): return p + key", "correct"),
        ("assert f(lambda: 1) == 5", "def f(p): return 5", "unscorable"),
        ("assert f(nothing) == 5", "def f(p): return 5", "unscorable"),
    ],
)  # fmt: skip
def test_other_assertions(box, line, code, verdict):
    tests = read_asserts([line], setup="", reference="class Pair: pass\ndef f(x): pass")
    assert judge(Problem("", tests), code, box).verdict == verdict


def test_a_setup_that_fails_is_not_the_programs_fault(box):
    tests = read_asserts(["assert f(root) == 1"], setup="root = Node(1)", reference="def f(x): pass")
    judgement = judge(Problem("", tests), "def f(x): return 1", box)
    assert (judgement.verdict, judgement.reason) == (Verdict.UNSCORABLE, "the test cannot be run: NameError")
