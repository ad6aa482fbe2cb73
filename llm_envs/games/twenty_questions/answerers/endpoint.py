"""A language model behind an OpenAI-compatible server."""

import contextlib
import http.client
import json
import math
import os
import queue
import random
import re
import socket
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal
from urllib.parse import urlsplit

from llm_envs.games.twenty_questions.answerers.answers import AnswererDownError
from llm_envs.text_env import Message

__all__ = ["EndpointBackend", "EndpointRefusedError", "read_reply", "read_shares"]

_COME_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 529}
_REFUSED = {401, 403, 404}
_NOT_SO = {400, 422}
_LONGEST_WAIT_SECONDS = 60.0
_LEAST_SHARE = 0.5
_MAX_TOKENS = 8
_MAX_BYTES = 10_000_000
_REMINDER = "Say one word: Yes, No or Unclear."

# The first word counts if nothing follows it but marks, or a comma or the like before an explanation.
_WORD = re.compile(r"\W*(yes|no|unclear|can'?t|cannot)(?:\W*$|\*{0,2}[.,;:!\n])", re.IGNORECASE | re.ASCII)

Word = Literal["yes", "no", "unclear"]


class EndpointRefusedError(RuntimeError):
    """The server does not serve this: a wrong key, model or address. Nothing that waiting would mend."""


class _TransientError(Exception):
    """Worth another attempt, after some seconds if the server named them."""

    def __init__(self, said: str, wait_seconds: float | None = None) -> None:
        super().__init__(said)
        self.wait_seconds = wait_seconds


class _NotSoError(Exception):
    """The server does not like the request as it is."""


class EndpointBackend:
    """Asks a server's ``/chat/completions``, many questions at a time, over connections that are kept.

    Where the server gives log probabilities, the probabilities of yes and of no are compared over all spellings of the
    first token, if together they make at least half. Otherwise the text is read strictly; what is neither yes, no nor
    unclear is asked once more with a reminder, and is neither after that.

    No answer in time, a broken connection, garbage, and the statuses 408, 409, 425, 429 and 5xx are tried again, after
    ``backoff_seconds`` doubled each time and scattered by chance, or after what ``Retry-After`` says (a minute at
    most). Proxies are not used.

    Args:
        base_url: As in ``http://localhost:8000/v1``.
        model: The model's name there.
        api_key: The name of an environment variable that holds the key, or the key itself; None: no key.
        timeout_seconds: For one attempt.
        retries: How many attempts follow a failed one.
        backoff_seconds: The wait before the second attempt.
        max_concurrency: How many questions are with the server at once.
        extra_body: Further fields of the request; None as a value removes a field.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the address is none or a number is out of range.
    """

    def __init__(
        self,
        *,
        base_url: str,
        model: str,
        api_key: str | None = None,
        timeout_seconds: float = 60.0,
        retries: int = 4,
        backoff_seconds: float = 0.5,
        max_concurrency: int = 32,
        extra_body: Mapping[str, Any] | None = None,
    ) -> None:
        for name, text in (("base_url", base_url), ("model", model)):
            if not text or type(text) is not str:
                raise TypeError(f"{name} must be a text, got {text!r}")
        parts = urlsplit(base_url)
        if parts.username is not None or parts.password is not None:
            raise ValueError("base_url must hold no user and no password: the key goes into api_key")
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"base_url must begin with http:// or https:// and name a host, got {base_url!r}")
        if not timeout_seconds > 0 or retries < 0 or backoff_seconds < 0 or max_concurrency < 1:
            raise ValueError(
                "timeout_seconds must be above 0, retries and backoff_seconds at least 0, max_concurrency at least 1"
            )
        self._host, self._port, self._is_https = parts.hostname, parts.port, parts.scheme == "https"
        self._path = parts.path.rstrip("/") + "/chat/completions"
        self._url = f"{base_url.rstrip('/')}/chat/completions"
        self._model = model
        self._api_key = _read_key(api_key)
        self._timeout_seconds, self._retries, self._backoff_seconds = timeout_seconds, retries, backoff_seconds
        self._max_concurrency = max_concurrency
        self._extra_body = dict(extra_body or {})
        self._wants_logprobs = True
        self._chance = random.Random()  # of its own: the global generator is not ours
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._idle: queue.LifoQueue[http.client.HTTPConnection] = queue.LifoQueue()
        self._closed = threading.Event()

    def close(self) -> None:
        """Close the connections; nothing is tried again after that."""
        if self._process != os.getpid():  # they are the parent's, and so may be the locks
            self._begin()
        self._closed.set()
        while True:
            try:
                self._idle.get_nowait().close()
            except queue.Empty:
                return

    def answer_many(self, chats: Sequence[Sequence[Message]]) -> list[Literal["yes", "no"] | AnswererDownError | None]:
        """Ask all chats, at most ``max_concurrency`` at once; an error stands for the chat that it happened to.

        Raises:
            EndpointRefusedError: If the server says that key, model or address are wrong.
        """
        if self._process != os.getpid():  # a connection cannot be shared with the parent of a forked process
            self._begin()
        left: queue.SimpleQueue[int] = queue.SimpleQueue()
        for index in range(len(chats)):
            left.put(index)
        found: list[Any] = [None] * len(chats)

        def work() -> None:
            while True:
                try:
                    index = left.get_nowait()
                except queue.Empty:
                    return
                try:
                    found[index] = self._answer(chats[index])
                except Exception as error:  # raised below, unless it is the chat's own
                    found[index] = error

        threads = [
            threading.Thread(target=work, name="endpoint", daemon=True)
            for _ in range(min(self._max_concurrency, len(chats)))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for outcome in found:
            if isinstance(outcome, Exception) and not isinstance(outcome, AnswererDownError):
                raise outcome
        return found

    def _answer(self, chat: Sequence[Message]) -> Literal["yes", "no"] | None:
        word, text = self._ask(chat)
        if word is None:
            reminder = [{"role": "assistant", "content": text or "..."}, {"role": "user", "content": _REMINDER}]
            word, _ = self._ask([*chat, *reminder])
        return None if word == "unclear" else word

    def _ask(self, chat: Sequence[Message]) -> tuple[Word | None, str]:
        """One question, with all the patience there is: what was understood, and the text."""
        failures, with_logprobs = 0, self._wants_logprobs
        while True:
            try:
                data = self._post(self._body(chat, with_logprobs))
                self._wants_logprobs &= with_logprobs
                return _read_body(data)
            except _NotSoError as error:
                if not with_logprobs:
                    raise AnswererDownError(f"{self._url}: {error}") from error
                with_logprobs = False  # some servers have none; where that was it, the plain text will do from now on
            except _TransientError as error:
                if failures >= self._retries:
                    raise AnswererDownError(f"{self._url}: {error}, {failures + 1} times") from error
                wait = self._backoff_seconds * 2**failures * self._chance.uniform(0.5, 1.5)
                if error.wait_seconds is not None:
                    wait = error.wait_seconds
                failures += 1
                if self._closed.wait(min(wait, _LONGEST_WAIT_SECONDS)):
                    raise AnswererDownError("the answerer was closed meanwhile") from error

    def _body(self, chat: Sequence[Message], with_logprobs: bool) -> bytes:
        body = {"model": self._model, "messages": list(chat), "temperature": 0, "max_tokens": _MAX_TOKENS}
        if with_logprobs:
            body |= {"logprobs": True, "top_logprobs": 20}
        body |= self._extra_body
        return json.dumps({name: value for name, value in body.items() if value is not None}).encode("ascii")

    def _post(self, body: bytes) -> bytes:
        """One request over a kept connection; over a new one where the server has closed that meanwhile."""
        while True:
            try:
                connection, is_fresh = self._idle.get_nowait(), False
            except queue.Empty:
                kind = http.client.HTTPSConnection if self._is_https else http.client.HTTPConnection
                connection, is_fresh = kind(self._host, self._port, timeout=self._timeout_seconds), True
            try:
                return self._exchange(connection, body)
            except (http.client.RemoteDisconnected, ConnectionError) as error:
                if is_fresh:
                    raise _TransientError(f"{type(error).__name__}: {error}") from error
            except (OSError, http.client.HTTPException) as error:
                raise _TransientError(f"{type(error).__name__}: {error}") from error

    def _exchange(self, connection: http.client.HTTPConnection, body: bytes) -> bytes:
        done, late = False, threading.Event()
        # The connection's own limit is for each piece: a server that says little by little would never reach it.
        alarm = threading.Timer(self._timeout_seconds, _hang_up, [connection, late])
        alarm.daemon = True
        try:
            if connection.sock is None:
                connection.connect()
            alarm.start()
            connection.request("POST", self._path, body, self._headers())
            response = connection.getresponse()
            data = response.read(_MAX_BYTES)
            done = not response.will_close and response.isclosed()
        except (OSError, http.client.HTTPException):
            if not late.is_set():
                raise
        finally:
            alarm.cancel()
            if done and not late.is_set() and not self._closed.is_set():
                self._idle.put(connection)
            else:
                connection.close()
        if late.is_set():  # what came looks whole where it broke off between two headers
            raise TimeoutError("the answer took too long")
        if response.status == 200:
            return data
        said = f"HTTP {response.status}: {self._without_key(data)[:300]}"
        if response.status in _REFUSED:
            raise EndpointRefusedError(f"{self._url}: {said}: check base_url, model and api_key")
        if response.status in _NOT_SO:
            raise _NotSoError(said)
        if response.status in _COME_AGAIN or response.status >= 500:
            raise _TransientError(said, _seconds_of(response.getheader("Retry-After")))
        raise AnswererDownError(f"{self._url}: {said}")

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Connection": "keep-alive"}
        if self._api_key:
            headers["Authorization"] = f"Bearer {self._api_key}"
        return headers

    def _without_key(self, data: bytes) -> str:
        """What a server said, as a message may repeat it: some show the key that they refuse."""
        text = data.decode("utf-8", "replace")
        return text.replace(self._api_key, "***") if self._api_key else text


def read_reply(text: str) -> Word | None:
    """Yes, no or unclear, if that is what a text says; None if it says anything else.

    >>> [read_reply(text) for text in ("Yes.", "**No**", "Yes, it is.", "Unclear", "Yes or no?", "It is.")]
    ['yes', 'no', 'yes', 'unclear', None, None]
    """
    match = _WORD.match(text.strip())
    if match is None:
        return None
    word = match[1].lower()
    return word if word in {"yes", "no"} else "unclear"  # type: ignore[return-value]


def read_shares(shares: Mapping[str, float]) -> Literal["yes", "no"] | None:
    """The likelier of yes and no, from the probabilities of tokens; None if together they are less than a half."""
    sums = {"yes": 0.0, "no": 0.0}
    for token, share in shares.items():
        word = token.strip(" \t\n\u0120\u2581*\"'.,").lower()
        if word in sums:
            sums[word] += share
    if sums["yes"] + sums["no"] < _LEAST_SHARE or sums["yes"] == sums["no"]:
        return None
    return "yes" if sums["yes"] > sums["no"] else "no"


def _read_key(api_key: str | None) -> str | None:
    """The key, or what the environment variable of that name holds. No error shows it."""
    if api_key is not None and type(api_key) is not str:
        raise TypeError(f"api_key must be a text, got {type(api_key).__name__}")
    key = os.environ.get(api_key, api_key).strip() if api_key else None
    if key and not (key.isascii() and key.isprintable()):
        raise ValueError("api_key must be printable ASCII")
    return key or None


def _hang_up(connection: http.client.HTTPConnection, late: threading.Event) -> None:
    late.set()
    if connection.sock is not None:
        with contextlib.suppress(OSError):  # it is closed meanwhile
            connection.sock.shutdown(socket.SHUT_RDWR)


def _read_body(data: bytes) -> tuple[Word | None, str]:
    try:
        choice = json.loads(data)["choices"][0]
        text = str(choice["message"]["content"] or "")
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise _TransientError("what came is no chat completion") from error
    return _read_logprobs(choice) or read_reply(text), text


def _read_logprobs(choice: Mapping[str, Any]) -> Literal["yes", "no"] | None:
    try:
        top = choice["logprobs"]["content"][0]["top_logprobs"]
        shares = {str(entry["token"]): math.exp(min(0.0, float(entry["logprob"]))) for entry in top}
    except (KeyError, IndexError, TypeError, ValueError):
        return None  # servers may leave them out
    return read_shares(shares)


def _seconds_of(header: str | None) -> float | None:
    """What a Retry-After header says: seconds, or a date."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            until = parsedate_to_datetime(header)
        except ValueError:
            return None
        seconds = (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None
