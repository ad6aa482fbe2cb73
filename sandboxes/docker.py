"""Programs in a pool of warm Docker containers, each of which forks one process a job."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import socket
import sys
import tempfile
import threading
import weakref
from collections.abc import Sequence
from importlib import import_module
from importlib.resources import files as resource_files
from typing import Any

from sandboxes import docker_image
from sandboxes.base import Job, RunResult, Sandbox, SandboxUnavailableError, Status
from sandboxes.docker_pool import LABEL, LostError, Pool, engine_errors, owner

__all__ = ["PRELOAD", "DockerSandbox"]

# fmt: off
PRELOAD = (
    "bisect", "collections", "copy", "decimal", "fractions", "functools", "heapq", "io", "itertools", "json", "math",
    "operator", "random", "re", "statistics", "string", "typing", "numpy",
)
# fmt: on
"""Modules that a program need not load; what the image lacks is left out."""
_ATTEMPTS = 3
_MODULES = (
    "sandboxes",
    "sandboxes.isolation",
    "sandboxes.isolation.libc",
    "sandboxes.isolation.limits",
    "sandboxes.isolation.landlock",
    "sandboxes.isolation.syscalls",
    "sandboxes.isolation.seccomp",
    "sandboxes.isolation.namespaces",
    "sandboxes.isolation.folders",
    "sandboxes.program",
    "sandboxes.protocol",
    "sandboxes.supervisor",
    "sandboxes.cages",
    "sandboxes.docker_runner",
)
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_DEFAULT_URL = "unix:///var/run/docker.sock"
_NO_PACKAGE = "the docker backend needs its SDK: pip install docker"


class DockerSandbox(Sandbox):
    """Runs each program in a process of its own inside a container without network, rights or a disk.

    A container runs one program at a time and forks it from a Python that has been started before. One that does not
    come clean out of a program is thrown away.

    Args:
        image: An image with Python 3.10 or later; by default one is built of the running Python, without a registry.
        python: The interpreter in ``image``.
        packages: Installed packages that the built image holds, too, such as ``numpy``.
        preload: Modules that the containers import once.
        containers: How many to keep; by default as many as there are processors.
        base_url: Of the engine; by default what ``DOCKER_HOST`` and the like say.

    Raises:
        SandboxUnavailableError: If there is no engine, or no container starts.
    """

    name = "docker"

    def __init__(
        self,
        *,
        image: str | None = None,
        python: str = "python3",
        packages: Sequence[str] = (),
        preload: Sequence[str] = PRELOAD,
        containers: int | None = None,
        base_url: str | None = None,
    ) -> None:
        if containers is not None and containers < 1:
            raise ValueError(f"containers must be at least 1, got {containers}")
        if image is not None and packages:
            raise ValueError("packages go into the built image; an image of yours must hold them itself")
        self._size = containers or _processors()
        self._closed = False
        self._lock = threading.Lock()
        engine = _connect(base_url)
        try:
            _sweep(engine)
            self._python = docker_image.IMAGE_PYTHON if image is None else python
            self._image = _build(engine, packages) if image is None else _find(engine, image)
            self._version = engine.version()["Version"]
        except engine_errors() as error:
            engine.close()
            raise SandboxUnavailableError(f"the Docker engine refuses: {error}") from error
        self._base_url = base_url
        self._boot = _boot_message(preload)
        self._pool = Pool(engine, self._size, self._image, self._python, self._boot)
        try:
            self._pool.warm()
        except LostError as error:
            self._pool.close()
            raise SandboxUnavailableError(f"no container starts: {error}") from error
        # At the end of this object or of the interpreter, whichever comes first.
        self._finalizer = weakref.finalize(self, self._pool.close)

    def run_job(self, job: Job) -> RunResult:
        """Run one program in a container that is free; waits for one."""
        reasons = []
        for _ in range(_ATTEMPTS):
            pool = self._current_pool()
            try:
                with pool.container() as container:
                    return container.run(job)
            except LostError as error:
                reasons.append(str(error))
        if self._closed:
            raise RuntimeError("the sandbox is closed")
        return RunResult(Status.INFRA_ERROR, "", "; ".join(reasons), None, 0.0)

    def close(self) -> None:
        """Remove the containers; programs that are running end as infrastructure errors or RuntimeError."""
        self._closed = True
        self._finalizer()

    def describe(self) -> str:
        """The engine, the image, and what holds programs back."""
        return (
            f"docker {self._version}, {self._size} containers of {self._image}: own user, no network, no capabilities, "
            "read-only, seccomp"
        )

    @property
    def concurrency(self) -> int:
        """The number of containers."""
        return self._size

    def _current_pool(self) -> Pool:
        with self._lock:
            if self._closed:
                raise RuntimeError("the sandbox is closed")
            if self._pool.process != os.getpid():
                # After a fork the containers are the parent's.
                engine = _connect(self._base_url)
                self._pool = Pool(engine, self._size, self._image, self._python, self._boot)
                self._finalizer = weakref.finalize(self, self._pool.close)
            return self._pool


def _connect(base_url: str | None) -> Any:
    try:
        docker = import_module("docker")
    except ImportError as error:
        raise SandboxUnavailableError(_NO_PACKAGE) from error
    engine = None
    try:
        options = {"base_url": base_url} if base_url else docker.utils.kwargs_from_env()
        _knock(options.get("base_url") or _DEFAULT_URL)
        engine = docker.APIClient(version="auto", timeout=60, num_pools=64, **options)
        if engine.version()["Os"] != "linux":
            raise SandboxUnavailableError("the Docker engine must run Linux containers")
    except engine_errors() as error:
        if engine is not None:
            engine.close()
        raise SandboxUnavailableError(f"no Docker engine answers: {error}") from error
    return engine


def _knock(url: str) -> None:
    """Raise OSError if nobody listens at a socket's path; the SDK takes long to say so, and leaves its socket open."""
    scheme, _, path = url.partition("://")
    if scheme.endswith("unix"):
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(10.0)
            probe.connect("/" + path.lstrip("/"))


def _find(engine: Any, image: str) -> str:
    if not engine.images(image, quiet=True):
        raise SandboxUnavailableError(f"the engine has no image {image!r}; pull it first")
    return image


def _build(engine: Any, packages: Sequence[str]) -> str:
    """The name of the image made of the running Python; it is built if the engine does not have it."""
    machine = platform.machine()
    if sys.platform != "linux" or engine.version()["Arch"] != _ARCHITECTURES.get(machine):
        raise SandboxUnavailableError(
            f"the engine cannot run this Python ({sys.platform}, {machine}); name an image that has one with image="
        )
    tag = _tag(tuple(packages))
    name = f"{docker_image.REPOSITORY}:{tag}"
    if not engine.images(name, quiet=True):
        with tempfile.TemporaryFile() as file:
            docker_image.write_tar(docker_image.image_files(packages), file)
            file.seek(0)
            said = engine.import_image(src=file, repository=docker_image.REPOSITORY, tag=tag)
        if not engine.images(name, quiet=True):
            raise SandboxUnavailableError(f"the engine did not take the image: {said}")
    return name


@functools.cache
def _tag(packages: tuple[str, ...]) -> str:
    return docker_image.content_hash(docker_image.image_files(packages))


def _boot_message(preload: Sequence[str]) -> bytes:
    root = resource_files("sandboxes")
    modules = []
    for name in _MODULES:
        parts = name.split(".")[1:]
        packaged = not parts or parts == ["isolation"]  # Empty here: what they export is for users.
        modules.append((name, "" if packaged else root.joinpath(*parts[:-1], f"{parts[-1]}.py").read_text("utf-8")))
    body = json.dumps({"modules": modules, "preload": list(preload)}).encode()
    return f"{len(body):08x}".encode() + body


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _sweep(engine: Any) -> None:
    """Remove containers whose process is gone without having removed them."""
    ours = owner().rpartition("/")[0].rpartition("/")[0]
    for container in engine.containers(all=True, filters={"label": LABEL}):
        labelled: str = container["Labels"][LABEL]
        place, _, process = labelled.rpartition("/")[0].rpartition("/")
        if place == ours and process.isdigit() and owner(int(process)) != labelled:
            with contextlib.suppress(*engine_errors()):
                engine.remove_container(container["Id"], force=True, v=True)
