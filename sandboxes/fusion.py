"""Programs on a SandboxFusion server, over its HTTP API."""

from __future__ import annotations

import http.client
import json
import os
import queue
import random
import threading
import time
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import urlsplit

from sandboxes.base import Job, RunResult, Sandbox, SandboxUnavailableError, Status
from sandboxes.remote import LAUNCHER, STARTUP_SECONDS, pack, unpack

__all__ = ["FusionSandbox"]

_CUT_BYTES = 219_264
"""Where the older servers cut stdout, and call it a success."""
_ROOM_SMALL, _ROOM_LARGE = 200_000, 1_000_000
"""For a report on such a server, and on a newer one, which carries 1 MiB."""
_RETRY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_LAUNCHER_MEMORY_MB = 64


class _InfrastructureError(Exception):
    """The server failed, and may do better the next time."""


class _RefusedError(Exception):
    """The server does not take this request, now or later."""


class FusionSandbox(Sandbox):
    """A client of SandboxFusion (``POST /run_code``); how strong the walls are is the server's matter.

    The server is sent our launcher and, through its stdin, the job in ASCII (see `sandboxes.remote`). That makes it run
    programs as the other backends do, and its faults pass us by: it answers 500 to a lone surrogate, lets the
    names in its own ``files`` escape with ``../``, drops output that is not UTF-8, and cuts long output or takes it for
    a time limit. Its judging endpoints are never used: they lay the expected outputs beside the program.

    Args:
        url: Of the server; without it, the environment variable ``SANDBOX_URL``.
        concurrency: How many programs it is asked to run at once.
        attempts: How often a job is tried while the server fails. Only an answer that is no answer counts as failing.
        backoff_seconds: Before the second attempt; doubles each time, with some chance in it.
        queue_seconds: How long the server may let a program wait before it runs.

    Raises:
        SandboxUnavailableError: If there is no such server, or it does not run Python.
        ValueError: If an argument is out of range.
    """

    name: ClassVar[str] = "fusion"

    def __init__(
        self,
        url: str | None = None,
        *,
        concurrency: int = 8,
        attempts: int = 4,
        backoff_seconds: float = 0.2,
        queue_seconds: float = 30.0,
    ) -> None:
        if concurrency < 1 or attempts < 1 or backoff_seconds < 0 or queue_seconds < 0:
            raise ValueError("concurrency and attempts must be at least 1, the seconds at least 0")
        url = url or os.environ.get("SANDBOX_URL")
        if not url:
            raise SandboxUnavailableError("no SandboxFusion server: give url= or set SANDBOX_URL")
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"url must begin with http:// or https:// and name a host, got {url!r}")
        self._url = url.rstrip("/")
        self._host, self._port, self._https = parts.hostname, parts.port, parts.scheme == "https"
        self._path = parts.path.rstrip("/")
        self._concurrency, self._attempts = concurrency, attempts
        self._backoff_seconds, self._queue_seconds = backoff_seconds, queue_seconds
        self._places = threading.BoundedSemaphore(concurrency)
        self._idle: queue.LifoQueue[http.client.HTTPConnection] = queue.LifoQueue()
        self._closed = threading.Event()
        self._room = _ROOM_SMALL
        self._check_health()

    @property
    def concurrency(self) -> int:
        """How many programs run at once."""
        return self._concurrency

    def describe(self) -> str:
        """In one line: the server, and what can be said of its walls."""
        return f"fusion: {self._url}, isolation as configured there"

    def close(self) -> None:
        """Close the connections; a job under way ends first, in its own thread."""
        self._closed.set()
        while True:
            try:
                self._idle.get_nowait().close()
            except queue.Empty:
                return

    def run_job(self, job: Job) -> RunResult:
        """Run one program."""
        if self._closed.is_set():
            raise RuntimeError("this sandbox is closed")
        limit = job.timeout_seconds + STARTUP_SECONDS
        request = {
            "code": LAUNCHER,
            "language": "python",
            "stdin": pack(job, room=self._room, base="."),
            "run_timeout": limit,
            "memory_limit_MB": job.memory_mb + _LAUNCHER_MEMORY_MB,
        }
        with self._places:
            started = time.monotonic()
            try:
                for _ in range(self._attempts):
                    answer, seconds = self._ask(request, limit)
                    result = _read(answer, job, seconds)
                    # The server does not wait for the last of the output. A program cannot easily look like that, and
                    # where one does it is wrong after some runs, and never an infrastructure error.
                    if result.exit_code != 0 or result.status is not Status.ERROR:
                        break
            except (_InfrastructureError, _RefusedError) as error:
                return RunResult(Status.INFRA_ERROR, "", f"{self._url}: {error}", None, time.monotonic() - started)
        return result

    def _check_health(self) -> None:
        """Run two small programs: does it work at all, and how much output does it carry?"""
        try:
            answer, _ = self._ask(
                {"code": f"print('x' * {_CUT_BYTES + 1})", "language": "python", "run_timeout": 10}, 10.0, attempts=2
            )
        except (_InfrastructureError, _RefusedError) as error:
            self.close()
            raise SandboxUnavailableError(f"no SandboxFusion server at {self._url}: {error}") from error
        run = answer["run_result"]
        if run["status"] == "Finished" and len(run["stdout"]) > _CUT_BYTES:
            self._room = _ROOM_LARGE
        result = self.run_job(Job("print(6 * 7)", timeout_seconds=10.0))
        if result.status is not Status.OK or result.stdout != "42\n":
            self.close()
            raise SandboxUnavailableError(f"{self._url} does not run Python programs: {result}")

    def _ask(self, request: Mapping[str, Any], limit: float, *, attempts: int = 0) -> tuple[dict[str, Any], float]:
        """Post until the server answers; the answer, checked, and how long it took."""
        body = json.dumps(request).encode("ascii")
        attempts = attempts or self._attempts
        for attempt in range(attempts):
            started = time.monotonic()
            try:
                return _checked(self._post(body, limit + self._queue_seconds)), time.monotonic() - started
            except _InfrastructureError:
                if attempt + 1 == attempts:
                    raise
            # Chance keeps clients that failed together from coming back together.
            if self._closed.wait(self._backoff_seconds * 2**attempt * random.uniform(0.5, 1.5)):
                raise _InfrastructureError("the sandbox was closed meanwhile")
        raise AssertionError("unreachable")

    def _post(self, body: bytes, timeout: float) -> bytes:
        """One request over a kept connection; a new one where the server has closed that meanwhile."""
        while True:
            try:
                connection, fresh = self._idle.get_nowait(), False
            except queue.Empty:
                connection, fresh = self._connect(), True
            try:
                return self._exchange(connection, body, timeout)
            except (http.client.RemoteDisconnected, ConnectionError) as error:
                if fresh:
                    raise _InfrastructureError(f"{type(error).__name__}: {error}") from error
            except (OSError, http.client.HTTPException) as error:
                raise _InfrastructureError(f"{type(error).__name__}: {error}") from error

    def _connect(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._https else http.client.HTTPConnection
        return kind(self._host, self._port)

    def _exchange(self, connection: http.client.HTTPConnection, body: bytes, timeout: float) -> bytes:
        connection.timeout = timeout
        if connection.sock is not None:
            connection.sock.settimeout(timeout)
        done = False
        try:
            headers = {"Content-Type": "application/json", "Connection": "keep-alive"}
            connection.request("POST", f"{self._path}/run_code", body, headers)
            response = connection.getresponse()
            data = response.read()
            done = not response.will_close
        finally:
            if done and not self._closed.is_set():
                self._idle.put(connection)
            else:
                connection.close()
        if response.status == 200:
            return data
        said = f"HTTP {response.status}: {data[:500].decode('utf-8', 'replace')}"
        raise _InfrastructureError(said) if response.status in _RETRY_STATUS else _RefusedError(said)


def _checked(data: bytes) -> dict[str, Any]:
    """The server's answer where it ran something; what it says of itself is believed, it is not the program."""
    try:
        answer = json.loads(data)
    except ValueError as error:
        raise _InfrastructureError(f"not JSON: {data[:200]!r}") from error
    if not isinstance(answer, dict):
        raise _InfrastructureError(f"not an object: {data[:200]!r}")
    run = answer.get("run_result")
    if answer.get("status") not in ("Success", "Failed") or not isinstance(run, dict):
        # With HTTP 200: no processes or disk left there, or the like.
        raise _InfrastructureError(f"{answer.get('status')}: {str(answer.get('message'))[:500]}")
    code, seconds = run.get("return_code"), run.get("execution_time")
    return {
        "run_result": {
            "status": run.get("status"),
            "return_code": code if type(code) is int else None,
            "execution_time": float(seconds) if isinstance(seconds, int | float) else None,
            "stdout": str(run.get("stdout") or ""),
            "stderr": str(run.get("stderr") or ""),
        }
    }


def _read(answer: Mapping[str, Any], job: Job, seconds: float) -> RunResult:
    """The result in an answer; without a whole report the program has broken its launcher, which is never ``ok``."""
    run = answer["run_result"]
    report = unpack(run["stdout"], seconds=seconds)
    if report is not None:
        return report.result
    took = run["execution_time"] if run["execution_time"] is not None else seconds
    stdout, stderr, code = run["stdout"], run["stderr"], run["return_code"]
    cut = len(stdout.encode("utf-8", "replace")) >= _CUT_BYTES
    if run["status"] == "TimeLimitExceeded":
        # A server of the older kind stops reading at some point, and calls the silence that follows a time limit.
        early = took < 0.9 * job.timeout_seconds
        status = Status.OUTPUT_LIMIT if early or cut else Status.TIMEOUT
    else:
        status = Status.OUTPUT_LIMIT if cut else Status.ERROR
    return RunResult(status, stdout, stderr, code, took)
