"""Two sandboxes that hold nothing, to see that the suites can fail.

Never run an attack against one outside of `contained`.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, ClassVar

from sandboxes import MAX_OUTPUT_BYTES, Job, RunResult, Sandbox, Status


class UnsafeSubprocessSandbox(Sandbox):
    """A new Python for each job, with its limits and nothing else: ends as it should, and holds nobody."""

    name: ClassVar[str] = "unsafe-subprocess"

    def __init__(self) -> None:
        self._closed = False

    def run_job(self, job: Job) -> RunResult:
        if self._closed:
            raise RuntimeError("the sandbox is closed")
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            write_files(Path(folder), job)
            return self._run(job, folder)

    def close(self) -> None:
        self._closed = True

    def _run(self, job: Job, folder: str) -> RunResult:
        limit = job.memory_mb << 20
        code = job.code.encode("utf-8", "surrogatepass")
        started = time.monotonic()
        child = subprocess.Popen(
            [sys.executable, "-X", "utf8", "-c", bootstrap(len(code))],
            cwd=folder,
            env={"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),  # noqa: PLW1509
        )
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        outputs = bytearray(), bytearray()
        helpers = [
            threading.Thread(target=_feed, args=(child.stdin, code + job.stdin.encode("utf-8", "surrogatepass"))),
            threading.Thread(target=_drain, args=(child, child.stdout, outputs[0])),
            threading.Thread(target=_drain, args=(child, child.stderr, outputs[1])),
        ]
        for helper in helpers:
            helper.daemon = True  # a descendant of the program may hold a pipe open for ever
            helper.start()
        timed_out = False
        try:
            child.wait(job.timeout_seconds)
        except subprocess.TimeoutExpired:
            timed_out = True
            child.kill()
            child.wait()
        seconds = time.monotonic() - started
        for helper in helpers[1:]:
            helper.join(0.5)
        return finish(bytes(outputs[0]), bytes(outputs[1]), child.returncode, seconds, timed_out=timed_out)


def bootstrap(length: int) -> str:
    """The program that reads ``length`` bytes of source from file descriptor 0, and becomes it."""
    return (
        "import os, sys\n"
        "sys.argv[:] = ['main.py']\n"
        "def _source(missing):\n"
        "    parts = []\n"
        "    while missing and (part := os.read(0, missing)):\n"
        "        parts.append(part)\n"
        "        missing -= len(part)\n"
        "    return b''.join(parts).decode('utf-8', 'surrogatepass')\n"
        f"_code = compile(_source({length}), 'main.py', 'exec', dont_inherit=True)\n"
        "del os, sys, _source\n"
        "exec(globals().pop('_code'))\n"
    )


def write_files(folder: Path, job: Job) -> None:
    for name, content in job.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def finish(stdout: bytes, stderr: bytes, exit_code: int, seconds: float, *, timed_out: bool) -> RunResult:
    if max(len(stdout), len(stderr)) > MAX_OUTPUT_BYTES:
        status = Status.OUTPUT_LIMIT
    elif timed_out:
        status = Status.TIMEOUT
    elif exit_code == 0:
        status = Status.OK
    else:
        last = stderr.rstrip().rpartition(b"\n")[2]
        status = Status.MEMORY if last.startswith(b"MemoryError") else Status.ERROR
    out, err = (output[:MAX_OUTPUT_BYTES].decode("utf-8", "replace") for output in (stdout, stderr))
    return RunResult(status, out, err, exit_code, seconds)


def _feed(pipe: IO[bytes], data: bytes) -> None:
    try:
        view = memoryview(data)
        while view:
            view = view[pipe.write(view) :]
    except OSError:
        pass  # the program did not want it
    pipe.close()


def _drain(child: subprocess.Popen[bytes], pipe: IO[bytes], into: bytearray) -> None:
    with pipe:
        while part := pipe.read(1 << 16):
            into += part
            if len(into) > MAX_OUTPUT_BYTES:
                child.kill()
                return


class UnsafeForkSandbox(Sandbox):
    """The harness forks itself, every job in one folder, and believes what the job says of itself."""

    name: ClassVar[str] = "unsafe-fork"

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="shared-")

    def run_job(self, job: Job) -> RunResult:
        write_files(Path(self._folder), job)
        verdicts, verdict = os.pipe()
        os.set_blocking(verdicts, False)
        with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
            stdin.write(job.stdin.encode("utf-8", "surrogatepass"))
            stdin.seek(0)
            started = time.monotonic()
            pid = os.fork()
            if not pid:
                for number, file in enumerate((stdin, stdout, stderr)):
                    os.dup2(file.fileno(), number)
                _child(job, self._folder, verdict)
            ended = _wait(pid, job.timeout_seconds)
            if not ended:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            seconds = time.monotonic() - started
            outputs = []
            for file in (stdout, stderr):
                file.seek(0)
                outputs.append(file.read(MAX_OUTPUT_BYTES + 1))
        try:
            said = json.loads(os.read(verdicts, 1 << 16).partition(b"\n")[0])
        except (BlockingIOError, ValueError):
            said = {"exit_code": 1}
        os.close(verdicts)
        os.close(verdict)
        return finish(outputs[0], outputs[1], said["exit_code"], seconds, timed_out=not ended)


def _child(job: Job, folder: str, verdict: int) -> None:
    os.chdir(folder)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
    exit_code = 0
    try:
        exec(compile(job.code, "main.py", "exec"), {"__name__": "__main__"})
    except SystemExit as error:
        exit_code = error.code if isinstance(error.code, int) else 1
    except BaseException as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        exit_code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(verdict, json.dumps({"exit_code": exit_code}).encode() + b"\n")
    os._exit(0)


def _wait(pid: int, seconds: float) -> bool:
    process = os.pidfd_open(pid)
    ended = bool(select.select([process], [], [], seconds)[0])
    os.close(process)
    if ended:
        os.waitpid(pid, 0)
    return ended
