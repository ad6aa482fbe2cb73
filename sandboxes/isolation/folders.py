"""Working directories on a disk, where none can be mounted."""

# Paths are strings here: they may be deeper than a path can be.
# ruff: noqa: PTH101, PTH102, PTH104, PTH106, PTH108, PTH112, PTH114, PTH208

from __future__ import annotations

import os
from contextlib import suppress

__all__ = ["is_larger", "make_folder", "remove"]

_PLACES = ("/tmp", "/var/tmp", "/dev/shm")
_MOST_ROUNDS = 10_000


def make_folder(*places: str) -> str:
    """Make a folder of a new name, in one of the places or where temporary files go.

    Not by tempfile, whose choice of a place the programs would inherit.
    """
    for place in places or _PLACES:
        path = f"{place}/sandbox-{os.urandom(8).hex()}"
        try:
            os.mkdir(path, 0o700)
        except OSError:
            continue
        return path
    raise OSError("there is no place for a working directory")


def is_larger(path: str, size_bytes: int, entries: int) -> bool:
    """Whether a folder holds more than so many bytes on the disk, or so many files and folders."""
    waiting = [path]
    size = count = 0
    while waiting:
        folder = waiting.pop()
        try:
            found = list(os.scandir(folder))
        except PermissionError:
            with suppress(OSError):
                os.chmod(folder, 0o700)  # what is locked would not be counted
                waiting.append(folder)
            continue
        except OSError:
            continue  # gone by now
        for entry in found:
            count += 1
            with suppress(OSError):
                size += entry.stat(follow_symlinks=False).st_blocks * 512
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
            if count > entries or size > size_bytes:
                return True
    return False


def remove(path: str) -> None:
    """Remove a folder, whatever a program made of it: locked folders, and trees too deep for a path or a recursion."""
    for _ in range(_MOST_ROUNDS):
        try:
            os.chmod(path, 0o700)
            names = os.listdir(path)
        except FileNotFoundError:
            return
        for name in names:
            inner = f"{path}/{name}"
            try:
                os.unlink(inner)
            except (IsADirectoryError, PermissionError):
                _lift(path, inner)
        with suppress(OSError):
            os.rmdir(path)


def _lift(top: str, folder: str) -> None:
    """Remove a folder of the topmost one; what is in it moves up to there, so no path is ever long."""
    os.chmod(folder, 0o700)
    for name in os.listdir(folder):
        inner = f"{folder}/{name}"
        if os.path.isdir(inner) and not os.path.islink(inner):
            os.chmod(inner, 0o700)  # to move a folder is to write its ".."
            os.rename(inner, f"{top}/.{os.urandom(8).hex()}")
        else:
            os.unlink(inner)
    os.rmdir(folder)
