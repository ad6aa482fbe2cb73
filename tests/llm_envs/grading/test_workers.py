"""Tests of the worker pool: deadlines, crashes, isolation, forks, and how workers end."""

import contextlib
import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import llm_envs
from llm_envs.grading import workers
from llm_envs.grading.workers import WorkerCrashedError, WorkerPool, WorkerTimeoutError

LINUX = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
FORK = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")

TARGETS = r"""
import os, re, resource, signal, subprocess, sys, time, warnings

NAP = os.environ.get("NAP_AT_IMPORT")
if NAP:
    time.sleep(float(NAP))

def echo(*args): return list(args)
def do(what, *args): return globals()[what](*args)
def pid(): return os.getpid()
def long(): return 10**1000
def nap(seconds): time.sleep(seconds); return os.getpid()
def note_and_nap(path, seconds): open(path, "a").write("run\n"); time.sleep(seconds)
def hang_in_c(): return bool(re.match("(a|a)*b", "a" * 60))
def fail(text): raise ValueError(text)
def recurse(): return recurse()
def leave(code): sys.exit(code)
def vanish(code): os._exit(code)
def eat(): return len(bytearray(1 << 40))
def segfault(): sys.stderr.write("first\nlast words\n"); sys.stderr.flush(); os.kill(os.getpid(), signal.SIGSEGV)
def chatter():
    print("x" * 100_000); os.write(1, b"y" * 100_000); sys.stderr.write("z" * 300_000)
    return sys.stdin.read()
def limits(): return [resource.getrlimit(resource.RLIMIT_AS), resource.getrlimit(resource.RLIMIT_CORE)]
def environment(*names): return [os.environ.get(name) for name in names]
def warn(): warnings.warn("a warning"); return len(warnings.filters) and os.getpid()
def stubborn(): signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)
def orphan(): subprocess.Popen(["sleep", "4"]); os._exit(4)
def safe_path(): return sys.flags.safe_path
def session(): return [os.getpid(), os.getsid(0)]
def path(): return sys.path
def modules(): return sorted(sys.modules)
def unjsonable(): return object()
def own_alarm(): signal.signal(signal.SIGALRM, lambda *_: None); signal.setitimer(signal.ITIMER_REAL, 0.05)
def odd_error():
    class OddError(Exception):
        def __str__(self): raise RuntimeError
    raise OddError
"""


@pytest.fixture
def targets(tmp_path, monkeypatch):
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "worker_targets.py").write_text(TARGETS)
    monkeypatch.syspath_prepend(folder)
    return folder


@pytest.fixture
def new_pool(targets):
    with contextlib.ExitStack() as stack:

        def make(target="worker_targets:do", **options):
            pool = WorkerPool(target, **options)
            stack.callback(pool.close)
            return pool

        yield make


def state(pid: int) -> str:
    """R, S, Z and so on; an empty string when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def ends(pid: int, *, within: float) -> bool:
    """A process without its parent may stay a zombie where init does not reap."""
    until = time.monotonic() + within
    while state(pid) not in ("", "Z") and time.monotonic() < until:
        time.sleep(0.01)
    return state(pid) in ("", "Z")


def children() -> set[int]:
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread may end while we look
            found.update(int(pid) for pid in (task / "children").read_text().split())
    return found


def in_thread(function: Callable[[], Any]) -> Callable[[], Any]:
    """Run in a new thread; a second call waits and gives what the function returned."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()

    def wait() -> Any:
        thread.join(timeout=30)
        return results[0]

    return wait


def run_script(text: str, *, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    # The tests may run from a source tree: PYTHONPATH shows the script where the package is.
    root = str(Path(llm_envs.__file__).parent.parent)
    paths = [root, environment.pop("PYTHONPATH", "")]
    environment = os.environ | environment | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", text]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60, check=False)


# -- answers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", [None, True, 1.5, "", "π\0\u202e", "\ud800 \udfff", [1, {"a": [None]}], 10**400, "x" * 3_000_000]
)
def test_values_pass_both_ways(new_pool, value):
    assert new_pool("worker_targets:echo").call(value, "end", timeout_seconds=20) == [value, "end"]


def test_one_worker_is_kept(new_pool):
    pool = new_pool()
    assert len({pool.call("pid", timeout_seconds=10) for _ in range(5)}) == 1
    assert pool.call("pid", timeout_seconds=10) != os.getpid()


def test_call_off_the_main_thread(new_pool):
    pool = new_pool(size=1)
    waits = [in_thread(lambda: pool.call("pid", timeout_seconds=10)) for _ in range(4)]
    assert {wait() for wait in waits} == {pool.call("pid", timeout_seconds=10)}


def test_call_many_keeps_the_order(new_pool):
    pool = new_pool("worker_targets:echo", size=3)
    assert pool.call_many([(i, str(i)) for i in range(200)], timeout_seconds=10) == [[i, str(i)] for i in range(200)]
    assert pool.call_many([], timeout_seconds=10) == []


def test_call_many_uses_all_workers(new_pool):
    pool = new_pool(size=3)
    assert len(set(pool.call_many([("nap", 0.3)] * 6, timeout_seconds=10))) == 3


class SlowToEncode(dict[str, int]):
    def items(self):
        time.sleep(1.2)
        return super().items()


def circle() -> list[Any]:
    items: list[Any] = []
    items.append(items)
    return items


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (object(), "TypeError: Object of type object is not JSON serializable"),
        (circle(), "ValueError: Circular reference detected"),
        (10**5000, "ValueError: Exceeds the limit (4300 digits)"),
    ],
    ids=["object", "circle", "digits"],
)
def test_a_job_that_cannot_be_sent(new_pool, value, text):
    pool = new_pool("worker_targets:echo", size=2)
    with pytest.raises(WorkerCrashedError) as caught:
        pool.call(value, timeout_seconds=10)
    assert str(caught.value).startswith(text)
    bad, good = pool.call_many([(value,), (1,)], timeout_seconds=10)
    assert isinstance(bad, WorkerCrashedError)
    assert str(bad).startswith(text)
    assert good == [1]


def test_an_answer_that_cannot_be_read(new_pool):
    pool = new_pool(size=1)
    limit = sys.get_int_max_str_digits()
    try:
        sys.set_int_max_str_digits(640)  # the worker has the usual limit
        with pytest.raises(WorkerCrashedError, match=r"ValueError: Exceeds the limit \(640 digits\)"):
            pool.call("long", timeout_seconds=10)
    finally:
        sys.set_int_max_str_digits(limit)
    assert pool.call("echo", 1, timeout_seconds=10) == [1]


@pytest.mark.parametrize("timeout_seconds", [0, -1, float("-inf"), float("nan")])
def test_senseless_timeouts_raise(new_pool, timeout_seconds):
    with pytest.raises(ValueError, match="timeout_seconds"):
        new_pool().call("pid", timeout_seconds=timeout_seconds)
    with pytest.raises(ValueError, match="timeout_seconds"):
        new_pool().call_many([], timeout_seconds=timeout_seconds)


@pytest.mark.parametrize(
    "timeout_seconds", [float("inf"), 10**400, 1e6 + 1, np.float32(9)], ids=["inf", "int", "1e6", "numpy"]
)
def test_long_timeouts_are_taken(new_pool, timeout_seconds):
    pool = new_pool()
    assert pool.call("echo", 1, timeout_seconds=timeout_seconds) == [1]
    assert pool.call("nap", 0.4, timeout_seconds=timeout_seconds) > 0  # waits twice: before it is late and after
    assert pool.call_many([("echo", 1)], timeout_seconds=timeout_seconds) == [[1]]


def test_senseless_size_raises():
    with pytest.raises(ValueError, match="size"):
        WorkerPool("a:b", size=0)


def test_descriptors_above_1023(new_pool):
    with contextlib.ExitStack() as stack:
        resource = pytest.importorskip("resource")
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if 0 <= hard < 1200:
            pytest.skip("not enough descriptors")
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1200), hard))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(1050)]
        for fd in taken:
            stack.callback(os.close, fd)
        assert max(taken) > 1023
        assert new_pool("worker_targets:echo").call("x" * 500_000, timeout_seconds=10) == ["x" * 500_000]


V1 = ("cpu.cfs_quota_us", "cpu.cfs_period_us")


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        (None, {}, 7),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000"}, 7),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "250000 100000"}, 3),
        ("0::/a/b\n", {"a/b/cpu.max": "200000 100000", "a/cpu.max": "300000 100000"}, 2),
        ("0::/a/b\n", {"a/b/cpu.max": "1000 100000"}, 1),
        ("0::/a/b\n", {"a/b/cpu.max": "900000 100000"}, 7),
        ("0::/of/the/host\n", {"cpu.max": "150000 50000"}, 3),
        ("0::/a\n", {"a/cpu.max": "what is this"}, 7),
        ("0::/a\n", {"b/cpu.max": "100000 100000"}, 7),
        ("2:cpu,cpuacct:/c\n0::/\n", {f"cpu/c/{V1[0]}": "400000", f"cpu/c/{V1[1]}": "100000"}, 4),
        ("1:cpu:/host/x:y\n", {f"cpu/{V1[0]}": "110000", f"cpu/{V1[1]}": "100000"}, 2),
        ("3:cpuset:/s\n", {f"cpu/s/{V1[0]}": "100000", f"cpu/s/{V1[1]}": "100000"}, 7),
        ("1:cpu:/\n0::/\n", {f"cpu/{V1[0]}": "-1", f"cpu/{V1[1]}": "100000"}, 7),
    ],
)
def test_the_cpu_quota_counts(monkeypatch, tmp_path, groups, files, cores):
    for path, text in files.items():
        (tmp_path / "groups" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / path).write_text(f"{text}\n")
    if groups is not None:
        (tmp_path / "own").write_text(groups)
    monkeypatch.setattr(workers, "_CGROUPS", tmp_path / "groups")
    monkeypatch.setattr(workers, "_OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(os, "process_cpu_count", lambda: 7, raising=False)
    assert WorkerPool("a:b")._size == cores
    assert WorkerPool("a:b", size=9)._size == 9


def test_which_cores_count(monkeypatch, tmp_path):
    monkeypatch.setattr(workers, "_OWN_CGROUPS", tmp_path / "none")
    monkeypatch.setattr(os, "process_cpu_count", lambda: 3, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {4, 5}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 9)
    assert WorkerPool("a:b")._size == 3
    monkeypatch.delattr(os, "process_cpu_count")
    assert WorkerPool("a:b")._size == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    assert WorkerPool("a:b")._size == 9
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert WorkerPool("a:b")._size == 1


# -- deadlines ---------------------------------------------------------------------------------------------------------


@LINUX
@pytest.mark.parametrize("job", [("nap", 60), ("hang_in_c",), ("stubborn",)])
def test_killed_at_the_deadline_and_replaced(new_pool, job):
    pool = new_pool(size=1)
    first = pool.call("pid", timeout_seconds=10)
    start = time.monotonic()
    with pytest.raises(WorkerTimeoutError, match=r"no answer within 0\.5 s"):
        pool.call(*job, timeout_seconds=0.5)
    assert 0.5 <= time.monotonic() - start < 1.0
    assert state(first) == ""
    assert pool.call("pid", timeout_seconds=10) != first


def test_start_up_does_not_count(new_pool, monkeypatch):
    monkeypatch.setenv("NAP_AT_IMPORT", "0.6")
    assert new_pool().call("nap", 0.2, timeout_seconds=0.5) > 0


def test_start_up_has_a_limit(new_pool, monkeypatch):
    monkeypatch.setenv("NAP_AT_IMPORT", "60")
    monkeypatch.setattr(workers, "_START_SECONDS", 0.4)
    with pytest.raises(WorkerCrashedError, match=r"not ready after 0\.4 s"):
        new_pool().call("pid", timeout_seconds=20)


def test_waiting_for_a_worker_does_not_count(new_pool):
    pool = new_pool(size=1)
    waits = [in_thread(lambda: pool.call("nap", 0.4, timeout_seconds=0.7)) for _ in range(3)]
    start = time.monotonic()
    assert len({wait() for wait in waits}) == 1
    assert time.monotonic() - start < 1.9  # who waits is woken


def test_a_spare_that_waited_for_long_is_ready(new_pool, monkeypatch):
    monkeypatch.setattr(workers, "_START_SECONDS", 0.8)
    pool = new_pool(size=1)
    pool.warm_up()
    time.sleep(1.0)  # ready in time, but nobody has looked
    assert pool.call("echo", 1, timeout_seconds=10) == [1]


def test_a_hung_job_does_not_hold_its_neighbours_up(new_pool):
    pool = new_pool(size=2)
    pool.call_many([("nap", 0.1)] * 2, timeout_seconds=10)
    start = time.monotonic()
    results = pool.call_many([("nap", 60), *[("nap", 0.01)] * 20], timeout_seconds=1.0)
    took = time.monotonic() - start
    assert isinstance(results[0], WorkerTimeoutError)
    assert results[0].__traceback__ is None  # its frames would keep the results alive
    assert all(isinstance(result, int) for result in results[1:])
    assert 1.0 <= took < 1.5


@LINUX
def test_a_hung_job_runs_once_though_the_parent_is_late(targets):
    # The parent stands still from before the deadline until after the worker's own alarm.
    script = (
        "import os, subprocess\n"
        "from llm_envs.grading.workers import WorkerPool\n"
        "pool = WorkerPool('worker_targets:do', size=1)\n"
        "pool.call('pid', timeout_seconds=10)\n"
        "stop = f'sleep 0.2; kill -STOP {os.getpid()}; sleep 1.5; kill -CONT {os.getpid()}'\n"
        "stopper = subprocess.Popen(['sh', '-c', stop])\n"
        "print(pool.call_many([('note_and_nap', 'notes', 60)], timeout_seconds=0.4)[0])\n"
        "stopper.wait()\n"
    )
    done = run_script(script, cwd=targets)
    assert (done.stdout, done.stderr) == ("no answer within 0.4 s\n", "")
    assert (targets / "notes").read_text() == "run\n"


@LINUX
def test_no_replacement_where_a_worker_is_free(new_pool):
    others = children()
    pool = new_pool(size=2)
    pids = set(pool.call_many([("nap", 0.1)] * 2, timeout_seconds=10))
    wait = in_thread(lambda: pool.call("nap", 1.0, timeout_seconds=10))
    time.sleep(0.7)
    assert children() - others == pids
    assert wait() in pids


@LINUX
def test_a_replacement_where_a_free_worker_is_wanted(new_pool):
    others = children()
    pool = new_pool(size=2)
    pool.call_many([("nap", 0.1)] * 2, timeout_seconds=10)
    # One job is late while the other's thread is about to ask for a worker.
    wait = in_thread(lambda: pool.call_many([("nap", 1.5), ("echo", SlowToEncode(a=1))], timeout_seconds=10))
    time.sleep(0.9)
    assert len(children() - others) == 3
    assert wait()[1] == [{"a": 1}]
    assert len(children() - others) == 2


@LINUX
def test_a_free_worker_that_has_ended_is_none(new_pool):
    others = children()
    pool = new_pool(size=2)
    pids = pool.call_many([("nap", 0.1)] * 2, timeout_seconds=10)
    wait = in_thread(lambda: pool.call("nap", 1.0, timeout_seconds=10))
    time.sleep(0.1)
    (idle,) = pool._idle
    os.kill(idle.process.pid, signal.SIGKILL)
    time.sleep(0.6)
    assert len(children() - others - set(pids)) == 1
    assert wait() in pids


@LINUX
def test_the_replacement_is_warm(new_pool, monkeypatch):
    monkeypatch.setenv("NAP_AT_IMPORT", "0.7")
    pool = new_pool(size=1)
    first = pool.call("pid", timeout_seconds=10)
    before = children()
    wait = in_thread(lambda: pool.call_many([("nap", 60)], timeout_seconds=1.6))
    time.sleep(0.15)
    assert children() == before  # no standing spare
    time.sleep(0.85)
    assert len(children()) == len(before) + 1
    assert isinstance(wait()[0], WorkerTimeoutError)
    start = time.monotonic()
    second = pool.call("pid", timeout_seconds=10)
    assert time.monotonic() - start < 0.3  # a cold one takes 0.7 s
    assert second != first
    assert len(children()) == len(before)


@LINUX
@pytest.mark.parametrize("nap_at_import", ["", "3"])
def test_at_most_size_workers_after_a_job_that_was_late_but_done(new_pool, monkeypatch, nap_at_import):
    others = children()
    pool = new_pool(size=2)
    pids = set(pool.call_many([("nap", 0.1)] * 2, timeout_seconds=10))
    monkeypatch.setenv("NAP_AT_IMPORT", nap_at_import)
    wait = in_thread(lambda: pool.call_many([("nap", 1.0)] * 2, timeout_seconds=10))
    time.sleep(0.7)
    assert len(children() - others) == 4  # two workers, two replacements
    assert set(wait()) == pids
    assert len(children() - others) == 2
    if nap_at_import:  # the ones that were still starting had to go
        assert children() - others == pids
    pool.call_many([("nap", 0.1)] * 4, timeout_seconds=10)
    assert len(children() - others) == 2


# -- crashes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("job", "text"),
    [
        (("fail", "bad \ud800"), "ValueError: bad \ud800"),
        (("fail", "x" * 10_000), "ValueError: " + "x" * 500),
        (("recurse",), "RecursionError: maximum recursion depth exceeded"),
        (("leave", 0), "SystemExit: 0"),
        (("unjsonable",), "TypeError: Object of type object is not JSON serializable"),
        (("no_such_job",), "KeyError: 'no_such_job'"),
        (("odd_error",), "OddError: (no text)"),
    ],
)
def test_an_exception_keeps_the_worker(new_pool, job, text):
    pool = new_pool(size=1)
    first = pool.call("pid", timeout_seconds=10)
    with pytest.raises(WorkerCrashedError) as caught:
        pool.call(*job, timeout_seconds=10)
    assert str(caught.value) == text
    assert pool.call("pid", timeout_seconds=10) == first


@pytest.mark.parametrize(
    ("job", "text"),
    [
        (("eat",), "MemoryError: the worker reached its memory limit"),
        (("segfault",), "the worker was killed by signal 11 (Segmentation fault): last words"),
        (("vanish", 3), "the worker exited with 3"),
        (("vanish", 0), "the worker exited with 0"),
        (("orphan",), "the worker exited with 4"),
    ],
)
def test_a_crash_replaces_the_worker(new_pool, job, text):
    pool = new_pool(size=1)
    first = pool.call("pid", timeout_seconds=10)
    start = time.monotonic()
    result, second = pool.call_many([job, ("pid",)], timeout_seconds=10)
    assert time.monotonic() - start < 3  # nor is an orphan that holds stderr waited for
    assert isinstance(result, WorkerCrashedError)
    assert str(result) == text
    assert second != first


def test_a_target_that_cannot_be_loaded(new_pool):
    with pytest.raises(WorkerCrashedError, match="could not start: ModuleNotFoundError: No module named 'no_such'"):
        new_pool("no_such:function").call(timeout_seconds=1)
    with pytest.raises(WorkerCrashedError, match=r"could not start: AttributeError: .*'nothing'"):
        new_pool("worker_targets:nothing").call(timeout_seconds=1)


def test_no_process_can_be_started(new_pool, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    pool = new_pool(size=1)
    pool.warm_up()
    for _ in range(2):  # the first failure gives its turn back
        with pytest.raises(WorkerCrashedError, match=r"no worker could be started: .*/no/such/python"):
            pool.call("pid", timeout_seconds=1)
    monkeypatch.setattr(sys, "executable", None)  # as in a program that embeds Python
    pool.warm_up()
    with pytest.raises(WorkerCrashedError, match="no worker could be started: TypeError"):
        pool.call("pid", timeout_seconds=1)


@pytest.mark.parametrize(("module", "name"), [("select", "poll"), ("signal", "SIGALRM"), ("signal", "pthread_sigmask")])
def test_not_a_posix_system(new_pool, monkeypatch, module, name):
    rest = {key: value for key, value in vars(getattr(workers, module)).items() if key != name}
    monkeypatch.setattr(workers, module, types.SimpleNamespace(**rest))  # pytest needs the real one
    pool = new_pool(size=2)
    pool.warm_up()
    results = pool.call_many([("pid",)] * 3, timeout_seconds=1)
    assert [str(result) for result in results] == ["the grader's workers need a POSIX system"] * 3


def test_import_where_all_of_posix_is_missing(targets):
    script = (
        "import gymnasium, os, select, signal  # what others import may need what is taken away here\n"
        "for module, name in [(select, 'poll'), (signal, 'SIGALRM'), (signal, 'setitimer'),\n"
        "                     (signal, 'pthread_sigmask'), (os, 'register_at_fork'), (os, 'sched_getaffinity')]:\n"
        "    if hasattr(module, name): delattr(module, name)\n"
        "from llm_envs.grading.workers import WorkerCrashedError, WorkerPool\n"
        "pool = WorkerPool('worker_targets:do')\n"
        "pool.warm_up()\n"
        "try: pool.call('pid', timeout_seconds=1)\n"
        "except WorkerCrashedError as error: print(error)\n"
    )
    done = run_script(script, cwd=targets)
    assert (done.stdout, done.stderr) == ("the grader's workers need a POSIX system\n", "")


@LINUX
def test_workers_that_died_idle_are_replaced(new_pool):
    pool = new_pool(size=2)
    pids = set(pool.call_many([("nap", 0.2)] * 2, timeout_seconds=10))
    assert len(pids) == 2
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        assert ends(pid, within=5)
    assert pool.call("pid", timeout_seconds=10) not in pids
    assert [state(pid) for pid in pids] == ["", ""]  # no zombies


@LINUX
def test_a_worker_ends_itself_when_idle(new_pool, monkeypatch):
    monkeypatch.setattr(workers, "_IDLE_SECONDS", 0.3)
    pool = new_pool(size=2)
    pids = pool.call_many([("nap", 0.2)] * 2, timeout_seconds=10)
    assert all(ends(pid, within=5) for pid in pids)
    monkeypatch.setattr(workers, "_IDLE_SECONDS", 300.0)
    assert pool.call("pid", timeout_seconds=10) not in pids
    assert [state(pid) for pid in pids] == ["", ""]


@LINUX
def test_dead_workers_that_are_not_needed_are_reaped(new_pool, monkeypatch):
    monkeypatch.setattr(workers, "_IDLE_SECONDS", 0.6)
    pool = new_pool(size=2)
    pids = pool.call_many([("nap", 0.2)] * 2, timeout_seconds=10)
    until = time.monotonic() + 2
    while time.monotonic() < until:
        last = pool.call("pid", timeout_seconds=10)
        time.sleep(0.1)
    assert last in pids
    assert sorted(state(pid) for pid in pids) == ["", "S"]


def test_a_large_job_to_a_worker_that_does_not_read(new_pool):
    pool = new_pool(size=1)
    first = pool.call("pid", timeout_seconds=10)
    os.kill(first, signal.SIGSTOP)
    with pytest.raises(WorkerTimeoutError):
        pool.call("echo", "x" * 3_000_000, timeout_seconds=0.5)
    assert pool.call("echo", 1, timeout_seconds=10) == [1]


def test_the_idle_alarm_may_ring_as_a_job_comes(new_pool, monkeypatch):
    pool = new_pool(size=1)
    first = pool.call("pid", timeout_seconds=10)
    os.kill(first, signal.SIGSTOP)  # takes the job only after its alarm has rung
    wait = in_thread(lambda: pool.call("pid", timeout_seconds=10))
    time.sleep(0.2)
    os.kill(first, signal.SIGALRM)
    os.kill(first, signal.SIGCONT)
    assert wait() != first


def test_an_interrupted_call_leaves_no_stale_answer(new_pool):
    class Interrupted(BaseException):
        pass

    def interrupt(*_):
        raise Interrupted

    pool = new_pool(size=2)
    first = pool.call("pid", timeout_seconds=10)
    before = signal.signal(signal.SIGALRM, interrupt)
    start = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(Interrupted):
            pool.call("nap", 0.5, timeout_seconds=10)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(Interrupted):
            pool.call_many([("nap", 0.5)] * 100, timeout_seconds=10)
        assert time.monotonic() - start < 5  # the other thread does not go on to the end
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert pool.call("echo", "new", timeout_seconds=10) == ["new"]
    assert pool.call("pid", timeout_seconds=10) != first


# -- isolation ---------------------------------------------------------------------------------------------------------


def test_output_and_input_stay_apart_from_the_protocol(new_pool):
    pool = new_pool(size=1)
    assert pool.call_many([("chatter",)] * 3, timeout_seconds=10) == ["", "", ""]


def test_memory_cap_and_no_core_dumps(new_pool):
    assert new_pool(memory_mb=700).call("limits", timeout_seconds=10) == [[700 << 20, 700 << 20], [0, 0]]


def test_environment(new_pool, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("OF_THE_PARENT", "kept")
    names = ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "OF_THE_PARENT"]
    assert new_pool().call("environment", *names, timeout_seconds=10) == ["1", "1", "", "kept"]


def test_warnings_are_off(new_pool, monkeypatch):
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    assert new_pool().call("warn", timeout_seconds=10) > 0


@LINUX
def test_ctrl_c_does_not_reach_a_worker(new_pool):
    pid, session = new_pool().call("session", timeout_seconds=10)
    assert session == pid != os.getsid(0)


def test_the_workers_path_is_the_parents(new_pool):
    path = new_pool().call("path", timeout_seconds=10)
    assert path == sys.path
    assert str(Path(workers.__file__).parent) not in path
    assert new_pool().call("safe_path", timeout_seconds=10) is True  # not in the moments before that either


@pytest.mark.parametrize("target", ["worker_targets:path", "llm_envs.worker_targets:path"])
def test_odd_entries_of_the_path(new_pool, targets, monkeypatch, target):
    before = list(sys.path)
    monkeypatch.setattr(sys, "path", [*before, Path("/a/path"), None, b"bytes", "/lone\udcff"])
    monkeypatch.setattr(llm_envs, "__path__", [*llm_envs.__path__, targets])
    pool = new_pool(target)
    pool.warm_up()
    assert pool.call(timeout_seconds=10) == [*before, "/a/path", "/lone\udcff"]


@pytest.mark.parametrize("through", ["the current folder", "PYTHONPATH"])
def test_importable_only_through(targets, tmp_path, through):
    script = (
        "import os\n"
        "from llm_envs.grading.workers import WorkerPool\n"
        "pool = WorkerPool('worker_targets:echo')\n"
        "print(pool.call(7, timeout_seconds=10))\n"
    )
    if through == "PYTHONPATH":
        done = run_script(script, cwd=tmp_path, PYTHONPATH=str(targets))
    else:
        done = run_script(script, cwd=targets)
    assert (done.stdout, done.stderr) == ("[7]\n", "")


def test_a_worker_of_ours_does_not_import_the_environments(new_pool, targets, monkeypatch):
    monkeypatch.setattr(llm_envs, "__path__", [*llm_envs.__path__, str(targets)])
    names = new_pool("llm_envs.worker_targets:modules").call(timeout_seconds=10)
    assert "llm_envs" in names
    assert "llm_envs.worker_targets" in names
    assert not {"numpy", "gymnasium", "llm_envs.registration"} & set(names)


def test_anothers_worker_may_import_the_package(new_pool, targets):
    (targets / "anothers.py").write_text("import llm_envs\ndef version(): return llm_envs.__version__\n")
    assert new_pool("anothers:version", memory_mb=4000).call(timeout_seconds=10) == llm_envs.__version__


# -- ends --------------------------------------------------------------------------------------------------------------


@LINUX
def test_close(new_pool):
    before = children()
    pool = new_pool(size=2)
    pool.call("pid", timeout_seconds=10)
    busy = in_thread(lambda: pool.call_many([("nap", 60)], timeout_seconds=60))
    time.sleep(0.1)
    assert children() != before
    pool.close()
    pool.close()
    assert isinstance(busy()[0], WorkerCrashedError)
    assert children() == before
    pool.warm_up()
    assert children() == before
    with pytest.raises(WorkerCrashedError, match="the worker pool is closed"):
        pool.call("pid", timeout_seconds=1)
    assert [str(result) for result in pool.call_many([("pid",)] * 3, timeout_seconds=1)] == [
        "the worker pool is closed"
    ] * 3


@LINUX
def test_warm_up_starts_one_worker_without_waiting(new_pool, monkeypatch):
    monkeypatch.setenv("NAP_AT_IMPORT", "0.5")
    before = children()
    pool = new_pool(size=2)
    start = time.monotonic()
    pool.warm_up()
    pool.warm_up()
    assert time.monotonic() - start < 0.3
    (pid,) = children() - before
    assert pool.call("pid", timeout_seconds=10) == pid


@LINUX
def test_warm_up_after_the_workers_have_ended(new_pool):
    others = children()
    pool = new_pool(size=2)
    pids = set(pool.call_many([("nap", 0.1)] * 2, timeout_seconds=10))
    for pid in pids:
        os.kill(pid, signal.SIGALRM)  # what the idle alarm does
        assert ends(pid, within=5)
    pool.warm_up()
    assert [state(pid) for pid in pids] == ["", ""]
    (pid,) = children() - others
    assert pool.call("pid", timeout_seconds=10) == pid


@LINUX
def test_a_forgotten_pool_takes_its_workers_along(targets):
    before = children()
    pool = WorkerPool("worker_targets:do", size=1)
    pool.call("pid", timeout_seconds=10)
    del pool
    assert children() == before


def test_a_program_that_never_closes_ends_clean(targets):
    script = (
        "import threading, time\n"
        "from llm_envs.grading.workers import WorkerPool\n"
        "pool = WorkerPool('worker_targets:do', size=2)\n"
        "print(pool.call_many([('nap', 0.1)] * 2, timeout_seconds=10)[0])\n"
    )
    done = run_script(script, cwd=targets)
    assert done.stderr == ""
    assert done.returncode == 0
    assert ends(int(done.stdout), within=0)


@LINUX
@pytest.mark.parametrize(
    ("job", "within"),
    [("pool.call('pid', timeout_seconds=10)", 1.0), ("pool.call('hang_in_c', timeout_seconds=1)", 2.5)],
)
def test_a_worker_ends_with_its_parent(targets, job, within):
    # The parent dies without a chance to clean up. A busy worker does not see its pipe close; its own alarm ends it.
    script = (
        "import os, signal, threading, time\n"
        "from llm_envs.grading.workers import WorkerPool\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])  # must not be inherited\n"
        "pool = WorkerPool('worker_targets:do', size=1)\n"
        "pool.call('own_alarm', timeout_seconds=10)  # a job's own handler must not stay\n"
        "print(pool.call('pid', timeout_seconds=10), flush=True)\n"
        f"threading.Thread(target=lambda: {job}).start()\n"
        "time.sleep(0.3)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = run_script(script, cwd=targets)
    assert done.returncode == -signal.SIGKILL
    assert ends(int(done.stdout), within=within)


# -- forks and daemons -------------------------------------------------------------------------------------------------


def open_pipes() -> set[str]:
    names = set()
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            names.add(str(fd.readlink()))
    return {name for name in names if name.startswith("pipe:")}


@LINUX
@FORK
@pytest.mark.parametrize("busy", [False, True])
def test_a_forked_child_starts_anew(new_pool, busy):
    without_pool = open_pipes()
    pool = new_pool(size=1)
    first = pool.call("pid", timeout_seconds=10)
    pipes = open_pipes() - without_pool
    assert len(pipes) == 3
    wait = in_thread(lambda: pool.call("nap", 0.5, timeout_seconds=10)) if busy else lambda: first
    time.sleep(0.1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)  # "subprocess 7 is still running"
        child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            assert not [warning for warning in caught if warning.category is ResourceWarning]
            assert not open_pipes() & pipes
            second = pool.call("pid", timeout_seconds=10)
            assert second != first
            with pytest.raises(WorkerTimeoutError):
                pool.call("nap", 60, timeout_seconds=0.3)
            pool.close()
            assert state(second) == ""
            assert state(first) in "SR"
            code = 0
        os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert wait() == first
    assert pool.call("pid", timeout_seconds=10) == first


@LINUX
@FORK
def test_forks_while_other_threads_start_and_end_workers(new_pool):
    pool = new_pool(size=2)
    stop = threading.Event()

    def churn():
        while not stop.is_set():
            with contextlib.suppress(WorkerCrashedError):
                pool.call("vanish", 1, timeout_seconds=10)
        return True

    without_pool = open_pipes()
    waits = [in_thread(churn) for _ in range(2)]
    try:
        for _ in range(30):
            child = os.fork()
            if child == 0:
                code = 1
                with contextlib.suppress(BaseException):
                    assert open_pipes() <= without_pool
                    code = 0
                os._exit(code)
            assert os.waitpid(child, 0)[1] == 0
            time.sleep(0.01)
    finally:
        stop.set()
    assert all(wait() for wait in waits)


class AskingEnv(gymnasium.Env):
    """Its reward is what a worker process says; ``POOL`` is made before the fork or on import."""

    observation_space = gymnasium.spaces.Discrete(2)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, pool: WorkerPool) -> None:
        self.pool = pool

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 0, {}

    def step(self, action):
        assert multiprocessing.current_process().daemon
        with pytest.raises(WorkerTimeoutError):
            self.pool.call("nap", 60, timeout_seconds=0.2)
        return 1, float(self.pool.call("echo", int(action) + 5, timeout_seconds=10)[0]), True, False, {}


@FORK
def test_in_gymnasiums_daemonic_workers(new_pool):
    pool = new_pool(size=1)
    pool.call("pid", timeout_seconds=10)
    envs = gymnasium.vector.AsyncVectorEnv([lambda: AskingEnv(pool)] * 2, context="fork")
    try:
        envs.reset(seed=0)
        assert envs.step([0, 1])[1].tolist() == [5.0, 6.0]
    finally:
        envs.close()
    assert pool.call("echo", 1, timeout_seconds=10) == [1]


def test_cheap_to_import():
    script = (
        "import sys, types\n"
        "sys.modules['llm_envs'] = package = types.ModuleType('llm_envs')\n"
        f"package.__path__ = {list(llm_envs.__path__)!r}\n"
        "import llm_envs.grading.workers\n"
        "print({'numpy', 'gymnasium', 'sympy', 'multiprocessing', 'asyncio'} & set(sys.modules))\n"
    )
    done = run_script(script, cwd=Path(workers.__file__).parent.parent.parent)
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_the_script_is_also_a_module():
    module = importlib.import_module("llm_envs.grading.worker_main")
    assert module.encode(["é", 1]) == b'\x00\x00\x00\x0d["\\u00e9", 1]'
    assert module.decode(module.encode(["é", 1])) == ["é", 1]
    assert [module.decode(module.encode("ab")[:n]) for n in range(8)] == [None] * 8


@pytest.mark.parametrize(
    ("seconds", "waited", "left"),
    [
        (1.0, 0.0, 1.0),
        (1.0, 0.1, 1.0),
        (1.0, 0.3, 0.8),
        (1.0, 0.6, 0.5),
        (1.0, 0.7, 1.0),
        (1.0, 9.0, 1.0),
        (0.1, 0.3, 0.1),
    ],
)
def test_a_start_is_taken_off_where_it_is_quick(seconds, waited, left):
    assert workers._seconds_left(seconds, waited) == pytest.approx(left)
