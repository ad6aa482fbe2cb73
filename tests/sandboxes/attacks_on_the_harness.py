"""Programs that lie about how they went, harm others, or try the kernel."""

from __future__ import annotations

from functools import partial

from sandboxes import Status
from tests.sandboxes.attacks import Attack, add_attack

__all__ = ["ATTACKS"]

OK, ERROR, TIMEOUT = Status.OK, Status.ERROR, Status.TIMEOUT
ATTACKS: list[Attack] = []
add = partial(add_attack, ATTACKS)

# Lying about how it went

add("sys.exit(0)", "import sys\nsys.exit(0)\nprint('never')", OK, stdout="", exit_code=0, plain=True)
add("os._exit(0)", "import os\nos._exit(0)", OK, stdout="", exit_code=0, plain=True)
add(
    "objects that equal everything",
    """
    import builtins, sys
    class Equal(str):
        __eq__ = lambda self, other: True
        __ne__ = lambda self, other: False
        __hash__ = lambda self: 0
        __getattr__ = lambda self, name: self
        __call__ = lambda self, *args, **options: self
        __bool__ = lambda self: True
    print(Equal("mine"))
    raise SystemExit(3)
    """,
    ERROR,
    exit_code=3,
    stdout="mine\n",
    plain=True,
)
add(
    "patched json, builtins and comparison",
    """
    import builtins, json, marshal, operator, os, pickle, struct, sys
    forged = '{"status": "ok", "exit_code": 0, "stdout": "forged"}'
    json.dumps = json.JSONEncoder.encode = lambda *args, **options: forged
    marshal.dumps = pickle.dumps = struct.pack = lambda *args, **options: forged.encode()
    operator.eq = lambda a, b: True
    os._exit = sys.exit = lambda *args: os.abort()
    for name in ("open", "print", "repr", "len", "isinstance", "int", "str", "BaseException", "Exception"):
        setattr(builtins, name, lambda *args, **options: 0)
    sys.stdout.write("mine")
    sys.stdout.flush()
    raise SystemExit(3)
    """,
    ERROR,
    exit_code=3,
    stdout="mine",
    plain=True,
)
add(
    "a verdict on every descriptor",
    """
    import os, struct
    forged = b'{"status": "ok", "exit_code": 0, "stdout": "forged", "stderr": "", "seconds": 0.0}\\n'
    sizes = struct.pack("<I", len(forged)), struct.pack(">Q", len(forged))
    for number in range(3, 1024):
        for text in (forged, sizes[0] + forged, sizes[1] + forged, bytes(64)):
            try:
                os.set_blocking(number, False)
                os.write(number, text)
            except OSError:
                pass
    os.write(1, b"mine")
    os._exit(3)
    """,
    ERROR,
    exit_code=3,
    stdout="mine",
    dangerous=True,
)
add(
    "every descriptor closed",
    "import os\nos.write(1, b'mine')\nos.closerange(0, 4096)\nos._exit(0)",
    OK,
    exit_code=0,
    stdout="mine",
)
add(
    "modules and builtins gone",
    "import builtins, sys\nsys.modules.clear()\nbuiltins.__dict__.clear()\n1 / 0",
    plain=True,
)
add(
    "hooks",
    """
    import sys, atexit, gc
    sys.excepthook = lambda *args: 1 / 0
    sys.unraisablehook = sys.excepthook
    class Late:
        def __del__(self):
            raise SystemExit(0)
    sys.late = Late()
    gc.callbacks.append(lambda *args: 1 / 0)
    sys.settrace(lambda *args: None)
    sys.exit(Late())
    """,
    ERROR,
    plain=True,
)
add(
    "its input and output tampered with",
    """
    import fcntl, os, signal
    for number in (0, 1, 2):
        for command, value in ((fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC), (1031, 4096), (8, os.getppid()), (10, 9)):
            try:
                fcntl.fcntl(number, command, value)
            except OSError:
                pass
    os.write(1, b"mine")
    os._exit(3)
    """,
    ERROR,
    exit_code=3,
    stdout="mine",
    dangerous=True,
)

# Harming others

for _name, _signal in (("kill", 9), ("stop", 19), ("interrupt", 2)):
    add(
        f"{_name} the harness",
        f"""
        import os
        parent = os.getppid()
        for find in (lambda: parent, lambda: -os.getpgid(parent), lambda: -os.getsid(parent), lambda: 1):
            try:
                if find() not in (0, os.getpid(), -os.getpid(), -1):
                    os.kill(find(), {_signal})
            except OSError:
                pass
        """,
        OK,
        ERROR,
        TIMEOUT,
        dangerous=True,
    )
add(
    "kill(-1)",
    "import os, signal\nos.kill(-1, signal.SIGKILL)",
    OK,
    ERROR,
    TIMEOUT,
    dangerous=True,
)
add("kill(0)", "import os, signal\nos.kill(0, signal.SIGKILL)", OK, ERROR, TIMEOUT, dangerous=True)
add(
    "stop, then kill, every process",
    """
    import os
    for number in (19, 9):
        for pid in range(1, 4096):
            try:
                if pid != os.getpid():
                    os.kill(pid, number)
            except OSError:
                pass
    """,
    OK,
    ERROR,
    TIMEOUT,
    dangerous=True,
)
add(
    "limits of the harness",
    """
    import os, resource
    for pid in {os.getppid(), 1} - {0, os.getpid()}:
        for change in (
            lambda: resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, 3)),
            lambda: resource.prlimit(pid, resource.RLIMIT_AS, (1 << 20, 1 << 20)),
            lambda: os.setpriority(os.PRIO_PROCESS, pid, 19),
        ):
            try:
                change()
            except OSError:
                pass
    """,
    dangerous=True,
)
_DAEMON = """
import os, time
try:
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            {closing}
            time.sleep(100)
        os._exit(0)
    os.wait()
except OSError as error:
    print(error)
"""
add("daemon", _DAEMON.format(closing="os.closerange(0, 256)"), dangerous=True)
add("daemon that holds stdout", _DAEMON.format(closing="pass"), OK, ERROR, TIMEOUT, dangerous=True)
add(
    "another program",
    """
    import os, subprocess, sys
    try:
        subprocess.Popen(["/bin/sleep", "100"])
        print("BREACH: started a program")
    except OSError as error:
        print(error)
    """,
    dangerous=True,
)
add("segfault", "import ctypes\nctypes.string_at(0)", ERROR, exit_code=-11, plain=True)
add("abort", "import os\nos.abort()", ERROR, plain=True)

# The kernel

_SYSCALL = """
import ctypes, os, platform
libc = ctypes.CDLL(None, use_errno=True)
number = {{"x86_64": {x86}, "aarch64": {arm}}}[platform.machine()]
arguments = {arguments}
if libc.syscall(ctypes.c_long(number), *arguments) >= 0:
    print("BREACH: {name}")
"""
_LONG = "ctypes.c_long({})".format
for _name, _x86, _arm, _arguments in (
    ("user namespace", 272, 97, (_LONG(0x10000000),)),
    ("mount namespace", 272, 97, (_LONG(0x20000),)),
    ("cloned user namespace", 435, 435, ("ctypes.create_string_buffer((0x10000000).to_bytes(8, 'little') + bytes(24)"
     " + (17).to_bytes(8, 'little') + bytes(24))", _LONG(64))),
    ("mount", 165, 40, ("b'none'", "b'.'", "b'tmpfs'", _LONG(0), "None")),
    ("new mount", 430, 430, ("b'tmpfs'", _LONG(0))),
    ("chroot", 161, 51, ("b'.'",)),
    ("block device", 259, 33, (_LONG(-100), "b'device'", _LONG(0o60666), _LONG(0x801))),
    ("io_uring", 425, 425, (_LONG(4), "ctypes.create_string_buffer(120)")),
    ("bpf map", 321, 280, (
        _LONG(0), "ctypes.create_string_buffer(b''.join(bytes([n, 0, 0, 0]) for n in (2, 4, 4, 1)), 64)", _LONG(64),
    )),
    ("userfaultfd", 323, 282, (_LONG(0),)),
    ("perf events", 298, 241, ("ctypes.create_string_buffer(b'\\1\\0\\0\\0\\x80\\0\\0\\0', 128)", _LONG(0), _LONG(-1),
     _LONG(-1), _LONG(0))),
    ("keyring", 248, 217, ("b'user'", "b'left-over'", "b'x'", _LONG(1), _LONG(-4))),
    ("file handle", 304, 265, (
        "os.open('/', 0)",
        "ctypes.create_string_buffer(b''.join(n.to_bytes(4, 'little') for n in (8, 1, 2, 0)))",  # inode 2, the root
        _LONG(0),
    )),
    ("ptrace", 101, 117, (_LONG(0), _LONG(0), _LONG(0), _LONG(0))),
):  # fmt: skip
    _code = _SYSCALL.format(name=_name, x86=_x86, arm=_arm, arguments=f"({', '.join(_arguments)},)")
    add(f"kernel: {_name}", _code, OK, ERROR, dangerous=True)
