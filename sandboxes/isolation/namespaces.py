"""Namespaces: the root that all programs share, and a new process in namespaces of its own."""

# System calls, one by one, are what this file is about.
# ruff: noqa: PTH100, PTH102, PTH103, PTH106, PTH110, PTH112, PTH120, PTH123

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterable, Sequence

from sandboxes.isolation.libc import LIBC, syscall
from sandboxes.isolation.syscalls import NUMBERS

__all__ = ["NOBODY", "WORK", "children_into", "enter_root", "fresh_work", "join", "map_ids", "spawn"]

NOBODY = 65534
"""User and group of every program, whoever started the sandbox."""
WORK = "/sandbox"
"""The working directory of programs; a name that no Python is likely to live under."""

_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 32, 4096, 16384, 1 << 18
_MNT_DETACH = 2
_MOUNT_SETATTR, _AT_RECURSIVE = 442, 0x8000
_CLONE_VM, _CLONE_PIDFD = 0x100, 0x1000
_PR_SET_PDEATHSIG = 1
_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = 1 << 17, 1 << 26, 1 << 27, 1 << 28, 1 << 29, 1 << 30
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random", "/dev/full")
_OLD = "/oldroot"
_CALLS = NUMBERS.get(os.uname().machine, {})


def enter_root(readable: Sequence[str], proc: int) -> None:
    """Move this process to a root that holds nothing but the readable folders, a few devices and a working directory.

    An ordinary user becomes the owner of a new user namespace for it. Children are born in a pid namespace of their
    own, the first of them, which must live on, as its process 1: with it all others end.

    Args:
        readable: Folders to bind read-only, at their own places.
        proc: Descriptor of /proc.

    Raises:
        OSError: If the kernel refuses any of it; the process is of no use then.
    """
    if os.geteuid() == 0:
        _unshare(_NEWNS | _NEWPID)
        os.setgroups([])
    else:
        ids = os.geteuid(), os.getegid()
        _unshare(_NEWNS | _NEWUSER | _NEWPID)
        _write(proc, "self/setgroups", "deny")
        _write(proc, "self/uid_map", f"{NOBODY} {ids[0]} 1")
        _write(proc, "self/gid_map", f"{NOBODY} {ids[1]} 1")
    folders = _outermost(readable)
    _mount(None, "/", None, _MS_REC | _MS_PRIVATE)
    _mount("tmpfs", "/tmp", "tmpfs", _MS_NOSUID, "size=1m,mode=755")
    os.chdir("/tmp")
    os.mkdir(_OLD[1:])
    # Sources are named by way of the old root from here on, so a Python that lives below /tmp is found, too.
    _pivot(".", _OLD[1:])
    os.chdir("/")
    for path, target in folders.items():
        _bind(_OLD + target, path)
    for path in _DEVICES:
        _bind(_OLD + path, path, _MS_NOSUID | _MS_NOEXEC)
    os.mkdir(WORK)
    _check(LIBC.umount2(_OLD.encode(), _MNT_DETACH), "umount of the old root")
    os.rmdir(_OLD)
    _mount(None, "/", None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID)


def spawn(*, user_namespace: bool) -> tuple[int, int]:
    """Make namespaces of every kind, with a process 1 in them that does nothing but wait for its end, or for ours.

    It shares our memory, because to copy it would cost more than all the namespaces. No signal from inside reaches it:
    we must have no handlers, which it would run.

    The calling process must bear its children into its own pid namespace at the time (`children_into`).

    Returns:
        Its pid and a pidfd of it.

    Raises:
        OSError: If the kernel refuses.
    """
    if not hasattr(LIBC, "makecontext"):
        raise OSError("the C library has no makecontext")
    flags = _NEWNS | _NEWUTS | _NEWIPC | _NEWPID | _NEWNET | (_NEWUSER if user_namespace else 0)
    pidfd = ctypes.c_int(-1)
    pid: int = LIBC.clone(
        _address(LIBC.setcontext),
        ctypes.c_void_p(_end_of(_STACKS[0])),
        ctypes.c_int(flags | _CLONE_VM | _CLONE_PIDFD | signal.SIGCHLD),
        ctypes.byref(_waiting()),
        ctypes.byref(pidfd),
    )
    _check(pid, "clone into namespaces")
    os.set_inheritable(pidfd.value, False)
    return pid, pidfd.value


class _Context(ctypes.Structure):
    """The beginning of ``ucontext_t``, which is the same everywhere; the rest only the C library looks at."""

    _fields_ = (
        ("flags", ctypes.c_ulong),
        ("link", ctypes.c_void_p),
        ("stack", ctypes.c_void_p),
        ("stack_flags", ctypes.c_int),
        ("stack_bytes", ctypes.c_size_t),
        ("rest", ctypes.c_char * 8192),
    )


_STACKS = [ctypes.create_string_buffer(1 << 14) for _ in range(3)]
_CONTEXTS = _Context(), _Context()


def _waiting() -> _Context:
    """Where `spawn`'s process begins, in functions of the C library alone: Python cannot run twice in one memory."""
    steps = (("prctl", (_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)), ("pause", ()))
    for context, stack, (name, arguments) in zip(_CONTEXTS, _STACKS[1:], steps, strict=True):
        _check(LIBC.getcontext(ctypes.byref(context)), "getcontext")
        context.stack, context.stack_bytes = ctypes.addressof(stack), len(stack)
        context.link = ctypes.addressof(_CONTEXTS[1]) if context is _CONTEXTS[0] else None
        LIBC.makecontext(
            ctypes.byref(context), _address(getattr(LIBC, name)), len(arguments), *map(ctypes.c_long, arguments)
        )
    return _CONTEXTS[0]


def _address(function: object) -> ctypes.c_void_p:
    return ctypes.cast(function, ctypes.c_void_p)  # type: ignore[arg-type]


def _end_of(stack: ctypes.Array[ctypes.c_char]) -> int:
    return (ctypes.addressof(stack) + len(stack)) & ~15


def children_into(pidfd: int) -> None:
    """Let the children that this process forks from now on be born in the pid namespace of another."""
    _check(LIBC.setns(pidfd, _NEWPID), "setns")


def join(pidfd: int, *, user_namespace: bool) -> None:
    """Enter all the other namespaces of a process that `spawn` made; the current directory is their root then."""
    flags = _NEWNS | _NEWUTS | _NEWIPC | _NEWNET | (_NEWUSER if user_namespace else 0)
    _check(LIBC.setns(pidfd, flags), "setns")


def map_ids(proc: int, pidfd: int) -> None:
    """Let the ids of `NOBODY`, and no others, exist in the user namespace of a child.

    Args:
        proc: Descriptor of /proc, which may be that of another pid namespace.
        pidfd: Of the child.
    """
    pid = _pid_in(proc, pidfd)
    _write(proc, f"{pid}/uid_map", f"{NOBODY} {NOBODY} 1")
    _write(proc, f"{pid}/gid_map", f"{NOBODY} {NOBODY} 1")


def _pid_in(proc: int, pidfd: int) -> int:
    descriptor = os.open(f"self/fdinfo/{pidfd}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
    try:
        text = os.read(descriptor, 4096)
    finally:
        os.close(descriptor)
    return int(text.partition(b"\nPid:")[2].split(maxsplit=1)[0])


def fresh_work(size_bytes: int, inodes: int, *, replace: bool) -> None:
    """Mount an empty working directory, in place of the one before, and go there."""
    os.chdir("/")
    if replace:
        _check(LIBC.umount2(WORK.encode(), _MNT_DETACH), "umount of the working directory")
    options = f"size={size_bytes},nr_inodes={inodes},mode=700,uid={NOBODY},gid={NOBODY}"
    _mount("tmpfs", WORK, "tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, options)
    os.chdir(WORK)


def _unshare(flags: int) -> None:
    _check(LIBC.unshare(flags), "unshare")


def _pivot(new: str, old: str) -> None:
    syscall("pivot_root", _CALLS["pivot_root"], new.encode(), old.encode())


def _outermost(paths: Iterable[str]) -> dict[str, str]:
    """Without those that lie in others; each with what it really is, once all links are followed."""
    kept: dict[str, str] = {}
    for path in sorted({os.path.abspath(path) for path in paths}):
        if os.path.exists(path) and not any(path == other or path.startswith(other + "/") for other in kept):
            kept[path] = os.path.realpath(path)
    return kept


def _bind(source: str, path: str, flags: int = _MS_NOSUID | _MS_NODEV) -> None:
    """Bind something of the old root, read-only, to a path of the new one."""
    if os.path.isdir(source):
        os.makedirs(path, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "x", encoding="ascii"):
            pass
    _mount(source, path, None, _MS_BIND | _MS_REC)
    attributes = (ctypes.c_uint64 * 4)(_MS_RDONLY | flags)
    try:
        # MOUNT_ATTR_RDONLY, NOSUID, NODEV, NOEXEC have the values of their MS_ counterparts.
        syscall("mount_setattr", _MOUNT_SETATTR, -100, path.encode(), _AT_RECURSIVE, bytes(attributes), 32)
    except OSError:
        _mount(None, path, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | flags)


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    raw = [None if item is None else item.encode() for item in (source, target, kind, options)]
    _check(LIBC.mount(raw[0], raw[1], raw[2], ctypes.c_ulong(flags), raw[3]), f"mount of {target}")


def _write(proc: int, name: str, text: str) -> None:
    descriptor = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=proc)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _check(result: int, what: str) -> None:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
