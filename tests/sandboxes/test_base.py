"""The protocol: what a job may be, and what comes for free; with the fake sandbox."""

import asyncio
import subprocess
import sys
import threading
import time

import pytest

import sandboxes
from sandboxes import BACKENDS, MAX_OUTPUT_BYTES, Job, RunResult, SandboxUnavailableError, Status, make
from sandboxes.fake import FakeSandbox, ended


def test_status_is_a_closed_vocabulary_of_strings():
    assert [str(status) for status in Status] == ["ok", "error", "timeout", "memory", "output_limit", "infra_error"]
    assert Status("timeout") is Status.TIMEOUT
    assert MAX_OUTPUT_BYTES == 1_048_576


def test_the_defaults_of_a_job():
    assert Job("x") == Job(code="x", stdin="", files={}, timeout_seconds=2.0, memory_mb=256)


@pytest.mark.parametrize("timeout", [0, -1.0, float("inf"), float("nan")])
def test_a_timeout_is_finite_and_above_0(timeout):
    with pytest.raises(ValueError, match="timeout_seconds must be finite and above 0"):
        Job("", timeout_seconds=timeout)


@pytest.mark.parametrize("memory", [15, 0, -1, 256.0, True, "256"])
def test_memory_is_an_integer_of_at_least_16(memory):
    with pytest.raises(ValueError, match="memory_mb must be an integer of at least 16"):
        Job("", memory_mb=memory)
    assert Job("", memory_mb=16).memory_mb == 16


@pytest.mark.parametrize(
    "name", ["", ".", "..", "/etc/passwd", "../x", "a/../b", "a/..", "a\0b", "a//b", "./a", "a/", "a/./b"]
)
def test_names_of_files_that_are_refused(name):
    with pytest.raises(ValueError, match="plain relative path"):
        Job("", files={name: ""})


@pytest.mark.parametrize("name", ["a", "a/b/c.txt", "..a", "a..b", ".hidden", "a b", "é", "-rf"])
def test_names_of_files_that_are_not(name):
    assert Job("", files={name: b"x"}).files == {name: b"x"}


@pytest.mark.parametrize(
    "arguments", [{"code": b""}, {"code": "", "stdin": b""}, {"code": "", "files": {"a": 1}}, {"code": None}]
)
def test_wrong_types(arguments):
    with pytest.raises(TypeError):
        Job(**arguments)


def test_unknown_backends():
    with pytest.raises(ValueError, match=r"unknown sandbox 'gvisor'; known: auto, local, docker, fusion, modal"):
        make("gvisor")
    assert list(BACKENDS) == ["local", "docker", "fusion", "modal"]


def test_auto_takes_the_strongest_that_works(monkeypatch):
    works: set[str] = set()

    def backend(name):
        def made(*, tier="", preload=()):
            if name + tier not in works:
                raise SandboxUnavailableError(f"no {tier or 'engine'} on this machine")
            return FakeSandbox([f"{name} {tier} {preload}"])

        return made

    monkeypatch.setattr(sandboxes, "_backend", backend)
    reasons = (
        "local: no namespaces on this machine; docker: no engine on this machine; local: no landlock on this machine"
    )
    with pytest.raises(SandboxUnavailableError, match=f"no sandbox works here; {reasons}"):
        make("auto")
    for name, said in (("local landlock", "local landlock ()"), ("docker", "docker  ()"), ("local namespaces", "")):
        works.add(name.replace(" ", ""))
        assert make().run("").stdout == (said or "local namespaces ()")
    assert make("auto", preload=("numpy",)).run("").stdout == "local namespaces ('numpy',)"


def test_run_passes_everything_on():
    with FakeSandbox(["out"]) as sandbox:
        result = sandbox.run("code", stdin="in", files={"a": "b"}, timeout_seconds=1.5, memory_mb=64)
    assert result == RunResult(Status.OK, "out", "", 0, 0.0)
    assert sandbox.jobs == [Job("code", "in", {"a": "b"}, 1.5, 64)]
    assert sandbox.closed


def test_coroutines_run_elsewhere():
    sandbox = FakeSandbox(lambda job: str(threading.get_ident()))
    result = asyncio.run(sandbox.arun("code", stdin="in", timeout_seconds=3.0))
    assert result.stdout != str(threading.get_ident())
    assert sandbox.jobs == [Job("code", "in", {}, 3.0, 256)]


def test_run_many_is_in_order_and_bounded():
    lock = threading.Lock()
    running, most = 0, 0

    def answer(job):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.03 if job.code == "0" else 0.01)
        with lock:
            running -= 1
        return job.code

    sandbox = FakeSandbox(answer)
    results = sandbox.run_many([Job(str(number)) for number in range(9)], concurrency=3)
    assert [result.stdout for result in results] == [str(number) for number in range(9)]
    assert most == 3
    most = 0
    sandbox.run_many([Job("1"), Job("2")])
    assert most == sandbox.concurrency == 1
    assert sandbox.run_many([]) == []
    with pytest.raises(ValueError, match="concurrency must be at least 1, got 0"):
        sandbox.run_many([Job("1")], concurrency=0)


def test_a_session_asks_each_time():
    sandbox = FakeSandbox(lambda job: job.stdin.upper())
    with sandbox.session("code", files={"a": "b"}, memory_mb=64) as session:
        assert session.run("x", timeout_seconds=0.5).stdout == "X"
        assert session.run().stdout == ""
    assert sandbox.jobs == [Job("code", "x", {"a": "b"}, 0.5, 64), Job("code", "", {"a": "b"}, 2.0, 64)]


def test_the_fake_plays_its_script():
    timeout = ended("timeout", "before", seconds=2.0)
    sandbox = FakeSandbox(["first", timeout])
    assert sandbox.run("").stdout == "first"
    assert sandbox.run("") is timeout
    assert timeout == RunResult(Status.TIMEOUT, "before", "", -9, 2.0)
    assert sandbox.calls == 2
    with pytest.raises(AssertionError, match="call 3 of a FakeSandbox whose script is 2 long"):
        sandbox.run("")
    sandbox.close()
    with pytest.raises(RuntimeError, match="closed"):
        sandbox.run("")


def test_the_results_of_the_fake_have_the_exit_codes_of_real_ones():
    codes = {str(status): ended(status).exit_code for status in Status}
    assert codes == {"ok": 0, "error": 1, "timeout": -9, "memory": 1, "output_limit": -9, "infra_error": None}


def test_it_is_importable_alone():
    code = (
        "import sys, sandboxes, sandboxes.fake\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} - sys.stdlib_module_names - {'__main__'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded = eval(done.stdout)
    assert "sandboxes" in loaded
    assert not set(loaded) & {"llm_envs", "trainers", "gymnasium", "numpy", "torch", "docker", "modal", "grpclib"}
