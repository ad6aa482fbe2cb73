"""A server that speaks JSON over HTTP: many requests at a time, tried again where that may help."""

from __future__ import annotations

import http.client
import json
import queue
import random
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

_REFUSALS = {401, 403, 404}
_WORTH_ANOTHER_TRY = {408, 409, 425, 429}
_LONGEST_WAIT_SECONDS = 60.0
_SHOWN_CHARACTERS = 300


class EndpointError(RuntimeError):
    """A request that came to nothing, in one line."""


class EndpointRefusedError(EndpointError):
    """The server does not know the key, the model or the address: nothing that waiting or another request mends."""


class _TransientError(Exception):
    """Worth another try, after some seconds if the server named them."""

    def __init__(self, said: str, wait_seconds: float | None = None) -> None:
        super().__init__(said)
        self.wait_seconds = wait_seconds


class Endpoint:
    """The server at an address.

    A broken connection, no answer in time, an answer that is no JSON, and the statuses 408, 409, 425, 429 and 5xx are
    tried again, after `backoff_seconds` doubled each time and scattered by chance, or after what the server asks for.

    Args:
        base_url: as in `http://localhost:8000/v1`; paths are appended to it. Proxies are not used.
        api_key: sent as a bearer token, shown in no error.
        timeout_seconds: of one try.
        retries: how many tries follow the first.
        backoff_seconds: the wait before the second.
        max_concurrency: most requests under way at once.

    Raises:
        ValueError: when the address is none, or a number is out of range.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        timeout_seconds: float = 600.0,
        retries: int = 4,
        backoff_seconds: float = 0.5,
        max_concurrency: int = 64,
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise ValueError(f"base_url must look like http://HOST:PORT/v1, not {_without_user(base_url)!r}")
        if not timeout_seconds > 0 or retries < 0 or backoff_seconds < 0 or max_concurrency < 1:
            raise ValueError("timeout_seconds and max_concurrency must be positive, retries and backoff not negative")
        if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
            raise ValueError("the key of an endpoint is printable ASCII")
        self.url = base_url.rstrip("/")
        self._kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._host, self._port, self._prefix = parts.hostname, parts.port, parts.path.rstrip("/")
        self._api_key = api_key
        self._timeout_seconds, self._retries, self._backoff_seconds = timeout_seconds, retries, backoff_seconds
        self._max_concurrency = max_concurrency
        self._idle: queue.LifoQueue[http.client.HTTPConnection] = queue.LifoQueue()
        self._chance = random.Random()  # of its own: waits must not move anybody's seed
        weakref.finalize(self, _close_all, self._idle)

    def get(self, path: str) -> Any:
        """The JSON value that stands at a path."""
        return self._call("GET", path, None)

    def post(self, path: str, body: Mapping[str, Any], *, is_json: bool = True) -> Any:
        """What the server answers to a JSON object: a JSON value, or text where it `is_json` no more.

        Raises:
            EndpointError: after the last try.
        """
        return self._call("POST", path, json.dumps(body).encode(), is_json=is_json)

    def post_all(self, path: str, bodies: Sequence[Mapping[str, Any]]) -> list[Any | EndpointError]:
        """The answers to many, in their order; an error stands where one came to nothing.

        Raises:
            EndpointRefusedError: if the server refuses any: then it would refuse all.
        """
        found: list[Any] = [None] * len(bodies)
        left: queue.SimpleQueue[int] = queue.SimpleQueue()
        for i in range(len(bodies)):
            left.put(i)
        refused = threading.Event()

        def work() -> None:
            while not refused.is_set():
                try:
                    i = left.get_nowait()
                except queue.Empty:
                    return
                try:
                    found[i] = self.post(path, bodies[i])
                except Exception as error:  # raised below where it is not the request's own
                    found[i] = error
                    if not isinstance(error, EndpointError) or isinstance(error, EndpointRefusedError):
                        refused.set()

        # Daemons: who presses Ctrl-C does not wait for answers.
        count = min(self._max_concurrency, len(bodies))
        threads = [threading.Thread(target=work, name="endpoint", daemon=True) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for answer in found:
            if isinstance(answer, EndpointRefusedError) or (
                isinstance(answer, Exception) and not isinstance(answer, EndpointError)
            ):
                raise answer
        return found

    def close(self) -> None:
        """Close the connections that are kept."""
        _close_all(self._idle)

    def _call(self, method: str, path: str, body: bytes | None, *, is_json: bool = True) -> Any:
        for failures in range(self._retries + 1):
            try:
                data = self._once(method, path, body)
                return json.loads(data) if is_json else data.decode("utf-8", "replace")
            except (_TransientError, ValueError, RecursionError) as error:
                said = str(error) if isinstance(error, _TransientError) else "what came is no JSON"
                if failures == self._retries:
                    tries = f", {failures + 1} times" if failures else ""
                    raise EndpointError(f"{self.url}{path}: {said}{tries}") from error
                wait = self._backoff_seconds * 2**failures * self._chance.uniform(0.5, 1.5)
                if isinstance(error, _TransientError) and error.wait_seconds is not None:
                    wait = error.wait_seconds
                time.sleep(min(wait, _LONGEST_WAIT_SECONDS))
        raise AssertionError("unreachable")

    def _once(self, method: str, path: str, body: bytes | None) -> bytes:
        """One try; over a new connection where the server has closed the kept one meanwhile."""
        while True:
            try:
                connection, is_kept = self._idle.get_nowait(), True
            except queue.Empty:
                connection, is_kept = self._kind(self._host, self._port, timeout=self._timeout_seconds), False
            try:
                return self._exchange(connection, method, path, body)
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if is_kept and isinstance(error, ConnectionError | http.client.BadStatusLine):
                    continue
                raise _TransientError(_one_line(f"{type(error).__name__}: {error}")) from error
            except BaseException:
                connection.close()
                raise

    def _exchange(self, connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None) -> bytes:
        deadline = time.monotonic() + self._timeout_seconds
        headers = {"Content-Type": "application/json"}
        if self._api_key:
            headers["Authorization"] = f"Bearer {self._api_key}"
        connection.request(method, self._prefix + path, body, headers)
        response = connection.getresponse()
        parts = []
        # The connection's own limit is for each piece: a server that says little by little would never reach it.
        while part := response.read1(65_536):
            parts.append(part)
            if time.monotonic() > deadline:
                raise TimeoutError("the answer took too long")
        response.close()  # `read1` leaves it open at its end, and then the connection takes no other request
        data = b"".join(parts)
        if response.will_close:
            connection.close()
        else:
            self._idle.put(connection)
        if response.status < 300:
            return data
        self._complain(response, path, data)
        raise AssertionError("unreachable")

    def _complain(self, response: http.client.HTTPResponse, path: str, data: bytes) -> None:
        text = data.decode("utf-8", "replace")
        if self._api_key:  # some servers show the key that they refuse
            text = text.replace(self._api_key, "***")
        said = f"HTTP {response.status}: {_one_line(text)[:_SHOWN_CHARACTERS]}"
        if response.status in _WORTH_ANOTHER_TRY or response.status >= 500:
            raise _TransientError(said, _seconds_of(response.getheader("Retry-After")))
        kind = EndpointRefusedError if response.status in _REFUSALS else EndpointError
        raise kind(f"{self.url}{path}: {said}")


def _close_all(connections: queue.LifoQueue[http.client.HTTPConnection]) -> None:
    while True:
        try:
            connections.get_nowait().close()
        except queue.Empty:
            return


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _without_user(url: str) -> str:
    return url.rpartition("@")[2]


def _seconds_of(header: str | None) -> float | None:
    """What a Retry-After header says, seconds or a date; None where it says nothing."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, seconds) if seconds < float("inf") else None
