"""Judging a program: run it on every test, look at what came out, say what that means.

The sandbox is given the program and one test's input, or one call; never what is expected. What comes back is compared
here, as data. So a program that ends early, patches Python or writes verdicts only spoils its own output.
"""

import json
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from llm_envs.coding.outputs import difference
from llm_envs.coding.problems import CallTest, CheckTest, Problem, StdinTest, Test
from llm_envs.coding.programs import MARKER, call_program, calls_as_stdin, check_program, stdin_program
from llm_envs.coding.values import UnreadableValueError, equals, read_tree
from llm_envs.grading import Verdict
from sandboxes import MAX_OUTPUT_BYTES, RunResult, Sandbox, Session, Status

__all__ = ["CaseOutcome", "CaseResult", "Judgement", "Limits", "judge"]

_MAX_LANES = 2
_ATTEMPTS = 3  # of a run that the sandbox failed
_ROUNDS = 50  # of assertions that ask for more and more calls
_SHOWN_CHARACTERS = 500
_MIN_MEMORY_MB = 16


class CaseOutcome(StrEnum):
    """What came of one test."""

    PASSED = "passed"
    WRONG = "wrong"
    ERROR = "error"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    OUTPUT_LIMIT = "output_limit"
    UNSCORABLE = "unscorable"


_STATUSES = {
    Status.ERROR: CaseOutcome.ERROR,
    Status.TIMEOUT: CaseOutcome.TIMEOUT,
    Status.MEMORY: CaseOutcome.MEMORY,
    Status.OUTPUT_LIMIT: CaseOutcome.OUTPUT_LIMIT,
    Status.INFRA_ERROR: CaseOutcome.UNSCORABLE,
}


@dataclass(frozen=True)
class CaseResult:
    """What came of one test.

    Attributes:
        index: Its number.
        outcome: What came of it.
        detail: Why, in a few words that do not tell what was expected; empty if it passed.
        said: What the program printed or returned, shortened.
    """

    index: int
    outcome: CaseOutcome
    detail: str = ""
    said: str = ""


@dataclass(frozen=True)
class Limits:
    """What a program may take.

    Attributes:
        timeout_seconds: For a test.
        total_seconds: For all tests; the time that it waited for a place does not count.
        memory_mb: For a test.
    """

    timeout_seconds: float = 2.0
    total_seconds: float = 60.0
    memory_mb: int = 1024

    def __post_init__(self) -> None:
        for name in ("timeout_seconds", "total_seconds"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be finite and more than 0, got {getattr(self, name)}")
        if type(self.memory_mb) is not int or self.memory_mb < _MIN_MEMORY_MB:
            raise ValueError(f"memory_mb must be an integer of at least {_MIN_MEMORY_MB}, got {self.memory_mb!r}")


@dataclass(frozen=True)
class Judgement:
    """What came of a program.

    Attributes:
        verdict: ``correct`` only if there are tests and all of them passed.
        total: How many tests there are.
        results: Those of the tests that ran, in order.
        reason: Why it cannot be judged; None if it can.
    """

    verdict: Verdict
    total: int
    results: tuple[CaseResult, ...]
    reason: str | None = None

    @property
    def passed(self) -> int:
        """How many tests passed."""
        return sum(result.outcome is CaseOutcome.PASSED for result in self.results)

    @property
    def failures(self) -> tuple[CaseResult, ...]:
        """The tests that did not pass."""
        return tuple(result for result in self.results if result.outcome is not CaseOutcome.PASSED)

    @property
    def has_error(self) -> bool:
        """Whether a test ended in anything but an output: an error or a limit."""
        return any(result.outcome is not CaseOutcome.WRONG for result in self.failures)


def judge(
    problem: Problem,
    code: str,
    sandbox: Sandbox,
    *,
    limits: Limits | None = None,
    tests: Sequence[Test] | None = None,
    every_test: bool = False,
) -> Judgement:
    """Judge a program.

    Args:
        problem: What it is to solve.
        code: The program.
        sandbox: Where it runs.
        limits: What it may take.
        tests: Which tests; None: those of the problem.
        every_test: Whether to go on after wrong outputs. Errors, limits and failures of ours always end it.

    Returns:
        A judgement. A sandbox that fails three times in a row, a problem without tests and a broken one make it
        ``unscorable``.
    """
    wanted = problem.tests if tests is None else tuple(tests)
    if problem.broken is not None or not wanted:
        return Judgement(Verdict.UNSCORABLE, len(wanted), (), problem.broken or "there are no tests")
    results: list[CaseResult] = []
    with closing(_results(problem, code, sandbox, limits or Limits(), wanted)) as found:
        for result in found:
            results.append(result)
            if result.outcome is not CaseOutcome.PASSED and not (every_test and result.outcome is CaseOutcome.WRONG):
                break
    last = results[-1]
    if last.outcome is CaseOutcome.UNSCORABLE:
        return Judgement(Verdict.UNSCORABLE, len(wanted), tuple(results), last.detail)
    if all(result.outcome is CaseOutcome.PASSED for result in results):
        verdict = Verdict.CORRECT
    else:
        verdict = Verdict.TIMEOUT if last.outcome is CaseOutcome.TIMEOUT else Verdict.WRONG
    return Judgement(verdict, len(wanted), tuple(results))


def _results(
    problem: Problem, code: str, sandbox: Sandbox, limits: Limits, tests: Sequence[Test]
) -> Generator[CaseResult, None, None]:
    """Results in the order of the tests; as many are run at once as the sandbox runs without loss, at most two."""
    lanes = min(sandbox.concurrency, _MAX_LANES, len(tests))
    budget = _Budget(limits.total_seconds)
    with ExitStack() as stack:
        runners = [stack.enter_context(_Runner(problem, code, sandbox, limits, budget)) for _ in range(lanes)]
        if lanes == 1:
            yield from (runners[0].result(index, test) for index, test in enumerate(tests))
            return
        pool = stack.enter_context(ThreadPoolExecutor(lanes))
        for start in range(0, len(tests), lanes):
            batch = [
                pool.submit(runner.result, start + i, test)
                for i, (runner, test) in enumerate(zip(runners, tests[start : start + lanes], strict=False))
            ]
            yield from (future.result() for future in batch)


@dataclass
class _Budget:
    """What is left of the time for all tests of a program."""

    seconds: float


class _FailedRunError(Exception):
    """A run of the judged program that gave nothing to compare."""

    def __init__(self, outcome: CaseOutcome, detail: str, said: str = "") -> None:
        super().__init__(detail)
        self.outcome, self.detail, self.said = outcome, detail, said


class _Runner:
    """One program, and the warm session of each of its two forms."""

    def __init__(self, problem: Problem, code: str, sandbox: Sandbox, limits: Limits, budget: _Budget) -> None:
        self._problem, self._code, self._sandbox, self._limits = problem, code, sandbox, limits
        self._budget = budget
        self._sessions: dict[bool, Session] = {}
        self._stack = ExitStack()

    def __enter__(self) -> "_Runner":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def result(self, index: int, test: Test) -> CaseResult:
        """Run one test."""
        if isinstance(test, StdinTest) and len(test.expected) > MAX_OUTPUT_BYTES:
            return CaseResult(index, CaseOutcome.UNSCORABLE, "the test expects more output than a sandbox takes")
        try:
            if isinstance(test, StdinTest):
                said = self._run(test.stdin, calls=False).stdout
                why = difference(said, test.expected, self._problem.rule)
            elif isinstance(test, CallTest):
                (tree,) = self._values(calls_as_stdin(test.name, test.args), 1)
                said = json.dumps(tree)
                right = any(equals(value, tree, as_json=test.as_json) for value in test.expected)
                why = None if right else "the value is wrong"
            else:
                said, why = "", self._check(test)
        except _FailedRunError as failure:
            return CaseResult(index, failure.outcome, failure.detail, failure.said)
        if why is None:
            return CaseResult(index, CaseOutcome.PASSED)
        return CaseResult(index, CaseOutcome.WRONG, why, _shorten(said))

    def _session(self, calls: bool) -> Session:
        if calls not in self._sessions:
            make = call_program if calls else stdin_program
            session = self._sandbox.session(make(self._code, self._problem.prelude), memory_mb=self._limits.memory_mb)
            self._sessions[calls] = self._stack.enter_context(session)
        return self._sessions[calls]

    def _run(self, stdin: str, *, calls: bool) -> RunResult:
        """Run the judged program once.

        Raises:
            _FailedRunError: If it does not end well.
        """
        timeout_seconds = min(self._limits.timeout_seconds, self._budget.seconds)
        if timeout_seconds <= 0:
            raise _FailedRunError(CaseOutcome.TIMEOUT, "no time is left for this test")
        for _ in range(_ATTEMPTS):
            result = self._session(calls).run(stdin, timeout_seconds=timeout_seconds)
            if result.status is not Status.INFRA_ERROR:
                break
        self._budget.seconds -= result.seconds
        if result.status is not Status.OK:
            raise _FailedRunError(_STATUSES[result.status], _why(result), _shorten(result.stdout))
        return result

    def _values(self, calls: str, count: int) -> list[Any]:
        """What calls returned, as trees of `wire`."""
        result = self._run(calls, calls=True)
        before, mark, rest = result.stdout.rpartition(MARKER)
        if not mark:
            raise _FailedRunError(CaseOutcome.ERROR, "it ended before the call returned", _shorten(before))
        try:
            trees = read_tree(rest.split("\n", 1)[0])
        except UnreadableValueError as error:
            raise _FailedRunError(CaseOutcome.WRONG, str(error)) from error
        if not isinstance(trees, list) or len(trees) != count:
            raise _FailedRunError(CaseOutcome.WRONG, "the value cannot be read")
        return trees

    def _check(self, test: CheckTest) -> str | None:
        """Run assertions; they and the judged program never share a process. Returns why they do not hold, or None."""
        answers: list[tuple[str, Any]] = []
        for _ in range(_ROUNDS):
            report = self._report(test, answers)
            if report["kind"] == "passed":
                return None
            if report["kind"] == "failed":
                return str(report["detail"])
            asked = report["asked"]
            no_value = any('{"$": "object"' in key for key, _ in asked)
            if no_value and answers:  # it came from the program: nobody may choose to be left out
                return "a value that is no plain data was asked about"
            if report["kind"] == "broken" or not asked or no_value:
                raise _FailedRunError(CaseOutcome.UNSCORABLE, f"the test cannot be run: {report['detail']}")
            trees = self._values(json.dumps([call for _, call in asked]), len(asked))
            answers += [(key, tree) for (key, _), tree in zip(asked, trees, strict=True)]
        return "its values make the assertions ask for ever more calls"

    def _report(self, test: CheckTest, answers: list[tuple[str, Any]]) -> dict[str, Any]:
        """Run assertions once, with the values known so far."""
        for _ in range(_ATTEMPTS):
            result = self._sandbox.run(
                check_program(test),
                stdin=json.dumps(answers),
                timeout_seconds=max(self._limits.timeout_seconds, 5.0),
                memory_mb=self._limits.memory_mb,
            )
            if result.status is not Status.INFRA_ERROR:
                break
        if result.status is Status.OK:
            report: dict[str, Any] = json.loads(result.stdout.rpartition(MARKER)[2].split("\n", 1)[0])
            return report
        if result.status is Status.INFRA_ERROR or not answers:
            raise _FailedRunError(CaseOutcome.UNSCORABLE, f"the test cannot be run: {_why(result)}")
        return {"kind": "failed", "detail": f"the value broke the assertions: {result.status.value}"}


def _why(result: RunResult) -> str:
    """The last line of the error output, where Python says what happened."""
    lines = result.stderr.strip().split("\n")
    return _shorten(lines[-1]) or f"{result.status.value}, exit code {result.exit_code}"


def _shorten(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"
