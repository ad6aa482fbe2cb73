"""What a confined process does to be the program: run its source as ``__main__``, and end as Python does."""

from __future__ import annotations

import atexit
import builtins
import gc
import io
import linecache
import os
import signal
import sys
import threading
import traceback
from contextlib import suppress
from types import ModuleType, TracebackType
from typing import Any, NoReturn

from sandboxes.isolation import limits

# Programs may patch builtins and os: what is below keeps to the originals. Functions take the builtins that their
# module had when they were defined.
globals()["__builtins__"] = dict(vars(builtins))
_exit, _kill, _getpid, _write = os._exit, os.kill, os.getpid, os.write
_collect = gc.collect

__all__ = ["OUT_OF_MEMORY", "become_program", "prepare_streams"]

OUT_OF_MEMORY = signal.SIGRTMAX
"""The signal by which a program that died of a MemoryError tells it; a program that forges it gains nothing."""
_FILE = "main.py"


def become_program(code: bytes) -> NoReturn:
    """Run the source as ``__main__``, in a process that has given everything else up; nothing of it comes back."""
    status = 1
    try:
        status = _run(code)
    finally:
        _exit(status)


def _run(code: bytes) -> int:
    """Run the source and everything that Python runs after it; returns the exit code."""
    main = ModuleType("__main__")
    main.__dict__.update(__builtins__=builtins, __file__=_FILE)
    if sys.version_info < (3, 14):
        main.__dict__.update(__annotations__={})
    sys.modules["__main__"] = main
    sys.argv = [_FILE]
    sys.path.insert(0, os.getcwd())  # noqa: PTH109
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # As text, so that a coding cookie means nothing; surrogates come through, for Python to complain of.
    text = code.decode("utf-8", "surrogatepass").removeprefix("\ufeff")
    linecache.cache[_FILE] = (len(text), None, io.StringIO(text).readlines(), _FILE)
    status = 0
    try:
        exec(compile(text, _FILE, "exec", dont_inherit=True), main.__dict__)
    except BaseException as error:
        status = _report(error)
    del main  # its end shall be that of what it holds
    return _finish(status)


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
        _flush(sys.stdout, sys.stderr)
        _die(OUT_OF_MEMORY)
    if isinstance(error, KeyboardInterrupt):
        _flush(sys.stdout, sys.stderr)
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
        return code & 0xFF if -(1 << 63) <= code < 1 << 63 else 0xFF
    with suppress(BaseException):
        print(code, file=sys.stderr)  # noqa: T201
    return 1


def _finish(status: int) -> int:
    """What the interpreter does at its end: other threads, exit handlers, flushing, destructors, flushing."""
    for step in (threading._shutdown, atexit._run_exitfuncs):  # type: ignore[attr-defined]
        try:
            step()
        except BaseException as error:
            _report(error)
    good = _flush(sys.stdout, sys.stderr)
    with suppress(BaseException):
        sys.modules.pop("__main__", None)
        _collect()  # closes, and so flushes, files that the program left open
    _flush(sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    return status if good else status or 120


def _flush(*streams: Any) -> bool:
    good = True
    for stream in streams:
        try:
            if stream is not None and not getattr(stream, "closed", False):
                stream.flush()
        except BaseException:
            good = False
    return good


def _die(number: signal.Signals | int) -> None:
    signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    _kill(_getpid(), number)
