"""A Docker engine of the tests' own: started by hand in a folder of its own, with no network."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_START_SECONDS = 30.0
_STOP_SECONDS = 30.0
# Holds the daemon until its own stdin ends, which it does even if we are killed; its stdout ends when the daemon has.
_KEEPER = """
exec 3<&0
"$@" >"$0" 2>&1 </dev/null 3<&- &
daemon=$!
(read _ <&3; kill $daemon) >/dev/null 2>&1 &
exec 3<&-
wait $daemon
"""
_SYSTEM_PATH = "/usr/sbin:/sbin:/usr/bin:/bin"


class NoEngineError(Exception):
    """There can be no engine here; says why."""


@contextlib.contextmanager
def engine() -> Iterator[str]:
    """Address of an engine: that of ``LLM_ENVS_TEST_DOCKER`` where it is set, else of one that ends with the block.

    Raises:
        NoEngineError: If none can be started.
    """
    if given := os.environ.get("LLM_ENVS_TEST_DOCKER"):
        yield given
        return
    if os.geteuid() != 0:
        raise NoEngineError("starting dockerd takes root; name a running engine in LLM_ENVS_TEST_DOCKER")
    path = f"{os.environ.get('PATH', '')}:{_SYSTEM_PATH}"
    program = shutil.which("dockerd", path=path)
    if program is None:
        raise NoEngineError("there is no dockerd; apt-get install docker.io")
    # A socket's path must be short, so it is not pytest's folder.
    folder = Path(tempfile.mkdtemp(prefix="dockerd-"))
    try:
        with _running(program, path, folder) as address:
            yield address
    finally:
        _remove(folder)


@contextlib.contextmanager
def _running(program: str, path: str, folder: Path) -> Iterator[str]:
    reasons = []
    for driver in ("", "vfs"):
        data = folder / (driver or "data")
        with _start(program, path, folder, data, driver) as keeper:
            try:
                if reason := _wait(keeper, folder):
                    reasons.append(reason)
                    continue
                yield f"unix://{folder}/docker.sock"
                return
            finally:
                _stop(keeper, folder)
    raise NoEngineError(f"dockerd does not start: {'; '.join(reasons)}")


def _start(program: str, path: str, folder: Path, data: Path, driver: str) -> subprocess.Popen[bytes]:
    command = [
        program,
        "--iptables=false",
        "--ip6tables=false",
        "--bridge=none",
        "--ip-forward=false",
        "--ip-masq=false",
        f"--data-root={data}",
        f"--exec-root={folder}/exec",
        f"--pidfile={folder}/pid",
        f"--host=unix://{folder}/docker.sock",
    ]
    if driver:
        command.append(f"--storage-driver={driver}")
    # Through setsid it is no descendant of ours, among which tests look for what a sandbox leaves behind.
    return subprocess.Popen(
        ["setsid", "--fork", "sh", "-c", _KEEPER, str(folder / "log"), *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"PATH": path},
    )


def _wait(keeper: subprocess.Popen[bytes], folder: Path) -> str:
    """Wait until it answers; says why it does not."""
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until and not _ended(keeper, 0.05):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5)
            client.connect(f"{folder}/docker.sock")
            client.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            if b" 200 " in client.recv(100):
                return ""
    lines = (folder / "log").read_text(errors="replace").splitlines()
    return lines[-1] if lines else "it says nothing"


def _ended(keeper: subprocess.Popen[bytes], seconds: float) -> bool:
    assert keeper.stdout is not None
    return bool(select.select([keeper.stdout], [], [], seconds)[0])


def _stop(keeper: subprocess.Popen[bytes], folder: Path) -> None:
    assert keeper.stdin is not None
    keeper.stdin.close()
    if not _ended(keeper, _STOP_SECONDS):
        with contextlib.suppress(OSError, ValueError):
            os.kill(int((folder / "pid").read_text()), signal.SIGKILL)
        _ended(keeper, _STOP_SECONDS)


def _remove(folder: Path) -> None:
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted((mount for mount in mounts if mount.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "--lazy", mount], check=False, stderr=subprocess.DEVNULL)
    shutil.rmtree(folder, ignore_errors=True)
