"""Runs attacks where they can take nothing down: in a container made of namespaces, all of it read-only.

`attack_report` starts ``python -m tests.sandboxes.contained`` under ``unshare``; needs root. That process is the init
of the container. It hides this machine's folders behind empty ones, makes all else read-only, and starts the harness,
which runs one attack after the other. If an attack kills or stops the harness, a new container goes on with the next.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import platform
import resource
import select
import shutil
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from sandboxes import Sandbox, SandboxUnavailableError, make
from sandboxes.fusion import FusionSandbox
from tests.sandboxes.attack_programs import ATTACKS
from tests.sandboxes.attacks import run_attack
from tests.sandboxes.fusion_server import FusionServer
from tests.sandboxes.outside import World, planted_argument
from tests.sandboxes.unsafe import UnsafeForkSandbox, UnsafeSubprocessSandbox

__all__ = ["attack_report", "inside", "run_inside", "why_not"]

_UNSAFE: dict[str, Callable[[], Sandbox]] = {
    "unsafe-subprocess": UnsafeSubprocessSandbox,
    "unsafe-fork": UnsafeForkSandbox,
}
_WALLLESS = (*_UNSAFE, "fusion", "modal")
_IGNORED = {"fusion": ("net/tcp",), "modal": ("net/tcp",)}
"""Connections of the client's own."""
NOBODY = 65534
_SILENCE_SECONDS = 25.0
"""Of a harness that an attack stopped; an attack that goes well takes at most 15."""
_MARK = "@@"
_ROOT = Path(__file__).resolve().parents[2]
_ENVIRONMENT = {"PATH": os.environ["PATH"], "PYTHONPATH": str(_ROOT), "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/tmp"}


def why_not() -> str:
    """Why no container can be had here; empty if it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a container for the attacks needs Linux and root"
    if not shutil.which("unshare"):
        return "a container for the attacks needs unshare, of util-linux"
    probe = subprocess.run([*_unshare(), "true"], capture_output=True, text=True, timeout=30, check=False)
    return f"no container for the attacks can be made here: {probe.stderr.strip()}" if probe.returncode else ""


def _unshare() -> list[str]:
    return ["unshare", "--pid", "--mount", "--net", "--ipc", "--uts", "--fork", "--kill-child", "--mount-proc", "--"]


def attack_report(backend: str, user: str = "root", names: Sequence[str] = ()) -> dict[str, list[str]]:
    """Run all attacks against a backend.

    Args:
        backend: ``local:TIER``, or ``fusion``, ``modal`` (the clients, with the tests' servers) or one of `_UNSAFE`.
        user: ``root`` or ``nobody``.
        names: Of the attacks to run; all if empty.

    Returns:
        What is wrong, by attack; of one that was not run, ``skipped: `` and the reason.
    """
    waiting = [attack.name for attack in ATTACKS if not names or attack.name in names]
    report: dict[str, list[str]] = {}
    while waiting:
        done, reason = _one_container(backend, user, waiting)
        report |= done
        rest = [name for name in waiting if name not in report]
        if rest:
            report[rest[0]] = [f"it took the harness down: {reason}"]
        waiting = rest[1:]
    return report


def _one_container(backend: str, user: str, names: Sequence[str]) -> tuple[dict[str, list[str]], str]:
    """Run attacks until one takes the harness down; gives the results and why there are no more."""
    command = [sys.executable, "-m", "tests.sandboxes.contained", "harness", backend, *names, planted_argument()]
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb", buffering=0) as output:
        container = subprocess.Popen(
            inside(command, user), cwd=_ROOT, env=_ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=writer, stderr=writer
        )
        os.close(writer)
        text, quiet = b"", False
        try:
            while not quiet:
                quiet = not select.select([output], [], [], _SILENCE_SECONDS)[0]
                part = b"" if quiet else output.read(1 << 16)
                text += part
                if not part:
                    break
        finally:
            container.kill()  # and with it, by --kill-child, everything inside
            container.wait()
    results: dict[str, list[str]] = {}
    other = []
    for line in text.decode("utf-8", "replace").splitlines():
        if line.startswith(_MARK):
            name, problems = json.loads(line.removeprefix(_MARK))
            results[name] = problems
        else:
            other.append(line)
    silence = f"silent for {_SILENCE_SECONDS:.0f} s" if quiet else f"ended with {container.returncode}"
    return results, f"{silence}; {' | '.join(other)[-500:]}"


def inside(command: Sequence[str], user: str) -> list[str]:
    """The command that runs another one in a container, as ``root`` or ``nobody``."""
    return [*_unshare(), sys.executable, "-m", "tests.sandboxes.contained", "init", user, *command]


def run_inside(command: Sequence[str], user: str, *, seconds: float) -> subprocess.CompletedProcess[str]:
    """Run a command in a container, and wait."""
    return subprocess.run(
        inside(command, user), cwd=_ROOT, env=_ENVIRONMENT, capture_output=True, text=True, timeout=seconds, check=False
    )


def _init(user: str, command: list[str]) -> int:
    """The first process of the container: cannot be killed from inside, and so outlives the attacks."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _let_all_read_python()
    _close_the_world_off()
    if user == "nobody":
        command = [*f"setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups --".split(), *command]
    first = subprocess.Popen(command, start_new_session=True)
    while True:  # it inherits orphans, too
        pid, status = os.wait()
        if pid == first.pid:
            first.returncode = os.waitstatus_to_exitcode(status)
            return first.returncode & 0xFF


def _let_all_read_python() -> None:
    """Hide folders that only root may enter, such as /root, but for the Python and the code that lie in them."""
    hidden = {
        next((up for up in reversed(path.parents) if not up.stat().st_mode & stat.S_IXOTH), None) for path in _needed()
    }
    for folder in sorted(path for path in hidden if path is not None):
        _empty(folder, "mode=755,size=1m")


def _needed() -> set[Path]:
    """Where Python and the code lie."""
    return {Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), _ROOT}


def _empty(folder: Path, options: str) -> None:
    """Put an empty folder in the place of one, and back into it what is needed: a checkout may lie in /tmp, too."""
    kept = {path: os.open(path, os.O_PATH) for path in _needed() if path.is_relative_to(folder)}
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
    for path, number in sorted(kept.items()):
        path.mkdir(parents=True, exist_ok=True)
        source = f"/proc/{os.getpid()}/fd/{number}"
        subprocess.run(["mount", "--no-canonicalize", "--bind", source, path], check=True)
        os.close(number)


def _close_the_world_off() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    at_recursive, read_only, mount_setattr = 0x8000, 1, 442
    attributes = struct.pack("<QQQQ", read_only, 0, 0, 0)
    if libc.syscall(ctypes.c_long(mount_setattr), -100, b"/", at_recursive, attributes, ctypes.c_size_t(32)):
        raise OSError(ctypes.get_errno(), "mount_setattr")
    for folder, options in (("/tmp", "size=512m"), ("/var/tmp", "size=64m"), ("/dev/shm", "size=64m")):
        _empty(Path(folder), f"mode=1777,{options}")
    subprocess.run(["mount", "-t", "proc", "proc", "/proc"], check=True)
    if _pid_limit_is_ours():
        Path("/proc/sys/kernel/pid_max").write_text("1500")
    with socket.socket() as anything:  # the loopback of a new network namespace is down
        fcntl.ioctl(anything, 0x8914, struct.pack("16sh22x", b"lo", 0x1 | 0x40))


def _pid_limit_is_ours() -> bool:
    """Since Linux 6.14 each pid namespace has a pid_max of its own; before, we would change the whole machine."""
    return tuple(int(part) for part in platform.release().split(".")[:2]) >= (6, 14)


def _harness(backend: str, arguments: list[str]) -> int:
    names = [argument for argument in arguments if argument in {attack.name for attack in ATTACKS}]
    with contextlib.ExitStack() as stack:
        try:
            sandbox = stack.enter_context(_sandbox(backend))
        except (SandboxUnavailableError, ImportError) as error:
            for name in names:
                _say(name, [f"skipped: {error}"])
            return 0
        world = stack.enter_context(World(tuple(arguments)))
        for _ in range(3):
            sandbox.run("print(1)")  # what is made at the first job is not left behind by an attack
        for attack in ATTACKS:
            if attack.name not in names:
                continue
            if attack.bomb and (backend in _WALLLESS or not _pid_limit_is_ours()):
                _say(attack.name, ["skipped: the container has no limit of processes that would hold it"])
                continue
            _say(attack.name, run_attack(sandbox, attack, world, contained=True, ignored=_IGNORED.get(backend, ())))
    return 0


def _say(name: str, problems: list[str]) -> None:
    os.write(1, f"\n{_MARK}{json.dumps([name, problems])}\n".encode())


@contextlib.contextmanager
def _sandbox(backend: str) -> Iterator[Sandbox]:
    if backend == "fusion":
        with FusionServer() as fusion_server, FusionSandbox(fusion_server.url, backoff_seconds=0.01) as sandbox:
            yield sandbox
    elif backend == "modal":
        with _modal() as sandbox:
            yield sandbox
    else:
        name, _, tier = backend.partition(":")
        with _UNSAFE[backend]() if backend in _UNSAFE else make(name, tier=tier) as sandbox:
            yield sandbox


@contextlib.contextmanager
def _modal() -> Iterator[Sandbox]:
    import modal
    from modal_proto import api_pb2

    from sandboxes.modal import ModalSandbox
    from tests.sandboxes.modal_server import ModalServer

    with (
        ModalServer() as server,
        modal.Client(server.url, api_pb2.CLIENT_TYPE_CLIENT, ("ak-test", "as-test")) as client,
        ModalSandbox(client=client, concurrency=1, creations_per_second=1000.0, backoff_seconds=0.01) as sandbox,
    ):
        yield sandbox


def main(role: str, *arguments: str) -> int:
    """Be the init of a container, or the harness in it."""
    if role == "harness":
        return _harness(arguments[0], list(arguments[1:]))
    if os.getpid() != 1:
        raise SystemExit("only as the first process of a container")
    return _init(arguments[0], list(arguments[1:]))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
