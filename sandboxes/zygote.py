"""A warm Python that forks supervisors; a program of its own, which `sandboxes.local` starts.

It is freshly executed, so there is nothing of its parent in its memory, its environment or its descriptors; it loads
what programs often import; where it may, it moves to a root that holds little more than Python, so that no job has to
build one; and then it waits. Whenever the client needs one more supervisor it sends the end of a socket; the zygote
forks, and the child serves that socket.
"""

from __future__ import annotations

import functools
import json
import os
import resource
import select
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

if __name__ == "__main__":
    # The package itself stays out: it would load asyncio and more, for nothing.
    _package = ModuleType("sandboxes")
    _package.__path__ = [str(Path(__file__).parent)]
    sys.modules["sandboxes"] = _package

from sandboxes.cages import FolderCage, NamespaceCage, close_all_but
from sandboxes.isolation import landlock, libc, limits, namespaces, seccomp
from sandboxes.isolation.folders import make_folder, remove
from sandboxes.program import prepare_streams
from sandboxes.protocol import FAILED, REPLY, STATUSES
from sandboxes.supervisor import Cage, Supervisor, become

__all__ = ["main"]

_MAX_MESSAGE_BYTES = 1 << 16
_PR_SET_DUMPABLE = 4
_LANDLOCK_OF_TRUNCATE = 3
_MOST_DESCRIPTORS = 4096
_SPARE_TASKS = 512
"""Processes and threads of a user, for all his programs together and whatever else he starts."""
_FOLDERS = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo")
_LANDLOCK_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random", "/dev/full")


@dataclass
class _Ready:
    """What the zygote has become.

    Attributes:
        make_cage: In a supervisor: makes its cage.
        keep: Descriptors that a supervisor needs.
        dumpable: Whether supervisors stay open to /proc; where programs can see that they must not.
        first: Process 1 of the supervisors' pid namespace, where there is one: a pidfd, and its pid.
        scratch: Folder to remove at the end; empty for none.
    """

    make_cage: Callable[[], Cage]
    keep: set[int]
    dumpable: bool
    first: tuple[int, int] | None = None
    scratch: str = ""


class _Zygote:
    def __init__(self, main: socket.socket, ready: _Ready) -> None:
        self._main = main
        self._ready = ready
        self._supervisors: dict[int, tuple[int, int]] = {}  # by pidfd: (number, pid)
        self._poll = select.poll()
        self._poll.register(main, select.POLLIN)
        if ready.first is not None:
            self._poll.register(ready.first[0], select.POLLIN)

    def serve(self) -> int | None:
        """Make supervisors until the client is gone, then end them all.

        Returns:
            None at the end; and in every child the descriptor of the client that it has to serve.
        """
        main = self._main.fileno()
        going = True
        while going:
            for descriptor, _ in self._poll.poll():
                if self._ready.first is not None and descriptor == self._ready.first[0]:
                    going = False  # no more can be made; the client starts another zygote
                    continue
                if descriptor != main:
                    self._reap(descriptor)
                    continue
                message, descriptors, _, _ = socket.recv_fds(self._main, _MAX_MESSAGE_BYTES, 1)
                request = json.loads(message or "{}")
                going = going and bool(message)
                if "kill" in request:
                    self._kill(request["kill"])
                elif going and not self._make_supervisor(request["supervisor"], descriptors[0]):
                    return descriptors[0]
        for pidfd in list(self._supervisors):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            self._reap(pidfd)
        if self._ready.first is not None:
            signal.pidfd_send_signal(self._ready.first[0], signal.SIGKILL)
            os.waitpid(self._ready.first[1], 0)  # the kernel lets it end when all in its namespace have
        if self._ready.scratch:
            remove(self._ready.scratch)
        return None

    def _make_supervisor(self, number: int, control: int) -> bool:
        """False in the child."""
        try:
            pid = os.fork()
            if pid == 0:
                return False
            pidfd = os.pidfd_open(pid)
            self._supervisors[pidfd] = number, pid
            self._poll.register(pidfd, select.POLLIN)
        except OSError as error:
            # Also a full table of processes; the client may try again.
            text = f"no supervisor: {error}".encode()
            with suppress(OSError):
                os.write(control, REPLY.pack(STATUSES.index(FAILED), 0, 0.0, 0, len(text)) + text)
        os.close(control)
        return True

    def _kill(self, number: int) -> None:
        for pidfd, (known, _) in self._supervisors.items():
            if number == known:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)

    def _reap(self, pidfd: int) -> None:
        _, pid = self._supervisors.pop(pidfd)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        os.waitpid(pid, 0)


def _become_ready(config: dict[str, Any]) -> _Ready:
    """Load modules and take on the tier; OSError or ImportError if that cannot be done."""
    sys.path += config["paths"]
    sys.dont_write_bytecode = True
    for name in config["preload"]:
        __import__(name)
    import site

    # What -S leaves out; programs call exit().
    site.setquit()
    site.sethelper()
    machine = os.uname().machine
    filtered = machine in seccomp.AUDIT_ARCH
    tier = config["tier"]
    if tier != "unsafe":
        if not filtered:
            raise OSError(f"no table of system calls for {machine}")
        seccomp.probe()
    readable = [*_FOLDERS, *sys.path]
    root = os.geteuid() == 0
    if tier == "namespaces":
        return _in_namespaces(machine, readable, root)
    scratch = make_folder()
    os.chmod(scratch, 0o711)  # noqa: PTH101 (a program that is nobody has to get through)
    readable_ends, devices = landlock.open_paths(readable), landlock.open_paths(_LANDLOCK_DEVICES)
    make_cage = functools.partial(
        FolderCage,
        scratch,
        machine=machine if filtered else "",
        landlock_version=_landlock_version() if tier == "landlock" else 0,
        drop_user=root and _nobody_can_read(readable),
        readable=readable_ends,
        devices=devices,
        base_bytes=limits.base_bytes(),
        tasks=limits.tasks_of(namespaces.NOBODY if root else os.getuid()) + _SPARE_TASKS,
    )
    return _Ready(make_cage, {*readable_ends, *devices}, dumpable=False, scratch=scratch)


def _landlock_version() -> int:
    version = landlock.abi_version()
    if version < _LANDLOCK_OF_TRUNCATE:
        raise OSError("Landlock of Linux 6.2 is needed: before, it let any file be truncated")
    return version


def _in_namespaces(machine: str, readable: list[str], root: bool) -> _Ready:
    proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    base = limits.base_bytes()
    user_namespace = not root or _user_namespaces_work(proc)
    namespaces.enter_root(readable, proc)
    pid = libc.fork()
    if pid == 0:
        _hold()
    make_cage = functools.partial(
        NamespaceCage,
        proc,
        user_namespace=user_namespace,
        drop_user=root,
        packed_filter=seccomp.pack(seccomp.build(machine)),
        base_bytes=base,
    )
    # The ids of a process that is not dumpable cannot be mapped by an ordinary user; and there is no /proc inside.
    return _Ready(make_cage, {proc}, dumpable=True, first=(os.pidfd_open(pid), pid))


def _hold() -> NoReturn:
    """As process 1 of the supervisors: they, and all below them, end with us, and we end with the zygote."""
    try:
        libc.follow_parent()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # what has lost its parent is reaped at once
        close_all_but(set())
        while True:
            signal.pause()
    finally:
        os._exit(1)


def _user_namespaces_work(proc: int) -> bool:
    """Whether root may make them here; they bring each program its own count of threads and an even emptier root."""
    try:
        pid, pidfd = namespaces.spawn(user_namespace=True)
        try:
            namespaces.map_ids(proc, pidfd)
        finally:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
            os.waitpid(pid, 0)
    except OSError:
        return False
    return True


def _nobody_can_read(folders: list[str]) -> bool:
    """Whether Python would work as an ordinary user: some live in the home directory of root."""
    there = [path for path in folders if path.startswith(sys.prefix + "/lib/") and os.path.isdir(path)]  # noqa: PTH112
    pid = os.fork()
    if pid == 0:
        readable = False
        try:
            os.setresgid(namespaces.NOBODY, namespaces.NOBODY, namespaces.NOBODY)
            os.setresuid(namespaces.NOBODY, namespaces.NOBODY, namespaces.NOBODY)
            readable = all(os.access(path, os.R_OK | os.X_OK) for path in there)
        finally:
            os._exit(0 if readable else 1)
    return os.waitpid(pid, 0)[1] == 0


def _supervisor(control: int, ready: _Ready) -> Supervisor:
    """In a child of the zygote: what it is to be."""
    libc.follow_parent()
    if not ready.dumpable:
        libc.prctl("dumpable", _PR_SET_DUMPABLE, 0)
    libc.bound_capabilities()
    close_all_but({control, *ready.keep})
    return Supervisor(control, control, ready.make_cage())


def _forget_inherited() -> None:
    """What survives an exec: signals that are ignored or blocked; and a limit of descriptors, for all are closed."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE, signal.SIGXFSZ}:
        # SIGINT, too: a handler would let a program's signal reach process 1.
        with suppress(OSError):
            signal.signal(number, signal.SIG_DFL)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, _MOST_DESCRIPTORS), hard))


def main() -> Supervisor | None:
    """Serve the client whose socket is the descriptor in argv.

    Returns:
        None at the end; in every child its supervisor.
    """
    import gc

    client = socket.socket(fileno=int(sys.argv[1]))
    _forget_inherited()
    config = json.loads(client.recv(_MAX_MESSAGE_BYTES))
    try:
        ready = _become_ready(config)
        prepare_streams()
    except (OSError, ImportError) as error:
        client.send(json.dumps({"error": f"{type(error).__name__}: {error}"[:4000]}).encode())
        return None
    gc.collect()
    gc.freeze()
    client.send(json.dumps({"scratch": ready.scratch}).encode())
    control = _Zygote(client, ready).serve()
    if control is None:
        return None
    client.detach()  # closed with all the others
    supervisor = _supervisor(control, ready)
    gc.freeze()
    return supervisor


if __name__ == "__main__":
    try:
        # Names of the module live on, or the end of what they stand for would cost every program time.
        _made = main()
        _birth = _made.serve() if _made is not None else None
    except BaseException:
        os._exit(1)
    if _birth is not None:
        become(_birth)
    os._exit(0)
