"""The filter of system calls, by running it as the kernel would: for both machines, whichever this one is."""

import errno
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
if sys.platform == "linux":
    from sandboxes.isolation import seccomp
    from sandboxes.isolation.syscalls import ALLOWED, NUMBERS

MACHINES = ["x86_64", "aarch64"]
REFUSED = [
    *("execve", "execveat", "ptrace", "mount", "unshare", "setns", "memfd_create", "shmget", "io_uring_setup"),
    *("bpf", "seccomp", "pivot_root"),
]


def verdict(machine: str, name: str, *arguments: int, only_pid: int | None = None) -> int:
    program = seccomp.build(machine, only_pid=only_pid)
    return seccomp.simulate(program, seccomp.AUDIT_ARCH[machine], NUMBERS[machine][name], arguments)


def refused() -> int:
    return seccomp.deny(errno.EPERM)


@pytest.mark.parametrize("machine", MACHINES)
class TestBothMachines:
    def test_every_listed_call_is_allowed_and_no_other_number(self, machine):
        program = seccomp.build(machine)
        plain = {NUMBERS[machine][name] for name in ALLOWED if name in NUMBERS[machine]}
        plain |= {NUMBERS[machine][name] for name in ("connect", "bind", "sendto")}
        plain |= {NUMBERS[machine][name] for name in ("kill", "tkill", "tgkill")}
        checked = {NUMBERS[machine][name] for name in ("clone", "clone3", "socket", "socketpair", "prctl")}
        checked |= {NUMBERS[machine][name] for name in ("prlimit64", "ioctl", "fcntl")}
        for number in set(range(1000)) - checked:
            expected = seccomp.ALLOW if number in plain else refused()
            assert seccomp.simulate(program, seccomp.AUDIT_ARCH[machine], number) == expected, number

    @pytest.mark.parametrize("name", REFUSED)
    def test_what_leads_out_is_refused(self, machine, name):
        assert verdict(machine, name) == refused()

    def test_threads_but_no_processes(self, machine):
        thread = 0x3D0F00  # of glibc's pthread_create
        assert verdict(machine, "clone", thread) == seccomp.ALLOW
        assert verdict(machine, "clone", 17) == refused()
        assert verdict(machine, "clone", 0x10000 | 0x10000000) == refused()  # with a user namespace
        assert verdict(machine, "clone3") == seccomp.deny(errno.ENOSYS)

    @pytest.mark.parametrize("family", [0, 2, 10, 16, 17, 38, 40])
    def test_no_sockets_but_unix(self, machine, family):
        assert verdict(machine, "socket", family, 1) == verdict(machine, "socketpair", family, 1) == refused()
        assert verdict(machine, "socket", 1, 1) == seccomp.ALLOW

    def test_the_upper_half_of_an_int_does_not_matter(self, machine):
        assert verdict(machine, "socket", 2 | 1 << 32) == refused()
        assert verdict(machine, "socket", 1 | 1 << 32) == seccomp.ALLOW

    def test_arguments(self, machine):
        assert verdict(machine, "fcntl", 0, 3) == seccomp.ALLOW  # GETFL
        assert verdict(machine, "fcntl", 0, 8) == refused()  # SETOWN
        assert verdict(machine, "ioctl", 0, 0x5401) == seccomp.ALLOW  # TCGETS
        assert verdict(machine, "ioctl", 0, 0x5412) == refused()  # TIOCSTI
        assert verdict(machine, "prlimit64", 0) == seccomp.ALLOW
        assert verdict(machine, "prlimit64", 1) == refused()
        assert verdict(machine, "prctl", 15) == seccomp.ALLOW  # SET_NAME
        assert verdict(machine, "prctl", 4) == refused()  # SET_DUMPABLE

    def test_without_namespaces_only_itself_can_be_signalled(self, machine):
        for name in ("kill", "tgkill"):
            assert verdict(machine, name, 77, only_pid=77) == seccomp.ALLOW
            assert verdict(machine, name, 78, only_pid=77) == refused()
            assert verdict(machine, name, -1, only_pid=77) == refused()
        assert verdict(machine, "tkill", 77, only_pid=77) == refused()

    def test_without_namespaces_no_socket_leads_anywhere(self, machine):
        assert verdict(machine, "socketpair", 1, only_pid=77) == seccomp.ALLOW
        assert verdict(machine, "sendto", 3, 1, 1, 0, 0, 0, only_pid=77) == seccomp.ALLOW
        assert verdict(machine, "sendto", 3, 1, 1, 0, 1 << 32, 0, only_pid=77) == refused()
        for name in ("connect", "bind", "sendmsg", "sendmmsg"):
            assert verdict(machine, name, only_pid=77) == refused()
        assert verdict(machine, "socket", 1, only_pid=77) == refused()

    def test_another_architecture_is_killed(self, machine):
        program = seccomp.build(machine)
        assert seccomp.simulate(program, 0x40000003, 1) == seccomp.KILL  # i386 has other numbers

    def test_it_fits(self, machine):
        assert len(seccomp.build(machine, only_pid=1)) < 400


def test_x32_is_killed():
    program = seccomp.build("x86_64")
    assert seccomp.simulate(program, seccomp.AUDIT_ARCH["x86_64"], 0x40000000) == seccomp.KILL


def test_the_kernel_agrees():
    code = """
import os, socket
from sandboxes.isolation import libc, seccomp
libc.no_new_privileges()
seccomp.install(seccomp.pack(seccomp.build(os.uname().machine)))
for call in (os.fork, socket.socket, lambda: os.execv("/bin/true", ["true"]), lambda: os.memfd_create("x")):
    try:
        call()
    except PermissionError:
        print("refused")
socket.socket(socket.AF_UNIX).close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("refused\n" * 4, "")
