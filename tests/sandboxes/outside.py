"""The world around a sandbox, as an attack finds it and as it must be left."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["SECRET_PATTERN", "World", "growth", "snapshot"]

SECRET_PATTERN = r"S3CRET-[0-9a-f]{32}"
"""What an attack looks for: it does not match itself, nor does the program that holds it."""
_SHARED_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
_SETTLE_SECONDS, _SAME = 3.0, 4
_ARGV_SECRET = "--secret="


def new_secret() -> str:
    return f"S3CRET-{secrets.token_hex(16)}"


def planted_argument() -> str:
    """An argument for the harness's own command line, for attacks to find."""
    return _ARGV_SECRET + new_secret()


class World:
    """Secrets, listeners and files that no program in a sandbox may reach.

    Attributes:
        secrets: None may turn up in what a program wrote.
        places: What an attack's code and files may name as ``@NAME@``.
        missing: What this machine cannot offer, and why.
    """

    def __init__(self, arguments: tuple[str, ...] = ()) -> None:
        self.secrets = [new_secret() for _ in range(4)]  # lies in the memory of the harness, too
        self.secrets += [argument.removeprefix(_ARGV_SECRET) for argument in arguments if _ARGV_SECRET in argument]
        self.missing: dict[str, str] = {}
        self._folder = Path(tempfile.mkdtemp(prefix="world-"))
        self._canaries = {self._folder / f"canary-{n}": f"{self.secrets[0]} {n}" for n in range(3)}
        os.environ["HARNESS_ANSWER"] = self.secrets[1]
        self._listeners: dict[str, socket.socket] = {}
        self._plant()
        self._listen()
        self._open = os.open(self._folder / "canary-0", os.O_RDONLY)
        self.places = {
            "FOLDER": str(self._folder),
            "CANARY": str(self._folder / "canary-0"),
            "CODE_SECRET": self.secrets[2],
            "STDIN_SECRET": self.secrets[3],
            "TCP_PORT": str(self._listeners["tcp"].getsockname()[1]),
            "UDP_PORT": str(self._listeners["udp"].getsockname()[1]),
            "ABSTRACT": self._listeners["abstract"].getsockname()[1:].decode(),
            "UNIX": str(self._folder / "socket"),
        }

    def _plant(self) -> None:
        """Make, or make again, what lies in the folder."""
        self._folder.mkdir(exist_ok=True)
        self._folder.chmod(0o755)
        for path, text in self._canaries.items():
            path.write_text(text)
            path.chmod(0o666)
        address = self._folder / "socket"
        if not address.exists():
            if "unix" in self._listeners:
                self._listeners["unix"].close()
            self._listeners["unix"] = socket.socket(socket.AF_UNIX)
            self._listeners["unix"].bind(str(address))
            self._listeners["unix"].listen()
            self._listeners["unix"].setblocking(False)
            address.chmod(0o777)

    def _listen(self) -> None:
        listeners = self._listeners
        listeners["tcp"] = socket.create_server(("127.0.0.1", 0))
        listeners["udp"] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        listeners["udp"].bind(("127.0.0.1", 0))
        listeners["abstract"] = socket.socket(socket.AF_UNIX)
        listeners["abstract"].bind(f"\0listener-{secrets.token_hex(4)}")
        listeners["abstract"].listen()
        with contextlib.suppress(OSError):
            listeners["vsock"] = _vsock_listener()
        if "vsock" not in listeners:
            self.missing["vsock"] = "this kernel has no vsock loopback, so no listener can be reached by anybody"
        for listener in listeners.values():
            listener.setblocking(False)

    def fill_in(self, text: str) -> str:
        """Put places where a text names them."""
        places = dict(self.places)
        if "vsock" in self._listeners:
            places["VSOCK_PORT"] = str(self._listeners["vsock"].getsockname()[1])
        for name, value in places.items():
            text = text.replace(f"@{name}@", value)
        return text.replace("@VSOCK_PORT@", "0")

    def harm(self, written: str) -> list[str]:
        """What is wrong, given all that a program wrote; mends it for the next one."""
        problems = [
            f"it printed a secret of ours (number {n})" for n, text in enumerate(self.secrets) if text in written
        ]
        for path, text in self._canaries.items():
            try:
                if path.read_text() != text:
                    problems.append(f"it changed {path.name}")
            except OSError as error:
                problems.append(f"it took {path.name}: {error.strerror}")
        for name, listener in self._listeners.items():
            with contextlib.suppress(BlockingIOError):
                if name == "udp":
                    listener.recv(64)
                else:
                    listener.accept()[0].close()
                problems.append(f"it reached our {name} listener")
        self._plant()
        return problems

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for listener in self._listeners.values():
            listener.close()
        os.close(self._open)
        os.environ.pop("HARNESS_ANSWER", None)
        shutil.rmtree(self._folder, ignore_errors=True)


def _vsock_listener() -> socket.socket:
    """A listener that has been seen to be reachable from this machine."""
    listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    try:
        listener.bind((socket.VMADDR_CID_ANY, socket.VMADDR_PORT_ANY))
        listener.listen()
        with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as probe:
            probe.settimeout(0.5)
            probe.connect((1, listener.getsockname()[1]))  # 1 is the loopback
        listener.accept()[0].close()
    except OSError:
        listener.close()
        raise
    return listener


def snapshot(*, contained: bool) -> Counter[str]:
    """Count what could be left behind.

    Args:
        contained: Everything on this machine is ours (we are in a container of our own), so count all of it;
            otherwise only what belongs to this process and its descendants.
    """
    counts: Counter[str] = Counter()
    spaces = set()
    for pid in _processes(contained=contained):
        process = Path(f"/proc/{pid}")
        counts["processes"] += 1
        with contextlib.suppress(OSError):
            counts["descriptors"] += len(list((process / "fd").iterdir()))
        with contextlib.suppress(OSError):
            if contained or (process / "ns" / "mnt").readlink() != Path("/proc/self/ns/mnt").readlink():
                counts["mounts"] += (process / "mountinfo").read_text().count("\n")  # the machine's own are anybody's
        for kind in ("net", "mnt", "pid", "ipc", "uts", "user"):
            with contextlib.suppress(OSError):
                spaces.add(str((process / "ns" / kind).readlink()))
    counts["namespaces"] = len(spaces)
    if contained:
        counts["files"] = sum(1 for folder in _SHARED_FOLDERS for _ in _walk(folder))
        for table in ("net/unix", "net/tcp", "net/udp", "sysvipc/shm", "sysvipc/msg", "sysvipc/sem"):
            with contextlib.suppress(OSError):
                counts[table] = (
                    Path(f"/proc/{'self/' if table.startswith('net') else ''}{table}").read_text().count("\n")
                )
    return counts


def settled_snapshot(*, contained: bool) -> Counter[str]:
    """The same, once what is under way is over: a sandbox gets ready for the next job after it has answered."""
    until = time.monotonic() + _SETTLE_SECONDS
    counts, same = snapshot(contained=contained), 0
    while same < _SAME and time.monotonic() < until:
        time.sleep(0.01)
        before, counts = counts, snapshot(contained=contained)
        same = same + 1 if counts == before else 0
    return counts


def growth(before: Counter[str], after: Counter[str]) -> list[str]:
    """What there is more of, in words."""
    return [f"left behind: {after[kind] - before[kind]} {kind}" for kind in after if after[kind] > before[kind]]


def _processes(*, contained: bool) -> list[int]:
    parents = {}
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(process.name)] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
    if contained:
        return list(parents)
    ours = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return list(ours)


def _walk(folder: str) -> list[str]:
    """Every path under a folder, as deep as a path can be long."""
    found, waiting = [], [folder]
    while waiting:
        try:
            entries = list(os.scandir(waiting.pop()))
        except OSError:
            continue
        found += [entry.path for entry in entries]
        waiting += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    return found
