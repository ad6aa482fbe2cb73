"""What the backends on machines of other people share: how a job travels there, and how its outcome travels back.

A server that runs Python for strangers has its own ideas of the working directory, of argv, of limits, and of what it
does with long or broken output. So that a program means the same everywhere, such a server is not given the program but
`sandboxes._launcher`, which runs it as a child and reports in one line of ASCII.

The program may forge that line (it can write what it likes to its stdout anyway); it is therefore read as hostile data,
and nothing in it can say that *we* failed.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

from sandboxes.base import MAX_OUTPUT_BYTES, Job, RunResult, Status

__all__ = ["LAUNCHER", "STARTUP_SECONDS", "Report", "pack", "unpack"]

LAUNCHER = Path(__file__).with_name("_launcher.py").read_text(encoding="utf-8")
"""Source of the program that a server is given."""

STARTUP_SECONDS = 3.0
"""For the launcher to start and to clean up; the limit of a server is this much above that of the program."""

_HEAD_BYTES = 1 << 12


@dataclass(frozen=True, slots=True)
class Report:
    """The launcher's word.

    Attributes:
        result: What came of the program.
        clean: Whether nothing of it is left there.
    """

    result: RunResult
    clean: bool


def pack(job: Job, *, room: int, base: str, uid: int = 0) -> str:
    """A job as the launcher reads it from its stdin; ASCII.

    Args:
        job: The job.
        room: How many characters of a report the way back carries.
        base: The directory over there in which the program's own is made.
        uid: The user that the program runs as where the launcher is root; 0 is whoever the launcher is.
    """
    files = {name: _text(content) for name, content in job.files.items()}
    return json.dumps(
        {
            "code": _text(job.code),
            "stdin": _text(job.stdin),
            "files": files,
            "seconds": job.timeout_seconds,
            "memory_mb": job.memory_mb,
            "room": room,
            "base": base,
            "uid": uid,
        }
    )


def _text(content: str | bytes) -> str:
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    return base64.b64encode(data).decode("ascii")


def unpack(line: str, *, seconds: float) -> Report | None:
    """Read a report, in which every word may be a lie.

    Args:
        line: What the launcher's stdout held.
        seconds: How long the whole took as seen from here; the program cannot have taken longer.

    Returns:
        None where it is no whole report.
    """
    length, _, packed = line.rstrip("\n").partition(" ")
    if not (length.isascii() and length.isdigit() and len(length) < 10 and len(packed) == int(length)):
        return None
    try:
        unzip = zlib.decompressobj()
        data = unzip.decompress(base64.b64decode(packed, validate=True), 2 * MAX_OUTPUT_BYTES + _HEAD_BYTES)
        head, _, output = data.partition(b"\n")
        said = json.loads(head) if len(head) < _HEAD_BYTES else None
    except (ValueError, zlib.error, RecursionError):
        return None
    if not unzip.eof or not isinstance(said, dict):
        return None
    end, code, took, size = said.get("end"), said.get("code"), said.get("seconds"), said.get("out")
    if end not in ("exit", "timeout", "output") or type(code) is not int or type(size) is not int or size < 0:
        return None
    if type(took) is not float or not math.isfinite(took) or abs(code) > 255:
        return None
    stdout, stderr = (part[:MAX_OUTPUT_BYTES].decode("utf-8", "replace") for part in (output[:size], output[size:]))
    result = RunResult(_status(end, code, stderr), stdout, stderr, code, min(max(took, 0.0), seconds))
    return Report(result, said.get("clean") is True)


def _status(end: str, code: int, stderr: str) -> Status:
    if end == "timeout":
        return Status.TIMEOUT
    if end == "output":
        return Status.OUTPUT_LIMIT
    if code == 0:
        return Status.OK
    last = stderr.rstrip().rpartition("\n")[2]
    return Status.MEMORY if code == 1 and last.startswith("MemoryError") else Status.ERROR
