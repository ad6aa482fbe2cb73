"""The first process of a container of the docker backend: a supervisor in whose container no namespaces are needed.

Its source is sent into the container and run there with ``python -I``, so it imports nothing but the standard library
(and those modules of `sandboxes` that are sent along). Being process 1 it cannot be signalled from inside. Not being
dumpable, its memory and descriptors cannot be opened by programs, although they run under the same user.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import platform
import signal
import sys
import time
from pathlib import Path

from sandboxes.cages import close_all_but, limit
from sandboxes.isolation import libc, limits, seccomp
from sandboxes.isolation.folders import empty
from sandboxes.program import prepare_streams
from sandboxes.protocol import REPLY
from sandboxes.supervisor import Cage, Supervisor, become

__all__ = ["ContainerCage", "main"]

_WORK = "/work"
_WRITABLE = (_WORK, "/dev/shm", "/dev/mqueue")
_PR_SET_DUMPABLE = 4


class ContainerCage(Cage):
    """The container itself. What a program leaves in it is removed; where that cannot be done it is not used again."""

    def __init__(self) -> None:
        self._filter = seccomp.pack(seccomp.build(platform.machine()))
        self._base_bytes = limits.base_bytes()
        self._oom_kills = _oom_kills()

    def renew(self) -> None:
        """It is as good as new."""

    def enter(self) -> None:
        """It is there, and nobody, already."""
        libc.prctl("dumpable", _PR_SET_DUMPABLE, 1)  # of its own: /dev/stdin is a link through /proc/self

    def confine(self, memory_mb: int, seconds: float, keep: int) -> None:
        """Limits and the filter; the engine did the rest."""
        # If the container runs out of memory, the program goes and not process 1.
        Path("/proc/self/oom_score_adj").write_text("1000")
        close_all_but({keep})
        # The kernel counts threads by user, and all containers' programs are one user's. The filter refuses forks, and
        # the container's own limit holds for threads.
        limit(self._base_bytes, memory_mb, seconds, tasks=None)
        seccomp.install(self._filter)

    def end(self, pid: int) -> int:
        """Kill and reap all but process 1."""
        found = -1
        while True:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)
            try:
                ended, wait_status = os.waitpid(-1, 0)
            except ChildProcessError:
                return found
            if ended == pid:
                found = wait_status

    def tidy(self, *, keep: bool) -> bool:  # noqa: ARG002 (it is the same for all)
        """Remove what the program left, whoever comes next."""
        return all(_empty(folder) for folder in _WRITABLE)

    def is_memory(self) -> bool:
        """Whether the kernel has killed for memory in the meantime."""
        before, self._oom_kills = self._oom_kills, _oom_kills()
        return self._oom_kills != before


def _empty(folder: str) -> bool:
    """Remove what is in a folder; says whether it is empty. Only the working directory must be there."""
    try:
        empty(folder)
    except FileNotFoundError:
        return folder != _WORK
    except OSError:
        return False
    return True


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
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # which process 1 ignores
    libc.prctl("dumpable", _PR_SET_DUMPABLE, 0)
    os.chdir(_WORK)
    if not os.access(_WORK, os.W_OK):
        raise PermissionError(f"the image must let everybody write to {_WORK}")
    for name in preload:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    requests, replies = os.dup(0), os.dup(1)
    prepare_streams()
    supervisor = Supervisor(requests, replies, ContainerCage())
    gc.collect()
    gc.freeze()  # or a program's first collection would copy every page
    os.write(replies, REPLY.pack(0, 0, 0.0, 0, 0))
    birth = supervisor.serve()
    if birth is not None:
        become(birth)
    sys.exit()
