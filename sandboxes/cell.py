"""The process between the client and the programs: it forks them, feeds them, watches them, and reports.

In namespaces it is process 1, so nothing a program does reaches it: the kernel drops signals from inside to process 1,
and when process 1 ends the kernel kills all that is left. It never runs a program itself, and reads nothing from one
but bytes of output.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from sandboxes import frames
from sandboxes.isolation import limits, namespaces
from sandboxes.isolation.folders import make_folder, remove
from sandboxes.program import OUT_OF_MEMORY, Birth, Confinement

__all__ = ["INODES", "Cell"]

INODES = 1024
_MAX_OUTPUT_BYTES = 1 << 20
_CHUNK = 1 << 16
_LONGEST_WAIT_SECONDS = 1e5
_CLOSED = select.POLLHUP | select.POLLERR | select.POLLNVAL


class _ClientGoneError(Exception):
    """Nobody waits for the result any more."""


class _NotConfinedError(Exception):
    """The program was not run, because something did not take."""


@dataclass
class _Ended:
    """How a program ended: its wait status, why we killed it, its output."""

    wait_status: int
    killed: str | None
    output: dict[int, bytearray]
    seconds: float


class Cell:
    """Serves the requests of one client until it hangs up.

    Args:
        control: Descriptor of the client's socket.
        confinement: For the programs.
    """

    def __init__(self, control: int, confinement: Confinement) -> None:
        self._control = control
        self._confinement = confinement
        self._code = b""
        self._memory_mb = 0
        self._files: dict[str, bytes] = {}
        self._mounted = False

    def serve(self) -> None:
        """Answer requests; returns when the client is gone or asks for no more."""
        going = True
        while going:
            # The directory is made before the request is there, while the client is busy with other things.
            with self._work() as work:
                request = frames.receive(self._control)
                going = request is not None and self._answer(*request, work)

    def _answer(self, head: dict[str, Any], body: bytes, work: int) -> bool:
        """Run the program once and report; False if there is nothing more to do."""
        stdin = self._load(head, body)
        try:
            self._write_files(work)
        except OSError as error:
            frames.send(self._control, {"status": "infra_error", "error": f"the files do not fit: {error}"})
            return False
        try:
            ended = self._run(stdin, head["timeout_seconds"], work)
        except _ClientGoneError:
            return False
        except _NotConfinedError as error:
            frames.send(self._control, {"status": "infra_error", "error": str(error)})
            return False
        self._report(ended)
        return not head["last"]

    def _load(self, head: dict[str, Any], body: bytes) -> bytes:
        """Remember the program, if the request brings one; returns the input."""
        parts = []
        at = 0
        for size in head["sizes"]:
            parts.append(body[at : at + size])
            at += size
        if "files" in head:
            self._code = parts[1]
            self._memory_mb = head["memory_mb"]
            self._files = dict(zip(head["files"], parts[2:], strict=True))
        return parts[0]

    @contextmanager
    def _work(self) -> Iterator[int]:
        """A fresh working directory, as a descriptor. The child that is born in it must not clean up."""
        if self._confinement.namespaces:
            namespaces.fresh_work(limits.FILE_BYTES, INODES, replace=self._mounted)
            self._mounted = True
            yield (work := os.open(namespaces.WORK, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            os.close(work)
            return
        path = make_folder(self._confinement.scratch)
        work = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if self._confinement.drop_user:
                os.fchown(work, namespaces.NOBODY, namespaces.NOBODY)
            yield work
        except Exception:
            remove(path)
            raise
        os.close(work)
        remove(path)

    def _write_files(self, work: int) -> None:
        for name, content in self._files.items():
            folder, _, _ = name.rpartition("/")
            at = ""
            for part in folder.split("/") if folder else ():
                at = f"{at}/{part}" if at else part
                with suppress(FileExistsError):
                    os.mkdir(at, dir_fd=work)
                self._own(at, work)
            descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644, dir_fd=work)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            self._own(name, work)

    def _own(self, name: str, work: int) -> None:
        if self._confinement.drop_user:
            os.chown(name, namespaces.NOBODY, namespaces.NOBODY, dir_fd=work)

    def _run(self, stdin: bytes, timeout_seconds: float, work: int) -> _Ended:
        started = time.monotonic()
        ends = [*os.pipe(), *os.pipe(), *os.pipe(), *os.pipe()]
        pid = os.fork()
        if pid == 0:
            streams = ends[0], ends[3], ends[5]
            raise Birth(self._confinement, self._code, streams, work, self._memory_mb, timeout_seconds, ends[7])
        for descriptor in (ends[0], ends[3], ends[5], ends[7]):
            os.close(descriptor)
        watch = _Watch(pid, stdin, ends[1], {1: ends[2], 2: ends[4]}, self._control)
        try:
            killed = watch.until(started + timeout_seconds)
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            _, wait_status = os.waitpid(pid, 0)
            seconds = time.monotonic() - started
            if self._confinement.namespaces:
                _kill_all()
            watch.drain()
            watch.close()
        trouble = _read_all(ends[6])
        if trouble:
            raise _NotConfinedError(trouble)
        if killed is None and watch.too_much:
            killed = "output_limit"
        return _Ended(wait_status, killed, watch.output, seconds)

    def _report(self, ended: _Ended) -> None:
        exit_code = os.waitstatus_to_exitcode(ended.wait_status)
        status = ended.killed or ("ok" if exit_code == 0 else "error")
        if exit_code == -OUT_OF_MEMORY and not ended.killed:
            status, exit_code = "memory", 1
        out, err = (bytes(ended.output[number][:_MAX_OUTPUT_BYTES]) for number in (1, 2))
        head = {"status": status, "exit_code": exit_code, "seconds": ended.seconds, "stdout_bytes": len(out)}
        frames.send(self._control, head, out, err)


class _Watch:
    """A running program: writes its stdin, reads its outputs, waits for its end."""

    def __init__(self, pid: int, stdin: bytes, stdin_end: int, output_ends: dict[int, int], control: int) -> None:
        self.output = {1: bytearray(), 2: bytearray()}
        self._stdin = memoryview(stdin)
        self._stdin_end: int | None = stdin_end
        self._names = {end: name for name, end in output_ends.items()}
        self._control = control
        self._pidfd = os.pidfd_open(pid)
        self._poll = select.poll()
        self._poll.register(self._pidfd, select.POLLIN)
        self._poll.register(control, 0)
        for end in output_ends.values():
            os.set_blocking(end, False)
            self._poll.register(end, select.POLLIN)
        os.set_blocking(stdin_end, False)
        self._feed()
        if self._stdin_end is not None:
            self._poll.register(self._stdin_end, select.POLLOUT)

    @property
    def too_much(self) -> bool:
        return any(len(taken) > _MAX_OUTPUT_BYTES for taken in self.output.values())

    def until(self, deadline: float) -> str | None:
        """Watch until the program ends by itself (None) or has to be killed (why)."""
        while True:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return "timeout"
            ended = False
            # Rounded up: a poll that returns early would only be asked again.
            for descriptor, events in self._poll.poll(min(remaining, _LONGEST_WAIT_SECONDS) * 1000 + 1):
                if descriptor == self._pidfd:
                    ended = True
                elif descriptor == self._control:
                    if events & _CLOSED:
                        raise _ClientGoneError
                elif descriptor == self._stdin_end:
                    self._feed()
                else:
                    self._take(descriptor)
            if self.too_much:
                return "output_limit"
            if ended:
                return None

    def drain(self) -> None:
        """Take what the dead program left in its pipes."""
        for descriptor in list(self._names):
            while descriptor in self._names and self._take(descriptor):
                pass

    def close(self) -> None:
        for descriptor in (*self._names, self._pidfd):
            os.close(descriptor)
        if self._stdin_end is not None:
            os.close(self._stdin_end)

    def _feed(self) -> None:
        end = self._stdin_end
        if end is None:
            return
        try:
            while self._stdin:
                self._stdin = self._stdin[os.write(end, self._stdin[:_CHUNK]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            pass  # the program reads no more
        with suppress(KeyError):
            self._poll.unregister(end)
        os.close(end)
        self._stdin_end = None

    def _take(self, descriptor: int) -> bool:
        """Read once; False when there is nothing (more)."""
        try:
            chunk = os.read(descriptor, _CHUNK)
        except BlockingIOError:
            return False
        taken = self.output[self._names[descriptor]]
        if len(taken) <= _MAX_OUTPUT_BYTES:
            taken += chunk
        if not chunk:
            self._poll.unregister(descriptor)
            os.close(descriptor)
            del self._names[descriptor]
        return bool(chunk)


def _read_all(descriptor: int) -> str:
    """What was written to a pipe whose writers are gone."""
    with os.fdopen(descriptor, "rb") as file:
        return file.read().decode("utf-8", "replace")


def _kill_all() -> None:
    """Whatever else lives in this pid namespace, of which we are process 1, dies."""
    if os.getpid() != 1:
        raise AssertionError("kill(-1) outside of a pid namespace")  # it would take the whole machine down
    with suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    with suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)
