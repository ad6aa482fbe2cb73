"""Models that do as a test tells them: behind an OpenAI-compatible server, and without one."""

import http.server
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class ChatServer(http.server.ThreadingHTTPServer):
    """Answers with `reply(body, number)`: a text, or (status, headers, bytes); `number` counts the requests from 0."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, reply) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.reply = reply
        self.lock = threading.Lock()
        self.bodies: list[Any] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.connections = self.busy = self.most_busy = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request, client_address) -> None:
        """A client that went away is no news."""

    def process_request(self, request, client_address) -> None:
        self.connections += 1
        super().process_request(request, client_address)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: ChatServer

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            number = len(server.bodies)
            server.bodies.append(body)
            server.headers.append(dict(self.headers))
            server.times.append(time.monotonic())
            server.busy += 1
            server.most_busy = max(server.most_busy, server.busy)
        assert self.path == "/v1/chat/completions"
        said = server.reply(body, number)
        with server.lock:
            server.busy -= 1
        status, headers, data = said if isinstance(said, tuple) else (200, {}, completion(said))
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format, *args) -> None:  # noqa: A002 (its name there)
        pass


def completion(text, top=None) -> bytes:
    """What a server sends; `top` are log probabilities of first tokens."""
    choice: dict[str, Any] = {"index": 0, "message": {"role": "assistant", "content": text}}
    if top is not None:
        entries = [{"token": token, "logprob": logprob} for token, logprob in top.items()]
        choice["logprobs"] = {"content": [{"token": text, "logprob": 0.0, "top_logprobs": entries}]}
    return json.dumps({"object": "chat.completion", "choices": [choice]}).encode()


@contextmanager
def serving(reply) -> Iterator[ChatServer]:
    server = ChatServer(reply)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def by_length(body, number) -> str:
    return ("Yes", "No", "Unclear", "Hm")[len(question_in(body["messages"])) % 4]


class Fake:
    """A backend that answers by a function of the question, and writes the batches down."""

    def __init__(self, reply=lambda question: "yes", seconds=0.0, model="") -> None:
        self.reply, self.seconds, self.closed = reply, seconds, 0
        self.batches: list[list[Any]] = []

    def answer_many(self, chats) -> Any:
        self.batches.append(list(chats))
        time.sleep(self.seconds)
        return [self.reply(question_in(chat)) for chat in chats]

    def close(self) -> None:
        self.closed += 1

    @property
    def asked(self) -> int:
        return sum(len(batch) for batch in self.batches)


def question_in(chat) -> Any:
    return json.loads(chat[1]["content"].splitlines()[0].removeprefix("Question: "))


def no_threads() -> bool:
    """A thread that lets go of its answerer as the last one ends by itself, at once but not before `close` returns."""
    for _ in range(100):
        if not [thread for thread in threading.enumerate() if thread.name in {"answerer", "endpoint"}]:
            return True
        time.sleep(0.01)
    return False
