"""A sandbox that runs nothing: for tests of what calls one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import ClassVar

from sandboxes.base import Job, RunResult, Sandbox, Status

__all__ = ["FakeSandbox", "ended"]

_EXIT_CODES = {Status.OK: 0, Status.ERROR: 1, Status.TIMEOUT: -9, Status.MEMORY: 1, Status.OUTPUT_LIMIT: -9}


def ended(status: Status | str = Status.OK, stdout: str = "", stderr: str = "", *, seconds: float = 0.0) -> RunResult:
    """A result as a real sandbox gives it, with the exit code that goes with the status."""
    status = Status(status)
    return RunResult(status, stdout, stderr, _EXIT_CODES.get(status), seconds)


class FakeSandbox(Sandbox):
    """Answers from a script and remembers what it was asked.

    Args:
        script: The results in order, or a function from a job to its result. A string is the stdout of a program
            that ended well.

    Attributes:
        jobs: What it was asked to run, in order.
        closed: Whether `close` was called.

    Raises:
        AssertionError: By `run_job`, if it is asked more often than the script is long: the test that wrote the
            script counted wrongly, and so it must not be taken for an answer.
    """

    name: ClassVar[str] = "fake"

    def __init__(self, script: Iterable[RunResult | str] | Callable[[Job], RunResult | str] = ()) -> None:
        self._answer = script if callable(script) else None
        self._script = iter(()) if callable(script) else iter(script)
        self._lock = threading.Lock()
        self.jobs: list[Job] = []
        self.closed = False

    @property
    def calls(self) -> int:
        """How often it was asked."""
        return len(self.jobs)

    def run_job(self, job: Job) -> RunResult:
        """Give the next result of the script."""
        with self._lock:
            if self.closed:
                raise RuntimeError("the sandbox is closed")
            self.jobs.append(job)
            result = None if self._answer is not None else next(self._script, None)
        if self._answer is not None:
            result = self._answer(job)  # outside of the lock, so that answers may take their time side by side
        if result is None:
            raise AssertionError(f"call {self.calls} of a FakeSandbox whose script is {self.calls - 1} long")
        return ended(stdout=result) if isinstance(result, str) else result

    def close(self) -> None:
        """Remember that it was closed."""
        self.closed = True
