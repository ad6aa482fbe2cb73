"""Our side of the processes of the local sandbox: the zygote, and the supervisors that it forks."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from sandboxes.base import Job, RunResult, Status
from sandboxes.isolation.folders import remove
from sandboxes.protocol import FAILED, REPLY, STATUSES, Order, end_of_session, pack_request

__all__ = ["START_SECONDS", "FailedError", "Supervisor", "Zygote"]

START_SECONDS = 30.0
_GRACE_SECONDS = 10.0
"""For a supervisor to come up, to kill and to report, on a busy machine, beyond the time of the program itself."""
_LONGEST_WAIT_SECONDS = 1e6
_ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "PATH": "/usr/bin:/bin",
    # An arena a thread would use up the address space that a program may have.
    "MALLOC_ARENA_MAX": "1",
    # Threads of a numerics library would not survive a fork.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


class FailedError(Exception):
    """We failed, not the program; worth another attempt."""


class Zygote:
    """A running zygote, and our end of the socket to it."""

    def __init__(self, python: str, tier: str, preload: Sequence[str], paths: Sequence[str]) -> None:
        try:
            self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            raise FailedError(f"no socket: {error}") from error
        program = Path(__file__).with_name("zygote.py")
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [python, "-I", "-S", "-X", "utf8", str(program), str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=_ENVIRONMENT,
                    cwd="/",
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
        except OSError as error:
            self.socket.close()
            raise FailedError(f"cannot start {python}: {error}") from error
        self._scratch: list[str] = []
        self._end = weakref.finalize(self, _end, os.getpid(), self._process, self.socket, self._scratch)
        config = {"tier": tier, "preload": list(preload), "paths": list(paths)}
        try:
            self.socket.settimeout(START_SECONDS)
            self.socket.send(json.dumps(config).encode())
            answer = json.loads(self.socket.recv(1 << 16) or b'{"error": "the zygote ended at once"}')
            self.socket.settimeout(None)
        except OSError as error:
            answer = {"error": f"the zygote did not answer: {error}"}
        if "error" in answer:
            self.stop()
            raise FailedError(answer["error"])
        self._scratch.append(answer["scratch"])

    def alive(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def kill(self, number: int) -> None:
        """Kill a supervisor that does not answer."""
        with suppress(OSError):
            self.socket.send(json.dumps({"kill": number}).encode())

    def stop(self) -> None:
        """End it, wait for it; also at exit, and when nobody holds it any more."""
        self._end()

    def disown(self) -> None:
        """In a forked child: let go of what is the parent's."""
        self._end.detach()
        self.socket.close()
        self._process.returncode = 0  # or Popen would warn of a child that is not ours


def _end(owner: int, process: subprocess.Popen[bytes], channel: socket.socket, scratch: list[str]) -> None:
    if os.getpid() != owner:
        return  # a forked child's copy
    with suppress(OSError):
        channel.shutdown(socket.SHUT_RDWR)  # closing is not enough: a forked child may hold a copy
    channel.close()
    try:
        process.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for folder in filter(None, scratch):
        with suppress(OSError):
            remove(folder)  # it does so itself, unless it was killed


class Supervisor:
    """Our side of a supervisor."""

    def __init__(self, zygote: Zygote, number: int) -> None:
        self.zygote, self._number = zygote, number
        self.process = os.getpid()
        try:
            self._socket, theirs = socket.socketpair()
        except OSError as error:
            raise FailedError(f"no socket: {error}") from error
        with theirs:
            try:
                socket.send_fds(zygote.socket, [json.dumps({"supervisor": number}).encode()], [theirs.fileno()])
            except OSError as error:
                self._socket.close()
                raise FailedError(f"the zygote is gone: {error}") from error

    def run(self, job: Job, *, keep: bool = False) -> RunResult:
        """Run a program.

        Args:
            job: The program.
            keep: Whether the next one is the same.

        Raises:
            FailedError: If there is no answer; the supervisor is of no use then.
        """
        request = pack_request(
            job.code,
            job.stdin,
            job.files,
            memory_mb=job.memory_mb,
            timeout_seconds=job.timeout_seconds,
            order=Order.RUN_AND_KEEP if keep else Order.RUN,
        )
        self._socket.settimeout(min(job.timeout_seconds, _LONGEST_WAIT_SECONDS) + _GRACE_SECONDS)
        with suppress(OSError):  # it may have said why before it went
            self._socket.sendall(request)
        try:
            index, exit_code, seconds, *sizes = REPLY.unpack(self._read(REPLY.size))
            stdout, stderr = (self._read(size).decode("utf-8", "replace") for size in sizes)
        except OSError as error:
            self.zygote.kill(self._number)
            raise FailedError(f"no answer from the supervisor: {error}") from error
        if STATUSES[index] == FAILED:
            raise FailedError(stderr)
        return RunResult(Status(STATUSES[index]), stdout, stderr, exit_code, seconds)

    def end_session(self) -> None:
        """What was kept is not needed any more."""
        with suppress(OSError):  # whoever has it next will learn
            self._socket.sendall(end_of_session())

    def _read(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            part = self._socket.recv(min(count - len(data), 1 << 20))
            if not part:
                raise FailedError("the supervisor is gone")
            data += part
        return bytes(data)

    def forget(self) -> None:
        """In a forked child: let go of what is the parent's."""
        self._socket.close()

    def close(self) -> None:
        """End it, and what it runs."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # closing is not enough: a forked child may hold a copy
        self._socket.close()
