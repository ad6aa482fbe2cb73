"""The numbers of the system calls that the sandbox knows by name, per architecture.

Written out from the kernel's headers (``asm/unistd_64.h`` and ``asm-generic/unistd.h``): the machine that runs the
sandbox need not have them. A number never changes its meaning.
"""

__all__ = ["ALLOWED", "NUMBERS"]

# fmt: off
ALLOWED = (
    "read", "write", "readv", "writev", "pread64", "pwrite64", "preadv", "pwritev", "preadv2", "pwritev2", "open",
    "openat", "close", "close_range", "stat", "fstat", "lstat", "newfstatat", "statx", "access", "faccessat",
    "faccessat2", "lseek", "mmap", "munmap", "mprotect", "mremap", "madvise", "msync", "mincore", "brk", "dup",
    "dup2", "dup3", "pipe", "pipe2", "select", "pselect6", "poll", "ppoll", "epoll_create", "epoll_create1",
    "epoll_ctl", "epoll_wait", "epoll_pwait", "epoll_pwait2", "eventfd", "eventfd2", "timerfd_create",
    "timerfd_settime", "timerfd_gettime", "signalfd4", "getdents", "getdents64", "getcwd", "chdir", "fchdir", "mkdir",
    "mkdirat", "rmdir", "unlink", "unlinkat", "rename", "renameat", "renameat2", "link", "linkat", "symlink",
    "symlinkat", "readlink", "readlinkat", "chmod", "fchmod", "fchmodat", "fchmodat2", "umask", "truncate",
    "ftruncate", "fallocate", "fadvise64", "utime", "utimes", "utimensat", "futimesat", "statfs", "fstatfs", "flock",
    "fsync", "fdatasync", "sendfile", "copy_file_range", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn",
    "rt_sigpending", "rt_sigtimedwait", "rt_sigsuspend", "sigaltstack", "pause", "alarm", "getitimer", "setitimer",
    "timer_create", "timer_settime", "timer_gettime", "timer_getoverrun", "timer_delete", "nanosleep",
    "clock_nanosleep", "clock_gettime", "clock_getres", "gettimeofday", "time", "times", "getrusage", "sysinfo",
    "uname", "getpid", "getppid", "gettid", "getuid", "geteuid", "getgid", "getegid", "getresuid", "getresgid",
    "getgroups", "getpgid", "getpgrp", "getsid", "setpgid", "setsid", "getpriority", "sched_yield",
    "sched_getaffinity", "sched_getparam", "sched_getscheduler", "sched_get_priority_max", "sched_get_priority_min",
    "getcpu", "getrandom", "capget", "getrlimit", "setrlimit", "futex", "futex_waitv", "set_robust_list",
    "get_robust_list", "set_tid_address", "rseq", "membarrier", "arch_prctl", "restart_syscall", "exit", "exit_group",
    "wait4", "waitid", "accept", "accept4", "getsockname", "getpeername", "getsockopt", "setsockopt", "shutdown",
    "listen", "recvfrom", "recvmsg", "recvmmsg",
)
"""Calls that Python and its extension modules live by; none reaches beyond the process and its own files."""

_X86_64 = {
    "read": 0, "write": 1, "readv": 19, "writev": 20, "pread64": 17, "pwrite64": 18, "preadv": 295, "pwritev": 296,
    "preadv2": 327, "pwritev2": 328, "open": 2, "openat": 257, "close": 3, "close_range": 436, "stat": 4, "fstat": 5,
    "lstat": 6, "newfstatat": 262, "statx": 332, "access": 21, "faccessat": 269, "faccessat2": 439, "lseek": 8,
    "mmap": 9, "munmap": 11, "mprotect": 10, "mremap": 25, "madvise": 28, "msync": 26, "mincore": 27, "brk": 12,
    "dup": 32, "dup2": 33, "dup3": 292, "pipe": 22, "pipe2": 293, "select": 23, "pselect6": 270, "poll": 7,
    "ppoll": 271, "epoll_create": 213, "epoll_create1": 291, "epoll_ctl": 233, "epoll_wait": 232, "epoll_pwait": 281,
    "epoll_pwait2": 441, "eventfd": 284, "eventfd2": 290, "timerfd_create": 283, "timerfd_settime": 286,
    "timerfd_gettime": 287, "signalfd4": 289, "getdents": 78, "getdents64": 217, "getcwd": 79, "chdir": 80,
    "fchdir": 81, "mkdir": 83, "mkdirat": 258, "rmdir": 84, "unlink": 87, "unlinkat": 263, "rename": 82,
    "renameat": 264, "renameat2": 316, "link": 86, "linkat": 265, "symlink": 88, "symlinkat": 266, "readlink": 89,
    "readlinkat": 267, "chmod": 90, "fchmod": 91, "fchmodat": 268, "fchmodat2": 452, "umask": 95, "truncate": 76,
    "ftruncate": 77, "fallocate": 285, "fadvise64": 221, "utime": 132, "utimes": 235, "utimensat": 280,
    "futimesat": 261, "statfs": 137, "fstatfs": 138, "flock": 73, "fsync": 74, "fdatasync": 75, "sendfile": 40,
    "copy_file_range": 326, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "rt_sigpending": 127,
    "rt_sigtimedwait": 128, "rt_sigsuspend": 130, "sigaltstack": 131, "pause": 34, "alarm": 37, "getitimer": 36,
    "setitimer": 38, "timer_create": 222, "timer_settime": 223, "timer_gettime": 224, "timer_getoverrun": 225,
    "timer_delete": 226, "nanosleep": 35, "clock_nanosleep": 230, "clock_gettime": 228, "clock_getres": 229,
    "gettimeofday": 96, "time": 201, "times": 100, "getrusage": 98, "sysinfo": 99, "uname": 63, "getpid": 39,
    "getppid": 110, "gettid": 186, "getuid": 102, "geteuid": 107, "getgid": 104, "getegid": 108, "getresuid": 118,
    "getresgid": 120, "getgroups": 115, "getpgid": 121, "getpgrp": 111, "getsid": 124, "setpgid": 109, "setsid": 112,
    "getpriority": 140, "sched_yield": 24, "sched_getaffinity": 204, "sched_getparam": 143, "sched_getscheduler": 145,
    "sched_get_priority_max": 146, "sched_get_priority_min": 147, "getcpu": 309, "getrandom": 318, "capget": 125,
    "getrlimit": 97, "setrlimit": 160, "futex": 202, "futex_waitv": 449, "set_robust_list": 273,
    "get_robust_list": 274, "set_tid_address": 218, "rseq": 334, "membarrier": 324, "arch_prctl": 158,
    "restart_syscall": 219, "exit": 60, "exit_group": 231, "wait4": 61, "waitid": 247, "accept": 43, "accept4": 288,
    "getsockname": 51, "getpeername": 52, "getsockopt": 55, "setsockopt": 54, "shutdown": 48, "listen": 50,
    "recvfrom": 45, "recvmsg": 47, "recvmmsg": 299, "clone": 56, "clone3": 435, "socket": 41, "socketpair": 53,
    "prctl": 157, "prlimit64": 302, "ioctl": 16, "fcntl": 72, "kill": 62, "tkill": 200, "tgkill": 234, "connect": 42,
    "bind": 49, "sendto": 44, "sendmsg": 46, "sendmmsg": 307, "pivot_root": 155, "seccomp": 317, "execve": 59,
    "execveat": 322, "fork": 57, "vfork": 58, "ptrace": 101, "mount": 165, "unshare": 272, "memfd_create": 319,
    "shmget": 29, "io_uring_setup": 425, "bpf": 321, "setns": 308,
}

_AARCH64 = {
    "read": 63, "write": 64, "readv": 65, "writev": 66, "pread64": 67, "pwrite64": 68, "preadv": 69, "pwritev": 70,
    "preadv2": 286, "pwritev2": 287, "openat": 56, "close": 57, "close_range": 436, "fstat": 80, "newfstatat": 79,
    "statx": 291, "faccessat": 48, "faccessat2": 439, "lseek": 62, "mmap": 222, "munmap": 215, "mprotect": 226,
    "mremap": 216, "madvise": 233, "msync": 227, "mincore": 232, "brk": 214, "dup": 23, "dup3": 24, "pipe2": 59,
    "pselect6": 72, "ppoll": 73, "epoll_create1": 20, "epoll_ctl": 21, "epoll_pwait": 22, "epoll_pwait2": 441,
    "eventfd2": 19, "timerfd_create": 85, "timerfd_settime": 86, "timerfd_gettime": 87, "signalfd4": 74,
    "getdents64": 61, "getcwd": 17, "chdir": 49, "fchdir": 50, "mkdirat": 34, "unlinkat": 35, "renameat": 38,
    "renameat2": 276, "linkat": 37, "symlinkat": 36, "readlinkat": 78, "fchmod": 52, "fchmodat": 53, "fchmodat2": 452,
    "umask": 166, "truncate": 45, "ftruncate": 46, "fallocate": 47, "fadvise64": 223, "utimensat": 88, "statfs": 43,
    "fstatfs": 44, "flock": 32, "fsync": 82, "fdatasync": 83, "sendfile": 71, "copy_file_range": 285,
    "rt_sigaction": 134, "rt_sigprocmask": 135, "rt_sigreturn": 139, "rt_sigpending": 136, "rt_sigtimedwait": 137,
    "rt_sigsuspend": 133, "sigaltstack": 132, "getitimer": 102, "setitimer": 103, "timer_create": 107,
    "timer_settime": 110, "timer_gettime": 108, "timer_getoverrun": 109, "timer_delete": 111, "nanosleep": 101,
    "clock_nanosleep": 115, "clock_gettime": 113, "clock_getres": 114, "gettimeofday": 169, "times": 153,
    "getrusage": 165, "sysinfo": 179, "uname": 160, "getpid": 172, "getppid": 173, "gettid": 178, "getuid": 174,
    "geteuid": 175, "getgid": 176, "getegid": 177, "getresuid": 148, "getresgid": 150, "getgroups": 158,
    "getpgid": 155, "getsid": 156, "setpgid": 154, "setsid": 157, "getpriority": 141, "sched_yield": 124,
    "sched_getaffinity": 123, "sched_getparam": 121, "sched_getscheduler": 120, "sched_get_priority_max": 125,
    "sched_get_priority_min": 126, "getcpu": 168, "getrandom": 278, "capget": 90, "getrlimit": 163, "setrlimit": 164,
    "futex": 98, "futex_waitv": 449, "set_robust_list": 99, "get_robust_list": 100, "set_tid_address": 96,
    "rseq": 293, "membarrier": 283, "restart_syscall": 128, "exit": 93, "exit_group": 94, "wait4": 260, "waitid": 95,
    "accept": 202, "accept4": 242, "getsockname": 204, "getpeername": 205, "getsockopt": 209, "setsockopt": 208,
    "shutdown": 210, "listen": 201, "recvfrom": 207, "recvmsg": 212, "recvmmsg": 243, "clone": 220, "clone3": 435,
    "socket": 198, "socketpair": 199, "prctl": 167, "prlimit64": 261, "ioctl": 29, "fcntl": 25, "kill": 129,
    "tkill": 130, "tgkill": 131, "connect": 203, "bind": 200, "sendto": 206, "sendmsg": 211, "sendmmsg": 269,
    "pivot_root": 41, "seccomp": 277, "execve": 221, "execveat": 281, "ptrace": 117, "mount": 40, "unshare": 97,
    "memfd_create": 279, "shmget": 194, "io_uring_setup": 425, "bpf": 280, "setns": 268,
}
# fmt: on

NUMBERS: dict[str, dict[str, int]] = {"x86_64": _X86_64, "aarch64": _AARCH64}
"""By the name of the machine as `os.uname` gives it, then by the name of the call."""
