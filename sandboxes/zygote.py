"""A warm Python that forks a cell per job; a program of its own, which `sandboxes.local` starts.

It is freshly executed, so there is nothing of its parent in its memory, its environment or its descriptors; it loads
what programs often import; where it may, it moves to a root that holds little more than Python, so that no job has to
build one; and then it waits. Per job it gets the client's end of a socket, clones a process (the cell) and hands the
socket over.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import socket
import sys
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

from sandboxes import frames
from sandboxes.cell import Cell
from sandboxes.isolation import landlock, libc, limits, namespaces, seccomp
from sandboxes.isolation.folders import make_folder, remove
from sandboxes.program import Birth, Confinement, become, prepare, prepare_streams

__all__ = ["main"]

_MAX_MESSAGE_BYTES = 1 << 16
_PR_SET_DUMPABLE = 4
_FOLDERS = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo")
_LANDLOCK_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random", "/dev/full")


@dataclass
class _Ready:
    """What the zygote has become: how to confine programs, and how to make cells."""

    confinement: Confinement
    proc: int = -1
    user_namespace: bool = False


class _Zygote:
    def __init__(self, main: socket.socket, ready: _Ready) -> None:
        self._main = main
        self._ready = ready
        self._cells: dict[int, tuple[int, int]] = {}  # by pidfd: (number, pid)
        self._poll = select.poll()
        self._poll.register(main, select.POLLIN)

    def serve(self) -> None:
        """Make cells until the client is gone, then end them all."""
        main = self._main.fileno()
        going = True
        while going:
            for descriptor, _ in self._poll.poll():
                if descriptor != main:
                    self._reap(descriptor)
                else:
                    going = self._obey()
        for pidfd in list(self._cells):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            self._reap(pidfd)
        if self._ready.confinement.scratch:
            remove(self._ready.confinement.scratch)

    def _obey(self) -> bool:
        message, descriptors, _, _ = socket.recv_fds(self._main, _MAX_MESSAGE_BYTES, 1)
        if not message:
            return False
        request = json.loads(message)
        if "kill" in request:
            for pidfd, (number, _) in self._cells.items():
                if number == request["kill"]:
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            return True
        (control,) = descriptors
        try:
            pid, pidfd = self._make_cell(control)
            self._cells[pidfd] = request["cell"], pid
            self._poll.register(pidfd, select.POLLIN)
        except OSError as error:
            # Also a full table of processes; the client may try again.
            with suppress(OSError):
                frames.send(control, {"status": "infra_error", "error": f"no cell: {error}"})
        os.close(control)
        return True

    def _make_cell(self, control: int) -> tuple[int, int]:
        if not self._ready.confinement.namespaces:
            pid = os.fork()
            if pid == 0:
                self._be_cell(control, None)
            return pid, os.pidfd_open(pid)
        go_read, go_write = os.pipe()
        pid, pidfd = namespaces.spawn(user_namespace=self._ready.user_namespace)
        if pid == 0:
            self._be_cell(control, go_read)
        try:
            if self._ready.user_namespace:
                namespaces.map_ids(self._ready.proc, pid)
            os.write(go_write, b"!")
        except OSError:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
            os.waitpid(pid, 0)
            raise
        finally:
            os.close(go_read)
            os.close(go_write)
        return pid, pidfd

    def _be_cell(self, control: int, go: int | None) -> NoReturn:
        """In the child: serve one client, then end."""
        status = 1
        try:
            keep = {control, *self._ready.confinement.readable, *self._ready.confinement.devices}
            if go is not None:
                os.read(go, 1)
                self._settle()
            # Not before: a change of user resets both, and the ids of a process that is not dumpable cannot be mapped.
            libc.prctl("dumpable", _PR_SET_DUMPABLE, 0)
            libc.follow_parent()
            libc.bound_capabilities()
            _close_all_but(keep)
            Cell(control, self._ready.confinement).serve()
            status = 0
        except Birth:
            raise  # a child of the cell, on its way to become the program
        except BaseException:
            os._exit(status)
        os._exit(status)

    def _settle(self) -> None:
        if self._ready.user_namespace:
            with suppress(PermissionError):  # a namespace of an ordinary user allows no change of groups
                os.setgroups([])
            os.setresgid(namespaces.NOBODY, namespaces.NOBODY, namespaces.NOBODY)
            os.setresuid(namespaces.NOBODY, namespaces.NOBODY, namespaces.NOBODY)
        socket.sethostname("sandbox")

    def _reap(self, pidfd: int) -> None:
        _, pid = self._cells.pop(pidfd)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        os.waitpid(pid, 0)


def _close_all_but(keep: set[int]) -> None:
    low = 3
    for descriptor in sorted(keep):
        os.closerange(low, descriptor)
        low = descriptor + 1
    os.closerange(low, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


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
        proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        base = limits.base_bytes()
        namespaces.enter_root(readable, proc)
        return _Ready(
            Confinement(machine, namespaces=True, landlock=0, drop_user=root, base_bytes=base),
            proc,
            user_namespace=not root or _user_namespaces_work(proc),
        )
    confinement = Confinement(
        machine if filtered else "",
        namespaces=False,
        landlock=landlock.abi_version() if tier == "landlock" else 0,
        drop_user=root and _nobody_can_read(readable),
        readable=landlock.open_paths(readable),
        devices=landlock.open_paths(_LANDLOCK_DEVICES),
        base_bytes=limits.base_bytes(),
        scratch=make_folder(),
    )
    os.chmod(confinement.scratch, 0o711)  # noqa: PTH101 (a program that is nobody has to get through)
    return _Ready(confinement)


def _user_namespaces_work(proc: int) -> bool:
    """Whether root may make them here; they bring each program its own count of threads and an even emptier root."""
    try:
        pid, pidfd = namespaces.spawn(user_namespace=True)
        if pid == 0:
            signal.pause()
        try:
            namespaces.map_ids(proc, pid)
        finally:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
            os.waitpid(pid, 0)
    except OSError:
        return False
    return True


def _nobody_can_read(folders: list[str]) -> bool:
    """Whether Python would work as an ordinary user: some live in the home directory of root."""
    pid = os.fork()
    if pid == 0:
        readable = False
        try:
            os.setresgid(namespaces.NOBODY, namespaces.NOBODY, namespaces.NOBODY)
            os.setresuid(namespaces.NOBODY, namespaces.NOBODY, namespaces.NOBODY)
            readable = all(os.access(path, os.R_OK) for path in folders if path.startswith(sys.prefix + "/lib/"))
        finally:
            os._exit(0 if readable else 1)
    return os.waitpid(pid, 0)[1] == 0


def main() -> None:
    """Serve the client whose socket is the descriptor in argv."""
    import gc

    client = socket.socket(fileno=int(sys.argv[1]))
    _kept.append(client)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a handler would let a program's signal reach process 1
    config = json.loads(client.recv(_MAX_MESSAGE_BYTES))
    try:
        ready = _become_ready(config)
        prepare(ready.confinement)
        prepare_streams()
    except (OSError, ImportError) as error:
        client.send(json.dumps({"error": f"{type(error).__name__}: {error}"[:4000]}).encode())
        return
    gc.collect()
    gc.freeze()
    client.send(json.dumps({"scratch": ready.confinement.scratch}).encode())
    _Zygote(client, ready).serve()


_kept: list[socket.socket] = []
"""Sockets whose descriptors a program must not close (by their destructors) when the frames of the zygote are gone."""


def _born() -> Birth | None:
    try:
        main()
    except Birth as birth:
        return birth.with_traceback(None)
    return None


if __name__ == "__main__" and (_birth := _born()) is not None:
    become(_birth)
