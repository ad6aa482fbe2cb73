"""The child that becomes the program: it gives everything up, then runs the source as ``__main__``."""

from __future__ import annotations

import atexit
import builtins
import linecache
import os
import resource
import signal
import sys
import threading
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from types import ModuleType, TracebackType
from typing import Any, NoReturn

from sandboxes.isolation import landlock, libc, limits, seccomp
from sandboxes.isolation.namespaces import NOBODY

# Programs may patch builtins and os: what is below keeps to the originals. Functions take the builtins that their
# module had when they were defined.
globals()["__builtins__"] = dict(vars(builtins))
_exit, _kill, _getpid, _write = os._exit, os.kill, os.getpid, os.write

__all__ = ["OUT_OF_MEMORY", "Birth", "Confinement", "become", "prepare", "prepare_streams"]

OUT_OF_MEMORY = signal.SIGRTMAX
"""The signal by which a program that died of a MemoryError tells it; a program that forges it gains nothing."""
_FILE = "main.py"


@dataclass(frozen=True, slots=True)
class Confinement:
    """What keeps a program in, besides the namespaces that it is in already.

    Attributes:
        machine: Its table of system calls; empty for none (tier ``unsafe`` only).
        namespaces: Whether there are some.
        landlock: Version of Landlock to use; 0 for none.
        drop_user: Whether to become `NOBODY`.
        readable: Descriptors for Landlock.
        devices: The same.
        base_bytes: Address space that is not charged.
        scratch: Folder for working directories, where none can be mounted.
    """

    machine: str
    namespaces: bool
    landlock: int
    drop_user: bool
    readable: list[int] = field(default_factory=list)
    devices: list[int] = field(default_factory=list)
    base_bytes: int = 0
    scratch: str = ""


@dataclass
class Birth(BaseException):
    """Raised in a freshly forked child, to unwind all the frames of the supervisor before `become` is called.

    A program then begins with a clean stack: as much room to recurse as alone, and nothing of ours to climb to.

    Attributes:
        confinement: What to give up.
        code: The source.
        streams: Descriptors of its stdin, stdout and stderr.
        work: Descriptor of its working directory.
        memory_mb: Its limit of memory.
        seconds: Its limit of time, for the backstop.
        trouble: Descriptor to write to if it cannot be confined: then it is not run. The program does not get it.
    """

    confinement: Confinement
    code: bytes
    streams: tuple[int, int, int]
    work: int
    memory_mb: int
    seconds: float
    trouble: int


def become(birth: Birth) -> NoReturn:
    """Turn this process into the program."""
    status = 127
    try:
        try:
            for number, stream in enumerate(birth.streams):
                os.dup2(stream, number)
            _confine(birth.confinement, birth.work, birth.memory_mb, birth.seconds, birth.trouble)
        except BaseException as error:
            os.write(birth.trouble, f"cannot confine the program: {error!r}"[:1000].encode())
            raise
        os.close(birth.trouble)
        # From here on everything is the program's doing.
        status = _run(birth.code)
    finally:
        _exit(status)


def _confine(confinement: Confinement, work: int, memory_mb: int, seconds: float, trouble: int) -> None:
    os.setsid()
    os.fchdir(work)
    if confinement.drop_user:
        with suppress(PermissionError):  # a namespace of an ordinary user allows no change of groups
            os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    libc.follow_parent()  # without namespaces, nothing else would end the program with its supervisor
    libc.drop_capabilities()
    libc.no_new_privileges()
    if confinement.landlock:
        landlock.restrict(
            confinement.landlock, readable=confinement.readable, writable=[work], devices=confinement.devices
        )
    os.closerange(3, trouble)
    os.closerange(trouble + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    cpu_seconds = int(seconds) * (os.cpu_count() or 1) + 2
    limits.enter(confinement.base_bytes + (memory_mb << 20), cpu_seconds)
    if confinement.machine:
        only_pid = None if confinement.namespaces else os.getpid()
        seccomp.install(_filter(confinement.machine, only_pid))


_FILTERS: dict[str, bytes] = {}


def prepare(confinement: Confinement) -> None:
    """Do once what all programs need."""
    if confinement.machine and confinement.namespaces:
        _FILTERS[confinement.machine] = seccomp.pack(seccomp.build(confinement.machine))


def _filter(machine: str, only_pid: int | None) -> bytes:
    return _FILTERS[machine] if only_pid is None else seccomp.pack(seccomp.build(machine, only_pid=only_pid))


def _run(code: bytes) -> int:
    """Run the source and everything that Python runs after it; returns the exit code."""
    main = ModuleType("__main__")
    main.__dict__.update(__builtins__=builtins, __annotations__={}, __file__=_FILE)
    sys.modules["__main__"] = main
    sys.argv = [_FILE]
    sys.path.insert(0, os.getcwd())  # noqa: PTH109
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # As text, so that a coding cookie means nothing; surrogates come through, for Python to complain of.
    text = code.decode("utf-8", "surrogatepass").removeprefix("\ufeff")
    linecache.cache[_FILE] = (len(text), None, text.splitlines(keepends=True), _FILE)
    status = 0
    try:
        exec(compile(text, _FILE, "exec", dont_inherit=True), main.__dict__)
    except BaseException as error:
        status = _report(error)
    return _finish(main, status)


def prepare_streams() -> None:
    """Make sys.stdin and its like once for all programs.

    They are made on pipes, as a program's are, because they remember what kind of file they were made on.
    """
    null = os.open(os.devnull, os.O_RDWR)
    ends = os.pipe()
    for number, end in enumerate((ends[0], ends[1], ends[1])):
        os.dup2(end, number)
    for end in ends:
        os.close(end)
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)  # type: ignore[misc]  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", encoding="utf-8", closefd=False)  # type: ignore[misc]  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(  # type: ignore[misc]  # noqa: SIM115
        2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
    )
    for number in range(3):
        os.dup2(null, number)
    os.close(null)


def _report(error: BaseException) -> int:
    """Say what the program died of, as the interpreter would; returns the exit code."""
    if isinstance(error, SystemExit):
        return _exit_code(error.code)
    if isinstance(error, MemoryError):
        limits.lift_memory()
    trace = _own(error.__traceback__)
    error.__traceback__ = trace
    try:
        if sys.excepthook is sys.__excepthook__:
            traceback.print_exception(type(error), error, trace)
        else:
            sys.excepthook(type(error), error, trace)
    except MemoryError:
        with suppress(OSError):
            _write(2, b"MemoryError\n")
    except BaseException:
        pass
    if isinstance(error, MemoryError):
        _flush()
        _die(OUT_OF_MEMORY)
    if isinstance(error, KeyboardInterrupt):
        _flush()
        _die(signal.SIGINT)
    return 1


def _own(trace: TracebackType | None) -> TracebackType | None:
    """Without the frames of this file."""
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return trace


def _exit_code(code: Any) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    with suppress(BaseException):
        print(code, file=sys.stderr)  # noqa: T201
    return 1


def _finish(main: ModuleType, status: int) -> int:
    """What the interpreter does at its end: other threads, exit handlers, destructors, flushing."""
    for step in (threading._shutdown, atexit._run_exitfuncs):  # type: ignore[attr-defined]
        try:
            step()
        except BaseException as error:
            _report(error)
    good = _flush()  # as Python does: before globals go, which a stream of the program's own may need
    with suppress(BaseException):
        main.__dict__.clear()  # closes, and so flushes, files that the program left open
    return status if good else status or 120


def _flush() -> bool:
    good = True
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except BaseException:
            good = False
    return good


def _die(number: signal.Signals | int) -> None:
    signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    _kill(_getpid(), number)
