"""Runs one program on a machine of somebody else's and reports how it ended.

Sent as source text by `sandboxes.remote`, so it is alone there: the standard library of Python 3.8 or later, nothing of
ours. It reads the job from its stdin, forks, lets the child become the program, and writes one line to its stdout. All
that a server does to outputs, exit codes and limits of time is thus done to this line, which shows when it is cut.
"""

import base64
import contextlib
import fcntl
import json
import os
import resource
import select
import signal
import sys
import time
import zlib
from typing import Any

MAX_OUTPUT_BYTES = 1 << 20
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


class Outcome:
    """What the supervisor saw of the program."""

    def __init__(self) -> None:
        self.end = "exit"
        self.code = -signal.SIGKILL
        self.seconds = 0.0
        self.out = {1: bytearray(), 2: bytearray()}


def limit(kind: int, value: int) -> None:
    """Lower a limit; one that is lower already stays."""
    _, hard = resource.getrlimit(kind)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def drop(uid: int) -> None:
    """Become an ordinary user, for good."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def prepare(job: Any, directory: str, ends: Any) -> None:
    """Turn this process, a fork of the launcher, into a fresh interpreter for the program."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for target, end in enumerate(ends):
        os.dup2(end, target)
    os.closerange(3, 1024)
    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_FSIZE, 16 << 20)
    limit(resource.RLIMIT_NOFILE, 64)
    limit(resource.RLIMIT_AS, job["memory_mb"] << 20)
    if job["uid"]:
        limit(resource.RLIMIT_NPROC, 64)
        drop(job["uid"])
    os.chdir(directory)
    path = os.environ.get("PATH", os.defpath)
    os.environ.clear()
    os.environ.update({"PATH": path, "HOME": directory, "LANG": "C.UTF-8"}, **dict.fromkeys(THREADS, "1"))
    here = os.path.dirname(os.path.abspath(sys.argv[0])) if sys.argv[0] != "-c" else ""  # noqa: PTH100, PTH120
    sys.path[:] = [directory] + [entry for entry in sys.path if entry not in ("", here)]
    sys.argv[:] = ["main.py"]
    # Made anew: those of the launcher believe of these descriptors what was true of its own.
    sys.stdin = sys.__stdin__ = stream(0, "r", -1, "strict")  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = stream(1, "w", -1, "strict")  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = stream(2, "w", 1, "backslashreplace")  # type: ignore[misc]


def stream(fd: int, mode: str, buffering: int, errors: str) -> Any:
    """A standard stream as Python opens it."""
    made = open(fd, mode, buffering, "utf-8", errors, closefd=False)  # noqa: SIM115
    made.buffer.raw.name = ("<stdin>", "<stdout>", "<stderr>")[fd]  # type: ignore[attr-defined]
    return made


def run(code: str) -> None:
    """Run the program as ``__main__``; an exception that nobody caught is told without our own frames."""
    # A server that bounds the stack to the whole memory makes each thread ask for all of it.
    import _thread

    _thread.stack_size(8 << 20)
    main = type(sys)("__main__")
    main.__dict__.update(__file__="main.py", __builtins__=__builtins__)
    sys.modules["__main__"] = main
    try:
        exec(compile(code, "main.py", "exec", dont_inherit=True), main.__dict__)
    except SystemExit:
        raise
    except BaseException as error:
        tell(error)
        raise SystemExit(1) from None


def tell(error: BaseException) -> None:
    """Write the traceback; of a MemoryError of any kind the last line says so."""
    trace = error.__traceback__
    try:
        error.with_traceback(trace.tb_next if trace else None)
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        if isinstance(error, MemoryError) and type(error) is not MemoryError:
            os.write(2, b"MemoryError\n")


def supervise(pid: int, streams: Any, stdin: bytes, seconds: float, wake: int) -> Outcome:
    """Feed and drain the program until it ends, or is killed at a limit."""
    seen = Outcome()
    feed, *drains = streams
    started = time.monotonic()
    poll = select.poll()
    fds = {drains[0]: 1, drains[1]: 2}
    poll.register(wake, select.POLLIN)
    for fd in streams:
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_NONBLOCK)
        poll.register(fd, select.POLLOUT if fd == feed else select.POLLIN)
    sent = 0
    while True:
        left = started + seconds - time.monotonic()
        ready = poll.poll(max(0.0, left) * 1000) if left > 0 else []
        if any(fd == wake for fd, _ in ready):
            os.read(wake, 512)
        done, status = os.waitpid(pid, os.WNOHANG)
        for fd in fds if done else [fd for fd, _ in ready if fd in fds]:
            if not drain(fd, seen.out[fds[fd]], everything=bool(done)):
                poll_forget(poll, fd)
        if done:
            seen.code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        if any(len(text) > MAX_OUTPUT_BYTES for text in seen.out.values()):
            seen.end = "output"
        elif not done and left <= 0:
            seen.end = "timeout"
        if done or seen.end != "exit":
            break
        if any(fd == feed for fd, _ in ready):
            sent = push(poll, feed, stdin, sent)
    seen.seconds = time.monotonic() - started
    if not done:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return seen


def drain(fd: int, text: bytearray, everything: bool) -> bool:
    """Read what is there; False at the end of the stream."""
    while len(text) <= MAX_OUTPUT_BYTES:
        try:
            chunk = os.read(fd, 1 << 16)
        except BlockingIOError:
            return True
        text += chunk
        if not chunk:
            return False
        if not everything:
            return True
    return True


def push(poll: Any, fd: int, stdin: bytes, sent: int) -> int:
    """Write what the program's stdin takes now; close it after the last byte."""
    try:
        sent += os.write(fd, stdin[sent : sent + (1 << 16)])
    except BlockingIOError:
        return sent
    except OSError:
        sent = len(stdin)
    if sent >= len(stdin):
        poll_forget(poll, fd)
        os.close(fd)
    return sent


def poll_forget(poll: Any, fd: int) -> None:
    """Stop watching a descriptor, watched or not."""
    with contextlib.suppress(KeyError):
        poll.unregister(fd)


def adopt() -> None:
    """Become the parent of whatever the program leaves, so that it can be found and reaped."""
    try:
        import ctypes

        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        pass


def sweep(pid: int, uid: int) -> bool:
    """Kill all that the program left running; False if some of it may live on."""
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGKILL)
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        if uid and not os.fork():
            # As its own user, for whom "all processes" are the program's and no others.
            drop(uid)
            os.kill(-1, signal.SIGKILL)
            os._exit(0)
        for child in children():
            with contextlib.suppress(OSError):
                os.kill(child, signal.SIGKILL)
        try:
            while True:
                os.waitpid(-1, 0 if uid else os.WNOHANG)
        except ChildProcessError:
            return True
    return False


def children() -> Any:
    """The processes whose parent we are."""
    try:
        with open("/proc/self/task/{}/children".format(os.getpid())) as file:  # noqa: PTH123, UP032
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


def furnish(job: Any) -> str:
    """Make the program's directory, with its files."""
    base = os.path.abspath(job["base"])  # noqa: PTH100
    directory = os.path.join(base, "job-" + os.urandom(8).hex())  # noqa: PTH118
    made = [directory]
    os.mkdir(directory, 0o700)  # noqa: PTH102
    for name, content in job["files"].items():
        path = os.path.join(directory, name)  # noqa: PTH118
        folder = os.path.dirname(path)  # noqa: PTH120
        if folder != directory:
            os.makedirs(folder, exist_ok=True)  # noqa: PTH103
        with open(path, "wb") as file:  # noqa: PTH123
            file.write(base64.b64decode(content))
        made.append(path)
        while folder != directory:
            made.append(folder)
            folder = os.path.dirname(folder)  # noqa: PTH120
    if job["uid"]:
        for path in made:
            os.chown(path, job["uid"], job["uid"])
    return directory


def clear(directory: str, uid: int) -> bool:
    """Remove the program's directory and what it left where everybody may; False if something of it stays."""
    left = [directory]
    for place in ("/tmp", "/var/tmp", "/dev/shm") if uid else ():
        with contextlib.suppress(OSError):
            left += [entry.path for entry in os.scandir(place) if entry.stat(follow_symlinks=False).st_uid == uid]
    for path in left:
        with contextlib.suppress(OSError):
            remove(path)
    return not any(os.path.lexists(path) for path in left) and (not uid or forget_shared(uid))


def remove(path: str) -> None:
    """Remove a file or a folder, which may be deeper than a path or a recursion can be; a link is a file."""
    if not os.path.isdir(path) or os.path.islink(path):  # noqa: PTH112, PTH114
        os.unlink(path)  # noqa: PTH108
        return
    while True:
        os.chmod(path, 0o700)  # noqa: PTH101
        entries = list(os.scandir(path))
        if not entries:
            break
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                lift(path, entry.path)
            else:
                os.unlink(entry.path)  # noqa: PTH108
    os.rmdir(path)  # noqa: PTH106


def lift(top: str, folder: str) -> None:
    """Remove a folder of the topmost one; what is in it moves up to there, so that no path is ever long."""
    os.chmod(folder, 0o700)  # noqa: PTH101
    for entry in list(os.scandir(folder)):
        if entry.is_dir(follow_symlinks=False):
            os.chmod(entry.path, 0o700)  # noqa: PTH101
            os.rename(entry.path, os.path.join(top, "." + os.urandom(8).hex()))  # noqa: PTH104, PTH118
        else:
            os.unlink(entry.path)  # noqa: PTH108
    os.rmdir(folder)  # noqa: PTH106


def forget_shared(uid: int) -> bool:
    """Remove a user's System V shared memory, semaphores and queues; False if some of it stays."""
    try:
        import ctypes

        libc = ctypes.CDLL(None)
    except (ImportError, OSError):
        return True
    clean = True
    for kind, call in (("shm", "shmctl"), ("sem", "semctl"), ("msg", "msgctl")):
        for number in shared_of(kind, uid):
            arguments = (number, 0, 0, 0) if kind == "sem" else (number, 0, None)
            clean = getattr(libc, call)(*arguments) == 0 and clean  # 0: remove
    return clean


def shared_of(kind: str, uid: int) -> Any:
    """The identifiers of a kind that are a user's."""
    try:
        with open("/proc/sysvipc/" + kind) as file:  # noqa: PTH123
            rows = [line.split() for line in file]
    except OSError:
        return []
    return [int(row[1]) for row in rows[1:] if row[rows[0].index("uid")] == str(uid)]


def report(seen: Outcome, clean: bool, room: int) -> str:
    """The one line: its length, a space, and everything packed; at most ``room`` characters are packed."""
    out, err = (bytes(seen.out[fd][:MAX_OUTPUT_BYTES]) for fd in (1, 2))
    while True:
        head = {"end": seen.end, "code": seen.code, "seconds": seen.seconds, "out": len(out), "clean": clean}
        packed = base64.b64encode(zlib.compress(json.dumps(head).encode() + b"\n" + out + err, 1)).decode()
        if len(packed) <= room:
            return "{} {}\n".format(len(packed), packed)  # noqa: UP032
        # What the server cannot carry is too much output, and not a shorter output.
        seen.end, out, err = "output", out[: room // 3], err[: room // 3]


def main() -> None:
    """Read the job, run it, report."""
    chunks = []
    while True:
        chunk = os.read(0, 1 << 20)
        if not chunk:
            break
        chunks.append(chunk)
    job = json.loads(b"".join(chunks))
    if os.geteuid():
        job["uid"] = 0
    code = base64.b64decode(job["code"]).decode("utf-8", "surrogatepass")
    stdin = base64.b64decode(job["stdin"])
    directory = furnish(job)
    adopt()
    wake, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    pipes = [os.pipe() for _ in range(3)]
    theirs = (pipes[0][0], pipes[1][1], pipes[2][1])
    pid = os.fork()
    if not pid:
        prepare(job, directory, theirs)
        run(code)
        return
    for end in theirs:
        os.close(end)
    seen = supervise(pid, (pipes[0][1], pipes[1][0], pipes[2][0]), stdin, job["seconds"], wake)
    swept = sweep(pid, job["uid"])
    line = report(seen, clear(directory, job["uid"]) and swept, job["room"]).encode()
    while line:
        line = line[os.write(1, line) :]
    os._exit(0)


if __name__ == "__main__":
    main()
