"""Messages over a pipe or a socket: a head in JSON, a body of bytes. Nothing that is received is executed."""

from __future__ import annotations

import json
import os
import select
import struct
import time
from typing import Any

__all__ = ["Frame", "receive", "send"]

Frame = tuple[dict[str, Any], bytes]
_LENGTHS = struct.Struct("=IQ")
_MAX_HEAD_BYTES = 1 << 22
_MAX_BODY_BYTES = 1 << 30


def send(descriptor: int, head: dict[str, Any], *parts: bytes) -> None:
    """Send a message; blocks until the other side has taken it.

    Raises:
        OSError: If nobody listens.
    """
    raw = json.dumps(head).encode("ascii")
    body = b"".join(parts)
    view = memoryview(_LENGTHS.pack(len(raw), len(body)) + raw + body)
    while view:
        view = view[os.write(descriptor, view) :]


def receive(descriptor: int, timeout_seconds: float | None = None) -> Frame | None:
    """Receive a message; None when the other side is gone.

    Raises:
        TimeoutError: If it is not all there in time.
        ValueError: If it is none.
    """
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    lengths = _exactly(descriptor, _LENGTHS.size, deadline)
    if lengths is None:
        return None
    head_bytes, body_bytes = _LENGTHS.unpack(lengths)
    if head_bytes > _MAX_HEAD_BYTES or body_bytes > _MAX_BODY_BYTES:
        raise ValueError("not a message of the sandbox")
    raw = _exactly(descriptor, head_bytes, deadline)
    body = _exactly(descriptor, body_bytes, deadline)
    if raw is None or body is None:
        return None
    return json.loads(raw), body


def _exactly(descriptor: int, count: int, deadline: float | None) -> bytes | None:
    parts: list[bytes] = []
    while count:
        if deadline is not None:
            _wait(descriptor, deadline)
        try:
            part = os.read(descriptor, min(count, 1 << 20))
        except ConnectionResetError:
            return None
        if not part:
            return None
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _wait(descriptor: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    if not poll.poll(max(deadline - time.monotonic(), 0) * 1000):
        raise TimeoutError("no answer in time")
