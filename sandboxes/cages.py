"""Where programs run on this machine: in namespaces, or in a folder behind Landlock."""

from __future__ import annotations

import os
import resource
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import ClassVar

from sandboxes.isolation import landlock, libc, limits, namespaces, seccomp
from sandboxes.isolation.folders import is_larger, make_folder, remove
from sandboxes.isolation.namespaces import NOBODY
from sandboxes.supervisor import Cage

__all__ = ["INODES", "FolderCage", "NamespaceCage", "close_all_but", "limit"]

INODES = 1024
"""Files and folders of a working directory in memory."""


class NamespaceCage(Cage):
    """Every program is in pid, mount, net, ipc, uts and (where allowed) user namespaces of its own.

    Process 1 there does nothing but hold them: the program cannot reach it, and when it is killed the kernel kills
    whatever else is left. The runs of one session share them, one after the other, each with a fresh working directory.

    Args:
        proc: Descriptor of /proc.
        user_namespace: Whether there is one for each.
        drop_user: Whether programs must stop being who the supervisor is.
        packed_filter: Of system calls.
        base_bytes: Address space that is not charged.
    """

    def __init__(
        self, proc: int, *, user_namespace: bool, drop_user: bool, packed_filter: bytes, base_bytes: int
    ) -> None:
        self._proc, self._user_namespace, self._drop_user = proc, user_namespace, drop_user
        self._filter, self._base_bytes = packed_filter, base_bytes
        self._self = os.pidfd_open(os.getpid())
        self._first: tuple[int, int] | None = None
        self._used = False

    def renew(self) -> None:
        """Leave the namespaces and make others."""
        if self._first is not None:
            self._end_first(*self._first)
        namespaces.children_into(self._self)
        pid, pidfd = namespaces.spawn(user_namespace=self._user_namespace)
        self._first, self._used = (pid, pidfd), False
        if self._user_namespace:
            namespaces.map_ids(self._proc, pidfd)
        namespaces.children_into(pidfd)

    def _end_first(self, pid: int, pidfd: int) -> None:
        self._first = None
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)
        os.waitpid(pid, 0)

    def enter(self) -> None:
        """Join process 1, and mount a fresh working directory."""
        assert self._first is not None
        namespaces.join(self._first[1], user_namespace=self._user_namespace)
        namespaces.fresh_work(limits.FILE_BYTES, INODES, replace=self._used)
        socket.sethostname("sandbox")
        if self._user_namespace:
            libc.bound_capabilities()  # to enter one lifts the bound
        if self._drop_user or self._user_namespace:
            _become_nobody()

    def confine(self, memory_mb: int, seconds: float, keep: int) -> None:
        """All that the namespaces leave to do."""
        _give_up_rights()
        close_all_but({keep})
        limit(self._base_bytes, memory_mb, seconds, tasks=limits.THREADS)
        seccomp.install(self._filter)

    def tidy(self, *, keep: bool) -> bool:
        """The next program of a session mounts another directory; one of someone else gets other namespaces."""
        self._used = True
        if not keep:
            try:
                self.renew()
            except OSError:
                return False
        return True


class FolderCage(Cage):
    """Where there are no namespaces: each program is in a folder of its own, by Landlock if it holds here.

    The kernel has no limit for a folder, so the supervisor looks; and it counts threads by user.

    Args:
        scratch: Where folders are made.
        machine: Whose table of system calls to use; empty for none.
        landlock_version: 0 for none.
        drop_user: Whether programs must stop being who the supervisor is.
        readable: Descriptors for Landlock.
        devices: The same.
        base_bytes: Address space that is not charged.
        tasks: Limit of the processes and threads of the user that programs run as.
    """

    look_seconds: ClassVar[float] = 0.01

    def __init__(
        self,
        scratch: str,
        *,
        machine: str,
        landlock_version: int,
        drop_user: bool,
        readable: Sequence[int],
        devices: Sequence[int],
        base_bytes: int,
        tasks: int,
    ) -> None:
        self._scratch, self._landlock, self._drop_user = scratch, landlock_version, drop_user
        self._readable, self._devices, self._base_bytes = readable, devices, base_bytes
        self._tasks = tasks
        self._filter = seccomp.OwnPidFilter(machine) if machine else None
        self._folder = ""

    def renew(self) -> None:
        """Make another folder."""
        if self._folder:
            remove(self._folder)
        self._folder = make_folder(self._scratch)
        if self._drop_user:
            os.chown(self._folder, NOBODY, NOBODY)

    def enter(self) -> None:
        """Go to the folder."""
        os.chdir(self._folder)
        if self._drop_user:
            _become_nobody()
        elif os.geteuid() == 0:
            # Python can be read by root alone; but no limit of threads binds whose real user is root.
            os.setresuid(NOBODY, 0, 0)

    def confine(self, memory_mb: int, seconds: float, keep: int) -> None:
        """Landlock and a filter under which it can signal nobody else."""
        _give_up_rights()
        if self._landlock:
            work = os.open(".", os.O_PATH | os.O_CLOEXEC)
            landlock.restrict(self._landlock, readable=self._readable, writable=[work], devices=self._devices)
        close_all_but({keep})
        limit(self._base_bytes, memory_mb, seconds, tasks=self._tasks)
        if self._filter is not None:
            seccomp.install(self._filter.packed(os.getpid()))

    def end(self, pid: int) -> int:
        """Its process group as well, which without a filter may have more than one member."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        return super().end(pid)

    def is_overfull(self) -> bool:
        """The folder; the limits are those that a mount would have."""
        return is_larger(self._folder, limits.FILE_BYTES, INODES)

    def tidy(self, *, keep: bool) -> bool:  # noqa: ARG002 (it is the same for all)
        """Each run gets a folder of its own, whoever comes next."""
        try:
            self.renew()
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Remove the folder."""
        remove(self._folder)


def _become_nobody() -> None:
    with suppress(PermissionError):  # a namespace of an ordinary user allows no change of groups
        os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def _give_up_rights() -> None:
    libc.follow_parent()
    libc.drop_capabilities()
    libc.no_new_privileges()


def limit(base_bytes: int, memory_mb: int, seconds: float, *, tasks: int | None) -> None:
    """Limit the resources of this process, for good; of processor time only as a backstop."""
    cpu_seconds = int(min(seconds, 1e6)) * (os.cpu_count() or 1) + 2
    limits.enter(base_bytes + (memory_mb << 20), cpu_seconds, tasks=tasks)


def close_all_but(keep: set[int]) -> None:
    """Close all descriptors from 3 on but these."""
    low = 3
    for descriptor in sorted(keep):
        os.closerange(low, descriptor)
        low = descriptor + 1
    os.closerange(low, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
