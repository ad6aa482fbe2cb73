"""A made-up endpoint over real HTTP: what is asked of it, what is made of its answers, what is tried again."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import gymnasium as gym
import pytest

from trainers.chats import EndpointPlayer, chat_groups
from trainers.environments import Breakage, BrokenEnvironmentError, EnvPool
from trainers.evaluate import summarize
from trainers.rollouts import RolloutClock, RolloutSettings
from trainers.sampling.endpoint import Endpoint, EndpointError, EndpointRefusedError
from trainers.sampling.openai_sampler import OPENAI_URL, ChatEndpoint, Reply
from trainers.trajectories import Trajectory

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
    for answer in ({}, [], {"choices": []}, {"choices": [None]}, {"choices": [{"message": None}]}, 3):
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
            Endpoint(server.url, **options)  # type: ignore[arg-type]
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


# --- Episodes ---


def guessing(**options: Any) -> EnvPool[Any]:
    return EnvPool(lambda: gym.make("llm_envs:GuessNumber-v0", low=1, high=6, max_guesses=3, **options), "guess")


def halving(body: dict[str, Any]) -> Answer:
    """Guesses 4, then 2 or 6: what an assistant said before stands in the chat."""
    guesses = [m["content"] for m in body["messages"] if m["role"] == "assistant"]
    if not guesses:
        return said("4")
    return said({"low": "6", "high": "2"}["low" if "higher" in body["messages"][-1]["content"].lower() else "high"])


def play(
    pool: EnvPool[Any], server: MadeUpServer, *, settings: RolloutSettings = SETTINGS, **options: Any
) -> list[Trajectory]:
    groups = chat_groups(
        pool, speaker(server), seeds=[0] * 3, settings=settings, options=[{"index": i} for i in (3, 1, 5)], **options
    )
    return [trajectory for group in groups for trajectory in group.trajectories]


def test_episodes_are_chats(server):
    server.answer = halving
    clock = RolloutClock()
    played = play(guessing(), server, clock=clock)
    assert [[turn.action for turn in t.turns] for t in played] == [["4"], ["4", "2"], ["4", "6"]]
    assert [t.verdict for t in played] == ["correct"] * 3
    assert [[turn.num_tokens for turn in t.turns] for t in played] == [[2], [2, 2], [2, 2]]
    assert [len(t.observations) for t in played] == [2, 3, 3]
    assert played[0].tokens == []
    second = next(body["messages"] for body in server.bodies if len(body["messages"]) > len(played[0].messages))
    assert second[: len(played[1].messages)] == [dict(message) for message in played[1].messages]
    assert [m["role"] for m in second[-2:]] == ["assistant", "user"]
    assert summarize(played)["verdict_correct"] == 1.0
    assert clock.sampling_seconds > 0
    assert clock.env_seconds > 0
    assert {body["max_tokens"] for body in server.bodies} == {9}


def test_groups_and_waves(server):
    server.answer = halving
    settings = RolloutSettings(group_size=2, max_tokens=9, temperature=1.0, context_length=0, max_rows=4)
    groups = list(
        chat_groups(
            guessing(), speaker(server), seeds=[5, 6, 7], settings=settings, options=[{"index": 3}] * 3, sampling_seed=1
        )
    )
    assert [(group.seed, group.task, len(group.trajectories)) for group in groups] == [
        (s, "guess", 2) for s in (5, 6, 7)
    ]
    assert server.most_at_once <= 4
    assert len({body["seed"] for body in server.bodies}) == 6


def test_an_answer_that_does_not_come_is_nobodys_mistake(server):
    index_of_failure = iter(range(100))
    server.answer = lambda body: (400, {}) if next(index_of_failure) == 1 else said("4")
    breakage = Breakage()
    played = [
        t
        for group in chat_groups(
            guessing(), speaker(server, max_concurrency=1), seeds=[0, 1, 2], settings=SETTINGS,
            options=[{"index": 3}] * 3, breakage=breakage,
        )
        for t in group.trajectories
    ]  # fmt: skip
    assert [t.is_scorable for t in played] == [True, False, True]
    assert "HTTP 400" in played[1].failure
    assert [broken.seed for broken in breakage.take()] == [1]
    assert summarize(played)["unscorable_share"] == pytest.approx(1 / 3)
    assert summarize(played)["return_mean"] == played[0].total_reward


def test_an_outage_ends_it_with_the_reason(server):
    server.answer = lambda body: (500, b"on fire")
    seeds = range(12)
    with pytest.raises(BrokenEnvironmentError, match=r"10 problems in a row.*HTTP 500: on fire, 3 times"):
        list(chat_groups(guessing(), speaker(server), seeds=seeds, settings=SETTINGS))
    server.answer = lambda body: (404, b"no such model")
    with pytest.raises(EndpointRefusedError, match="no such model"):
        list(chat_groups(guessing(), speaker(server), seeds=seeds, settings=SETTINGS))


class Fragile(gym.Env[str, str]):
    """Breaks where it is told to; hears beforehand what is coming."""

    def __init__(self, where: str) -> None:
        self.where, self.heard = where, []  # type: ignore[var-annotated]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        if self.where == "reset":
            raise OSError("broken")
        return "say something", {}

    def prepare(self, action: str) -> None:
        self.heard.append(action)
        if self.where == "prepare":
            raise OSError("broken")

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        assert self.heard == [action]
        if self.where == "step":
            raise OSError("broken")
        reward = float("nan") if self.where == "reward" else 1.0
        return (
            "",
            reward,
            True,
            self.where == "truncated",
            {"verdict": "unscorable" if self.where == "verdict" else "correct"},
        )


@pytest.mark.parametrize(
    ("where", "failure"),
    [
        ("prepare", "OSError: broken"),
        ("step", "OSError: broken"),
        ("reward", "ValueError: step gave the reward nan"),
        ("verdict", "verdict unscorable: the environment could not judge the action"),
    ],
)
def test_an_environment_that_breaks_ends_its_episode(server, where, failure):
    [group] = chat_groups(EnvPool(lambda: Fragile(where)), speaker(server), seeds=[0], settings=SETTINGS)
    [trajectory] = group.trajectories
    assert not trajectory.is_scorable
    assert trajectory.failure == failure
    assert [turn.action for turn in trajectory.turns] == ["hello"]


def test_an_environment_that_does_not_begin_gives_no_group(server):
    breakage = Breakage()
    pool: EnvPool[Any] = EnvPool(lambda: Fragile("reset"))
    assert list(chat_groups(pool, speaker(server), seeds=[0], settings=SETTINGS, breakage=breakage)) == []
    assert [broken.reason for broken in breakage.take()] == ["OSError: broken"]
    assert server.bodies == []


def test_an_end_from_outside_is_told_apart(server):
    [group] = chat_groups(EnvPool(lambda: Fragile("truncated")), speaker(server), seeds=[0], settings=SETTINGS)
    assert [turn.stop_reason for turn in group.trajectories[0].turns] == ["env"]


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
