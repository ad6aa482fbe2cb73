"""Working directories on a disk, where none can be mounted."""

# Paths are strings here: they may be deeper than a path can be.
# ruff: noqa: PTH101, PTH102, PTH104, PTH106, PTH108, PTH112, PTH114, PTH208

from __future__ import annotations

import errno
import os
from contextlib import suppress

__all__ = ["empty", "is_larger", "make_folder", "remove"]

_PLACES = ("/tmp", "/var/tmp", "/dev/shm")
_MOST_ROUNDS = 10_000
_MOST_LEVELS = 40
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


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
    """Whether a folder holds more than so many bytes on the disk or so many files, or very deep or locked folders.

    A program that changes it meanwhile leads nowhere else: links are not followed.
    """
    left = [size_bytes, entries]
    try:
        folder = os.open(path, _FOLDER)
    except OSError:
        return False
    return _exceeds(folder, left, _MOST_LEVELS)


def _exceeds(folder: int, left: list[int], levels: int) -> bool:
    """Take what lies in a folder, whose descriptor is closed, off what is left."""
    try:
        for entry in list(os.scandir(folder)):
            left[1] -= 1
            with suppress(OSError):  # gone by now
                left[0] -= entry.stat(follow_symlinks=False).st_blocks * 512
                if entry.is_dir(follow_symlinks=False):
                    inner = _opened(entry.name, folder) if levels else None
                    if inner is None or _exceeds(inner, left, levels - 1):
                        return True
            if min(left) < 0:
                return True
        return False
    finally:
        os.close(folder)


def _opened(name: str, folder: int) -> int | None:
    """None for a folder that was made locked, so that nobody could count what is in it."""
    try:
        return os.open(name, _FOLDER, dir_fd=folder)
    except PermissionError:
        return None


def remove(path: str) -> None:
    """Remove a folder, whatever a program made of it; it may still be writing."""
    for _ in range(_MOST_ROUNDS):
        try:
            os.chmod(path, 0o700)
            empty(path)
            os.rmdir(path)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise


def empty(path: str) -> None:
    """Remove what is in a folder: locked folders, too, and trees too deep for a path or a recursion."""
    while names := os.listdir(path):
        for name in names:
            inner = f"{path}/{name}"
            try:
                os.unlink(inner)
            except (IsADirectoryError, PermissionError):
                _lift(path, inner)


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
