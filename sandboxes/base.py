"""What every sandbox promises: run a program that may do anything, and say how it ended."""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import PurePosixPath
from types import TracebackType
from typing import ClassVar, Self

from sandboxes.protocol import MAX_OUTPUT_BYTES

__all__ = ["MAX_OUTPUT_BYTES", "Job", "RunResult", "Sandbox", "SandboxUnavailableError", "Session", "Status"]

_MIN_MEMORY_MB = 16


class SandboxUnavailableError(RuntimeError):
    """A sandbox cannot be had here; the message says why and what to do."""


class Status(StrEnum):
    """How a program ended."""

    OK = "ok"
    """By itself, with exit code 0."""
    ERROR = "error"
    """With another exit code, or by a signal."""
    TIMEOUT = "timeout"
    """Killed at the limit of time."""
    MEMORY = "memory"
    """Out of memory: a MemoryError that nobody caught, or killed for it."""
    OUTPUT_LIMIT = "output_limit"
    """Killed because it wrote more than `MAX_OUTPUT_BYTES`, or too many files where nothing else would stop it."""
    INFRA_ERROR = "infra_error"
    """Not the program's doing: the sandbox failed, after retries."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """What came of a program.

    Attributes:
        status: How it ended.
        stdout: What it wrote, as UTF-8 with replacement characters for what is none; cut at `MAX_OUTPUT_BYTES`.
        stderr: The same; of an infrastructure error, what happened.
        exit_code: Minus the number of the signal that killed it; None where it is not known.
        seconds: Wall-clock time of the program, without waiting for a free place.
    """

    status: Status
    stdout: str
    stderr: str
    exit_code: int | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Job:
    """A program to run.

    Attributes:
        code: Python source, run as ``__main__`` in an empty, writable working directory.
        stdin: Its standard input.
        files: What lies in its working directory: names to contents.
        timeout_seconds: Wall-clock limit.
        memory_mb: Limit of memory, in MiB.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range.
    """

    code: str
    stdin: str = ""
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    timeout_seconds: float = 2.0
    memory_mb: int = 256

    def __post_init__(self) -> None:
        texts: tuple[object, ...] = (self.code, self.stdin)  # a caller may give anything
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("code and stdin must be str")
        memory_mb: object = self.memory_mb
        if not 0 < self.timeout_seconds < math.inf:
            raise ValueError(f"timeout_seconds must be finite and above 0, got {self.timeout_seconds}")
        if type(memory_mb) is not int or memory_mb < _MIN_MEMORY_MB:
            raise ValueError(f"memory_mb must be an integer of at least {_MIN_MEMORY_MB}, got {self.memory_mb!r}")
        for name, content in self.files.items():
            _check_file(name, content)


def _check_file(name: object, content: object) -> None:
    if not isinstance(name, str) or not isinstance(content, str | bytes):
        raise TypeError("files must map names to str or bytes")
    path = PurePosixPath(name)
    if not name or "\0" in name or path.is_absolute() or ".." in path.parts or name != str(path) or name == ".":
        raise ValueError(f"a file's name must be a plain relative path, got {name!r}")


class Sandbox(ABC):
    """Runs programs apart from everything else.

    Thread-safe. Use it as a context manager, or call `close`.
    """

    name: ClassVar[str]
    """As `sandboxes.make` knows it."""

    @abstractmethod
    def run_job(self, job: Job) -> RunResult:
        """Run one program; blocks. Raises nothing for anything that the program does."""

    def session(self, code: str, *, files: Mapping[str, str | bytes] | None = None, memory_mb: int = 256) -> Session:
        """Many runs of one program, each from its beginning and with nothing left of the others; cheaper than `run`.

        Use it as a context manager. A session is for one thread.
        """
        return Session(self, code, files or {}, memory_mb)

    def close(self) -> None:  # noqa: B027 (a sandbox may have nothing to give back)
        """Stop what is running and give everything back. Later calls raise RuntimeError."""

    def describe(self) -> str:
        """In one line: the backend, and how strong it is here."""
        return self.name

    @property
    def concurrency(self) -> int:
        """How many programs it runs at once without slowing each other down."""
        return 1

    def run(
        self,
        code: str,
        *,
        stdin: str = "",
        files: Mapping[str, str | bytes] | None = None,
        timeout_seconds: float = 2.0,
        memory_mb: int = 256,
    ) -> RunResult:
        """Run a program and wait for it; the arguments are those of `Job`."""
        return self.run_job(Job(code, stdin, files or {}, timeout_seconds, memory_mb))

    async def arun(
        self,
        code: str,
        *,
        stdin: str = "",
        files: Mapping[str, str | bytes] | None = None,
        timeout_seconds: float = 2.0,
        memory_mb: int = 256,
    ) -> RunResult:
        """`run` for coroutines."""
        return await asyncio.to_thread(self.run_job, Job(code, stdin, files or {}, timeout_seconds, memory_mb))

    def run_many(self, jobs: Sequence[Job], *, concurrency: int | None = None) -> list[RunResult]:
        """Run programs side by side, at most ``concurrency`` at once; results in the order of the jobs."""
        if concurrency is not None and concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, got {concurrency}")
        if not jobs:
            return []
        with ThreadPoolExecutor(min(concurrency or self.concurrency, len(jobs))) as pool:
            return list(pool.map(self.run_job, jobs))

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        """A sandbox is a resource: a copy of what refers to it, as Gymnasium makes of arguments, shares it."""
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Session:
    """Runs of one program. This one just asks the sandbox each time."""

    def __init__(self, sandbox: Sandbox, code: str, files: Mapping[str, str | bytes], memory_mb: int) -> None:
        self._sandbox = sandbox
        self._job = Job(code, files=files, memory_mb=memory_mb)

    def run(self, stdin: str = "", *, timeout_seconds: float = 2.0) -> RunResult:
        """Run the program once."""
        return self._sandbox.run_job(replace(self._job, stdin=stdin, timeout_seconds=timeout_seconds))

    def close(self) -> None:
        """End the session."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
