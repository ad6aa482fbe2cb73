"""The modal backend: Modal's own client against a local server built on the stubs in its wheel."""

import os
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

import sandboxes
from sandboxes.base import Job, SandboxUnavailableError, Status
from tests.sandboxes.conformance import SandboxConformance

modal = pytest.importorskip("modal")
from grpclib.const import Status as Grpc  # noqa: E402

from sandboxes.modal import ModalSandbox, _Pace  # noqa: E402
from tests.sandboxes.modal_server import ModalServer, readable_python  # noqa: E402


@pytest.fixture(scope="module")
def server():
    with ModalServer() as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    from modal_proto import api_pb2

    with modal.Client(server.url, api_pb2.CLIENT_TYPE_CLIENT, ("ak-test", "as-test")) as client:
        yield client


@pytest.fixture
def make(client):
    made = []

    def make(**options) -> ModalSandbox:
        options = {"concurrency": 1, "creations_per_second": 1000.0, "backoff_seconds": 0.01, **options}
        made.append(ModalSandbox(client=client, drop_root=readable_python() is not None, **options))
        return made[-1]

    yield make
    for sandbox in made:
        sandbox.close()


@pytest.fixture
def sandbox(make):
    return make()


def test_program(sandbox):
    result = sandbox.run("import sys\nprint(sys.argv, input())", stdin="hé\n")
    assert (result.status, result.stdout, result.stderr, result.exit_code) == ("ok", "['main.py'] hé\n", "", 0)


def test_what_is_asked_of_modal(server, make):
    before = len(server.created)
    make(cpu=0.5, memory_mb=512, lifetime_seconds=1200)
    assert len(server.created) == before + 1
    definition = server.created[-1]
    assert definition.network_access.network_access_type == definition.network_access.BLOCKED
    assert (definition.resources.milli_cpu, definition.resources.milli_cpu_max) == (500, 500)
    assert (definition.resources.memory_mb, definition.resources.memory_mb_max) == (512, 512)
    assert (definition.timeout_secs, definition.idle_timeout_secs) == (1200, 600)


def test_code_goes_through_stdin(server, sandbox):
    code = "#" * 3_000_000 + "\nprint(input())"
    assert sandbox.run(code, stdin="secret").stdout == "secret\n"
    assert sum(map(len, server.commands[-1])) < 1 << 16
    assert not any("secret" in word for word in server.commands[-1])
    assert server.timeouts[-1] == 5


@pytest.mark.skipif(os.geteuid() != 0 or not readable_python(), reason="needs root and a Python for everybody")
def test_each_program_is_a_user_that_nobody_was_before(sandbox):
    code = "import os; print(os.getresuid(), os.getresgid(), os.getgroups())"
    seen = [sandbox.run(code).stdout for _ in range(2)]
    assert seen[0] != seen[1]
    assert "(0," not in seen[0] + seen[1]
    assert "[]" in seen[0]


@pytest.mark.skipif(os.geteuid() != 0 or not readable_python(), reason="needs root and a Python for everybody")
def test_nothing_is_left_for_the_next_program(server, sandbox):
    code = """
import os, sys, time
open('/tmp/left-for-the-next', 'w').close()
os.makedirs('/dev/shm/left/deep')
if not os.fork():
    os.setsid()
    if not os.fork():
        time.sleep(60)
    os._exit(0)
os.wait()
"""
    before = len(server.created)
    assert sandbox.run(code).status is Status.OK
    look = "import os; print(os.path.exists('/tmp/left-for-the-next'), os.path.exists('/dev/shm/left'))"
    assert sandbox.run(look).stdout == "False False\n"
    assert sandbox.run("import os; os.kill(-1, 9)").status in (Status.OK, Status.ERROR)
    assert sandbox.run("import os; os.kill(os.getppid(), 9)").exit_code == 1
    assert len(server.created) == before


def test_sandboxes_are_kept_and_replaced(server, make):
    sandbox = make(jobs_per_sandbox=3)
    before = len(server.created), len(server.terminated)
    sandbox.run("")
    assert (len(server.created), len(server.terminated)) == before
    sandbox.run("")
    sandbox.run("")
    assert len(server.created) == before[0] + 1
    sandbox.close()
    assert (len(server.created), len(server.terminated)) == (before[0] + 1, before[1] + 2)


def test_the_pool_is_warm_and_closes(server, make):
    before = len(server.created)
    sandbox = make(concurrency=3)
    until = time.monotonic() + 5
    while len(server.created) < before + 3 and time.monotonic() < until:
        time.sleep(0.01)
    results = sandbox.run_many([Job("import time; time.sleep(0.1); print(1)")] * 6)
    assert [result.stdout for result in results] == ["1\n"] * 6
    assert len(server.created) == before + 3
    sandbox.close()
    assert {f"sb-{number}" for number in range(before + 1, before + 4)} <= set(server.terminated)
    with pytest.raises(RuntimeError, match="closed"):
        sandbox.run("")


def test_creations_are_spaced(server, make):
    before = len(server.created_at)
    make(concurrency=4, creations_per_second=10.0)
    until = time.monotonic() + 5
    while len(server.created_at) < before + 4 and time.monotonic() < until:
        time.sleep(0.01)
    times = server.created_at[before:]
    assert all(later - earlier > 0.09 for earlier, later in pairwise(times))


def test_pace():
    pace = _Pace(10.0)
    waits = [pace.reserve() for _ in range(3)]
    assert waits == pytest.approx([0.0, 0.1, 0.2], abs=0.01)


def test_an_exec_timeout_is_a_timeout_and_costs_the_sandbox(server, make, monkeypatch):
    sandbox = make()
    before = len(server.created)
    monkeypatch.setattr("sandboxes.modal.STARTUP_SECONDS", 0.0)
    monkeypatch.setattr("sandboxes.modal.LAUNCHER", "import time; time.sleep(60)")
    result = sandbox.run("", timeout_seconds=1.0)
    assert (result.status, result.exit_code) == (Status.TIMEOUT, None)
    monkeypatch.undo()
    assert sandbox.run("print(1)").stdout == "1\n"
    assert len(server.created) == before + 1


def test_a_launcher_killed_for_memory(make, monkeypatch):
    sandbox = make()
    monkeypatch.setattr("sandboxes.modal.LAUNCHER", "import os; os.kill(os.getpid(), 9)")
    expected = Status.MEMORY if readable_python() else Status.ERROR
    assert sandbox.run("").status is expected
    monkeypatch.setattr("sandboxes.modal.LAUNCHER", "print('junk')")
    assert (sandbox.run("").status, sandbox.run("").exit_code) == (Status.ERROR, 0)
    monkeypatch.setattr("sandboxes.modal.LAUNCHER", "while True: print('x' * 100_000)")
    assert sandbox.run("").status is Status.OUTPUT_LIMIT


def test_infrastructure_errors_are_tried_again_in_a_new_sandbox(server, sandbox):
    before = len(server.created)
    server.faults["TaskExecStart"] = deque([Grpc.NOT_FOUND] * 2)
    assert sandbox.run("print(1)").stdout == "1\n"
    assert len(server.created) >= before + 2
    server.faults["TaskExecStart"].extend([Grpc.NOT_FOUND] * 3)
    result = sandbox.run("print(1)")
    assert (result.status, result.stdout, result.exit_code) == (Status.INFRA_ERROR, "", None)
    assert "a fault for the test" in result.stderr
    assert sandbox.run("print(1)").stdout == "1\n"


def test_a_sandbox_that_ran_out_of_memory_is_the_fault_of_the_program(server, sandbox):
    server.faults["TaskExecStart"] = deque([Grpc.NOT_FOUND])
    server.exit_codes[f"sb-{len(server.created)}"] = 137
    assert sandbox.run("print(1)").status is Status.MEMORY
    assert sandbox.run("print(1)").status is Status.OK


def test_a_job_that_asks_for_too_much(sandbox):
    with pytest.raises(ValueError, match="at most 896"):
        sandbox.run("", memory_mb=1024)


def test_unavailable(server, client):
    server.faults["SandboxCreateV2"] = deque([Grpc.PERMISSION_DENIED] * 3)
    with pytest.raises(SandboxUnavailableError, match="a fault for the test"):
        sandboxes.make("modal", client=client, concurrency=1, backoff_seconds=0.0)
    server.faults["AppGetOrCreate"] = deque([Grpc.UNAUTHENTICATED])
    with pytest.raises(SandboxUnavailableError, match="a fault for the test"):
        sandboxes.make("modal", client=client)
    with pytest.raises(ValueError, match="at least 1"):
        ModalSandbox(concurrency=0)


class TestModal(SandboxConformance):
    @pytest.fixture
    def sandbox(self, shared):
        return shared


@pytest.fixture(scope="module")
def shared(client):
    drop = readable_python() is not None
    with ModalSandbox(client=client, concurrency=2, creations_per_second=1000.0, drop_root=drop) as sandbox:
        yield sandbox


def test_a_failure_to_make_a_sandbox_loses_no_place(server, make):
    sandbox = make(concurrency=2, attempts=1)
    for _ in range(4):
        server.faults["SandboxCreateV2"] = deque()
        server.faults["TaskExecStart"] = deque([Grpc.NOT_FOUND] * 2)
        server.faults["SandboxCreateV2"].extend([Grpc.PERMISSION_DENIED] * 2)
        sandbox.run_many([Job("")] * 2)
    server.faults.clear()
    sandbox.run_many([Job("")] * 4)
    results = sandbox.run_many([Job("print(1)")] * 8)
    assert [result.stdout for result in results] == ["1\n"] * 8


def test_closing_lets_go_of_those_who_wait(make):
    sandbox = make()
    waiting = ThreadPoolExecutor(3)
    jobs = [waiting.submit(sandbox.run, "import time; time.sleep(0.5)") for _ in range(3)]
    time.sleep(0.2)
    sandbox.close()
    assert sorted(job.result(10).status for job in jobs) == [Status.INFRA_ERROR, Status.INFRA_ERROR, Status.OK]
    waiting.shutdown()
