"""The process between a client and its programs: it forks them one after the other, watches them, and reports.

It runs none itself, and reads nothing from one but bytes of output. Nor does it hold what a program reads or writes
where a later one, which begins as its fork, could find it: the request is read by the process that becomes the program,
and output goes through memory that a fork leaves out.

`sandboxes.zygote` makes supervisors on this machine, `sandboxes.docker_runner` is one in a container.
"""

from __future__ import annotations

import fcntl
import math
import mmap
import os
import select
import signal
import struct
import sys
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NoReturn

from sandboxes.isolation import libc
from sandboxes.program import OUT_OF_MEMORY, become_program
from sandboxes.protocol import FAILED, MAX_OUTPUT_BYTES, REPLY, REQUEST, STATUSES, Order, read_exactly, unpack_files

__all__ = ["Birth", "Cage", "Supervisor", "become"]

_CHUNK = 1 << 16
_GONE = "gone"  # nobody waits for the result
_LONGEST_WAIT_SECONDS = 1e6  # a C int of milliseconds
_MADV_DONTFORK, _MADV_DONTNEED = 10, 4
_BEGUN, _TROUBLE = b"+", b"-"
_START = struct.Struct("d")
_MAX_TROUBLE_BYTES = 1000
_F_ADD_SEALS, _SEALS = 1033, 0xF  # no change of the seals, no shrinking, growing or writing


class Cage(ABC):
    """Where the programs of one supervisor run, one at a time."""

    look_seconds: ClassVar[float] = math.inf
    """How often to ask whether it `is_overfull`."""

    @abstractmethod
    def renew(self) -> None:
        """Make ready for a program that must find nothing of those before; OSError if that cannot be done."""

    @abstractmethod
    def enter(self) -> None:
        """In the child: go to where programs run, as who they run; the current directory is the empty working one."""

    @abstractmethod
    def confine(self, memory_mb: int, seconds: float, keep: int) -> None:
        """In the child: give everything up for good, and close all descriptors but 0 to 2 and ``keep``."""

    def end(self, pid: int) -> int:
        """Kill whatever is left of a program and reap it; returns its wait status."""
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return os.waitpid(pid, 0)[1]

    @abstractmethod
    def tidy(self, *, keep: bool) -> bool:
        """Get ready for the next program, which is the same one if ``keep``; False if that cannot be done."""

    def close(self) -> None:  # noqa: B027 (a cage may have nothing to give back)
        """Give back what would outlive the supervisor."""

    def is_overfull(self) -> bool:
        """Whether the running program has written more than it may; asked now and then."""
        return False

    def is_memory(self) -> bool:
        """Whether a program that somebody killed, not we, was killed for its memory."""
        return False


@dataclass(frozen=True, slots=True)
class Birth:
    """What a freshly forked child has to know to `become` a program.

    It is returned through all the frames of the supervisor, so that the program begins with a clean stack: as much room
    to recurse as alone, and nothing of ours to climb to.

    Attributes:
        cage: Where it runs.
        requests: Descriptor with the rest of the request.
        limits: Seconds, and memory in MiB.
        lengths: Of what is to be read.
        ends: Descriptors to write to: stdout, stderr, and where it says that it is ready or why not.
    """

    cage: Cage
    requests: int
    limits: tuple[float, int]
    lengths: list[int]
    ends: list[int]


class Supervisor:
    """Serves one client until it hangs up.

    Args:
        requests: Descriptor to read from.
        replies: Descriptor to write to.
        cage: For the programs.
    """

    def __init__(self, requests: int, replies: int, cage: Cage) -> None:
        self._requests, self._replies, self._cage = requests, replies, cage
        self._memory = [_private_memory(MAX_OUTPUT_BYTES + mmap.PAGESIZE) for _ in range(2)]
        self._outputs = [memoryview(memory) for memory in self._memory]
        self._sizes = [0, 0]

    def serve(self) -> Birth | None:
        """Answer requests.

        Returns:
            None when the client is gone or no more programs can be run here; and in every child its `Birth`, with which
            the caller, having nothing above it on the stack, must call `become`.
        """
        trouble = self._renew()
        while (header := read_exactly(self._requests, REQUEST.size)) is not None:
            seconds, order, memory_mb, *lengths = REQUEST.unpack(header)
            if order == Order.RENEW:
                trouble = self._renew()
                continue
            if trouble:
                self._fail(trouble, lengths)
                break
            going = self._run((seconds, memory_mb), lengths)
            if isinstance(going, Birth):
                return going
            if not going or not self._tidy(keep=order == Order.RUN_AND_KEEP):
                break
        self._cage.close()
        return None

    def _renew(self) -> str:
        """Returns what was in the way, or nothing."""
        try:
            self._cage.renew()
        except OSError as error:
            return f"there is no place for a program: {error}"
        return ""

    def _tidy(self, *, keep: bool) -> bool:
        for memory, size in zip(self._memory, self._sizes, strict=True):
            if size > _CHUNK:
                memory.madvise(_MADV_DONTNEED)
        return self._cage.tidy(keep=keep)

    def _run(self, limits: tuple[float, int], lengths: list[int]) -> bool | Birth:
        """Run a program and report; False if no more can be run here. In the child its birth."""
        pipes: list[tuple[int, int]] = []
        try:
            pipes += [os.pipe() for _ in range(3)]
            pid = libc.fork()
            if not pid:
                return Birth(self._cage, self._requests, limits, lengths, [end for _, end in pipes])
            process = os.pidfd_open(pid)
        except OSError as error:
            self._fail(f"no process: {error}", lengths)
            return False
        for _, end in pipes:
            os.close(end)
        *read_ends, ready = (end for end, _ in pipes)
        for end in read_ends:
            os.set_blocking(end, False)
        self._sizes = [0, 0]
        reason: str | None = FAILED
        try:
            said = os.read(ready, _MAX_TROUBLE_BYTES)  # until then it was ours, and no code of the program's ran
            started = time.monotonic()
            if said.startswith(_BEGUN):
                (started,) = _START.unpack(said[1:])
                reason = self._watch(process, read_ends, started + limits[0])
            wait_status = self._cage.end(pid)
            seconds = time.monotonic() - started
            if reason is None:
                reason = self._drain(read_ends)
        finally:
            for descriptor in (process, ready, *read_ends):
                os.close(descriptor)
        if reason == _GONE:
            return False
        if reason == FAILED:
            self._reply(FAILED, 0, seconds, said[1:].decode("utf-8", "replace") or "the program was never begun")
            return False
        exit_code = os.waitstatus_to_exitcode(wait_status)
        status = reason or self._status(exit_code)
        self._reply(status, 1 if exit_code == -OUT_OF_MEMORY and not reason else exit_code, seconds)
        return True

    def _status(self, exit_code: int) -> str:
        if exit_code == 0:
            return "ok"
        if exit_code == -OUT_OF_MEMORY or (exit_code == -signal.SIGKILL and self._cage.is_memory()):
            return "memory"
        return "error"

    def _watch(self, process: int, read_ends: list[int], deadline: float) -> str | None:
        """Take the program's output until it ends by itself (None) or has to be killed (why)."""
        poll = select.poll()
        poll.register(process, select.POLLIN)
        poll.register(self._requests, 0)  # reports the end of the client only
        for read_end in read_ends:
            poll.register(read_end, select.POLLIN)
        look_seconds = self._cage.look_seconds
        look_at = time.monotonic() + look_seconds
        while True:
            now = time.monotonic()
            if now >= deadline:
                return "timeout"
            if now >= look_at:
                if self._cage.is_overfull():
                    return "output_limit"
                look_at = time.monotonic() + look_seconds
            # Rounded up: a poll that returns early would only be asked again.
            wait_seconds = min(deadline - now, look_at - now, _LONGEST_WAIT_SECONDS)
            ready = {descriptor for descriptor, _ in poll.poll(max(wait_seconds, 0.0) * 1000 + 1)}
            if self._requests in ready:
                return _GONE
            for index, read_end in enumerate(read_ends):
                if read_end not in ready:
                    continue
                count = self._take(read_end, index)
                if self._sizes[index] > MAX_OUTPUT_BYTES:
                    return "output_limit"
                if not count:
                    poll.unregister(read_end)
            if process in ready:
                return None

    def _take(self, read_end: int, index: int) -> int:
        used = self._sizes[index]
        try:
            count = os.readv(read_end, [self._outputs[index][used : min(used + _CHUNK, MAX_OUTPUT_BYTES + 1)]])
        except BlockingIOError:
            return 0  # somebody dead still holds the other end, in a message under way
        self._sizes[index] += count
        return count

    def _drain(self, read_ends: list[int]) -> str | None:
        """What still lies in the pipes when every process that could write to them is gone."""
        for index, read_end in enumerate(read_ends):
            while self._take(read_end, index):
                if self._sizes[index] > MAX_OUTPUT_BYTES:
                    return "output_limit"
        return None

    def _fail(self, trouble: str, lengths: list[int]) -> None:
        """Answer a request that nobody has read."""
        read_exactly(self._requests, sum(lengths))
        self._reply(FAILED, 0, 0.0, trouble)

    def _reply(self, status: str, exit_code: int, seconds: float, trouble: str | None = None) -> None:
        if trouble is None:
            sizes = [min(size, MAX_OUTPUT_BYTES) for size in self._sizes]
            bodies = [output[:size] for output, size in zip(self._outputs, sizes, strict=True)]
        else:
            bodies = [memoryview(b""), memoryview(trouble.encode())]
            sizes = [len(body) for body in bodies]
        parts = [memoryview(REPLY.pack(STATUSES.index(status), exit_code, seconds, *sizes)), *filter(len, bodies)]
        with suppress(BrokenPipeError):  # nobody waits; the next read will tell
            while parts:
                count = os.writev(self._replies, parts)
                while parts and count >= len(parts[0]):
                    count -= len(parts.pop(0))
                if parts:
                    parts[0] = parts[0][count:]


def _private_memory(size: int) -> mmap.mmap:
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(_MADV_DONTFORK)
    return memory


def become(birth: Birth) -> NoReturn:
    """In the child, with the stack unwound: read the request, give everything up, and be the program."""
    cage, requests, lengths = birth.cage, birth.requests, birth.lengths
    (seconds, memory_mb), (stdout, stderr, ready) = birth.limits, birth.ends
    try:
        try:
            code, stdin, names, contents = (_received(requests, length) for length in lengths)
            for number, stream in enumerate((_stdin(stdin), stdout, stderr)):
                os.dup2(stream, number)
            for name in ("random", "numpy.random"):
                if module := sys.modules.get(name):
                    module.seed()
            os.setsid()  # or a signal to its process group would reach us
            cage.enter()
            if names:
                _write_files(unpack_files(names, contents))
            cage.confine(memory_mb, seconds, ready)
            os.write(ready, _BEGUN + _START.pack(time.monotonic()))
        except BaseException as error:
            os.write(ready, _TROUBLE + f"the program could not be set up: {error!r}".encode()[: _MAX_TROUBLE_BYTES - 1])
            raise
        del stdin, names, contents
        os.close(ready)
    except BaseException:
        os._exit(1)
    become_program(code)


def _received(requests: int, length: int) -> bytes:
    part = read_exactly(requests, length) if length else b""
    if part is None:
        raise EOFError("the client is gone")
    return part


def _stdin(data: bytes) -> int:
    """A file in memory that can only be read: no process has to feed a pipe."""
    descriptor = os.memfd_create("stdin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    fcntl.fcntl(descriptor, _F_ADD_SEALS, _SEALS)
    return descriptor


def _write_files(files: dict[str, bytes]) -> None:
    for name, content in files.items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
