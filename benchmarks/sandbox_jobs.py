r"""What is measured of one sandbox, in a process of its own, so that it can be another user's and start out small.

python -m benchmarks.sandbox_jobs '{"measure": "jobs", "options": {"name": "local"}, "jobs": 300, "concurrency": 2}'

`benchmarks.sandbox_latency` runs these and reads the JSON that they print; a user need not. Standard library only, but
for `judge`, which needs `llm_envs`.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sandboxes
from sandboxes import Job, Sandbox, SandboxUnavailableError, Status

WARM_UP = 20
TESTS = 20  # of the solution that is judged
_SOAK_WARM_UP = 500  # until buffers and allocators have seen the worst of every kind
_SETTLE_SECONDS = 0.5
_PR_SET_CHILD_SUBREAPER = 36

ADD = "a, b = map(int, input().split())\nprint(a + b)\n"
"""The job of all timings: reads, computes and writes next to nothing."""


# --- Times ---


def time_calls(call: Callable[[int], None], count: int, concurrency: int) -> dict[str, Any]:
    """The `seconds` of each call, and of all of them (`wall`), from so many threads; each is told its number."""
    seconds = [0.0] * count

    def timed(i: int) -> None:
        started = time.perf_counter()
        call(i)
        seconds[i] = time.perf_counter() - started

    # One for all threads, and not a future for each call: ten thousand of them would look like growth in a soak.
    numbers = iter(range(count))

    def work() -> None:
        for i in numbers:
            timed(i)

    started = time.perf_counter()
    if concurrency == 1:
        work()
    else:
        with ThreadPoolExecutor(concurrency) as pool:
            for worker in [pool.submit(work) for _ in range(concurrency)]:
                worker.result()
    return {"seconds": seconds, "wall": time.perf_counter() - started}


def measure_jobs(options: dict[str, Any], jobs: int, concurrency: int) -> dict[str, Any]:
    """Warm jobs of a sandbox. One that comes out wrong ends the measurement: its time would say nothing."""
    with sandboxes.make(**options) as sandbox:

        def run(i: int) -> None:
            result = sandbox.run(ADD, stdin=f"{i} 1\n")
            if (result.status, result.stdout) != (Status.OK, f"{i + 1}\n"):
                raise RuntimeError(f"a plain job came out wrong: {result}")

        time_calls(run, WARM_UP, concurrency)
        return {**time_calls(run, jobs, concurrency), "describe": sandbox.describe()}


def measure_session(options: dict[str, Any], solutions: int) -> dict[str, Any]:
    """Sessions of `TESTS` runs each, beginning and end included."""
    with sandboxes.make(**options) as sandbox:

        def run_all(i: int) -> None:
            with sandbox.session(ADD) as session:
                for test in range(TESTS):
                    result = session.run(f"{i} {test}\n")
                    if (result.status, result.stdout) != (Status.OK, f"{i + test}\n"):
                        raise RuntimeError(f"a plain run came out wrong: {result}")

        time_calls(run_all, 2, 1)
        return {**time_calls(run_all, solutions, 1), "describe": sandbox.describe()}


def measure_judge(options: dict[str, Any], solutions: int) -> dict[str, Any]:
    """Right solutions of a problem with `TESTS` hidden tests, judged as a training run has it done: `env.step`."""
    import gymnasium as gym

    import llm_envs  # noqa: F401 (registers)

    if "DeepCoder-v0" not in gym.registry:
        raise SandboxUnavailableError("llm_envs has no DeepCoder-v0")
    tests = [{"input": f"{i} {i + 1}\n", "output": f"{2 * i + 1}\n", "testtype": "stdin"} for i in range(TESTS)]
    rows = [{"problem": "Print the sum of two numbers.", "tests": json.dumps(tests)}]
    with sandboxes.make(**options) as sandbox:
        env = gym.make("DeepCoder-v0", data=rows, sandbox=sandbox)
        seconds = []
        for i in range(solutions + 2):
            env.reset(options={"index": 0})
            answer = f"```python\n# solution {i}\n{ADD}```"  # no two the same, in case that verdicts are kept
            started = time.perf_counter()
            info = env.step(answer)[4]
            seconds.append(time.perf_counter() - started)
            if info["verdict"] != "correct":
                raise RuntimeError(f"a right solution was judged {info}")
        env.close()
        seconds = seconds[2:]
        return {"seconds": seconds, "wall": sum(seconds), "describe": sandbox.describe()}


# --- Peers ---


def bubblewrap_command(code: str) -> list[str]:
    """A program under bubblewrap with all namespaces and the least that it can be asked to set up besides."""
    wrap = ["bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", "/", "/", "--tmpfs", "/tmp", "--chdir", "/tmp"]
    return [*wrap, sys.executable, "-I", "-S", "-c", code]


def measure_bubblewrap(jobs: int, concurrency: int) -> dict[str, Any]:
    """A fresh bubblewrap and a fresh Python, without its site packages, for every job."""
    command = bubblewrap_command(ADD)

    def run(i: int) -> None:
        done = subprocess.run(command, input=f"{i} 1\n", capture_output=True, text=True, check=False)
        if done.stdout != f"{i + 1}\n":
            raise RuntimeError(f"bubblewrap failed: {done.stderr.strip()[-500:]}")

    try:
        time_calls(run, 3, concurrency)
    except FileNotFoundError as error:
        raise SandboxUnavailableError("bubblewrap is not installed") from error
    return {**time_calls(run, jobs, concurrency), "describe": "bwrap --unshare-all, fresh Python"}


# In a Python of its own: what a fork costs grows with the memory of the process that forks.
_FORK = """
import json, os, sys, time
seconds = []
begun = time.perf_counter()
for _ in range(int(sys.argv[1])):
    started = time.perf_counter()
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    seconds.append(time.perf_counter() - started)
print(json.dumps({"seconds": seconds, "wall": time.perf_counter() - begun, "describe": "fork, _exit, wait"}))
"""


def measure_fork(jobs: int) -> dict[str, Any]:
    """The floor: forks of a bare Python that end at once, without isolation, code or output."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _FORK, str(jobs)], capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


# --- Soak ---


@dataclass(frozen=True)
class Footprint:
    """What a process and all below it hold."""

    memory_kb: int
    descriptors: int
    processes: int
    mounts: int


def footprint(root: int | None = None) -> Footprint:
    """Of the process `root` (this one) with its descendants; mounts: those that it sees."""
    root = os.getpid() if root is None else root
    pids = _tree(root)
    memory = descriptors = 0
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):
            memory += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") // 1024
            descriptors += _descriptors(pid)
    with Path(f"/proc/{root}/mountinfo").open() as file:
        mounts = sum(1 for _ in file)
    return Footprint(memory, descriptors, len(pids), mounts)


def _tree(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(FileNotFoundError, ProcessLookupError):
                # A name may hold blanks and brackets: what follows the last bracket is state and parent.
                parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
                children.setdefault(int(parent), []).append(int(folder.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def _descriptors(pid: int) -> int:
    try:
        # The folder that lists them is itself open while it is read.
        return len(os.listdir(f"/proc/{pid}/fd")) - (pid == os.getpid())  # noqa: PTH208 (no object for each)
    except PermissionError:
        return Path(f"/proc/{pid}/fd").stat().st_size  # the kernel's count, since 6.2; 0 before


def soak_job(i: int) -> tuple[str, Job, Status]:
    """A job of the soak, its kind, and how it must end: of each hundred five that misbehave, each in another way."""
    kinds: dict[int, tuple[str, Job, Status]] = {
        0: ("raises", Job("raise ValueError('no')"), Status.ERROR),
        1: ("memory", Job("x = bytearray(1 << 36)"), Status.MEMORY),
        2: ("output", Job("while True: print('x' * 65536)"), Status.OUTPUT_LIMIT),
        3: ("endless", Job("while True: pass", timeout_seconds=0.1), Status.TIMEOUT),
        4: ("files", Job("open('b', 'w').write(open('a').read())", files={"a": "x" * 4096}), Status.OK),
        5: ("kills itself", Job("import os; os.kill(os.getpid(), 11)"), Status.ERROR),
    }
    return kinds.get(i % 100, ("plain", Job(ADD, stdin=f"{i} 1\n"), Status.OK))


def measure_soak(options: dict[str, Any], jobs: int, concurrency: int) -> dict[str, Any]:
    """Many jobs, some of them bad: the footprint after a warm-up, at the end, and with the sandbox closed."""
    _adopt_orphans()
    bare = footprint()
    unexpected: Counter[str] = Counter()
    with sandboxes.make(**options) as sandbox:
        run = _soak_call(sandbox, unexpected)
        time_calls(run, max(_SOAK_WARM_UP, jobs // 10), concurrency)
        time.sleep(_SETTLE_SECONDS)
        before = footprint()
        found = time_calls(run, jobs, concurrency)
        time.sleep(_SETTLE_SECONDS)
        after = footprint()
        describe = sandbox.describe()
    time.sleep(_SETTLE_SECONDS)
    prints = {"bare": bare, "before": before, "after": after, "closed": footprint()}
    return {
        **found,
        **{name: asdict(taken) for name, taken in prints.items()},
        "unexpected": dict(unexpected),
        "describe": describe,
    }


def _soak_call(sandbox: Sandbox, unexpected: Counter[str]) -> Callable[[int], None]:
    def run(i: int) -> None:
        kind, job, wanted = soak_job(i)
        result = sandbox.run_job(job)
        if result.status != wanted:
            unexpected[f"{kind}: {result.status}"] += 1

    return run


def _adopt_orphans() -> None:
    """Let processes that lost their parent come to this one, where `footprint` sees them."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "PR_SET_CHILD_SUBREAPER")


# --- The process ---


def measure(what: str, **arguments: Any) -> dict[str, Any]:
    """Measure one thing.

    Returns:
        What the measurement found; `{"unavailable": reason}` where the sandbox cannot be had here.
    """
    measures: dict[str, Callable[..., dict[str, Any]]] = {
        "jobs": measure_jobs,
        "session": measure_session,
        "judge": measure_judge,
        "bubblewrap": measure_bubblewrap,
        "fork": measure_fork,
        "soak": measure_soak,
    }
    try:
        found = measures[what](**arguments)
    except (SandboxUnavailableError, ModuleNotFoundError) as error:
        return {"unavailable": str(error)}
    return {**found, "python": platform.python_version()}


if __name__ == "__main__":
    request = json.loads(sys.argv[1])
    print(json.dumps(measure(request.pop("measure"), **request)))
