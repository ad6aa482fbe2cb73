"""Landlock: a process gives up the files that it does not need, without any privilege."""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable

from sandboxes.isolation.libc import syscall

__all__ = ["abi_version", "open_paths", "restrict"]

# The same numbers on every architecture, like all calls since 2019.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_RULE_PATH_BENEATH = 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_TRUNCATE = 1 << 14
_ALL_FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
_NETWORK_SINCE, _BIND_AND_CONNECT_TCP = 4, 3
_SCOPES_SINCE, _ABSTRACT_SOCKETS_AND_SIGNALS = 6, 3


def abi_version() -> int:
    """What the kernel's Landlock can do, from 1 on; OSError where there is none."""
    return syscall("landlock", _CREATE_RULESET, None, 0, 1)


def open_paths(paths: Iterable[str]) -> list[int]:
    """Descriptors of those of the paths that exist, for `restrict`."""
    return [os.open(path, os.O_PATH | os.O_CLOEXEC) for path in paths if os.access(path, os.F_OK)]


def restrict(version: int, *, readable: Iterable[int], writable: Iterable[int], devices: Iterable[int]) -> None:
    """Restrict this process for good; `no_new_privileges` comes before.

    Args:
        version: Of `abi_version`.
        readable: Descriptors of folders to read and to load libraries from.
        writable: Descriptors of folders in which everything is allowed but special files and executing.
        devices: Descriptors of files to read and write.
    """
    rights = _ALL_FILE_RIGHTS[min(version, max(_ALL_FILE_RIGHTS))]
    network = _BIND_AND_CONNECT_TCP if version >= _NETWORK_SINCE else 0
    scopes = _ABSTRACT_SOCKETS_AND_SIGNALS if version >= _SCOPES_SINCE else 0
    fields = struct.pack("=QQQ", rights, network, scopes)
    size = 8 if not network else 16 if not scopes else 24
    ruleset = syscall("landlock", _CREATE_RULESET, fields, size, 0)
    try:
        for descriptor in readable:
            _allow(ruleset, descriptor, _EXECUTE | _READ_FILE | _READ_DIR)
        for descriptor in devices:
            _allow(ruleset, descriptor, (_READ_FILE | _WRITE_FILE | _TRUNCATE) & rights)
        # Devices, sockets and fifos (bits 6, 9, 10, 11) stay forbidden, and so does the ioctl of devices (15).
        everything = rights & ~(_EXECUTE | 1 << 6 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 15)
        for descriptor in writable:
            _allow(ruleset, descriptor, everything)
        syscall("landlock", _RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, descriptor: int, rights: int) -> None:
    if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
        rights &= _OF_FILES  # the kernel takes no rights of folders for a file
    rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, descriptor))
    syscall("landlock", _ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0)
