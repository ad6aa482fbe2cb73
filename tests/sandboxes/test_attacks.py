"""The attack suite against the local sandbox and the clients of servers, each time in a container of its own.

Docker, whose programs are in containers already, has it in `test_docker`.
"""

import functools

import pytest

from sandboxes import Status
from tests.sandboxes.attack_programs import ATTACKS
from tests.sandboxes.attacks import Attack, run_attack
from tests.sandboxes.contained import attack_report, why_not
from tests.sandboxes.outside import World
from tests.sandboxes.unsafe import UnsafeSubprocessSandbox

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

_WALLS_OF_BOTH = (
    *("disk fill", "inode fill", "files of others", "/proc", "TCP", "UDP", "unix socket", "abstract unix socket"),
    *("vsock", "another program", "kernel: io_uring", "kernel: keyring", "kernel: ptrace", "kernel: user namespace"),
    "kernel: cloned user namespace",
)
_WALLS_OF_FUSION = (
    *("300 forks", "rm -rf /", "the kernel's files", "files left for the next job", "memory of others", "raw sockets"),
    *("its input and output tampered with", "stop the harness", "interrupt the harness", "kill(-1)"),
    *("stop, then kill, every process", "kernel: mount namespace", "kernel: mount", "kernel: new mount"),
    *("kernel: chroot", "kernel: block device", "kernel: bpf map", "kernel: perf events", "kernel: file handle"),
    "kernel: userfaultfd",
)
SERVERS_WALLS = {"modal": frozenset(_WALLS_OF_BOTH), "fusion": frozenset((*_WALLS_OF_BOTH, *_WALLS_OF_FUSION))}
"""Attacks that only the server can hold. That of the tests has no walls, so here they must get through."""
UNDECIDED = {("fusion", "thread bomb"): "root's threads are not bounded; it may run out of memory or of time"}
_BY_NAME = {attack.name: attack for attack in ATTACKS}


@functools.cache
def no_container() -> str:
    return why_not()


@functools.cache
def report(backend: str, user: str) -> dict[str, list[str]]:
    return attack_report(backend, user)


@functools.cache
def weaker_report() -> dict[str, list[str]]:
    """Of the forking sandbox, only for what the other unsafe one withstood."""
    withstood = [name for name, problems in report("unsafe-subprocess", "root").items() if not problems]
    return attack_report("unsafe-fork", names=[name for name in withstood if not _BY_NAME[name].plain])


@pytest.fixture(autouse=True)
def _needs_a_container():
    if no_container():
        pytest.skip(no_container())


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
@pytest.mark.parametrize("user", ["root", "nobody"])
@pytest.mark.parametrize("tier", ["namespaces", "landlock"])
def test_local(tier, user, attack):
    pytest.importorskip("sandboxes.local")
    problems = report(f"local:{tier}", user)[attack.name]
    if problems and problems[0].startswith("skipped: "):
        pytest.skip(problems[0].removeprefix("skipped: "))
    assert problems == []


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
@pytest.mark.parametrize("backend", ["fusion", "modal"])
def test_clients(request, backend, attack):
    """What the clients and the launcher hold by themselves, whatever server they are given."""
    pytest.importorskip("modal" if backend == "modal" else "sandboxes.fusion")
    problems = report(backend, "root")[attack.name]
    if problems and problems[0].startswith("skipped: "):
        pytest.skip(problems[0].removeprefix("skipped: "))
    if attack.name in SERVERS_WALLS[backend]:
        request.applymarker(pytest.mark.xfail(reason="a wall is the server's to build", strict=True))
    elif (backend, attack.name) in UNDECIDED:
        request.applymarker(pytest.mark.xfail(reason=UNDECIDED[backend, attack.name], strict=False))
    assert problems == []


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_the_suite_can_fail(attack):
    """What needs no isolation ends as it should without any; of all else, a sandbox that holds nothing fails."""
    problems = report("unsafe-subprocess", "root")[attack.name]
    if attack.bomb:
        pytest.skip("nothing but a sandbox that holds would hold it")
    if attack.plain:
        assert problems == []
    else:
        assert problems or weaker_report()[attack.name]


@pytest.mark.parametrize(
    ("attack", "problem"),
    [
        (Attack("status", "1 / 0", frozenset({Status.OK})), "status error, not ok"),
        (Attack("exit code", "", exit_code=3), "exit code 0, not 3"),
        (Attack("stdout", "print('x')", stdout="y"), "stdout is not 'y'"),
        (Attack("breach", "print('BREACH: it could')"), "BREACH: it could"),
        (Attack("secret", "print('@CODE_SECRET@')"), "it printed a secret of ours (number 2)"),
        (Attack("canary", "open('@CANARY@', 'a').write('x')"), "it changed canary-0"),
        (Attack("gone", "import os; os.unlink('@CANARY@')"), "it took canary-0: No such file or directory"),
        (
            Attack("daemon", "import os, time\nif not os.fork():\n    os.closerange(0, 9)\n    time.sleep(8)"),
            "left behind: 1 processes",
        ),
    ],
    ids=lambda value: value.name if isinstance(value, Attack) else "",
)
def test_each_kind_of_harm_is_seen(attack, problem):
    if attack.name == "daemon":
        assert any(problem in line for line in _in_a_container_of_its_own())
        return
    with World() as world, UnsafeSubprocessSandbox() as sandbox:
        assert any(line.startswith(problem) for line in run_attack(sandbox, attack, world, contained=False))
        assert run_attack(sandbox, Attack("nothing", ""), world, contained=False) == []


def _in_a_container_of_its_own() -> list[str]:
    return attack_report("unsafe-subprocess", names=["daemon"])["daemon"]


def test_every_name_is_there_once():
    assert len(_BY_NAME) == len(ATTACKS)
