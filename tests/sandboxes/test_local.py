"""What is the local sandbox's alone; that programs end as they should is for the conformance suite to say."""

import contextlib
import gc
import multiprocessing
import os
import resource
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

    def test_files_of_others_cannot_be_changed_in_any_way(self, sandbox, tmp_path):
        victim = tmp_path / "victim"
        victim.write_text("x")
        if os.geteuid() == 0:
            os.chown(victim, 65534, 65534)
        for folder in (tmp_path, *tmp_path.parents):
            if folder.stat().st_uid == os.getuid() and folder.name.startswith("pytest"):
                folder.chmod(0o755)
        before = victim.stat()
        code = f"""
import os
for change in (lambda p: os.chmod(p, 0o6777), lambda p: os.utime(p, (1, 1)), lambda p: os.truncate(p, 0), os.unlink):
    for path in ({str(victim)!r}, os.path.dirname(os.getcwd())):
        try:
            change(path)
        except OSError:
            continue
        print("changed", path)
"""
        assert output(sandbox, code) == ""
        after = victim.stat()
        assert (after.st_mode, after.st_mtime, after.st_size) == (before.st_mode, before.st_mtime, before.st_size)

    def test_an_output_that_outlives_its_program_keeps_nobody_waiting(self, sandbox):
        code = """
import os, socket
a, b = socket.socketpair()
for end in (a, b):
    try:
        socket.send_fds(end, [b"x"], [1, 2, a.fileno(), b.fileno()])
    except OSError as error:
        print(error.strerror)
os._exit(0)
"""
        for _ in range(3):
            began = time.monotonic()
            assert sandbox.run(code, timeout_seconds=1.0).status in ("ok", "error")
            assert time.monotonic() - began < 3

    def test_what_the_client_does_with_signals_is_not_inherited(self):
        code = """
import signal, time
fired = []
signal.signal(signal.SIGALRM, lambda *_: fired.append(1))
signal.setitimer(signal.ITIMER_REAL, 0.01)
time.sleep(0.2)
print(fired, signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)
"""
        kept = signal.signal(signal.SIGCHLD, signal.SIG_IGN), signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
        try:
            with make("namespaces") as sandbox:
                assert output(sandbox, code) == "[1] True\n"
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
            for number, handler in zip((signal.SIGCHLD, signal.SIGTERM), kept, strict=True):
                signal.signal(number, handler)

    def test_numpy_draws_new_numbers_in_every_program(self):
        with LocalSandbox(preload=["numpy.random"]) as sandbox:
            code = "import numpy; print(numpy.random.rand())"
            assert len({output(sandbox, code) for _ in range(3)}) == 3

    def test_a_program_may_raise_the_limit_of_its_stack(self, sandbox):
        code = """
import resource, sys, threading
resource.setrlimit(resource.RLIMIT_STACK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
sys.setrecursionlimit(10**6)
threading.stack_size(100 << 20)
def depth(n): return n and 1 + depth(n - 1)
found = []
thread = threading.Thread(target=lambda: found.append(depth(20000)))
thread.start()
thread.join()
print(found)
"""
        if resource.getrlimit(resource.RLIMIT_STACK)[1] != resource.RLIM_INFINITY:
            pytest.skip("the limit of the stack is low here")
        assert output(sandbox, code) == "[20000]\n"


class TestSession:
    def test_both_sides_of_a_fork(self, sandbox):
        with sandbox.session("import time; x = input(); time.sleep(0.02); print(x)") as session:
            assert session.run("0").stdout == "0\n"
            read, write = os.pipe()
            pid = os.fork()
            name = "child" if pid == 0 else "parent"
            said = [session.run(f"{name} {i}", timeout_seconds=20.0).stdout for i in range(10)]
            right = said == [f"{name} {i}\n" for i in range(10)]
            if pid == 0:
                session.close()
                os.write(write, str(right).encode())
                sandbox.close()
                os._exit(0)
            os.close(write)
            with os.fdopen(read) as file:
                assert file.read() == "True"
            os.waitpid(pid, 0)
            assert right
            assert session.run("again").stdout == "again\n"

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
                with contextlib.suppress(ProcessLookupError):  # it went with one killed before
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

    def test_a_child_that_is_forked_meanwhile_ends_nothing(self):
        made: list[LocalSandbox] = []
        thread = threading.Thread(target=lambda: made.append(make("namespaces")))
        thread.start()
        children = []
        while thread.is_alive():
            time.sleep(0.01)
            pid = os.fork()
            if pid == 0:
                time.sleep(0.3)
                made.clear()
                gc.collect()
                os._exit(0)
            children.append(pid)
        for pid in children:
            os.waitpid(pid, 0)
        with made[0] as sandbox:
            zygote = zygote_of(sandbox)
            assert sandbox.run("print(1)").stdout == "1\n"
            assert zygote_of(sandbox) == zygote

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
