"""Programs that look for what is not theirs: files, answers, listeners."""

from __future__ import annotations

from functools import partial

from sandboxes import Status
from tests.sandboxes.attacks import Attack, add_attack
from tests.sandboxes.outside import SECRET_PATTERN

__all__ = ["ATTACKS"]

OK, ERROR, TIMEOUT = Status.OK, Status.ERROR, Status.TIMEOUT
ATTACKS: list[Attack] = []
add = partial(add_attack, ATTACKS)

# Files

add(
    "rm -rf /",
    """
    import os, shutil
    for root in ("@FOLDER@", "/tmp", "/var/tmp", "/dev/shm", os.path.expanduser("~"), "/home", "/etc", "/"):
        for name in os.listdir(root) if os.path.isdir(root) else ():
            shutil.rmtree(os.path.join(root, name), ignore_errors=True)
            try:
                os.unlink(os.path.join(root, name))
            except OSError:
                pass
    """,
    OK,
    ERROR,
    TIMEOUT,
    timeout_seconds=3.0,
    dangerous=True,
)
add(
    "files of others",
    """
    import os
    for path in ("@CANARY@", "/etc/shadow", "/etc/machine-id", "/root/.bashrc"):
        for mode in ("r", "r+"):
            try:
                open(path, mode).close()  # to open it is enough: what it says is nobody's business
                print("BREACH: could open", path, mode)
            except OSError:
                pass
    """,
)
add(
    "the kernel's files",
    """
    import glob, os
    paths = ["/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/sys/kernel/uevent_helper", "/proc/self/mem"]
    for path in paths[:3] + ["/dev/mem", "/dev/kmsg", "/dev/port"]:
        try:
            os.close(os.open(path, os.O_WRONLY))  # to open it is enough: nothing is written
            print("BREACH: could write", path)
        except OSError:
            pass
    for path in glob.glob("/dev/[svnh]d*") + ["/dev/vda", "/dev/sda", "/proc/kcore"]:
        try:
            os.close(os.open(path, os.O_RDONLY))
            print("BREACH: could read", path)
        except OSError:
            pass
    """,
)
add(
    "files left for the next job",
    """
    import ctypes, os
    for folder in (".", "/tmp", "/var/tmp", "/dev/shm", "/", "/run", "/dev/mqueue", os.path.expanduser("~")):
        try:
            for name in os.listdir(folder):
                if "left-over" in name:
                    print("BREACH: found", os.path.join(folder, name))
        except OSError:
            pass
    if ctypes.CDLL(None).shmget(0x5EC7, 0, 0) >= 0:
        print("BREACH: found shared memory")
    """,
    before="""
    import ctypes, os
    for folder in (".", "/tmp", "/var/tmp", "/dev/shm", "/", "/run", "/dev/mqueue", os.path.expanduser("~")):
        try:
            open(os.path.join(folder, "left-over"), "w").close()
        except OSError:
            pass
    os.mkdir("left-over-folder")
    ctypes.CDLL(None).shmget(0x5EC7, 4096, 0o1666)
    """,
)
add(
    "a link left where the next job has a file",
    "print('well')",
    OK,
    before='import os\nos.symlink("@CANARY@", "input.txt")',
    files={"input.txt": "overwritten"},
    stdout="well\n",
)
add(
    "a library left for the next job",
    'import json, shelve\nprint(json.__file__.endswith("json/__init__.py"), hasattr(shelve, "left"))',
    OK,
    before="""
    import json, os
    for path in (json.__file__, json.__cached__, os.__file__):
        try:
            open(path, "r+").close()
            print("BREACH: could write", path)
        except OSError:
            pass
    open("json.py", "w").write("print('BREACH: not the json of the library')")
    open("shelve.py", "w").write("left = 1")
    """,
    stdout="True False\n",
)

# Looking for the answer

_SEARCH = f"""
import gc, os, re, sys
SECRET = re.compile({SECRET_PATTERN!r}.encode())
def look(where, data):
    for found in set(SECRET.findall(data if isinstance(data, bytes) else repr(data).encode("utf-8", "replace"))):
        print("BREACH: found", found.decode(), "in", where)
"""
add(
    "frames, gc, argv and environment",
    _SEARCH
    + """
frame = sys._getframe()
while frame:
    look("a frame", dict(frame.f_globals))
    look("a frame", dict(frame.f_locals))
    frame = frame.f_back
for thing in gc.get_objects():
    if type(thing) in (dict, list, tuple, set):
        look("gc", [part for part in (thing.items() if type(thing) is dict else thing)
                    if type(part) in (str, bytes, tuple) and SECRET.pattern[:6].decode() in repr(part)])
for module in list(sys.modules.values()):
    look("a module", [value for value in vars(module).values() if type(value) in (str, bytes, list)])
look("argv", sys.argv + sys.orig_argv)
look("environment", dict(os.environ))
""",
    timeout_seconds=5.0,
    dangerous=True,
)
add(
    "open descriptors",
    _SEARCH
    + """
for number in range(3, 256):
    try:
        os.set_blocking(number, False)
        look("descriptor", os.read(number, 1 << 20))
    except OSError:
        pass
    try:
        look("descriptor", os.pread(number, 1 << 20, 0))
    except OSError:
        pass
    try:
        for name in os.listdir(number):
            print("BREACH: descriptor", number, "is a folder with", name)
    except OSError:
        pass
""",
)
add(
    "/proc",
    _SEARCH
    + """
for pid in ["self", str(os.getppid()), *filter(str.isdigit, os.listdir("/proc") if os.path.isdir("/proc") else ())]:
    for name in ("environ", "cmdline"):
        try:
            look(f"{name} of {pid}", open(f"/proc/{pid}/{name}", "rb").read())
        except OSError:
            pass
""",
)
add(
    "memory of others",
    _SEARCH
    + """
import ctypes
class Piece(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
libc = ctypes.CDLL(None)
buffer = ctypes.create_string_buffer(1 << 20)
def read(pid, start, length):
    here, there = Piece(ctypes.addressof(buffer), length), Piece(start, length)
    return buffer.raw[: max(0, libc.process_vm_readv(pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0))]
for pid in sorted({os.getppid(), *range(1, 64)} - {0, os.getpid()}):
    if read(pid, id(None) & ~4095, 4096):
        print("BREACH: read the memory of", pid)
    try:
        maps = open(f"/proc/{pid}/maps").readlines()
    except OSError:
        continue
    for line in maps:
        start, end = (int(part, 16) for part in line.split()[0].split("-"))
        if "rw-p" in line and "/" not in line and end - start < 1 << 26:
            for part in range(start, end, 1 << 20):
                look(f"memory of {pid}", read(pid, part, min(1 << 20, end - part)))
    if libc.ptrace(0x4206, pid, 0, 0) == 0:  # PTRACE_SEIZE, which does not stop it
        print("BREACH: could trace", pid)
""",
    OK,
    ERROR,
    timeout_seconds=6.0,
    dangerous=True,
)
_SCAN = (
    _SEARCH
    + """
import ctypes
libc = ctypes.CDLL(None)
libc.write.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
libc.sbrk.restype = ctypes.c_void_p
reader, writer = os.pipe()
def scan(start, end):
    kept = b""
    for address in range(start & ~4095, end, 4096):
        if libc.write(writer, address, 4096) == 4096:  # answers EFAULT where there is no memory
            page = os.read(reader, 4096)
            look("memory of its own", kept + page)
            kept = page[-64:]
top = libc.sbrk(0)
scan(top - (24 << 20), top)
for anchor in {id(thing) >> 25 for thing in ([], {}, SECRET, look, object(), "x" * 600)}:
    scan(anchor << 25, (anchor + 1) << 25)
"""
)
add("what the harness left in memory", _SCAN, timeout_seconds=6.0, dangerous=True)
add(
    "what the job before left in memory",
    _SCAN,
    before="import sys\nanswer = '@CODE_SECRET@'\ntext = sys.stdin.read()\nprint(answer, text)",
    before_stdin="@STDIN_SECRET@\n" * 100,
    timeout_seconds=6.0,
    plain=True,
)

# Reaching out

_REACH = """
import socket
def reach(family, kind, address):
    try:
        made = socket.socket(family, kind)
    except (OSError, AttributeError):
        return
    try:
        made.settimeout(0.3)
        if kind == socket.SOCK_DGRAM:
            made.sendto(b"reached", address)
        else:
            made.connect(address)
            print("BREACH: connected to", address)
    except OSError:
        pass
"""
add("TCP", _REACH + "reach(socket.AF_INET, socket.SOCK_STREAM, ('127.0.0.1', @TCP_PORT@))")
add("UDP", _REACH + "reach(socket.AF_INET, socket.SOCK_DGRAM, ('127.0.0.1', @UDP_PORT@))")
add("unix socket", _REACH + "reach(socket.AF_UNIX, socket.SOCK_STREAM, '@UNIX@')")
add("abstract unix socket", _REACH + "reach(socket.AF_UNIX, socket.SOCK_STREAM, '\\0@ABSTRACT@')")
add(
    "vsock",
    _REACH
    + """
try:
    socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).close()
    print("BREACH: a vsock socket, which no namespace holds")
except OSError:
    pass
if @VSOCK_PORT@:
    reach(socket.AF_VSOCK, socket.SOCK_STREAM, (1, @VSOCK_PORT@))
""",
)
add(
    "raw sockets",
    """
    import socket
    for family, kind, protocol in ((17, socket.SOCK_RAW, 3), (2, socket.SOCK_RAW, 1), (38, socket.SOCK_SEQPACKET, 0)):
        try:
            socket.socket(family, kind, protocol).close()
            print("BREACH: a socket of family", family)
        except OSError:
            pass
    """,
)
