"""Limits of resources, as the kernel counts them per process."""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from pathlib import Path

__all__ = ["FILE_BYTES", "RESERVE_BYTES", "base_bytes", "enter", "lift_memory", "tasks_of"]

FILE_BYTES = 16 << 20
"""Of one file, and of the whole working directory."""
RESERVE_BYTES = 16 << 20
"""Above the soft limit of memory; so that the traceback of a MemoryError can be written."""
_OPEN_FILES = 64
THREADS = 64
"""Of one program."""
_STACK_BYTES = 64 << 20
_FALLBACK_BASE_BYTES = 64 << 20
_SIGPENDING, _MSGQUEUE = 11, 12  # not every Python has the names


def base_bytes() -> int:
    """The address space that Python and the preloaded modules take before the program begins; it is not charged."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return _FALLBACK_BASE_BYTES
    return pages * os.sysconf("SC_PAGE_SIZE")


def tasks_of(uid: int) -> int:
    """How many processes and threads a user has on this machine; 0 where that cannot be seen."""
    count = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):
            if folder.stat().st_uid == uid:
                count += int((folder / "stat").read_text(encoding="ascii").rpartition(")")[2].split()[17])
    return count


def enter(memory_bytes: int, cpu_seconds: int, *, tasks: int | None) -> None:
    """Limit this process, for good.

    Args:
        memory_bytes: Of address space, with the base; `RESERVE_BYTES` come on top.
        cpu_seconds: A backstop only: the supervisor's clock is the limit.
        tasks: Of the processes and threads that its user may have; None for no limit.
    """
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, FILE_BYTES)
    _limit(resource.RLIMIT_NOFILE, _OPEN_FILES)
    if tasks is not None:
        _limit(resource.RLIMIT_NPROC, tasks)
    _limit(resource.RLIMIT_MEMLOCK, 0)
    _limit(_MSGQUEUE, 0)  # a queue would outlive the program
    _limit(_SIGPENDING, 256)
    _limit(resource.RLIMIT_CPU, cpu_seconds)
    # Only what is so to begin with: programs that recurse deeply raise it, and memory bounds it anyway.
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    resource.setrlimit(resource.RLIMIT_STACK, (_STACK_BYTES if hard < 0 else min(_STACK_BYTES, hard), hard))
    hard = _limit(resource.RLIMIT_AS, memory_bytes + RESERVE_BYTES)
    resource.setrlimit(resource.RLIMIT_AS, (max(hard - RESERVE_BYTES, 0), hard))


def _limit(kind: int, value: int) -> int:
    """Set both the soft and the hard limit, lower where the hard one already is; returns it."""
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, value))
    return value


def lift_memory() -> None:
    """Free the reserve, once the program is over."""
    with suppress(OSError, ValueError):
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
