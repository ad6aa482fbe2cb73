"""Warm containers of the docker backend: starting, asking, throwing away."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import uuid
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

from sandboxes import docker_image
from sandboxes.base import Job, RunResult, Status
from sandboxes.protocol import FAILED, REPLY, STATUSES, pack_request

__all__ = ["LABEL", "Container", "LostError", "Pool", "engine_errors", "owner"]

LABEL = "llm-envs.sandbox"
"""Of our containers; its value is `owner`."""
_GRACE_SECONDS = 20.0
_START_SECONDS = 60.0
_PIDS = 64
_EXTRA_BYTES = 160 << 20  # Beyond the memory of a program: process 1, the files in memory, input and output.
_WRITABLE = {"/work": "size=16m,nr_inodes=2048,mode=1777", "/dev/shm": "size=1m,nr_inodes=64,mode=1777"}
_ENVIRONMENT = {
    "HOME": "/work",
    "TMPDIR": "/work",
    "LANG": "C.UTF-8",
    "LD_LIBRARY_PATH": "/usr/local/lib/needed",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}
# Our own modules do not lie in the image, which thereby may be anybody's: they come first through stdin.
_BOOT = """
import json, os, sys, types
def read(count):
    data = b""
    while len(data) < count:
        part = os.read(0, count - len(data))
        if not part:
            os._exit(1)
        data += part
    return data
boot = json.loads(read(int(read(8), 16)))
for name, source in boot["modules"]:
    module = sys.modules[name] = types.ModuleType(name)
    module.__path__, module.__file__ = [], name
    exec(compile(source, name, "exec"), module.__dict__)
    parent, _, last = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], last, module)
sys.modules["sandboxes.docker_runner"].main(boot["preload"])
"""


class LostError(Exception):
    """A container cannot be had, or does not answer as it should."""


class Pool:
    """Containers of one process."""

    def __init__(self, engine: Any, size: int, image: str, python: str, boot: bytes) -> None:
        self.process = os.getpid()
        self._engine, self._size, self._image, self._python, self._boot = engine, size, image, python, boot
        self._places = threading.BoundedSemaphore(size)
        self._lock = threading.Lock()
        self._idle: deque[Container] = deque()
        self._all: set[Container] = set()
        self._closed = False

    def warm(self) -> None:
        """Start all the containers."""
        with ThreadPoolExecutor(min(self._size, 8)) as threads:
            self._idle.extend(threads.map(lambda _: self._start(), range(self._size)))

    @contextlib.contextmanager
    def container(self) -> Iterator[Container]:
        """Have a container to oneself; one in which something went wrong is replaced."""
        with self._places:
            with self._lock:
                if self._closed:
                    raise LostError("the sandbox is closed")
                found = self._idle.pop() if self._idle else None
            container = found or self._start()
            try:
                yield container
            except BaseException:
                container.usable = False
                raise
            finally:
                if container.usable:
                    self._idle.append(container)
                else:
                    with self._lock:
                        self._all.discard(container)
                    container.remove()

    def _start(self) -> Container:
        container = Container(self._engine, self._image, self._python, self._boot)
        with self._lock:
            if not self._closed:
                self._all.add(container)
                return container
        container.remove()
        raise LostError("the sandbox is closed")

    def close(self) -> None:
        """Remove all containers; does nothing in a fork."""
        if self.process != os.getpid():
            return  # A fork's copy: the containers are the parent's.
        with self._lock:
            self._closed = True
            containers, self._all = self._all, set()
            self._idle.clear()
        for container in containers:
            container.hang_up()
        for container in containers:
            container.remove()
        self._engine.close()


class Container:
    """One container, with process 1 of it (`sandboxes.docker_runner`) at the other end of a socket."""

    def __init__(self, engine: Any, image: str, python: str, boot: bytes) -> None:
        self.usable = True
        self._engine = engine
        self._memory_bytes = (256 << 20) + _EXTRA_BYTES
        self._name = f"{docker_image.REPOSITORY}-{uuid.uuid4().hex[:12]}"
        self._socket: socket.socket | None = None
        try:
            self._id = engine.create_container(
                image,
                [python, "-I", "-X", "utf8", "-c", _BOOT],
                name=self._name,
                hostname="sandbox",
                user="65534:65534",
                working_dir="/work",
                stdin_open=True,
                environment=_ENVIRONMENT,
                labels={LABEL: owner()},
                host_config=self._host_config(),
            )["Id"]
            # Attached before anything is written, so that nothing is missed.
            self._attached = engine.attach_socket(self._id, {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
            self._socket = getattr(self._attached, "_sock", self._attached)
            self._reader = self._socket.makefile("rb")
            self._output = bytearray()
            self._complaint = b""
            self._socket.settimeout(_START_SECONDS)
            engine.start(self._id)
            self._socket.sendall(boot)
            self._read(REPLY.size)
        except LostError:
            self.remove()
            raise
        except engine_errors() as error:
            self.remove()
            raise LostError(f"{type(error).__name__}: {error}") from error

    def _host_config(self) -> Any:
        types = import_module("docker.types")
        return self._engine.create_host_config(
            network_mode="none",
            ipc_mode="private",
            mem_limit=self._memory_bytes,
            memswap_limit=self._memory_bytes,
            pids_limit=_PIDS,
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            tmpfs=_WRITABLE,
            auto_remove=True,  # It ends by itself when its stdin ends, even if we were killed.
            log_config=types.LogConfig(type="none"),
            ulimits=[types.Ulimit(name="core", soft=0, hard=0)],
        )

    def run(self, job: Job) -> RunResult:
        """Run one program.

        Raises:
            LostError: If no proper answer comes.
        """
        assert self._socket is not None
        request = pack_request(
            job.code, job.stdin, job.files, memory_mb=job.memory_mb, timeout_seconds=job.timeout_seconds
        )
        needed = (job.memory_mb << 20) + _EXTRA_BYTES
        try:
            if needed > self._memory_bytes:
                self._engine.update_container(self._id, mem_limit=needed, memswap_limit=needed)
                self._memory_bytes = needed
            self._socket.settimeout(min(job.timeout_seconds, 1e6) + _GRACE_SECONDS)
            self._socket.sendall(request)
            index, exit_code, seconds, *sizes = REPLY.unpack(self._read(REPLY.size))
            stdout, stderr = (self._read(size).decode("utf-8", "replace") for size in sizes)
        except engine_errors() as error:
            raise LostError(f"{type(error).__name__}: {error}") from error
        if self._output:
            raise LostError("the container says more than it was asked")
        status = STATUSES[index]
        if status == FAILED:
            self.usable = False
            return RunResult(Status.INFRA_ERROR, "", stderr, None, seconds)
        if status == "memory" and exit_code < 0:
            self.usable = False  # The kernel chose whom to kill; who knows what else it hit.
        return RunResult(Status(status), stdout, stderr, exit_code, seconds)

    def _read(self, count: int) -> bytes:
        """So many bytes of process 1's stdout, out of the engine's stream of both outputs."""
        while len(self._output) < count:
            header = self._reader.read(8)
            if len(header) < 8:
                raise LostError(f"the container ended {self._complaint.decode(errors='replace')}".rstrip())
            part = self._reader.read(int.from_bytes(header[4:], "big"))
            if header[0] == 1:
                self._output += part
            else:
                self._complaint = (self._complaint + part)[-2000:]
        data = bytes(self._output[:count])
        del self._output[:count]
        return data

    def hang_up(self) -> None:
        """End process 1, and with it the container."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def remove(self) -> None:
        """Remove it, whatever it does."""
        self.hang_up()
        with contextlib.suppress(*engine_errors()):
            self._engine.remove_container(self._name, force=True, v=True)
        if self._socket is not None:
            # The response first: closing it flushes what lies under it.
            for part in (getattr(self._attached, "_response", None), self._attached, self._reader, self._socket):
                if part is not None:
                    part.close()


def engine_errors() -> tuple[type[Exception], ...]:
    """Whatever goes wrong between the SDK and the engine."""
    docker, requests = import_module("docker.errors"), import_module("requests")
    return (docker.DockerException, requests.RequestException, OSError)


def owner(process: int | None = None) -> str:
    """Who started a container, so that others can tell whether it still needs it."""
    process = process or os.getpid()
    try:
        start = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
        machine = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{machine}/{Path('/proc/self/ns/pid').readlink()}/{process}/{start}"
    except OSError:
        return f"{socket.gethostname()}//{process}/"
