"""Programs in the cloud of Modal, whose containers have a kernel of their own (gVisor)."""

from __future__ import annotations

import contextlib
import math
import queue
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

from sandboxes.base import Job, RunResult, Sandbox, SandboxUnavailableError, Status
from sandboxes.remote import LAUNCHER, STARTUP_SECONDS, pack, unpack

__all__ = ["ModalSandbox"]

_ROOM = 4 << 20
"""For a report: more than two full outputs that do not compress."""
_STDIN_CHUNK = 1 << 20
_LAUNCHER_MEMORY_MB = 128
_KILLED = 128 + 9
_EXEC_TIMED_OUT = -1


class _InfrastructureError(Exception):
    """Modal failed, and may do better the next time."""


@dataclass(slots=True)
class _Container:
    """One of Modal's sandboxes. It runs one program at a time, so a program's seconds are its own."""

    sandbox: Any
    jobs_left: int
    expires: float
    idle_since: float


class _Pace:
    """Lets through so many a second, evenly."""

    def __init__(self, per_second: float) -> None:
        self._gap = 1.0 / per_second
        self._next = 0.0
        self._lock = threading.Lock()

    def reserve(self) -> float:
        """Take the next place; how long to wait for it."""
        with self._lock:
            now = time.monotonic()
            place = max(now, self._next)
            self._next = place + self._gap
        return place - now


class ModalSandbox(Sandbox):
    """A warm pool of Modal's sandboxes: no network, hard limits of processors and memory.

    A sandbox of Modal takes a second to make, so each runs many programs, one after the other. There our launcher (see
    `sandboxes.remote`) is root and each program an ordinary user that nobody was before; what it leaves is killed and
    removed, and where that fails, or anything else is out of order, the whole sandbox is replaced.

    Needs the package ``modal`` and an account: ``modal token new``, or ``MODAL_TOKEN_ID`` and ``MODAL_TOKEN_SECRET``.

    Args:
        app: Name of the Modal app that the sandboxes belong to; made if missing.
        image: A ``modal.Image`` with ``python`` in its path; without it, Debian with Python 3.12.
        client: A ``modal.Client``; without it, the one of the environment.
        cpu: Processors of each sandbox, no more and no fewer.
        memory_mb: Memory of each sandbox; a job may ask for 128 MiB less than that.
        concurrency: How many sandboxes there are.
        jobs_per_sandbox: After how many programs a sandbox is replaced; 1 shares nothing at all, at the cost of speed.
        creations_per_second: How fast sandboxes are made; Modal limits this for each account.
        lifetime_seconds: How long a sandbox lives at most.
        idle_seconds: After how long without work Modal may take it back, so that a crash of ours does not cost much.
        drop_root: Whether programs are ordinary users. Only for images whose Python nobody but root can read.
        attempts: How often a job is tried while Modal fails.
        backoff_seconds: Before the second attempt; doubles each time.

    Raises:
        SandboxUnavailableError: If the package, the account or the image does not work.
        ValueError: If an argument is out of range.
    """

    name: ClassVar[str] = "modal"

    def __init__(
        self,
        *,
        app: str = "llm-envs-sandboxes",
        image: Any = None,
        client: Any = None,
        cpu: float = 1.0,
        memory_mb: int = 1024,
        concurrency: int = 4,
        jobs_per_sandbox: int = 100,
        creations_per_second: float = 2.0,
        lifetime_seconds: int = 3600,
        idle_seconds: int = 600,
        drop_root: bool = True,
        attempts: int = 3,
        backoff_seconds: float = 0.2,
    ) -> None:
        if min(concurrency, jobs_per_sandbox, attempts, lifetime_seconds, idle_seconds) < 1:
            raise ValueError("concurrency, jobs_per_sandbox, attempts and the seconds must be at least 1")
        if not (cpu > 0 and creations_per_second > 0 and backoff_seconds >= 0):
            raise ValueError("cpu and creations_per_second must be above 0, backoff_seconds at least 0")
        try:
            self._modal: Any = import_module("modal")
        except ImportError as error:
            raise SandboxUnavailableError("the package modal is missing: pip install modal") from error
        self._memory_mb, self._concurrency, self._jobs_per_sandbox = memory_mb, concurrency, jobs_per_sandbox
        self._lifetime_seconds, self._idle_seconds, self._drop_root = lifetime_seconds, idle_seconds, drop_root
        self._attempts, self._backoff_seconds = attempts, backoff_seconds
        self._options: dict[str, Any] = {
            "block_network": True,
            "cpu": (cpu, cpu),
            "memory": (memory_mb, memory_mb),
            "timeout": lifetime_seconds,
            "idle_timeout": idle_seconds,
            "client": client,
        }
        # One entry for each sandbox that no job has and nobody is making; None is one that is still to be made.
        self._ready: queue.LifoQueue[_Container | None] = queue.LifoQueue()
        self._ready.put(None)
        self._pace = _Pace(creations_per_second)
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._workers = ThreadPoolExecutor(concurrency, thread_name_prefix="modal-sandbox")
        try:
            self._options["image"] = image or self._modal.Image.debian_slim("3.12")
            self._options["app"] = self._modal.App.lookup(app, create_if_missing=True, client=client)
            self._check_health()
        except SandboxUnavailableError:
            self.close()
            raise
        except self._failures() as error:
            self.close()
            raise SandboxUnavailableError(f"Modal does not work here: {error}") from error
        for _ in range(concurrency - 1):
            self._workers.submit(self._prepare)

    @property
    def concurrency(self) -> int:
        """How many programs run at once."""
        return self._concurrency

    def describe(self) -> str:
        """In one line: the backend, and how strong it is."""
        return "modal: gVisor containers without network, programs as " + (
            "ordinary users" if self._drop_root else "root"
        )

    def close(self) -> None:
        """Terminate the sandboxes, when the last of those that are being made is there."""
        with self._lock:
            self._closed.set()
        self._workers.shutdown(wait=True)
        with contextlib.suppress(queue.Empty):
            while True:
                container = self._ready.get_nowait()
                if container is not None:
                    self._terminate(container)
        # Wakes a job that waits; it wakes the next.
        self._ready.put(None)

    def run_job(self, job: Job) -> RunResult:
        """Run one program.

        Raises:
            ValueError: If the job asks for more memory than a sandbox has.
        """
        if self._closed.is_set():
            raise RuntimeError("this sandbox is closed")
        if job.memory_mb + _LAUNCHER_MEMORY_MB > self._memory_mb:
            raise ValueError(f"memory_mb must be at most {self._memory_mb - _LAUNCHER_MEMORY_MB} here: {job.memory_mb}")
        started = time.monotonic()
        for attempt in range(self._attempts):
            try:
                return self._try(job)
            except _InfrastructureError as error:
                said = str(error)
            if attempt + 1 < self._attempts:
                self._closed.wait(self._backoff_seconds * 2**attempt * random.uniform(0.5, 1.5))
        return RunResult(Status.INFRA_ERROR, "", f"modal: {said}", None, time.monotonic() - started)

    def _check_health(self) -> None:
        """Make the first sandbox and run a program that imports."""
        result = self.run_job(Job("import decimal, threading; print(6 * 7)", timeout_seconds=30.0))
        if result.status is not Status.OK or result.stdout != "42\n":
            hint = " (drop_root=False, if its Python is readable for root alone)" if self._drop_root else ""
            raise SandboxUnavailableError(f"Modal does not run Python programs in this image{hint}: {result.stderr}")

    def _failures(self) -> tuple[type[BaseException], ...]:
        terminated = import_module("grpclib.exceptions").StreamTerminatedError
        return (self._modal.exception.Error, OSError, TimeoutError, terminated)

    def _try(self, job: Job) -> RunResult:
        container = self._take()
        fit = False
        try:
            result, fit = self._execute(container.sandbox, job)
        except self._failures() as error:
            if self._killed(container.sandbox):
                # All of the sandbox's memory: the program and what it forked.
                return RunResult(Status.MEMORY, "", "", -9, 0.0)
            raise _InfrastructureError(f"{type(error).__name__}: {error}") from error
        finally:
            self._give(container, fit)
        return result

    def _execute(self, sandbox: Any, job: Job) -> tuple[RunResult, bool]:
        """Run the launcher; the result, and whether the sandbox is fit for another program."""
        # A user that was not there before owns nothing that an earlier program left.
        uid = random.randrange(20_000, 60_000) if self._drop_root else 0
        text = pack(job, room=_ROOM, base="/tmp", uid=uid).encode("ascii")
        started = time.monotonic()
        # The job goes through stdin: Modal takes at most 64 KiB of arguments.
        process = sandbox.exec(
            "python",
            "-I",
            "-c",
            LAUNCHER,
            timeout=math.ceil(job.timeout_seconds + STARTUP_SECONDS),
            stderr=self._modal.stream_type.StreamType.DEVNULL,
            text=False,
        )
        for start in range(0, len(text), _STDIN_CHUNK):
            process.stdin.write(text[start : start + _STDIN_CHUNK])
            process.stdin.drain()
        process.stdin.write_eof()
        process.stdin.drain()
        line = bytearray()
        for chunk in process.stdout:
            line += chunk
            if len(line) > 2 * _ROOM:
                return RunResult(Status.OUTPUT_LIMIT, "", "", None, time.monotonic() - started), False
        code = process.wait()
        seconds = time.monotonic() - started
        report = unpack(line.decode("utf-8", "replace"), seconds=seconds)
        if report is not None:
            return report.result, report.clean
        if code == _EXEC_TIMED_OUT:
            return RunResult(Status.TIMEOUT, "", "", None, seconds), False
        # A program that is no root cannot kill its launcher; the kernel can, when memory ends.
        status = Status.MEMORY if code == _KILLED and self._drop_root else Status.ERROR
        return RunResult(status, "", "", 128 - code if code > 128 else code, seconds), False

    def _killed(self, sandbox: Any) -> bool:
        with contextlib.suppress(*self._failures()):
            return bool(sandbox.poll() == _KILLED)
        return False

    def _take(self) -> _Container:
        """A sandbox that is ready; waits for one, or makes one if it is this job's turn to."""
        container = self._ready.get()
        if container is not None:
            # One that Modal is about to take back would take the program with it.
            if time.monotonic() < min(container.expires, container.idle_since + 0.9 * self._idle_seconds):
                return container
            self._retire(container)
        try:
            return self._create()
        except BaseException as error:
            self._ready.put(None)
            if isinstance(error, self._failures()):
                raise _InfrastructureError(f"{type(error).__name__}: {error}") from error
            raise

    def _create(self) -> _Container:
        if self._closed.wait(self._pace.reserve()):
            raise _InfrastructureError("the sandbox was closed meanwhile")
        sandbox = self._modal.Sandbox.create("sleep", str(self._lifetime_seconds), **self._options)
        now = time.monotonic()
        return _Container(sandbox, self._jobs_per_sandbox, now + 0.9 * self._lifetime_seconds, now)

    def _give(self, container: _Container, fit: bool) -> None:
        """Put a sandbox back, or replace it while others work."""
        container.jobs_left -= 1
        container.idle_since = time.monotonic()
        with self._lock:
            keep = fit and container.jobs_left > 0 and not self._closed.is_set()
            if keep:
                self._ready.put(container)
            elif self._closed.is_set():
                self._ready.put(None)
            else:
                self._workers.submit(self._prepare)
        if not keep:
            self._retire(container)

    def _retire(self, container: _Container) -> None:
        with self._lock:
            if not self._closed.is_set():
                self._workers.submit(self._terminate, container)
                return
        self._terminate(container)

    def _prepare(self) -> None:
        """Make a sandbox ahead of need. A failure is left to the job that needs one: it tries again, and reports."""
        container = None
        with contextlib.suppress(_InfrastructureError, *self._failures()):
            container = self._create()
        self._ready.put(container)

    def _terminate(self, container: _Container) -> None:
        # What cannot be told to end does so after `idle_seconds`.
        with contextlib.suppress(*self._failures()):
            container.sandbox.terminate()
        with contextlib.suppress(*self._failures()):
            container.sandbox.detach()
