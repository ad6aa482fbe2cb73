"""One sandbox of a kind a process, made when the first program is judged."""

import atexit
import os
import threading

import sandboxes
from sandboxes import Sandbox

__all__ = ["shared_sandbox"]

_lock = threading.Lock()
_made: dict[tuple[int, str], Sandbox] = {}
"""By process and name. Those of a parent process stay in here untouched: they are not the child's to use or close."""


def shared_sandbox(name: str) -> Sandbox:
    """The sandbox of that name that all environments of this process use; it is closed at exit.

    Raises:
        ValueError: If there is no backend of that name.
        SandboxUnavailableError: If it cannot be had here.
    """
    key = os.getpid(), name
    with _lock:
        if key not in _made:
            _made[key] = sandboxes.make(name)
            atexit.register(_close, _made[key], key[0])
        return _made[key]


def _close(sandbox: Sandbox, process: int) -> None:
    if process == os.getpid():
        sandbox.close()


def _after_fork() -> None:
    global _lock  # noqa: PLW0603 (another thread of the parent may have held it, and is not here to let it go)
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
