import contextlib
import math
import os
import socket
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from llm_envs.games.twenty_questions.answerers.answers import AnswererDownError
from llm_envs.games.twenty_questions.answerers.endpoint import (
    EndpointBackend,
    EndpointRefusedError,
    read_reply,
    read_shares,
)
from tests.llm_envs.games.twenty_questions.chat_server import completion, serving

CHAT = [{"role": "system", "content": "rule"}, {"role": "user", "content": 'Question: "a \N{SNOWMAN}"'}]


def ask(server, chats=1, **options) -> Any:
    backend = EndpointBackend(**{"base_url": server.url, "model": "m", "backoff_seconds": 0.01, **options})
    try:
        return backend.answer_many([CHAT] * chats)
    finally:
        backend.close()


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("Yes", "yes"), ("yes.", "yes"), (" NO!", "no"), ("**No**", "no"), ('"Yes"', "yes"), ("Yes, it is.", "yes"),
        ("No. It is alive.", "no"), ("**Yes**, often", "yes"), ("Unclear", "unclear"), ("I can't say", None),
        ("can't", "unclear"), ("Can't.", "unclear"), ("cannot", "unclear"), ("Yes or no?", None), ("Yesterday", None),
        ("nope", None), ("It is an elephant.", None), ("", None), ("No\nit is not", "no"), ("not", None),
        ("\u201cYes\u201d", "yes"), ("yes" * 10_000, None), ("*" * 100_000, None),
    ],
)  # fmt: skip
def test_reading_a_text(text, word):
    assert read_reply(text) == word


@pytest.mark.parametrize(
    ("shares", "word"),
    [
        ({"Yes": 0.4, " yes": 0.2, "No": 0.35}, "yes"),
        ({"Yes": 0.4, "No": 0.3, " NO": 0.2, "\u2581no": 0.05}, "no"),
        ({"Unclear": 0.6, "Yes": 0.3, "No": 0.1}, None),
        ({"Yes": 0.5, "No": 0.5}, None),
        ({"Yesterday": 0.9, "Not": 0.1}, None),
        ({}, None),
    ],
)
def test_reading_probabilities(shares, word):
    assert read_shares(shares) == word


def test_what_is_asked():
    with serving(lambda body, number: "Yes") as server:
        assert ask(server, api_key="secret-key", extra_body={"seed": 1, "top_logprobs": None}) == ["yes"]
    assert server.bodies == [
        {"model": "m", "messages": CHAT, "temperature": 0, "max_tokens": 8, "logprobs": True, "seed": 1}
    ]
    assert server.headers[0]["Authorization"] == "Bearer secret-key"


def test_a_key_from_the_environment(monkeypatch):
    monkeypatch.setenv("MY_KEY", "from-outside")
    with serving(lambda body, number: "No") as server:
        ask(server, api_key="MY_KEY")
        ask(server)
    assert server.headers[0]["Authorization"] == "Bearer from-outside"
    assert "Authorization" not in server.headers[1]


def test_probabilities_come_before_the_text():
    top = {"Yes": math.log(0.3), " yes": math.log(0.2), "No": math.log(0.4), "Maybe": math.log(0.1)}
    with serving(lambda body, number: (200, {}, completion("No", top))) as server:
        assert ask(server) == ["yes"]
    unclear = {"Unclear": math.log(0.7), "Yes": math.log(0.3)}
    with serving(lambda body, number: (200, {}, completion("Unclear", unclear))) as server:
        assert ask(server) == [None]
        assert len(server.bodies) == 1


def test_a_server_without_log_probabilities():
    def reply(body, number):
        return (400, {}, b"logprobs are not supported") if "logprobs" in body else "No"

    with serving(reply) as server:
        backend = EndpointBackend(base_url=server.url, model="m")
        assert [backend.answer_many([CHAT]), backend.answer_many([CHAT])] == [["no"], ["no"]]
        backend.close()
    assert ["logprobs" in body for body in server.bodies] == [True, False, False]


def test_what_is_neither_is_asked_once_more():
    with serving(lambda body, number: ["It depends.", "Well, yes"][number % 2]) as server:
        assert ask(server) == [None]
    assert len(server.bodies) == 2
    assert server.bodies[1]["messages"] == [
        *CHAT,
        {"role": "assistant", "content": "It depends."},
        {"role": "user", "content": "Say one word: Yes, No or Unclear."},
    ]
    with serving(lambda body, number: ["It depends.", "Yes"][number]) as server:
        assert ask(server) == ["yes"]
    with serving(lambda body, number: "Unclear") as server:
        assert ask(server) == [None]
        assert len(server.bodies) == 1


@pytest.mark.parametrize(
    "trouble",
    [
        (500, {}, b"oops"), (503, {}, b""), (429, {}, b"slow down"), (408, {}, b""), (200, {}, b"<html>"),
        (200, {}, b""), (200, {}, b"[]"), (200, {}, b'{"choices": []}'), (200, {}, b'{"choices": [{"message": 5}]}'),
        (200, {"Content-Length": "100", "Connection": "close"}, b"cut short"), (200, {}, b"[" * 100_000),
        (200, {}, b"\xff\xfe"),
    ],
    ids=lambda trouble: f"{trouble[0]} {trouble[2][:12]!r}",
)  # fmt: skip
def test_trouble_that_passes(trouble):
    with serving(lambda body, number: trouble if number < 2 else "Yes") as server:
        assert ask(server, retries=2) == ["yes"]
    with serving(lambda body, number: trouble) as server:
        (error,) = ask(server, retries=2)
        assert len(server.bodies) == 3
    assert isinstance(error, AnswererDownError)
    assert f"{server.url}/chat/completions: " in str(error)
    assert str(error).endswith(", 3 times")


def test_waits_double():
    with serving(lambda body, number: (500, {}, b"")) as server:
        ask(server, retries=3, backoff_seconds=0.1)
    waits = [later - sooner for sooner, later in zip(server.times, server.times[1:], strict=False)]
    for wait, least in zip(waits, (0.05, 0.1, 0.2), strict=True):
        assert least <= wait < 3 * least + 0.2


def test_retry_after():
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=-5), usegmt=True)
    for header, least, most in (("0.3", 0.3, 2), ("0", 0, 2), (soon, 0, 2), ("later", 0, 2), ("nan", 0, 2)):
        with serving(lambda body, number, h=header: (429, {"Retry-After": h}, b"") if number < 1 else "Yes") as server:
            assert ask(server) == ["yes"]
        assert least <= server.times[1] - server.times[0] < most


def test_a_slow_server():
    def reply(body, number):
        time.sleep(0.5 if number == 0 else 0)
        return "Yes"

    with serving(reply) as server:
        assert ask(server, timeout_seconds=0.1) == ["yes"]
        assert len(server.bodies) == 2

    def always_slow(body, number):
        time.sleep(0.5)
        return "Yes"

    with serving(always_slow) as server:
        began = time.monotonic()
        (error,) = ask(server, timeout_seconds=0.1, retries=1)
        assert "TimeoutError" in str(error)
        assert time.monotonic() - began < 2


def test_a_server_that_says_little_by_little():
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def dribble() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, contextlib.suppress(OSError):
                        connection.sendall(b"HTTP/1.1 200 OK\r\n")
                        for _ in range(100):
                            connection.sendall(b"A: b\r\n")
                            time.sleep(0.05)

        thread = threading.Thread(target=dribble, daemon=True)
        thread.start()
        began = time.monotonic()
        backend = EndpointBackend(
            base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", model="m",
            timeout_seconds=0.2, retries=1, backoff_seconds=0.01,
        )  # fmt: skip
        (error,) = backend.answer_many([CHAT])
        assert "the answer took too long, 2 times" in str(error)
        assert time.monotonic() - began < 2
        backend.close()
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def test_no_message_shows_the_key():
    key = "sk-0123456789"
    with serving(lambda body, number: (401, {}, f"wrong key {key}".encode())) as server:
        with pytest.raises(EndpointRefusedError, match=r"wrong key \*\*\*") as refused:
            ask(server, api_key=f" {key}\n")
        assert key not in str(refused.value)
        assert server.headers[0]["Authorization"] == f"Bearer {key}"
    wrong: list[dict[str, Any]] = [
        {"api_key": f"{key}\nX: y"}, {"api_key": f"{key}\u2603"}, {"base_url": f"http://me:{key}@host/v1"},
    ]  # fmt: skip
    for options in wrong:
        with pytest.raises(ValueError, match="api_key") as bad:
            EndpointBackend(**{"base_url": "http://host/v1", "model": "m", **options})
        assert key not in str(bad.value)


def test_no_server():
    with serving(lambda body, number: "Yes") as server:
        pass
    errors = ask(server, chats=5, retries=1)
    assert all(isinstance(error, AnswererDownError) and "Connection" in str(error) for error in errors)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_is_no_outage(status):
    with serving(lambda body, number: (status, {}, b"no such model")) as server:
        with pytest.raises(
            EndpointRefusedError, match=f"HTTP {status}: no such model: check base_url, model and api_key"
        ):
            ask(server)
        assert len(server.bodies) == 1


def test_trouble_of_one_chat_is_its_own():
    def reply(body, number):
        return (400, {}, b"too long") if body["messages"][1]["content"] == "b" else "Yes"

    with serving(reply) as server:
        backend = EndpointBackend(base_url=server.url, model="m")
        found = backend.answer_many(
            [[{"role": "system", "content": "r"}, {"role": "user", "content": c}] for c in "abc"]
        )
        assert backend.answer_many([]) == []
        backend.close()
    assert [found[0], found[2]] == ["yes", "yes"]
    assert isinstance(found[1], AnswererDownError)
    assert "HTTP 400: too long" in str(found[1])


def test_concurrency_and_connections_that_are_kept():
    def reply(body, number):
        time.sleep(0.02)
        return "Yes"

    with serving(reply) as server:
        backend = EndpointBackend(base_url=server.url, model="m", max_concurrency=8)
        began = time.monotonic()
        for _ in range(3):
            assert backend.answer_many([CHAT] * 32) == ["yes"] * 32
        assert time.monotonic() - began < 0.5 * 96 * 0.02
        backend.close()
    assert 4 <= server.most_busy <= 8
    assert server.connections <= 8


def test_a_kept_connection_that_the_server_has_closed():
    with serving(lambda body, number: (200, {"Keep-Alive": "timeout=0"}, completion("Yes"))) as server:
        backend = EndpointBackend(base_url=server.url, model="m", retries=0)
        assert backend.answer_many([CHAT]) == ["yes"]
        connection = backend._idle.get_nowait()
        assert connection.sock is not None
        connection.sock.shutdown(2)
        backend._idle.put(connection)
        assert backend.answer_many([CHAT]) == ["yes"]
        backend.close()
    assert server.connections == 2


def test_a_forked_process_makes_connections_of_its_own():
    with serving(lambda body, number: "Yes") as server:
        backend = EndpointBackend(base_url=server.url, model="m")
        assert backend.answer_many([CHAT]) == ["yes"]
        backend._process = os.getpid() + 1  # as a child would see it
        inherited = backend._idle.get_nowait()
        backend._idle.put(inherited)
        assert backend.answer_many([CHAT]) == ["yes"]
        backend.close()
        inherited.close()
    assert server.connections == 2


def test_closing_ends_the_patience():
    with serving(lambda body, number: (503, {"Retry-After": "50"}, b"")) as server:
        backend = EndpointBackend(base_url=server.url, model="m")
        threading.Timer(0.2, backend.close).start()
        began = time.monotonic()
        (error,) = backend.answer_many([CHAT])
        assert "closed meanwhile" in str(error)
        assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"base_url": "localhost:8000"}, ValueError),
        ({"base_url": "ftp://host/v1"}, ValueError),
        ({"base_url": 5}, TypeError),
        ({"model": ""}, TypeError),
        ({"model": None}, TypeError),
        ({"timeout_seconds": 0}, ValueError),
        ({"retries": -1}, ValueError),
        ({"backoff_seconds": -1}, ValueError),
        ({"max_concurrency": 0}, ValueError),
    ],
)
def test_bad_arguments(options, error):
    with pytest.raises(error, match=next(iter(options))):
        EndpointBackend(**{"base_url": "http://localhost:8000/v1", "model": "m", **options})
