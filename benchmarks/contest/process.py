"""Who is timed, each in a process of its own that is asked in JSON and answers in JSON, a line each.

`benchmarks.train_step` and `benchmarks.sampler` run these modules; a user need not:

python -m benchmarks.contest.step_ours      steps of this project's trainer
python -m benchmarks.contest.step_trl       steps of TRL's
python -m benchmarks.contest.sampler_ours   this project's sampler, and transformers' generate()
python -m benchmarks.contest.sampler_vllm   vLLM's

It imports nothing but the standard library, for a peer may live in an environment of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parents[2]


class PeerError(RuntimeError):
    """A peer that does not run, or not in time; with the last of what it said."""


@dataclass
class StepSpec:
    """The steps that are timed, alike for all.

    Args:
        model: a folder.
        env_id: of the problems, as in `TimedStepEnv`.
        device: cpu or cuda.
        groups: problems a step.
        group_size: answers to each.
        max_tokens: of every answer: none stops before.
        steps: timed; one more comes first.
        lora_rank: of the adapter on all linear layers.
        seed: of sampling and of the adapter.
        tokens_per_microbatch: of ours; 0: the default.
        prompts: the opening messages of every problem, for a peer that has no environments.
        batch: of TRL, rows that are trained at once.
        attention: of TRL.
        checkpointing: of TRL: compute activations twice, to hold less of them.
    """

    model: str
    env_id: str
    device: str
    groups: int
    group_size: int
    max_tokens: int
    steps: int
    lora_rank: int
    seed: int = 0
    tokens_per_microbatch: int = 0
    prompts: list[list[dict[str, str]]] = field(default_factory=list)
    batch: int = 0
    attention: str = "sdpa"
    checkpointing: bool = False


@dataclass
class Step:
    """What a step took, and what was done in it.

    Args:
        seconds: of all.
        sampling: seconds of it.
        grading: seconds of it.
        training: seconds of it.
        rows: answers trained on.
        prompt_tokens: of all rows, a group's counted for each of them.
        sampled_tokens: of all rows.
        trained_tokens: of these, how many are in the loss.
        groups: of each group the tokens of its prompt, and of its answers.
    """

    seconds: float
    sampling: float
    grading: float
    training: float
    rows: int
    prompt_tokens: int
    sampled_tokens: int
    trained_tokens: int
    groups: list[tuple[int, list[int]]]


@dataclass
class Steps:
    """The timed steps of one contender, and with what."""

    steps: list[Step]
    trained_parameters: int
    peak_bytes: int
    versions: dict[str, str]


class Peer:
    """A process that is asked again and again.

    Args:
        module: of this package, run with `-m`.
        python: the interpreter.
        environment: variables over those of this process.

    Raises:
        PeerError: by `ask`.
    """

    def __init__(self, module: str, *, python: str = "", environment: Mapping[str, str] | None = None) -> None:
        # A file, for a pipe that nobody reads fills up and blocks its writer.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed in __exit__)
        self._name = module
        self._process = subprocess.Popen(
            [python or sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=ROOT,
            env={**os.environ, "TOKENIZERS_PARALLELISM": "false", **(environment or {})},
        )

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()  # it ends by itself then, and its own children with it
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()

    def ask(self, question: Mapping[str, Any], *, limit_seconds: float) -> dict[str, Any]:
        """What it answers.

        Raises:
            PeerError: when it fails, or says nothing for so long.
        """
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(question).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            raise PeerError(f"{self._name} failed: {self._said()}") from None
        if not select.select([process.stdout], [], [], max(0.0, limit_seconds))[0]:
            process.kill()
            raise PeerError(f"{self._name} took over {limit_seconds:.0f} s")
        reply = process.stdout.readline()
        if not reply:
            process.wait()
            raise PeerError(f"{self._name} failed: {self._said()}")
        found: dict[str, Any] = json.loads(reply)
        return found

    def _said(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return " | ".join(lines[-3:])[-600:] or "it said nothing"


def serve(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Answer every line of stdin with a line of stdout, until there is none."""
    # What a library prints must not come between the answers.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    with contextlib.suppress(OSError):  # where memory runs out, this process is the one to go
        Path("/proc/self/oom_score_adj").write_text("1000")
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=replies, flush=True)
    replies.close()


def steps_of(reply: Mapping[str, Any]) -> Steps:
    """From what a contender answered."""
    steps = [Step(**step) for step in reply["steps"]]
    return Steps(steps, reply["trained_parameters"], reply["peak_bytes"], reply["versions"])


def forget_peak(device: str) -> None:
    """On a GPU: count memory from now on."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats()


def peak_bytes(device: str) -> int:
    """Most memory that this process has held: of the GPU, or with it all of the CPU's."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.max_memory_allocated())
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def library_versions(names: Sequence[str]) -> dict[str, str]:
    """Of those that are installed."""
    from importlib import metadata

    found = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


class Stopwatch:
    """Seconds of parts of a step, by name; waits for the GPU before it looks at the clock."""

    def __init__(self, device: str) -> None:
        self._is_cuda = device.startswith("cuda")
        self.seconds: dict[str, float] = {}

    def now(self) -> float:
        """Seconds."""
        if self._is_cuda:
            import torch

            torch.cuda.synchronize()
        return time.perf_counter()

    @contextlib.contextmanager
    def counting(self, name: str) -> Any:
        """Count what the block takes."""
        started = self.now()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + self.now() - started

    def take(self) -> dict[str, float]:
        """What was counted since the last time."""
        found, self.seconds = self.seconds, {}
        return found
