"""The embedded sandbox: a warm Python that forks a process per job, in namespaces, behind a filter of system calls."""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from sandboxes.base import Job, RunResult, Sandbox, SandboxUnavailableError, Session, Status
from sandboxes.handles import START_SECONDS, FailedError, Supervisor, Zygote

__all__ = ["PRELOAD", "LocalSandbox"]

PRELOAD = (
    *("array", "ast", "bisect", "cmath", "collections", "contextlib", "copy", "dataclasses", "datetime", "decimal"),
    *("enum", "fractions", "functools", "hashlib", "heapq", "io", "itertools", "json", "linecache", "math", "numbers"),
    *("operator", "queue", "random", "re", "statistics", "string", "struct", "textwrap", "threading", "time"),
    *("traceback", "typing"),
)
"""Modules that a program finds loaded already."""

_TIERS = ("namespaces", "landlock", "unsafe")
_ATTEMPTS = 3
_PAUSE_SECONDS = 0.02
"""Before the second attempt, and twice that before the third: what is ending shall have ended."""
_MOST_IDLE = 32
"""Supervisors that wait for work."""
_sandboxes: weakref.WeakSet[LocalSandbox] = weakref.WeakSet()


class LocalSandbox(Sandbox):
    """Runs programs on this machine, each a fork of a warm Python of its own.

    Tiers, the strongest that works is taken:

    - ``namespaces``: each job has its own pid, mount, net, ipc, uts and (where allowed) user namespace, a root that
      holds read-only system libraries and Python, no /proc, a working directory of 16 MiB in memory, no capability, and
      a list of allowed system calls.
    - ``landlock``: where namespaces are refused (in a container). Files outside of Python and the working directory
      cannot be opened, other processes cannot be signalled, there are no sockets but pairs. The working directory lies
      on the disk; it is looked at every 10 ms, and a program that overfills it is killed (``output_limit``); files that
      it has unlinked but holds open are not seen. It cannot change modes and times of files. Threads are limited for
      all programs of a user together. A program may learn that files exist. As root with a Python that only root can
      read, programs stay root, without any capability.
    - ``unsafe``: limits of resources only, for programs that you trust.

    It may be used from any thread, in daemonic processes, and on both sides of a fork (each side starts its own).

    Args:
        tier: Take this one or none.
        allow_unsafe: Whether ``unsafe`` will do if nothing else works.
        preload: Modules to have loaded; one that is not of the standard library brings the folder it was found in.
        python: The Python to run; this one by default.

    Raises:
        SandboxUnavailableError: If no tier works here, with the reason of each.
        ValueError: If the tier is not known.
    """

    name: ClassVar[str] = "local"

    def __init__(
        self,
        *,
        tier: str | None = None,
        allow_unsafe: bool = False,
        preload: Sequence[str] = PRELOAD,
        python: str | None = None,
    ) -> None:
        if tier is not None and tier not in _TIERS:
            raise ValueError(f"unknown tier {tier!r}; known: {', '.join(_TIERS)}")
        if sys.platform != "linux":
            raise SandboxUnavailableError(
                f"the local sandbox needs Linux, and this is {sys.platform}; the docker backend works: make('docker')"
            )
        if tier == "unsafe" and not allow_unsafe:
            raise SandboxUnavailableError("the tier 'unsafe' holds nothing; it needs allow_unsafe=True")
        self._python = python or str(getattr(sys, "_base_executable", sys.executable))
        self._preload = list(preload)
        self._paths = _folders_of(preload)
        self._closed = False
        self._forget()
        tiers = [tier] if tier else [one for one in _TIERS if one != "unsafe" or allow_unsafe]
        self._tier = self._strongest(tiers)
        _sandboxes.add(self)

    def _forget(self) -> None:
        """Begin without a zygote, as at first; in a forked child the one of the parent is not ours."""
        self._lock = threading.Lock()
        self._zygote: Zygote | None = None
        self._supervisors = 0
        self._idle: deque[Supervisor] = deque()

    def _strongest(self, tiers: Sequence[str]) -> str:
        reasons = []
        for tier in tiers:
            self._tier = tier
            try:
                result = self._once(Job("print(6 * 7)", timeout_seconds=START_SECONDS))
                if result.stdout == "42\n":
                    return tier
                reasons.append(f"{tier}: {result.stderr or result.status}")
            except FailedError as error:
                reasons.append(f"{tier}: {error}")
            self._stop()
        raise SandboxUnavailableError(
            "no tier of the local sandbox works here ("
            + "; ".join(reasons)
            + "); use the docker backend, or allow_unsafe=True for programs that you trust"
        )

    def run_job(self, job: Job) -> RunResult:
        """Run one program in namespaces, or in a folder, of its own."""
        return _attempts(lambda: self._once(job), self)

    def _once(self, job: Job) -> RunResult:
        supervisor = self._take()
        try:
            result = supervisor.run(job)
        except BaseException:
            supervisor.close()
            raise
        self._give_back(supervisor)
        return result

    def session(self, code: str, *, files: Mapping[str, str | bytes] | None = None, memory_mb: int = 256) -> Session:
        """Many runs in one set of namespaces: each a fresh fork in a fresh working directory, the last one dead."""
        return _LocalSession(self, code, files or {}, memory_mb)

    def describe(self) -> str:
        """The backend and its tier."""
        return f"local ({self._tier})"

    @property
    def tier(self) -> str:
        """How programs are kept in here: ``namespaces``, ``landlock`` or ``unsafe``."""
        return self._tier

    @property
    def concurrency(self) -> int:
        """One program a core."""
        return len(os.sched_getaffinity(0))

    def close(self) -> None:
        """End the zygote, and with it all that runs."""
        self._closed = True
        self._stop()

    def _stop(self) -> None:
        with self._lock:
            zygote, self._zygote = self._zygote, None
            self._drop_idle()
        if zygote is not None:
            zygote.stop()

    def _drop_idle(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def _take(self) -> Supervisor:
        """A supervisor to oneself; starts the zygote if there is none.

        There is always one more than are at work. It gets ready while the others run programs, and as those that come
        back queue up behind it, even one program after the other never waits for namespaces to be made.
        """
        with self._lock:
            if self._closed:
                raise RuntimeError("the sandbox is closed")
            if self._zygote is not None and not self._zygote.alive():
                self._zygote.stop()
                self._zygote = None
                self._drop_idle()
            if self._zygote is None:
                self._zygote = Zygote(self._python, self._tier, self._preload, self._paths)
            taken = self._idle.popleft() if self._idle else self._new(self._zygote)
            if not self._idle:
                with suppress(FailedError):  # the next one that needs it will learn
                    self._idle.append(self._new(self._zygote))
        return taken

    def _new(self, zygote: Zygote) -> Supervisor:
        self._supervisors += 1
        return Supervisor(zygote, self._supervisors)

    def _give_back(self, supervisor: Supervisor) -> None:
        with self._lock:
            if supervisor.zygote is self._zygote and len(self._idle) < _MOST_IDLE:
                self._idle.append(supervisor)
                return
        supervisor.close()


class _LocalSession(Session):
    """Runs of one program by one supervisor; one that fails is replaced."""

    def __init__(self, sandbox: LocalSandbox, code: str, files: Mapping[str, str | bytes], memory_mb: int) -> None:
        super().__init__(sandbox, code, files, memory_mb)
        self._local = sandbox
        self._supervisor: Supervisor | None = None
        self._closed = False

    def run(self, stdin: str = "", *, timeout_seconds: float = 2.0) -> RunResult:
        """Run the program once."""
        job = replace(self._job, stdin=stdin, timeout_seconds=timeout_seconds)
        if self._closed:
            raise RuntimeError("the session is closed")
        return _attempts(lambda: self._run(job), self._local)

    def _run(self, job: Job) -> RunResult:
        self._forget_after_fork()
        if self._supervisor is None:
            self._supervisor = self._local._take()
        try:
            return self._supervisor.run(job, keep=True)
        except BaseException:
            supervisor, self._supervisor = self._supervisor, None
            supervisor.close()
            raise

    def _forget_after_fork(self) -> None:
        """In a forked child the supervisor is the parent's: its answers are not for us."""
        if self._supervisor is not None and self._supervisor.process != os.getpid():
            self._supervisor.forget()
            self._supervisor = None

    def close(self) -> None:
        """Let the next one have the supervisor."""
        self._closed = True
        self._forget_after_fork()
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            supervisor.end_session()
            self._local._give_back(supervisor)


def _attempts(run: Callable[[], RunResult], sandbox: LocalSandbox) -> RunResult:
    """Try, and try again when it was us; a program is run from its beginning each time."""
    started = time.monotonic()
    reason = ""
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(attempt * _PAUSE_SECONDS)
            with sandbox._lock:
                sandbox._drop_idle()  # what befell one may have befallen all
        try:
            result = run()
        except FailedError as error:
            reason = str(error)
            if sandbox._closed:
                break
        else:
            return result
    return RunResult(Status.INFRA_ERROR, "", reason, None, time.monotonic() - started)


def _folders_of(modules: Sequence[str]) -> list[str]:
    """Where those modules lie that are not of the standard library."""
    folders = []
    for name in {module.partition(".")[0] for module in modules} - set(sys.stdlib_module_names):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise ValueError(f"cannot preload {name}: there is no such module")
        origin = Path(spec.origin)
        folders.append(str(origin.parent.parent if spec.submodule_search_locations else origin.parent))
    return sorted(set(folders))


def _after_fork() -> None:
    for sandbox in list(_sandboxes):
        if sandbox._zygote is not None:
            sandbox._zygote.disown()
        for supervisor in sandbox._idle:
            supervisor.forget()
        sandbox._forget()


os.register_at_fork(after_in_child=_after_fork)
