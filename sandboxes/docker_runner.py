"""The first process of a container of the docker backend: it forks one process for each program.

Its source is sent into the container and run there with ``python -I``, so it imports nothing but the standard library
(and `sandboxes.program` with what that needs, which is sent along). Being process 1 it cannot be signalled from inside.
Not being dumpable, its memory and descriptors cannot be opened by programs, although they run under the same user.

It never holds what a program reads or writes where the next one could find it: the request is read by the process that
becomes the program, and output goes through memory that a fork leaves out.

Request: 12 bytes (``>dI``: limit in seconds, length), then JSON. Reply: 21 bytes (``>BidII``: index of the status in
`STATUSES`, exit code, seconds, lengths), then stdout and stderr.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import fcntl
import gc
import importlib
import json
import mmap
import os
import platform
import resource
import select
import signal
import struct
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

if sys.platform == "linux":  # The other end of the pipe, which imports the formats, may be elsewhere.
    from sandboxes import program
    from sandboxes.isolation import limits, seccomp

REQUEST = struct.Struct(">dI")
REPLY = struct.Struct(">BidII")
STATUSES = ("ok", "error", "timeout", "memory", "output_limit", "setup")
_LIMIT = 1 << 20
_WORK = "/work"
_WRITABLE = (_WORK, "/dev/shm", "/dev/mqueue")
_OPEN_FILES = 64
_LONGEST_POLL_SECONDS = 1e6  # A C int of milliseconds.
_STACK_BYTES = 64 << 20
_RLIMIT_MSGQUEUE = 12
_PR_SET_DUMPABLE = 4
_MADV_DONTFORK = 10
_F_ADD_SEALS, _SEALS = 1033, 0xF  # No change of the seals, no shrinking, growing or writing.
_START = struct.Struct("d")

_exit = os._exit  # Programs replace that of the module.
_libc = ctypes.CDLL(None, use_errno=True)


class _Birth(BaseException):
    """Raised in the new process, so that it leaves the frames of process 1 before it becomes the program."""

    def __init__(self, length: int, write_ends: list[int]) -> None:
        self.arguments = length, write_ends


class Runner:
    """Serves one program after another until its input ends."""

    def __init__(self) -> None:
        self._filter = seccomp.pack(seccomp.build(platform.machine()))
        self._requests, self._replies = os.dup(0), os.dup(1)
        program.prepare_streams()
        self._outputs = [memoryview(_private_memory(_LIMIT + mmap.PAGESIZE)) for _ in range(2)]
        self._oom_kills = _oom_kills()

    def serve(self) -> None:
        """Run programs until there is no more to read."""
        poll = select.poll()
        poll.register(self._requests, select.POLLIN)
        while True:
            poll.poll()
            header = _read(self._requests, REQUEST.size)
            timeout_seconds, length = REQUEST.unpack(header)
            if not self._run(timeout_seconds, length):
                return  # Out of step with the client, or not clean: the end of this container.

    def _run(self, timeout_seconds: float, length: int) -> bool:
        pipes = [os.pipe() for _ in range(3)]
        pid = os.fork()
        if not pid:
            raise _Birth(length, [write_end for _, write_end in pipes])
        for _, write_end in pipes:
            os.close(write_end)
        *read_ends, ready = (read_end for read_end, _ in pipes)
        process = os.pidfd_open(pid)
        reason: str | None = "setup"
        sizes, started = [0, 0], time.monotonic()
        try:
            start = os.read(ready, _START.size)  # Closed before the program's own code runs.
            if len(start) == _START.size:
                (started,) = _START.unpack(start)
                reason = self._watch(process, read_ends, started + timeout_seconds, sizes)
            exit_code = _end_all(pid)
            seconds = time.monotonic() - started
            if not reason or reason == "setup":
                reason = self._drain(read_ends, sizes) or reason
        finally:
            for descriptor in (process, ready, *read_ends):
                os.close(descriptor)
        if not start:
            return False
        self._reply(reason or self._status(exit_code), exit_code, seconds, sizes)
        return all(_empty(folder) for folder in _WRITABLE)

    def _watch(self, process: int, read_ends: list[int], deadline: float, sizes: list[int]) -> str | None:
        """Take the program's output until it ends; says why it must be killed, if it must."""
        poll = select.poll()
        poll.register(process, select.POLLIN)
        poll.register(self._requests, 0)  # Reports the end of the client only.
        for read_end in read_ends:
            poll.register(read_end, select.POLLIN)
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                return "timeout"
            ready = {descriptor for descriptor, _ in poll.poll(min(left, _LONGEST_POLL_SECONDS) * 1000 + 1)}
            if self._requests in ready:
                os._exit(1)  # Nobody waits for the result; the end of process 1 ends everything.
            for index, read_end in enumerate(read_ends):
                if read_end not in ready:
                    continue
                count = self._take(read_end, index, sizes)
                if sizes[index] > _LIMIT:
                    return "output_limit"
                if not count:
                    poll.unregister(read_end)
            if process in ready:
                return None

    def _take(self, read_end: int, index: int, sizes: list[int]) -> int:
        used = sizes[index]
        count = os.readv(read_end, [self._outputs[index][used : min(used + 65536, _LIMIT + 1)]])
        sizes[index] += count
        return count

    def _drain(self, read_ends: list[int], sizes: list[int]) -> str | None:
        """What still lies in the pipes when every process that could write to them is gone."""
        for index, read_end in enumerate(read_ends):
            while self._take(read_end, index, sizes):
                if sizes[index] > _LIMIT:
                    return "output_limit"
        return None

    def _status(self, exit_code: int) -> str:
        if exit_code == 0:
            return "ok"
        if exit_code == -program.OUT_OF_MEMORY:
            return "memory"
        if exit_code == -signal.SIGKILL:
            before, self._oom_kills = self._oom_kills, _oom_kills()
            return "memory" if self._oom_kills != before else "error"
        return "error"

    def _reply(self, status: str, exit_code: int, seconds: float, sizes: list[int]) -> None:
        sizes = [min(size, _LIMIT) for size in sizes]
        parts = [memoryview(REPLY.pack(STATUSES.index(status), exit_code, seconds, *sizes))]
        parts += [output[:size] for output, size in zip(self._outputs, sizes, strict=True) if size]
        while parts:
            count = os.writev(self._replies, parts)
            while parts and count >= len(parts[0]):
                count -= len(parts.pop(0))
            if parts:
                parts[0] = parts[0][count:]

    def become_program(self, length: int, write_ends: list[int]) -> NoReturn:
        """In the new process: read the request, give up every right, run the program."""
        try:
            request = json.loads(_read(self._requests, length))
            code = request["code"].encode("utf-8", "surrogatepass")
            stdout, stderr, ready = write_ends
            os.dup2(stdout, 1)
            os.dup2(stderr, 2)
            try:
                self._prepare(request)
            except BaseException as error:
                os.write(2, f"{type(error).__name__}: {error}".encode(errors="replace"))
                os.write(ready, b"!")
                _exit(1)
            del request
            os.write(ready, _START.pack(time.monotonic()))
            os.closerange(3, 256)
            _exit(program._run(code))
        finally:
            _exit(1)

    def _prepare(self, request: dict[str, Any]) -> None:
        _libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)  # Of its own: /dev/stdin is a link through /proc/self.
        os.dup2(_stdin(request["stdin"]), 0)
        for name, content in request["files"].items():
            _write_file(name, base64.b64decode(content))
        _set_limits(request["memory_mb"] << 20)
        seccomp.install(self._filter)


def _private_memory(size: int) -> mmap.mmap:
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(_MADV_DONTFORK)
    return memory


def _read(descriptor: int, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        part = os.read(descriptor, min(count - len(data), 1 << 20))
        if not part:
            os._exit(0)
        data += part
    return bytes(data)


def _stdin(text: str) -> int:
    """A file in memory that can only be read: no process has to feed a pipe."""
    descriptor = os.memfd_create("stdin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    data = memoryview(text.encode("utf-8", "surrogatepass"))
    while data:
        data = data[os.write(descriptor, data) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    fcntl.fcntl(descriptor, _F_ADD_SEALS, _SEALS)
    return descriptor


def _write_file(name: str, content: bytes) -> None:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _set_limits(memory_bytes: int) -> None:
    # If the container runs out of memory, the program goes and not process 1.
    Path("/proc/self/oom_score_adj").write_text("1000")
    # No limit of processes: the kernel counts them by user, and all containers' programs are one user's. The filter
    # refuses forks, and the container's own limit holds for threads.
    for kind, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_FSIZE, limits.FILE_BYTES),
        (resource.RLIMIT_STACK, _STACK_BYTES),
        (_RLIMIT_MSGQUEUE, 0),  # A queue would outlive the program.
    ):
        resource.setrlimit(kind, (value, value))
    memory_bytes += limits.base_bytes()
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes + limits.RESERVE_BYTES))


def _end_all(pid: int) -> int:
    """Kill whatever the program left and reap it; returns the program's own exit code."""
    exit_code = -signal.SIGKILL
    while True:
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
        try:
            ended, wait_status = os.waitpid(-1, 0)
        except ChildProcessError:
            return exit_code
        if ended == pid:
            exit_code = os.waitstatus_to_exitcode(wait_status)


def _empty(folder: str) -> bool:
    """Remove what is in a folder; says whether it is empty.

    Folders are flattened from the top, because a tree can be deeper than any path or recursion may be.
    """
    count = 0
    try:
        while entries := _entries(folder):
            for entry in entries:
                path = Path(entry.path)
                if not entry.is_dir(follow_symlinks=False):
                    path.unlink()
                    continue
                path.chmod(0o700)
                for inner in _entries(entry.path):
                    count += 1
                    _move(inner, Path(folder, f".{count}"))
                with contextlib.suppress(OSError):  # Something is left; it goes in the next round.
                    path.rmdir()
    except FileNotFoundError:
        return folder != _WORK
    except OSError:
        return False
    return True


def _entries(folder: str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return list(entries)


def _move(entry: os.DirEntry[str], target: Path) -> None:
    """Move it, unless the program has taken the name."""
    if not os.path.lexists(target):
        if entry.is_dir(follow_symlinks=False):
            Path(entry.path).chmod(0o700)  # What cannot be written to cannot be moved.
        Path(entry.path).rename(target)


def _oom_kills() -> int:
    """How often the kernel killed for memory in this container; both versions of control groups."""
    for path in ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"):
        with contextlib.suppress(OSError):
            for line in Path(path).read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    return time.monotonic_ns()  # Not known: every kill that is not ours counts as one for memory.


def main(preload: list[str]) -> None:
    """Get ready, say so, and serve."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Which process 1 ignores.
    if _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    os.chdir(_WORK)
    if not os.access(_WORK, os.W_OK):
        raise PermissionError(f"the image must let everybody write to {_WORK}")
    for name in preload:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    runner = Runner()
    gc.collect()
    gc.freeze()  # Or a program's first collection would copy every page.
    os.write(runner._replies, REPLY.pack(0, 0, 0.0, 0, 0))
    arguments = None
    try:
        runner.serve()
    except _Birth as birth:
        arguments = birth.arguments
    if arguments is not None:
        # Outside of the handler, or the program's errors would have ours as their context.
        runner.become_program(*arguments)
