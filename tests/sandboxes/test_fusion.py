"""The fusion backend against a server that speaks the protocol, faults included."""

import base64
import json
import textwrap
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

import sandboxes
from sandboxes.base import Job, SandboxUnavailableError, Status
from sandboxes.fusion import FusionSandbox, _read
from sandboxes.remote import unpack
from tests.sandboxes.conformance import SandboxConformance
from tests.sandboxes.fusion_server import CUT_BYTES, FusionServer


@pytest.fixture(scope="module")
def old():
    with FusionServer(old=True) as server:
        yield server


@pytest.fixture
def sandbox(old):
    with FusionSandbox(old.url, backoff_seconds=0.01) as sandbox:
        yield sandbox


def post(server: FusionServer, **request: object) -> Any:
    body = json.dumps({"language": "python", "run_timeout": 2, **request}).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{server.url}/run_code", body)) as answer:
        return json.loads(answer.read())


def test_program(sandbox):
    result = sandbox.run("import sys\nprint(sys.argv, input())", stdin="hé\n")
    assert (result.status, result.stdout, result.stderr, result.exit_code) == ("ok", "['main.py'] hé\n", "", 0)
    assert 0 < result.seconds < 2


def test_directory_is_empty_but_for_the_files(sandbox):
    assert sandbox.run("import os; print(os.listdir('.'))").stdout == "[]\n"
    code = "import os, pathlib\nprint(sorted(os.listdir('.')), pathlib.Path('a/b').read_bytes())\nopen('new', 'w')"
    assert sandbox.run(code, files={"a/b": b"\xff\0", "c": "d"}).stdout == "['a', 'c'] b'\\xff\\x00'\n"


def test_statuses(sandbox):
    assert sandbox.run("while True: pass", timeout_seconds=0.3).status is Status.TIMEOUT
    assert sandbox.run("x = 'a' * 10**9").status is Status.MEMORY
    assert sandbox.run("while True: print('x' * 1000)").status is Status.OUTPUT_LIMIT
    wrong = sandbox.run("raise SystemExit(3)")
    assert (wrong.status, wrong.exit_code) == (Status.ERROR, 3)
    killed = sandbox.run("import os; os.kill(os.getpid(), 11)")
    assert (killed.status, killed.exit_code) == (Status.ERROR, -11)


def test_traceback_shows_the_program_alone(sandbox):
    assert sandbox.run("\n1 / 0").stderr.splitlines() == [
        "Traceback (most recent call last):",
        '  File "main.py", line 2, in <module>',
        "ZeroDivisionError: division by zero",
    ]


def test_the_fault_of_surrogates_is_passed_by(old, sandbox):
    with pytest.raises(urllib.error.HTTPError, match="500") as caught:
        post(old, code="print('\ud800')")
    caught.value.close()
    result = sandbox.run("print('\ud800')")
    assert (result.status, result.exit_code) == (Status.ERROR, 1)
    assert "surrogates not allowed" in result.stderr
    assert sandbox.run("import sys; print(sys.stdin.buffer.read())", stdin="\ud800").stdout == "b'\\xed\\xa0\\x80'\n"


def test_the_fault_of_the_cut_is_passed_by(old, sandbox):
    raw = post(old, code=f"print('x' * {CUT_BYTES + 100})")
    assert raw["status"] == "Success"
    assert len(raw["run_result"]["stdout"]) == CUT_BYTES
    result = sandbox.run("print('x' * 1_000_000)")
    assert (result.status, len(result.stdout)) == (Status.OK, 1_000_001)


def test_what_an_old_server_cannot_carry_is_too_much(sandbox):
    result = sandbox.run("import os; print(os.urandom(200_000).hex())")
    assert (result.status, len(result.stdout)) == (Status.OUTPUT_LIMIT, 66_666)


def test_the_fault_of_the_false_time_limit_is_passed_by(old, sandbox):
    raw = post(old, code="print('x' * 2_000_000)", run_timeout=0.5)
    assert raw["run_result"]["status"] == "TimeLimitExceeded"
    result = sandbox.run("print('x' * 2_000_000)")
    assert (result.status, len(result.stdout)) == (Status.OUTPUT_LIMIT, 1 << 20)
    assert result.seconds < 1.0


def test_the_fault_of_broken_utf8_is_passed_by(old, sandbox):
    code = "import os; os.write(1, b'a\\xffb')"
    assert post(old, code=code)["run_result"]["stdout"].startswith("[DecodeError]")
    assert sandbox.run(code).stdout == "a\ufffdb"


def test_the_fault_of_files_that_escape_cannot_be_reached(old, sandbox):
    raw = post(old, code="print(open('../out').read())", files={"../out": base64.b64encode(b"escaped").decode()})
    assert raw["run_result"]["stdout"] == "escaped\n"
    with pytest.raises(ValueError, match="plain relative path"):
        sandbox.run("", files={"../out": "escaped"})
    sandbox.run("print(1)", files={"in": "kept"})
    assert "files" not in old.requests[-1]


def test_a_new_server_carries_a_mebibyte():
    with FusionServer(old=False) as server, FusionSandbox(server.url) as sandbox:
        result = sandbox.run("import os; print(os.urandom(200_000).hex())")
        assert (result.status, len(result.stdout)) == (Status.OK, 400_001)


@pytest.mark.parametrize("fault", ["sandbox_error", "500", "502", "503", "429", "disconnect", "not_json"])
def test_infrastructure_errors_are_tried_again(old, sandbox, fault):
    old.faults.extend([fault, fault])
    assert sandbox.run("print(1)").stdout == "1\n"
    assert not old.faults


def test_they_end_as_such(old, sandbox):
    before = len(old.requests)
    old.faults.extend(["sandbox_error"] * 4)
    result = sandbox.run("print(1)")
    assert (result.status, result.stdout, result.exit_code) == (Status.INFRA_ERROR, "", None)
    assert "No space left on device" in result.stderr
    assert len(old.requests) == before + 4


def test_the_fault_of_lost_output(old, sandbox):
    old.faults.extend(["lost_output"] * 3)
    assert sandbox.run("print(1)").stdout == "1\n"
    old.faults.extend(["lost_output"] * 4)
    assert sandbox.run("print(1)").status is Status.ERROR
    assert not old.faults


def test_a_refusal_is_not_tried_again(old, sandbox):
    before = len(old.requests)
    old.faults.append("422")
    assert sandbox.run("print(1)").status is Status.INFRA_ERROR
    assert len(old.requests) == before + 1


@pytest.mark.parametrize("code", ["raise SystemExit(1)", "while True: pass", "print('\ud800')", "x = 'a' * 10**9"])
def test_a_program_that_fails_runs_once(old, sandbox, code):
    before = len(old.requests)
    assert sandbox.run(code, timeout_seconds=0.3).status is not Status.INFRA_ERROR
    assert len(old.requests) == before + 1


def test_connections_are_kept_and_renewed(old, sandbox):
    sandbox.run("")
    before = old.connections
    for _ in range(5):
        sandbox.run("")
    assert old.connections == before
    # As a server that closes what was idle for long: noticed only when the next request is sent.
    old.faults.append("hang_up_after")
    assert sandbox.run("print(1)").stdout == "1\n"
    assert old.connections == before + 1


def test_concurrency_is_bounded(old):
    old.most_at_once = 0
    with FusionSandbox(old.url, concurrency=2) as sandbox:
        threads = [threading.Thread(target=sandbox.run, args=("import time; time.sleep(0.1)",)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [result.stdout for result in sandbox.run_many([Job(f"print({i})") for i in range(6)])] == [
            f"{i}\n" for i in range(6)
        ]
    assert old.most_at_once == 2


def test_only_run_code_is_used(old, sandbox):
    sandbox.run("")
    assert set(old.paths) == {"/run_code"}
    assert old.requests[-1]["language"] == "python"
    assert old.requests[-1]["run_timeout"] == 5.0
    assert old.requests[-1]["memory_limit_MB"] == 320


def test_a_program_that_kills_its_launcher_is_never_right(sandbox):
    result = sandbox.run("import os; os.write(2, b'x'); os.kill(os.getppid(), 9)")
    assert (result.status, result.exit_code) == (Status.ERROR, -9)
    assert sandbox.run("print(1)").stdout == "1\n"


def test_no_process_of_a_program_stays(sandbox):
    code = """
        import os, time
        if not os.fork():
            os.setsid()
            if not os.fork():
                print(os.getpid(), flush=True)
                time.sleep(60)
            os._exit(0)
        os.wait()
        time.sleep(0.2)
    """
    result = sandbox.run(textwrap.dedent(code))
    assert result.status is Status.OK
    assert not Path("/proc", result.stdout.strip()).exists()


def answer(status: str, stdout: str, code: int | None, seconds: float) -> dict[str, Any]:
    return {
        "run_result": {"status": status, "stdout": stdout, "stderr": "", "return_code": code, "execution_time": seconds}
    }


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (answer("Finished", "x" * CUT_BYTES, 0, 0.1), Status.OUTPUT_LIMIT),
        (answer("Finished", "", 0, 0.1), Status.ERROR),
        (answer("Finished", "12 eJw=", 0, 0.1), Status.ERROR),
        (answer("TimeLimitExceeded", "", None, 0.5), Status.OUTPUT_LIMIT),
        (answer("TimeLimitExceeded", "x" * CUT_BYTES, None, 5.0), Status.OUTPUT_LIMIT),
        (answer("TimeLimitExceeded", "", None, 5.0), Status.TIMEOUT),
    ],
)
def test_answers_without_a_report(raw, expected):
    assert _read(raw, Job("", timeout_seconds=2.0), 0.0).status is expected


def test_unavailable(monkeypatch, old):
    monkeypatch.delenv("SANDBOX_URL", raising=False)
    with pytest.raises(SandboxUnavailableError, match="SANDBOX_URL"):
        FusionSandbox()
    with pytest.raises(SandboxUnavailableError, match="ConnectionRefused"):
        FusionSandbox("http://127.0.0.1:9", backoff_seconds=0.0)
    with pytest.raises(ValueError, match="http"):
        FusionSandbox("127.0.0.1:9")
    with pytest.raises(SandboxUnavailableError, match="HTTP 404"):
        FusionSandbox(old.url + "/elsewhere")
    monkeypatch.setenv("SANDBOX_URL", old.url + "/")
    with sandboxes.make("fusion") as sandbox:
        assert sandbox.run("print(1)").stdout == "1\n"
    with pytest.raises(RuntimeError, match="closed"):
        sandbox.run("print(1)")
    old.paths[:] = [path for path in old.paths if path == "/run_code"]


@pytest.mark.parametrize(
    "line",
    ["", "x", "1", "3 abc", "4 abcd", "-1 ", "٣ abc", "99999999999 a", "12 eJwDAAAAAAE=", "16 eJyrrgUAAXUA+Q=="],
)
def test_reports_that_are_none(line):
    assert unpack(line, seconds=1.0) is None


class TestFusionOld(SandboxConformance):
    @pytest.fixture
    def sandbox(self, shared):
        return shared


@pytest.fixture(scope="module")
def shared(old):
    with FusionSandbox(old.url) as sandbox:
        yield sandbox
