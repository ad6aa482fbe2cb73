"""Problems that are solved by writing a program, which hidden tests judge."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from hashlib import sha256
from numbers import Integral
from typing import Any, ClassVar, TypedDict

import sandboxes
from llm_envs.coding.extraction import extract_code
from llm_envs.coding.judge import Judgement, Limits, judge
from llm_envs.coding.problems import BrokenRowError, Problem
from llm_envs.coding.prompts import opening, public_report
from llm_envs.coding.shared import shared_sandbox
from llm_envs.datasets import Data, DatasetSource, Filter, Row, Rows, fixed_order, load_rows, select_rows
from llm_envs.grading import Verdict
from llm_envs.solvers.coding import Oracle, RandomProgrammer
from llm_envs.text_env import Message, Outcome, TextEnv, user_message
from sandboxes import Sandbox

__all__ = ["CODE_REWARDS", "CodeEnv", "CodeOptions", "CodeReward", "DatasetCodeEnv", "outcome_reward", "shaped_reward"]

CodeReward = Callable[[Judgement], dict[str, float]]
"""Parts of the reward of a program that was judged; the reward is their sum."""


def outcome_reward(judgement: Judgement) -> dict[str, float]:
    """All tests passed 1.0, an error or a limit -0.5, wrong output 0.0; the first failure decides."""
    if judgement.verdict is Verdict.CORRECT:
        return {"solved": 1.0}
    return {"solved": -0.5 if judgement.has_error else 0.0}


def shaped_reward(judgement: Judgement) -> dict[str, float]:
    """All tests passed 1.0, an error or a limit -0.5, else 0.2 for being Python and 0.6 times the fraction passed."""
    if judgement.verdict is Verdict.CORRECT:
        return {"syntax": 0.2, "passed": 0.6, "solved": 0.2}
    if judgement.has_error:
        return {"syntax": 0.0, "passed": 0.0, "solved": -0.5}
    return {"syntax": 0.2, "passed": 0.6 * judgement.passed / judgement.total, "solved": 0.0}


CODE_REWARDS: Mapping[str, tuple[CodeReward, bool]] = {
    "outcome": (outcome_reward, False),
    "shaped": (shaped_reward, True),
}
"""Presets, and whether each needs every test to be run."""


class CodeEnv(TextEnv):
    """Show one problem, judge the last fenced block of the answer, end.

    The last fenced code block of an action is the program. It is right if it passes every hidden test;
    `llm_envs.coding.judge` says how that is found out, and `llm_envs.coding.outputs` how outputs are compared.

    With ``max_turns=2`` the first action is tried on the problem's public tests: the observation shows what came of
    each, and the next action is the answer. An episode whose problem has no public tests has one turn all the same.

    Verdicts: ``correct``: every hidden test passed, never said of a first turn; ``wrong``: another output, an error,
    or a limit of memory or output; ``timeout``; ``unparsed``: no code block; ``unscorable``: the tests of the row are
    broken or missing, or the sandbox failed after retries (reward 0, to be left out).

    Reward parts by preset, and in each ``"format"``: -c in an action without a code block (c is ``format_coef``).

    ========== ======= ======================== ============================ =====================
    ``reward`` all     first failure is         first failure is             public tests,
               passed  wrong output             an error or a limit          no code block
    ========== ======= ======================== ============================ =====================
    "outcome"  1       0                        -0.5                         0
    "shaped"   1       0.2 + 0.6 * passed / all -0.5                         0
    ========== ======= ======================== ============================ =====================

    "shaped" runs all tests, and any error counts; "outcome" stops at the first failure.

    ``info["tests"]`` after a step: ``"total"``, ``"run"``, ``"passed"``, ``"public"`` (whether they were the public
    ones), ``"reason"`` (of ``unscorable``) and ``"failures"``: of each ``"test"`` (its number), ``"outcome"`` and
    ``"detail"``. What hidden tests expect is nowhere in it.

    Solvers: ``oracle`` (the row's reference program; nothing where there is none), ``random`` (prints a digit).

    Args:
        sandbox: Where programs run: a sandbox, or the name of a backend, of which all environments of a process share
            one that is made when it is first needed.
        reward: The preset.
        format_coef: What a missing code block costs; finite, at least 0.
        max_turns: 1 or 2.
        timeout_seconds: What a test may take.
        total_seconds: What all tests of a program may take together.
        memory_mb: What a program may take.
        render_mode: ``"ansi"`` or None.

    Raises:
        ValueError: If an argument is out of range.
        SandboxUnavailableError: At the first program, if the sandbox cannot be had here.
    """

    solvers: ClassVar = {"oracle": Oracle, "random": RandomProgrammer}

    def __init__(
        self,
        *,
        sandbox: Sandbox | str = "auto",
        reward: str = "outcome",
        format_coef: float = 0.1,
        max_turns: int = 1,
        timeout_seconds: float = 2.0,
        total_seconds: float = 60.0,
        memory_mb: int = 1024,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(render_mode=render_mode)
        if reward not in CODE_REWARDS:
            raise ValueError(f"unknown reward {reward!r}; known: {sorted(CODE_REWARDS)}")
        if not 0 <= format_coef < float("inf"):
            raise ValueError(f"format_coef must be finite and at least 0, got {format_coef}")
        if max_turns not in (1, 2):
            raise ValueError(f"max_turns must be 1 or 2, got {max_turns!r}")
        if isinstance(sandbox, str) and sandbox != "auto" and sandbox not in sandboxes.BACKENDS:
            raise ValueError(f"unknown sandbox {sandbox!r}; known: auto, {', '.join(sandboxes.BACKENDS)}")
        self.reward, self.format_coef, self.max_turns = reward, float(format_coef), int(max_turns)
        self.limits = Limits(float(timeout_seconds), float(total_seconds), memory_mb)
        self._given_sandbox = sandbox
        self._problem = Problem("", ())
        self._turn = 0
        self._report: dict[str, Any] = {}

    @property
    def reference(self) -> str | None:
        """A right program for the current problem, for the oracle. No player sees it."""
        return self._problem.reference

    @property
    def sandbox(self) -> Sandbox:
        """Where programs run."""
        given = self._given_sandbox
        return shared_sandbox(given) if isinstance(given, str) else given

    @abstractmethod
    def problem(self, index: int) -> Problem:
        """The task of a number in ``range(num_tasks)``, with its tests. No player sees it."""

    @abstractmethod
    def _draw(self, seed: int | None, index: int | None) -> Problem:
        """Choose the problem, as `TextEnv._begin` says."""

    @property
    def _has_trial(self) -> bool:
        return self.max_turns > 1 and bool(self._problem.public_tests)

    def _begin(self, seed: int | None, index: int | None) -> tuple[list[Message], dict[str, Any]]:
        self._problem = self._draw(seed, index)
        self._turn = 0
        messages = [user_message(opening(self._problem, trial=self._has_trial))]
        return messages, {} if self._problem.index is None else {"index": self._problem.index}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """As in `TextEnv`; the info holds ``"tests"``, too."""
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated, truncated, {**info, "tests": self._report}

    def _play(self, action: str) -> Outcome:
        code = extract_code(action)
        trial = self._has_trial and self._turn == 0
        self._turn += 1
        tests = self._problem.public_tests if trial else self._problem.tests
        self._report = _report(None, len(tests), trial)
        none = dict.fromkeys(CODE_REWARDS[self.reward][0](Judgement(Verdict.WRONG, 1, ())), 0.0)
        if code is None:
            reply = "There is no fenced code block in your answer. Answer once more." if trial else ""
            # A broken row is ours, whatever was answered to it.
            unscorable = self._problem.broken is not None or not self._problem.tests
            if unscorable:
                self._report["reason"] = self._problem.broken or "there are no tests"
            penalty = 0.0 if unscorable or not self.format_coef else -self.format_coef
            verdict = Verdict.UNSCORABLE if unscorable else Verdict.UNPARSED
            return Outcome(reply, verdict, {**none, "format": penalty}, terminated=not trial)
        make_parts, every_test = CODE_REWARDS[self.reward]
        judgement = judge(
            self._problem, code, self.sandbox, limits=self.limits, tests=tests, every_test=every_test or trial
        )
        self._report = _report(judgement, len(tests), trial)
        if trial:
            verdict = Verdict.WRONG if judgement.verdict is Verdict.CORRECT else judgement.verdict
            reply = public_report(self._problem.public_tests, judgement)
            return Outcome(reply, verdict, {**none, "format": 0.0}, terminated=False)
        parts = none if judgement.verdict is Verdict.UNSCORABLE else make_parts(judgement)
        return Outcome("", judgement.verdict, {**parts, "format": 0.0}, terminated=True)

    def _save(self) -> dict[str, Any]:
        return {"index": self._problem.index, "turn": self._turn, "text": _fingerprint(self._problem)}

    def _load(self, task: dict[str, Any]) -> None:
        index, turn = task["index"], task["turn"]
        num_tasks = self.num_tasks
        if num_tasks is None or type(index) is not int or index not in range(num_tasks):
            raise ValueError(f"index is {index!r}, but the number of tasks is {num_tasks}")
        if turn not in range(self.max_turns + 1):
            raise ValueError(f"turn is {turn!r}, but there are {self.max_turns}")
        problem = self.problem(index)
        if _fingerprint(problem) != task["text"]:
            raise ValueError(f"problem {index} is another one here")
        self._problem, self._turn = problem, turn


def _fingerprint(problem: Problem) -> str:
    return sha256(problem.text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _report(judgement: Judgement | None, total: int, public: bool) -> dict[str, Any]:
    """What the info says about the tests."""
    failures = () if judgement is None else judgement.failures
    return {
        "total": total,
        "run": 0 if judgement is None else len(judgement.results),
        "passed": 0 if judgement is None else judgement.passed,
        "public": public,
        "reason": None if judgement is None else judgement.reason,
        "failures": [{"test": f.index, "outcome": f.outcome.value, "detail": f.detail} for f in failures],
    }


class CodeOptions(TypedDict, total=False):
    """The arguments of `DatasetCodeEnv`, for subclasses that have more."""

    split: str
    data: Data | None
    order_seed: int
    sandbox: Sandbox | str
    reward: str
    format_coef: float
    max_turns: int
    timeout_seconds: float
    total_seconds: float
    memory_mb: int
    render_mode: str | None


class DatasetCodeEnv(CodeEnv):
    """Problems from the rows of a data set.

    A subclass sets ``source`` and implements `_read`; it may choose rows by `_filter`, which is called before any row
    is read. A row whose tests cannot be read is a problem without tests, which gives the verdict ``unscorable``.

    Seeds ``0 .. num_tasks - 1`` visit every row exactly once, in an order that ``order_seed`` decides; greater seeds go
    round again. Without a seed a row is drawn uniformly. Row numbers count the chosen rows only.

    Args:
        split: The split of the data set; None: ``default_split`` of the class.
        data: A path to a JSONL or Parquet file, a pattern of several, or rows; None: look where
            `llm_envs.datasets.load_rows` says.
        order_seed: Decides which seed gets which row; at least 0.
        **options: Those of `CodeEnv`.

    Raises:
        ValueError: If an argument is out of range, or no row is wanted.
    """

    source: ClassVar[DatasetSource]
    default_split: ClassVar[str] = "test"

    def __init__(
        self, *, split: str | None = None, data: Data | None = None, order_seed: int = 0, **options: Any
    ) -> None:
        super().__init__(**options)
        given: object = order_seed
        if not isinstance(given, Integral) or order_seed < 0:
            raise ValueError(f"order_seed must be a whole number, at least 0, got {order_seed!r}")
        wanted = self._filter()
        rows = self._load_rows(data, split or self.default_split)
        self._rows = rows if wanted is None else select_rows(rows, wanted)
        self._order = fixed_order(len(self._rows), order_seed)

    @staticmethod
    @abstractmethod
    def _read(row: Row) -> Problem:
        """The problem of a row, without its index.

        Raises:
            BrokenRowError: If its tests cannot be read.
        """

    @staticmethod
    @abstractmethod
    def _text(row: Row) -> str:
        """The statement of a row whose tests cannot be read."""

    def _load_rows(self, data: Data | None, split: str) -> Rows:
        return load_rows(self.source, data=data, split=split)

    def _filter(self) -> Filter | None:
        """Which rows are wanted; None: all."""
        return None

    @property
    def num_tasks(self) -> int:
        """How many rows there are."""
        return len(self._rows)

    def problem(self, index: int) -> Problem:
        """The task of one row, with its tests. No player sees it.

        Raises:
            IndexError: If there is no such row.
            ValueError: If the row itself is broken; the message names file and line.
        """
        row = self._rows[index]
        try:
            found = self._read(row)
        except BrokenRowError as error:
            found = Problem(self._text(row), (), broken=str(error))
        return replace(found, index=index)

    def _draw(self, seed: int | None, index: int | None) -> Problem:
        if index is None:
            n = len(self._rows)
            index = int(self.np_random.integers(n) if seed is None else self._order[seed % n])
        return self.problem(index)
