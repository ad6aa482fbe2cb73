"""The filter of system calls: a BPF program written by hand, because libseccomp is not everywhere.

It allows what is on a list (`isolation.syscalls.ALLOWED`), looks at the arguments of a few, and refuses the rest. A
list of what is forbidden would let in whatever the next kernel brings.

Refused calls fail with EPERM and do not kill: a program that tries `os.fork` shall see a PermissionError.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Sequence

from sandboxes.isolation.libc import LIBC, prctl
from sandboxes.isolation.syscalls import ALLOWED, NUMBERS

__all__ = [
    "ALLOW",
    "AUDIT_ARCH",
    "KILL",
    "Filter",
    "OwnPidFilter",
    "build",
    "deny",
    "install",
    "pack",
    "probe",
    "simulate",
]

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOW = 0x7FFF0000
KILL = 0x80000000
_ERRNO = 0x00050000
_X32_BIT = 0x40000000

_LOAD, _RETURN = 0x20, 0x06
_EQUAL, _AT_LEAST, _ANY_BIT = 0x15, 0x35, 0x45
_NUMBER_AT, _ARCH_AT, _ARGUMENTS_AT = 0, 4, 16

_AF_UNIX = 1
_CLONE_THREAD = 0x10000
# NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET, and PTRACE.
_CLONE_FORBIDDEN = 0x7E020000 | 0x2000
# TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX: what Python asks of every file that it opens.
_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
# SETOWN, SETSIG, SETOWN_EX send signals to others; SETLEASE, NOTIFY, SETPIPE_SZ hold kernel memory that nobody counts.
_FCNTLS_FORBIDDEN = (8, 10, 15, 1024, 1026, 1031)
# Names of threads and of mappings, and what only reads.
_PRCTLS = (3, 15, 16, 21, 23, 39, 0x53564D41)

Instruction = tuple[int, int, int, int]
"""Code, jump if true, jump if false, constant; as `struct sock_filter` has it."""
Filter = list[Instruction]


def deny(error: int) -> int:
    """The verdict "fails with this errno"."""
    return _ERRNO | error


def build(machine: str, *, only_pid: int | None = None) -> Filter:
    """Write the filter.

    Args:
        machine: A key of `AUDIT_ARCH`.
        only_pid: For a process without namespaces of its own: it may signal only this process (itself), and sockets
            lead nowhere. None where the namespaces see to that.
    """
    numbers = NUMBERS[machine]
    program: Filter = [
        (_LOAD, 0, 0, _ARCH_AT),
        (_EQUAL, 1, 0, AUDIT_ARCH[machine]),
        (_RETURN, 0, 0, KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
    ]
    if machine == "x86_64":
        # The x32 table has the same architecture and other numbers.
        program += [(_AT_LEAST, 0, 1, _X32_BIT), (_RETURN, 0, 0, KILL)]
    for name, block in _blocks(only_pid).items():
        program += [(_EQUAL, 0, len(block), numbers[name]), *block]
    allowed = sorted(numbers[name] for name in _plain(only_pid) if name in numbers)
    return program + _search(_ranges(allowed))


_BEYOND_LANDLOCK = frozenset(
    ("chmod", "fchmod", "fchmodat", "fchmodat2", "utime", "utimes", "utimensat", "futimesat", "flock")
)
"""What Landlock lets through, on files anywhere."""


def _plain(only_pid: int | None) -> tuple[str, ...]:
    # sendmsg would let descriptors travel, and pipes live on in sockets that nobody holds.
    if only_pid is None:
        return (*ALLOWED, "connect", "bind", "sendto", "kill", "tkill", "tgkill")
    return tuple(name for name in ALLOWED if name not in _BEYOND_LANDLOCK)


def _blocks(only_pid: int | None) -> dict[str, Filter]:
    """Programs for the calls whose arguments matter; each returns on every path."""
    blocks = {
        "clone": [
            (_LOAD, 0, 0, _ARGUMENTS_AT),
            (_ANY_BIT, 2, 0, _CLONE_FORBIDDEN),
            (_ANY_BIT, 0, 1, _CLONE_THREAD),
            (_RETURN, 0, 0, ALLOW),
            (_RETURN, 0, 0, deny(errno.EPERM)),
        ],
        # Its arguments lie in memory, where a filter cannot look; the C library falls back to clone.
        "clone3": [(_RETURN, 0, 0, deny(errno.ENOSYS))],
        "socketpair": _argument_in(0, (_AF_UNIX,)),
        "socket": _argument_in(0, (_AF_UNIX,)),
        "prctl": _argument_in(0, _PRCTLS),
        # Of another process it would change the limits of its supervisor.
        "prlimit64": _argument_in(0, (0,)),
        "ioctl": _argument_in(1, _IOCTLS),
        "fcntl": _argument_in(1, _FCNTLS_FORBIDDEN, then=deny(errno.EPERM), otherwise=ALLOW),
    }
    if only_pid is not None:
        # A socket of a pair may still be connected elsewhere, by an address given to connect, sendto or sendmsg.
        blocks["socket"] = [(_RETURN, 0, 0, deny(errno.EPERM))]
        blocks["sendto"] = _argument_is_null(4)
        blocks["kill"] = blocks["tgkill"] = _argument_in(0, (only_pid,))
    return blocks


def _argument_in(index: int, values: Sequence[int], then: int = ALLOW, otherwise: int | None = None) -> Filter:
    """Looks at the low half only: all these arguments are C ints, of which the kernel takes no more."""
    tests = [(_EQUAL, len(values) - i, 0, value & 0xFFFFFFFF) for i, value in enumerate(values)]
    otherwise = deny(errno.EPERM) if otherwise is None else otherwise
    return [(_LOAD, 0, 0, _ARGUMENTS_AT + 8 * index), *tests, (_RETURN, 0, 0, otherwise), (_RETURN, 0, 0, then)]


def _argument_is_null(index: int) -> Filter:
    at = _ARGUMENTS_AT + 8 * index
    return [
        (_LOAD, 0, 0, at),
        (_EQUAL, 0, 3, 0),
        (_LOAD, 0, 0, at + 4),
        (_EQUAL, 0, 1, 0),
        (_RETURN, 0, 0, ALLOW),
        (_RETURN, 0, 0, deny(errno.EPERM)),
    ]


def _ranges(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Where the verdict changes: (first number, verdict), from 0 on."""
    edges = [(0, deny(errno.EPERM))]
    for number in numbers:
        if edges[-1] == (number, deny(errno.EPERM)):
            edges.pop()
        if not edges or edges[-1][1] != ALLOW:
            edges.append((number, ALLOW))
        edges.append((number + 1, deny(errno.EPERM)))
    return edges


def _search(edges: Sequence[tuple[int, int]]) -> Filter:
    """A binary search: the kernel runs the filter for each call number once when it is installed, so length costs."""
    if len(edges) == 1:
        return [(_RETURN, 0, 0, edges[0][1])]
    middle = len(edges) // 2
    low, high = _search(edges[:middle]), _search(edges[middle:])
    if len(low) > 255:
        raise ValueError("the filter has grown beyond what a jump can reach")
    return [(_AT_LEAST, len(low), 0, edges[middle][0]), *low, *high]


_INSTRUCTION = struct.Struct("=HBBI")
_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def pack(program: Filter) -> bytes:
    """The filter as the kernel reads it."""
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in program)


class OwnPidFilter:
    """The filter for processes without namespaces; written once, and for each process only its pid is put in."""

    _PLACE = struct.pack("=I", 0x7FFFFF5A)  # beyond all pids, and not in the filter otherwise

    def __init__(self, machine: str) -> None:
        (pid,) = struct.unpack("=I", self._PLACE)
        self._packed = pack(build(machine, only_pid=pid))

    def packed(self, pid: int) -> bytes:
        """As the kernel reads it."""
        return self._packed.replace(self._PLACE, struct.pack("=I", pid))


def install(packed: bytes) -> None:
    """Put a filter on this process for good; it needs `no_new_privileges` before."""
    holder = _Program(len(packed) // _INSTRUCTION.size, packed)
    if LIBC.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), ctypes.byref(holder), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")


def simulate(program: Filter, arch: int, number: int, arguments: Sequence[int] = ()) -> int:
    """The verdict of a filter on a call; what the kernel does, for tests of the table of another machine."""
    data = struct.pack("<IIQ6Q", number, arch, 0, *(value & (2**64 - 1) for value in (*arguments, *[0] * 6)[:6]))
    accumulator, at = 0, 0
    while True:
        code, true, false, constant = program[at]
        at += 1
        if code == _LOAD:
            accumulator = int.from_bytes(data[constant : constant + 4], "little")
        elif code == _RETURN:
            return constant
        else:
            tests = {
                _EQUAL: accumulator == constant,
                _AT_LEAST: accumulator >= constant,
                _ANY_BIT: bool(accumulator & constant),
            }
            at += true if tests[code] else false


def probe() -> None:
    """Raise OSError where the kernel has no filters."""
    # A null pointer is looked at only where filters are known: EFAULT is the good answer, EINVAL the bad one.
    try:
        prctl("seccomp", _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER)
    except OSError as error:
        if error.errno not in (errno.EFAULT, errno.EACCES):
            raise
