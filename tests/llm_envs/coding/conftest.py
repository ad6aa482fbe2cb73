"""A sandbox for these tests: the real one where it works, else one that is only apart, and holds nobody."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import sandboxes
from sandboxes import MAX_OUTPUT_BYTES, Job, RunResult, Sandbox, Status


class SubprocessSandbox(Sandbox):
    """A Python a job. It is enough to see what the judge makes of results; no attack is run against it."""

    name = "subprocess"

    def __init__(self) -> None:
        self.runs = 0

    def run_job(self, job: Job) -> RunResult:
        self.runs += 1
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            main = Path(folder, "main.py")
            main.write_bytes(job.code.encode("utf-8", "surrogatepass"))
            started = time.monotonic()
            child = subprocess.Popen(
                [sys.executable, "-X", "utf8", "main.py"],
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
            try:
                stdin = job.stdin.encode("utf-8", "surrogatepass")
                out, err = child.communicate(stdin, timeout=job.timeout_seconds + _START_SECONDS)
                status = Status.OK if child.returncode == 0 else Status.ERROR
            except subprocess.TimeoutExpired:
                status = Status.TIMEOUT
                os.killpg(child.pid, signal.SIGKILL)
                out, err = child.communicate()
            seconds = time.monotonic() - started
        if len(out) > MAX_OUTPUT_BYTES:
            status = Status.OUTPUT_LIMIT
        if b"MemoryError" in err.split(b"\n")[-2:-1]:
            status = Status.MEMORY
        texts = (out[:MAX_OUTPUT_BYTES].decode(errors="replace"), err.decode(errors="replace"))
        return RunResult(status, *texts, child.returncode, max(0.0, seconds - _START_SECONDS))


_START_SECONDS = 0.2  # of a Python, which a real sandbox has warm


@pytest.fixture(scope="session")
def box() -> Iterator[Sandbox]:
    """The sandbox that programs are judged in."""
    with sandboxes.make("auto") if _has_real() else SubprocessSandbox() as made:
        yield made


@pytest.fixture(autouse=True)
def auto_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no real sandbox, "auto" is the other one."""
    if not _has_real():
        monkeypatch.setattr(sandboxes, "make", lambda name="auto": SubprocessSandbox())


@cache
def _has_real() -> bool:
    try:
        with sandboxes.make("auto") as made:
            return made.run("pass").status is Status.OK
    except sandboxes.SandboxUnavailableError:
        return False
