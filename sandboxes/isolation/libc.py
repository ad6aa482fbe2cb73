"""Calls into the C library that Python has no name for."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

__all__ = [
    "LIBC",
    "bound_capabilities",
    "drop_capabilities",
    "follow_parent",
    "fork",
    "no_new_privileges",
    "prctl",
    "syscall",
]

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long
_FORK = ctypes.PyDLL(None, use_errno=True).fork  # without letting go of the lock of the interpreter
_syscall = LIBC.syscall
_prctl = LIBC.prctl

_PR_SET_PDEATHSIG = 1
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522
_LAST_CAPABILITY = 63
_ZERO = ctypes.c_ulong(0)
# The kernel writes its own version back, so each call gets a copy.
_EMPTY_SETS = (ctypes.c_uint32 * 6)()


def syscall(what: str, number: int, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """Make a system call.

    Args:
        what: Its name, for the error.
        number: Its number on this machine.
        *arguments: Integers are passed as 64 bits.

    Raises:
        OSError: If the kernel refuses.
    """
    result: int = _syscall(
        ctypes.c_long(number), *(ctypes.c_long(item) if isinstance(item, int) else item for item in arguments)
    )
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
    return result


def prctl(what: str, option: int, value: int = 0) -> None:
    """Change something about this process; OSError if refused."""
    if _prctl(option, ctypes.c_ulong(value), _ZERO, _ZERO, _ZERO):
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def fork() -> int:
    """Fork as C does, in a process without other threads; 0 in the child. OSError if refused.

    `os.fork` runs what modules have registered, which touches, and so copies, some 200 pages; all that has to be done
    of it is to draw a new seed, which `sandboxes.supervisor.become` does.
    """
    pid: int = _FORK()
    if pid < 0:
        raise OSError(ctypes.get_errno(), "fork")
    return pid


def no_new_privileges() -> None:
    """Never again gain anything through an exec; seccomp and Landlock ask for it."""
    prctl("no_new_privs", _PR_SET_NO_NEW_PRIVS, 1)


def bound_capabilities() -> None:
    """Let this process and its children never have more capabilities than it has now."""
    for capability in range(_LAST_CAPABILITY + 1):
        # EINVAL: the kernel has no more of them. EPERM: an ordinary user, who has none to begin with.
        if _prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(capability), _ZERO, _ZERO, _ZERO):
            break


def follow_parent() -> None:
    """Be killed when the parent ends. A change of user undoes it, so it comes after."""
    prctl("pdeathsig", _PR_SET_PDEATHSIG, signal.SIGKILL)


def drop_capabilities() -> None:
    """Give up every capability."""
    _prctl(_PR_CAP_AMBIENT, ctypes.c_ulong(_PR_CAP_AMBIENT_CLEAR_ALL), _ZERO, _ZERO, _ZERO)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    if LIBC.capset(header, _EMPTY_SETS):
        raise OSError(ctypes.get_errno(), "capset")


if sys.platform != "linux":
    raise ImportError("the isolation of the local sandbox is Linux's")
