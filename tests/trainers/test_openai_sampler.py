"""A made-up endpoint over real HTTP: what is asked of it, what is made of its answers, what is tried again."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import gymnasium as gym
import pytest

from trainers.chats import EndpointPlayer
from trainers.rollouts import RolloutSettings
from trainers.sampling.endpoint import Endpoint, EndpointError, EndpointRefusedError
from trainers.sampling.openai_sampler import OPENAI_URL, ChatEndpoint, Reply

Answer = tuple[int, Any] | tuple[int, Any, Mapping[str, str]]
SETTINGS = RolloutSettings(group_size=1, max_tokens=9, temperature=0.0, context_length=0)


def said(text: str | None, *, tokens: int = 2, finish_reason: str = "stop") -> Answer:
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    return 200, {"choices": [choice], "usage": {"completion_tokens": tokens}}


@dataclass
class MadeUpServer:
    """Answers by `answer(body)`; bytes are sent as they are, None hangs up."""

    answer: Callable[[dict[str, Any]], Answer | None] = lambda body: said("hello")
    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    connections: set[int] = field(default_factory=set)
    most_at_once: int = 0
    at_once: int = 0


@pytest.fixture
def server() -> Iterator[MadeUpServer]:
    made_up, lock = MadeUpServer(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            with lock:
                made_up.at_once += 1
                made_up.most_at_once = max(made_up.most_at_once, made_up.at_once)
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                made_up.bodies.append(body)
                made_up.paths.append(self.path)
                made_up.keys.append(self.headers["Authorization"])
                made_up.connections.add(self.client_address[1])
            answer = made_up.answer(body)
            with lock:
                made_up.at_once -= 1
            if answer is None:
                self.close_connection = True
                return
            data = answer[1] if isinstance(answer[1], bytes) else json.dumps(answer[1]).encode()
            self.send_response(answer[0])
            self.send_header("Content-Length", str(len(data)))
            for name, value in (answer[2] if len(answer) == 3 else {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    http_server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http_server.daemon_threads = True
    thread = threading.Thread(target=http_server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    made_up.url = f"http://127.0.0.1:{http_server.server_address[1]}/v1"
    yield made_up
    http_server.shutdown()
    http_server.server_close()


@pytest.fixture(autouse=True)
def _no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def speaker(server: MadeUpServer, **options: Any) -> ChatEndpoint:
    return ChatEndpoint("m", base_url=server.url, **{"backoff_seconds": 0.0, "retries": 2, **options})


def ask(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


# --- One request ---


def test_what_is_asked_and_what_is_made_of_it(server):
    server.answer = lambda body: said(
        body["messages"][0]["content"][::-1],
        tokens=7,
        finish_reason="length" if "b" in body["messages"][0]["content"] else "stop",
    )
    found = speaker(server).speak([ask("ab"), ask("cd")], max_tokens=5, temperature=0.0)
    assert found == [Reply("ba", 7, "length"), Reply("dc", 7, "stop")]
    assert set(server.paths) == {"/v1/chat/completions"}
    assert sorted(server.bodies, key=str) == [
        {"model": "m", "max_tokens": 5, "temperature": 0.0, "messages": ask("ab")},
        {"model": "m", "max_tokens": 5, "temperature": 0.0, "messages": ask("cd")},
    ]


def test_sampling_is_asked_for_with_a_seed_of_the_chats_own(server):
    chats = [ask("x")] * 3
    options: dict[str, Any] = {"max_tokens": 1, "temperature": 0.5, "top_p": 0.9, "top_k": 4}
    for seed in (1, 1, 2):
        speaker(server, max_concurrency=1).speak(chats, **options, seed=seed)
    seeds = [body["seed"] for body in server.bodies]
    assert seeds[:3] == seeds[3:6]
    assert len(set(seeds)) == 6
    assert {(body["top_p"], body["top_k"], body["temperature"]) for body in server.bodies} == {(0.9, 4, 0.5)}


def test_fields_can_be_added_and_taken_out(server):
    extra = {"max_tokens": None, "max_completion_tokens": 8, "seed": None}
    speaker(server, extra_body=extra).speak([ask("x")], max_tokens=1, seed=3)
    assert server.bodies == [{"model": "m", "temperature": 1.0, "messages": ask("x"), "max_completion_tokens": 8}]


def test_a_reply_without_text_or_usage(server):
    server.answer = lambda body: (200, {"choices": [{"message": {"content": None}}]})
    assert speaker(server).speak([ask("x")], max_tokens=1) == [Reply("", 0, "stop")]


def test_the_key_comes_from_the_environment_and_is_never_shown(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    server.answer = lambda body: (401, {"error": "wrong key sk-secret\nsorry"})
    with pytest.raises(EndpointRefusedError, match=r"HTTP 401: .*wrong key \*\*\*") as caught:
        speaker(server).speak([ask("x")], max_tokens=1)
    assert "\n" not in str(caught.value)
    speaker_with_key = speaker(server, api_key="sk-other")
    with pytest.raises(EndpointRefusedError):
        speaker_with_key.speak([ask("x")], max_tokens=1)
    assert server.keys == ["Bearer sk-secret", "Bearer sk-other"]  # a refusal is not tried again


def test_many_chats_over_few_connections(server):
    barrier = threading.Barrier(4, timeout=20)

    def answer(body: dict[str, Any]) -> Answer:
        barrier.wait()
        return said(body["messages"][0]["content"])

    server.answer = answer
    endpoint = speaker(server, max_concurrency=4)
    for _ in range(2):
        found = endpoint.speak([ask(str(i)) for i in range(20)], max_tokens=1)
        assert [reply.text for reply in found if isinstance(reply, Reply)] == [str(i) for i in range(20)]
    assert server.most_at_once == 4
    assert len(server.connections) == 4
    endpoint.close()


# --- Failures ---


@pytest.mark.parametrize(
    "failure",
    [(500, {}), (503, b"busy"), (429, {}, {"Retry-After": "0"}), (408, {}), (200, b"{"), (200, b"\xff"), None],
    ids=str,
)
def test_what_may_pass_is_tried_again(server, failure):
    answers = iter([failure, failure, said("at last")])
    server.answer = lambda body: next(answers)
    assert speaker(server).speak([ask("x")], max_tokens=1) == [Reply("at last", 2, "stop")]
    answers = iter([failure] * 3)
    [error] = speaker(server).speak([ask("x")], max_tokens=1)
    assert isinstance(error, EndpointError)
    assert str(error).startswith(f"{server.url}/chat/completions: ")
    assert str(error).endswith(", 3 times")
    assert "\n" not in str(error)
    assert len(server.bodies) == 6


def test_the_server_may_say_how_long_to_wait(server, monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr("trainers.sampling.endpoint.time.sleep", waits.append)
    headers = iter(["7", "0.5", "100000", "Thu, 01 Jan 1970 00:00:00 GMT", "soon", None])

    def answer(body: dict[str, Any]) -> Answer:
        header = next(headers)
        return (429, {}, {} if header is None else {"Retry-After": header})

    server.answer = answer
    speaker(server, retries=5, backoff_seconds=2.0).speak([ask("x")], max_tokens=1)
    assert waits[:4] == [7.0, 0.5, 60.0, 0.0]
    assert 16 <= waits[4] <= 48  # 2 * 2 ** 4, from half of it to half more
    assert len(waits) == 5


def test_one_chat_may_fail_alone(server):
    server.answer = lambda body: (400, {"error": "too long"}) if "long" in str(body) else said("ok")
    good, bad = speaker(server).speak([ask("short"), ask("long")], max_tokens=1)
    assert isinstance(good, Reply)
    assert isinstance(bad, EndpointError)
    assert str(bad) == f'{server.url}/chat/completions: HTTP 400: {{"error": "too long"}}'
    assert len(server.bodies) == 2


def test_no_answer_in_time(server):
    silence = threading.Event()

    def answer(body: dict[str, Any]) -> None:
        silence.wait(5)

    server.answer = answer
    [error] = speaker(server, timeout_seconds=0.1, retries=1).speak([ask("x")], max_tokens=1)
    assert isinstance(error, EndpointError)
    assert "TimeoutError" in str(error)
    silence.set()


def test_what_is_no_completion(server):
    answers: Sequence[Any] = ({}, [], {"choices": []}, {"choices": [None]}, {"choices": [{"message": None}]}, 3)
    for answer in answers:
        server.answer = lambda body, answer=answer: (200, answer)
        [error] = speaker(server).speak([ask("x")], max_tokens=1)
        assert isinstance(error, EndpointError)
        assert "no chat completion" in str(error)


def test_addresses_and_numbers_that_cannot_be(server):
    for url in ("localhost:8000", "ftp://x/v1", "http:///v1", "http://user:secret@host/v1"):
        with pytest.raises(ValueError, match="base_url must look like") as caught:
            Endpoint(url)
        assert "secret" not in str(caught.value)
    for options in ({"timeout_seconds": 0.0}, {"retries": -1}, {"max_concurrency": 0}, {"backoff_seconds": -1.0}):
        with pytest.raises(ValueError, match="must be positive"):
            Endpoint(server.url, **options)
    with pytest.raises(ValueError, match="printable"):
        Endpoint(server.url, api_key="a\nb")
    with pytest.raises(ValueError, match="name of a model"):
        ChatEndpoint("")


def test_names_of_endpoints():
    for name, model, url in (
        ("gpt@http://h:1/v1", "gpt", "http://h:1/v1"),
        ("@cf/meta/llama@https://h/v1/", "@cf/meta/llama", "https://h/v1"),
        ("gpt", "gpt", OPENAI_URL),
        ("@cf/meta/llama", "@cf/meta/llama", OPENAI_URL),
    ):
        endpoint = ChatEndpoint.named(name)
        assert (endpoint._model, endpoint._endpoint.url) == (model, url)


# --- A player ---


def test_a_player_sits_in_the_other_seat(server):
    server.answer = lambda body: said("3" if len(body["messages"]) < 5 else "1")
    player = EndpointPlayer(f"m@{server.url}", max_tokens=4)
    env = gym.make("llm_envs:TicTacToe-v0", opponent=player, seat="first")
    for _ in range(2):  # an episode leaves nothing behind
        server.bodies.clear()
        observation, _ = env.reset(seed=0)
        first = server.bodies[0] if server.bodies else None
        env.step("5")
        chats: Sequence[Any] = [body["messages"] for body in server.bodies]
        assert chats[0][-1]["role"] == "user"
        assert chats[0][0]["role"] == "system" or len(chats[0]) == 1
        assert not any(message["role"] == "assistant" and message["content"] == "1" for message in chats[0])
        assert first is None or first["temperature"] == 0.0
        assert server.bodies[0]["max_tokens"] == 4
        assert isinstance(observation, str)


def test_a_player_remembers_what_was_said(server):
    player = EndpointPlayer(f"m@{server.url}")
    opening = [{"role": "system", "content": "Play."}, {"role": "user", "content": "Begin."}]
    for _ in range(2):
        server.bodies.clear()
        player.reset("Begin.", {"messages": opening})
        assert [player.act("Begin."), player.act("And now?")] == ["hello", "hello"]
        assert server.bodies[0]["messages"] == opening
        assert server.bodies[1]["messages"] == [*opening, {"role": "assistant", "content": "hello"}, *ask("And now?")]
    server.answer = lambda body: (400, b"no")
    with pytest.raises(EndpointError, match="HTTP 400: no"):
        player.act("Hm?")


def test_speaking_needs_no_torch(run_python, tmp_path):
    code = """
import sys
from trainers.chats import EndpointPlayer
EndpointPlayer("gpt")
assert not {"torch", "transformers", "openai", "llm_envs"} & set(sys.modules)
print("done")
"""
    done = run_python("-c", code, cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr
