"""What the tests of an evaluation share: a model that knows little, an endpoint that adds up, and settings for both."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import gymnasium as gym

from trainers.evaluation import EvalConfig
from trainers.tiny_model import build_tiny_model, save_model

ENV = "llm_envs:Arithmetic-v0"
ENV_ARGS: dict[str, Any] = {"low": 0, "high": 1}


def save_guesser(folder: Path) -> None:
    """A model that says two words of chance, boxes among them, and is right now and then."""
    env = gym.make(ENV, **ENV_ARGS)
    questions = [env.reset(seed=seed)[0] for seed in range(20)]
    boxes = [rf"\boxed{{{n}}}" for n in range(3)]
    save_model(*build_tiny_model([*boxes, *questions], seed=0, hidden_size=32, num_heads=2), folder)


def config_of(model: Path, out: Path, **changes: Any) -> EvalConfig:
    """20 sums, each answered greedily and four times by chance: a wave of 20, and then waves of six problems."""
    settings: dict[str, Any] = {
        "model": str(model), "env": (ENV,), "env_args": (json.dumps(ENV_ARGS),), "problems": 20, "samples": 4,
        "max_tokens": 2, "max_rows": 24, "device": "cpu", "dtype": "float32", "out": out,
    }  # fmt: skip
    return EvalConfig(**{**settings, **changes})


def written(config: EvalConfig) -> list[dict[str, Any]]:
    """The records in the folder."""
    return [json.loads(line) for line in (config.out / "episodes.jsonl").read_text().splitlines()]


class Calculator(BaseHTTPRequestHandler):
    """An endpoint that adds up, and at a temperature above 0 says 0. What it is asked to `choke` on it refuses."""

    choke = ""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = asked["messages"][-1]["content"]
        numbers = map(int, re.findall(r"\d+", question.split("?")[0]))
        said = rf"\boxed{{{0 if asked['temperature'] else sum(numbers)}}}"
        body = json.dumps({"choices": [{"message": {"content": said}, "finish_reason": "stop"}]}).encode()
        is_choking = bool(self.choke) and self.choke in question
        self.send_response(400 if is_choking else 200 if asked["model"] == "calculator" else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any):
        pass


@contextlib.contextmanager
def serving() -> Iterator[str]:
    """The address of a calculator."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Calculator) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            thread.join()
