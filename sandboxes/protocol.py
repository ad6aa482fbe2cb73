"""What a client and a supervisor say to each other over a pipe or a socket. Nothing that is received is executed.

A request begins with `REQUEST`: the limit in seconds, an `Order`, the limit of memory in MiB, and four lengths, those
of what follows: the source, the standard input, a list in JSON of files' names and sizes (nothing if there are none),
and their contents. A reply begins with `REPLY`: the index of the status in `STATUSES`, the exit code, seconds, and the
lengths of stdout and stderr, which follow.

The supervisor reads only the beginning of a request. The rest goes unread to the process that becomes the program,
whose every step costs copies of pages: so the form is plain.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from enum import IntEnum

__all__ = [
    "FAILED",
    "MAX_OUTPUT_BYTES",
    "REPLY",
    "REQUEST",
    "STATUSES",
    "Order",
    "end_of_session",
    "pack_request",
    "read_exactly",
    "unpack_files",
]

MAX_OUTPUT_BYTES = 1 << 20
"""Of stdout and of stderr each; a program that writes more is killed."""
REQUEST = struct.Struct(">dBIQQQQ")
REPLY = struct.Struct(">BidQQ")
_MAX_MEMORY_MB = 1 << 30
FAILED = "failed"
"""Not the program's doing; what would be its stderr says why."""
STATUSES = ("ok", "error", "timeout", "memory", "output_limit", FAILED)


class Order(IntEnum):
    """What the supervisor is to do."""

    RUN = 0
    """Run a program; the next one gets namespaces of its own."""
    RUN_AND_KEEP = 1
    """Run a program; the next one is the same."""
    RENEW = 2
    """Run nothing: what came before was the end of a session. There is no reply."""


def pack_request(
    code: str,
    stdin: str,
    files: Mapping[str, str | bytes],
    *,
    memory_mb: int,
    timeout_seconds: float,
    order: Order = Order.RUN,
) -> bytes:
    """A whole request to run a program; lone surrogates travel, for Python over there to complain of."""
    program, text, contents = _bytes(code), _bytes(stdin), [_bytes(content) for content in files.values()]
    named = [(name, len(content)) for name, content in zip(files, contents, strict=True)]
    names = json.dumps(named).encode("ascii") if named else b""
    parts = program, text, names, b"".join(contents)
    return b"".join((REQUEST.pack(timeout_seconds, order, min(memory_mb, _MAX_MEMORY_MB), *map(len, parts)), *parts))


def unpack_files(names: bytes, contents: bytes) -> dict[str, bytes]:
    """What `pack_request` made of the files."""
    files = {}
    at = 0
    for name, size in json.loads(names):
        files[name] = contents[at : at + size]
        at += size
    return files


def end_of_session() -> bytes:
    """A request to renew what programs run in."""
    return REQUEST.pack(0.0, Order.RENEW, 0, 0, 0, 0, 0)


def _bytes(content: str | bytes) -> bytes:
    return content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")


def read_exactly(descriptor: int, count: int) -> bytes | None:
    """So many bytes; None when the other side is gone."""
    parts: list[bytes] = []
    while count:
        try:
            part = os.read(descriptor, min(count, 1 << 20))
        except ConnectionResetError:
            return None
        if not part:
            return None
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
