"""What is the local sandbox's alone; that programs end as they should is for the conformance suite to say."""

import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sandboxes import Job, RunResult, SandboxUnavailableError, Status

if sys.platform != "linux":
    pytest.skip("Linux only", allow_module_level=True)

from sandboxes.local import LocalSandbox


def children() -> set[int]:
    """Pids of this process's children."""
    found: set[int] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        found |= {int(pid) for pid in path.read_text().split()}
    return found


def descendants(pid: int) -> list[int]:
    """Pids of a process's children, and theirs."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == pid:
            child = int(path.parent.name)
            found += [child, *descendants(child)]
    return found


def descriptors_of(pid: int | str) -> list[str]:
    return sorted(path.name for path in Path(f"/proc/{pid}/fd").iterdir())


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def make(tier: str) -> LocalSandbox:
    try:
        return LocalSandbox(tier=tier)
    except SandboxUnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module", params=["namespaces", "landlock"])
def sandbox(request):
    with make(request.param) as made:
        yield made


@pytest.fixture(scope="module")
def namespaces():
    with make("namespaces") as made:
        yield made


# Of a zygote with one idle supervisor and one at work: these two, in namespaces the process 1 of each and that of all;
# and the program.
AT_WORK = {"namespaces": 6, "landlock": 3}


def zygote_of(sandbox: LocalSandbox) -> int:
    assert sandbox._zygote is not None
    return sandbox._zygote._process.pid


def output(sandbox: LocalSandbox, code: str) -> str:
    result = sandbox.run(code, timeout_seconds=20.0)
    assert (result.status, result.stderr) == ("ok", "")
    return result.stdout


class TestChoice:
    def test_the_tier_is_told(self, sandbox):
        assert sandbox.describe() == f"local ({sandbox.tier})"

    def test_an_unknown_tier(self):
        with pytest.raises(ValueError, match="unknown tier 'docker'"):
            LocalSandbox(tier="docker")

    def test_unsafe_has_to_be_asked_for_twice(self):
        with pytest.raises(SandboxUnavailableError, match="allow_unsafe=True"):
            LocalSandbox(tier="unsafe")
        with LocalSandbox(tier="unsafe", allow_unsafe=True) as sandbox:
            assert sandbox.describe() == "local (unsafe)"
            assert output(sandbox, "print(1)") == "1\n"

    def test_another_system_is_sent_to_docker(self, monkeypatch):
        monkeypatch.setattr(sys, "platform", "darwin")
        with pytest.raises(SandboxUnavailableError, match="needs Linux, and this is darwin; the docker backend"):
            LocalSandbox()

    def test_every_reason_is_given(self):
        with pytest.raises(SandboxUnavailableError, match=r"namespaces: cannot start /none.*landlock: cannot"):
            LocalSandbox(python="/none")

    def test_a_module_of_another_place_comes_with_its_folder(self):
        with LocalSandbox(preload=["numpy"]) as sandbox:
            code = "import sys\nprint('numpy' in sys.modules)\nimport numpy\nprint(numpy.ones(3) @ numpy.ones(3))"
            assert output(sandbox, code) == "True\n3.0\n"

    def test_a_module_that_is_not_there(self):
        with pytest.raises(ValueError, match="cannot preload no_such_module"):
            LocalSandbox(preload=["no_such_module"])


class TestConfinement:
    def test_who_it_is(self, namespaces):
        code = """
import os, sys
print(os.getpid(), os.getppid(), os.getuid(), os.getgid(), os.getgroups() in ([], [65534]), os.uname().nodename)
print(os.getcwd(), os.listdir("."), os.path.exists("/proc"), sorted(os.environ))
print(sorted(set(os.listdir("/")) & {"home", "proc", "sys", "tmp", "var", "oldroot"}))
"""
        lines = output(namespaces, code).splitlines()
        assert lines[0] == "2 0 65534 65534 True sandbox"
        assert lines[1].startswith("/sandbox [] False ['LANG', 'MALLOC_ARENA_MAX'")
        assert lines[2] == "[]"

    def test_it_has_no_capability(self, sandbox):
        code = """
import ctypes
libc = ctypes.CDLL(None)
header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(*[7] * 6)
assert libc.capget(header, sets) == 0
print(list(sets), sum(libc.prctl(23, number, 0, 0, 0) == 1 for number in range(41)))
"""
        assert output(sandbox, code) == "[0, 0, 0, 0, 0, 0] 0\n" or os.geteuid() != 0

    def test_nothing_of_ours_is_inherited(self, sandbox, monkeypatch, tmp_path):
        monkeypatch.setenv("SECRET", "hunter2")
        with (tmp_path / "open").open("w") as file:
            os.set_inheritable(file.fileno(), True)
            with LocalSandbox(tier=sandbox.tier) as fresh:
                code = """
import gc, os
held = []
for number in range(64):
    try:
        os.fstat(number)
    except OSError:
        continue
    held.append(number)
print(held, any("".join(["hun", "ter2"]) in repr(thing) for thing in [dict(os.environ), *gc.get_objects()]))
"""
                assert output(fresh, code) == "[0, 1, 2] False\n"

    def test_process_1_cannot_be_hurt(self, namespaces):
        code = """
import os, signal
assert os.getppid() == 0
for number in range(1, 65):
    try:
        os.kill(1, number)
    except OSError:
        pass
try:
    os.kill(-1, signal.SIGKILL)
except ProcessLookupError:
    print("alone")
"""
        with namespaces.session(code) as session:
            assert [session.run().stdout for _ in range(2)] == ["alone\n"] * 2

    def test_the_root_is_read_only(self, namespaces):
        code = """
import os
for root, folders, _ in os.walk("/"):
    if root != "/sandbox" and not root.startswith("/sandbox/"):
        try:
            open(root + "/x", "w")
        except OSError:
            continue
        print(root)
"""
        assert output(namespaces, code) == ""

    def test_the_stack_of_a_program_is_its_own(self, sandbox):
        code = """
import sys
frame, names = sys._getframe(), []
while frame:
    names.append(frame.f_code.co_name)
    frame = frame.f_back
print(len(names), sys.getrecursionlimit())
"""
        assert output(sandbox, code) == "5 1000\n"

    def test_temporary_files(self, sandbox):
        assert output(sandbox, "import os, tempfile\nprint(tempfile.gettempdir() == os.getcwd())") == "True\n"

    def test_jobs_do_not_share_chance(self, sandbox):
        assert len({output(sandbox, "import random; print(random.random())") for _ in range(3)}) == 3

    def test_a_modest_number_of_threads(self, sandbox):
        code = (
            "import threading\nfor _ in range(16): threading.Thread(target=threading.Event().wait, args=(1,)).start()"
        )
        assert output(sandbox, code) == ""

    def test_a_program_cannot_make_it_our_fault(self, sandbox):
        code = "import os, signal\nos.kill(os.getpid(), {})"
        for number in (signal.SIGKILL, signal.SIGRTMAX, signal.SIGRTMAX - 1, signal.SIGSYS):
            assert sandbox.run(code.format(int(number))).status in (Status.ERROR, Status.MEMORY)


class TestSession:
    def test_runs_begin_anew(self, sandbox):
        code = "import os; print(input(), os.listdir('.')); open('left', 'w')"
        with sandbox.session(code) as session:
            assert [session.run(text).stdout for text in "ab"] == ["a []\n", "b []\n"]

    def test_it_goes_on_after_every_end(self, sandbox):
        code = "import os, time\nexec(input())"
        with sandbox.session(code, files={"a": "x"}) as session:
            assert session.run("time.sleep(9)", timeout_seconds=0.2).status == "timeout"
            assert session.run("os.abort()").exit_code == -6
            assert session.run("x = 'a' * 10**9").status == "memory"
            assert session.run("while True: print('x' * 1000)").status == "output_limit"
            assert session.run("os.unlink('a')").status == "ok"
            assert session.run("print(open('a').read())").stdout == "x\n"

    @pytest.mark.parametrize("first", [True, False])
    def test_lost_supervisors_are_replaced(self, sandbox, first):
        with sandbox.session("print(input())") as session:
            assert session.run("1").stdout == "1\n"
            processes = sorted(descendants(zygote_of(sandbox)))  # the oldest first: process 1 of all, if there is one
            for pid in processes[:1] if first else processes[1:]:
                os.kill(pid, signal.SIGKILL)
            assert [session.run("2").stdout, sandbox.run("print(3)").stdout] == ["2\n", "3\n"]

    def test_a_killed_zygote_leaves_no_folder(self):
        sandbox = make("landlock")
        assert sandbox._zygote is not None
        (scratch,) = sandbox._zygote._scratch
        with sandbox.session("import os; os.makedirs('a/b/c')") as session:
            session.run()
            os.kill(zygote_of(sandbox), signal.SIGKILL)
            assert Path(scratch).exists()
            assert session.run().status == "ok"
        assert not Path(scratch).exists()
        sandbox.close()

    def test_closed(self, sandbox):
        session = sandbox.session("")
        session.close()
        with pytest.raises(RuntimeError, match="closed"):
            session.run()

    def test_its_arguments_are_checked(self, sandbox):
        with sandbox.session("") as session, pytest.raises(ValueError, match="timeout_seconds"):
            session.run(timeout_seconds=0)


class TestLife:
    def test_a_dead_zygote_is_replaced(self):
        with make("namespaces") as sandbox:
            os.kill(zygote_of(sandbox), signal.SIGKILL)
            assert sandbox.run("print(1)").stdout == "1\n"

    def test_if_it_cannot_be_replaced_it_is_our_fault(self):
        with make("namespaces") as sandbox:
            sandbox._python = "/none"
            os.kill(zygote_of(sandbox), signal.SIGKILL)
            wait_until(lambda: not _runs(zygote_of(sandbox)))
            result = sandbox.run("print(1)")
        assert (result.status, result.stdout, result.exit_code) == ("infra_error", "", None)
        assert "cannot start /none" in result.stderr

    @pytest.mark.parametrize("tier", ["namespaces", "landlock"])
    def test_close_leaves_nothing(self, tier):
        make(tier).close()
        gc.collect()
        descriptors, processes = descriptors_of("self"), children()
        mounts = Path("/proc/self/mountinfo").read_text()
        sandbox = make(tier)
        session = sandbox.session("print(1)")
        session.run()
        sandbox.run("print(1)")
        session.close()
        sandbox.close()
        assert descriptors_of("self") == descriptors
        assert children() == processes
        assert Path("/proc/self/mountinfo").read_text() == mounts
        with pytest.raises(RuntimeError, match="closed"):
            sandbox.run("")

    @pytest.mark.parametrize("tier", ["namespaces", "landlock"])
    def test_close_ends_what_runs(self, tier):
        sandbox = make(tier)
        assert sandbox._zygote is not None
        scratch = list(sandbox._zygote._scratch)
        assert [bool(folder) for folder in scratch] == [tier == "landlock"]
        results: list[RunResult] = []
        thread = threading.Thread(target=lambda: results.append(sandbox.run("while True: pass", timeout_seconds=30.0)))
        thread.start()
        zygote = zygote_of(sandbox)
        wait_until(lambda: len(descendants(zygote)) == AT_WORK[tier])
        programs = descendants(zygote)
        sandbox.close()
        thread.join(10)
        assert [result.status for result in results] == ["infra_error"]
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in programs))
        assert not any(Path(folder).exists() for folder in scratch if folder)

    @pytest.mark.parametrize("tier", ["namespaces", "landlock"])
    def test_nobody_outlives_a_client_that_was_killed(self, tier):
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()

        def client():
            sandbox = make(tier)
            theirs.send(zygote_of(sandbox))
            sandbox.run("while True: pass", timeout_seconds=60.0)

        process = context.Process(target=client)
        process.start()
        zygote = ours.recv()
        wait_until(lambda: len(descendants(zygote)) == AT_WORK[tier])
        programs = [zygote, *descendants(zygote)]
        process.kill()
        process.join()
        wait_until(lambda: not any(_runs(pid) for pid in programs))

    def test_both_sides_of_a_fork(self, sandbox):
        assert sandbox.run("print(1)").stdout == "1\n"
        zygote = zygote_of(sandbox)
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                result = sandbox.run("print(2)")
                os.write(write, f"{result.stdout.strip()} {zygote_of(sandbox) != zygote}".encode())
                sandbox.close()
            finally:
                os._exit(0)
        os.close(write)
        with os.fdopen(read) as file:
            assert file.read() == "2 True"
        os.waitpid(pid, 0)
        assert sandbox.run("print(3)").stdout == "3\n"
        assert zygote_of(sandbox) == zygote

    def test_a_daemonic_process(self):
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()

        def client():
            with make("namespaces") as sandbox:
                theirs.send(sandbox.run("print(1)").stdout)

        process = context.Process(target=client, daemon=True)
        process.start()
        assert ours.poll(60)
        assert ours.recv() == "1\n"
        process.join()

    def test_threads(self, sandbox):
        results = sandbox.run_many([Job("print(input())", str(i)) for i in range(24)], concurrency=6)
        assert [result.stdout for result in results] == [f"{i}\n" for i in range(24)]

    @pytest.mark.parametrize("jobs", [300, pytest.param(10_000, marks=pytest.mark.slow)])
    def test_nothing_grows(self, jobs):
        with make("namespaces") as sandbox:
            zygote = zygote_of(sandbox)
            sandbox.run_many([Job("print(1)")] * 50, concurrency=2)

            def state() -> tuple[int, int, int]:
                # Three supervisors, one of them idle; the process 1 of each, and that of all.
                wait_until(lambda: len(descendants(zygote)) == 7)
                processes = [zygote, *descendants(zygote)]
                pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in processes]
                descriptors = [len(descriptors_of(pid)) for pid in processes]
                return sum(pages), sum(descriptors), len(descriptors_of("self"))

            before = state()
            for _ in range(jobs // 100):
                for result in sandbox.run_many([Job("print(1)", timeout_seconds=20.0)] * 100, concurrency=2):
                    assert result.stdout == "1\n"
            after = state()
        assert after[1:] == before[1:]
        assert after[0] - before[0] < 512  # pages: 2 MiB in all seven


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
