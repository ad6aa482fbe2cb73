"""Programs that never end, and programs that use up what there is."""

from __future__ import annotations

from functools import partial

from sandboxes import Status
from tests.sandboxes.attacks import Attack, add_attack

__all__ = ["ATTACKS"]

OK, ERROR, TIMEOUT, MEMORY, OUTPUT_LIMIT = Status.OK, Status.ERROR, Status.TIMEOUT, Status.MEMORY, Status.OUTPUT_LIMIT
ATTACKS: list[Attack] = []
add = partial(add_attack, ATTACKS)

# Never ending

add("infinite loop", "while True: pass", TIMEOUT, plain=True)
add("sleep", "import time\ntime.sleep(100)", TIMEOUT, plain=True)
add(
    "ignored signals",
    """
    import signal
    for number in range(1, 65):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            pass
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
    while True: pass
    """,
    TIMEOUT,
    plain=True,
)
add(
    "alarm tampering",
    """
    import resource, signal
    signal.alarm(0)
    for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
        signal.setitimer(timer, 0)
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (1 << 30, 1 << 30))
    except (OSError, ValueError):
        pass
    while True: pass
    """,
    TIMEOUT,
    plain=True,
)
add(
    "stops itself",
    "import os, signal, time\nos.kill(os.getpid(), signal.SIGSTOP)\ntime.sleep(100)",
    TIMEOUT,
    ERROR,
    plain=True,
)
add(
    "hangs after its end",
    "import atexit, threading\natexit.register(threading.Event().wait)",
    TIMEOUT,
    plain=True,
)
add(
    "closes all and hangs",
    "import os, time\nos.closerange(0, 1024)\ntime.sleep(100)",
    TIMEOUT,
    plain=True,
)
add(
    "source that is slow to compile",
    "\n".join([" " * n + "try: pass\n" + " " * n + "finally:" for n in range(20)] + [" " * 20 + "x = 1"]),
    OK,
    ERROR,
    TIMEOUT,
    MEMORY,
    plain=True,
)
add("source that is deep", "x = " + "-" * 300_000 + "1", ERROR, MEMORY, plain=True)
add("parentheses that are deep", "x = " + "(" * 100_000, ERROR, MEMORY, plain=True)

# Using up what there is

add("memory bomb", "x = []\nwhile True: x.append(bytearray(1 << 20))", MEMORY, plain=True)
add(
    "memory that is mapped",
    """
    import mmap
    maps = []
    for _ in range(32):
        maps.append(mmap.mmap(-1, 32 << 20))
        for page in range(0, 32 << 20, 4096):
            maps[-1][page] = 1
    print("BREACH: 1 GiB mapped")
    """,
    ERROR,
    MEMORY,
    timeout_seconds=5.0,
    plain=True,
)
add(
    "raised limits",
    """
    import resource
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE):
        try:
            resource.setrlimit(kind, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        except (OSError, ValueError):
            pass
    x = b"1" * (1 << 30)
    print("BREACH: 1 GiB of memory")
    """,
    MEMORY,
    ERROR,
    timeout_seconds=5.0,
)
add(
    "memfd bomb",
    """
    import os
    total = 0
    try:
        while total < 512 << 20:
            file = os.memfd_create("bomb")
            for _ in range(8):
                total += os.write(file, bytes(1 << 20))
    except OSError as error:
        print(error)
    if total >= 512 << 20:
        print("BREACH: 512 MiB of memory in files")
    """,
    OK,
    ERROR,
    MEMORY,
    timeout_seconds=5.0,
)
add(
    "descriptor bomb",
    """
    import os
    files = []
    try:
        while len(files) < 4096:
            files.append(os.open(".", os.O_RDONLY))
    except OSError as error:
        print(error.strerror)
    if len(files) == 4096:
        print("BREACH: 4096 files open")
    """,
)
add(
    "thread bomb",
    """
    import os, threading, time
    threading.stack_size(65536)
    count = 0
    try:
        while count < 1000:
            threading.Thread(target=time.sleep, args=(100,), daemon=True).start()
            count += 1
    except RuntimeError as error:
        print(error)
    if count == 1000:
        print("BREACH: 1000 threads", flush=True)
    os._exit(0)
    """,
    OK,
    ERROR,
    MEMORY,
    timeout_seconds=3.0,
)
add(
    "300 forks",
    """
    import os, time
    made = 0
    try:
        while made < 300:
            if os.fork() == 0:
                time.sleep(100)
                os._exit(0)
            made += 1
    except OSError as error:
        print(error)
    if made == 300:
        print("BREACH: 300 processes")
    """,
    timeout_seconds=3.0,
    dangerous=True,
)
add(
    "fork bomb",
    """
    import os
    while True:
        try:
            os.fork()
        except OSError:
            pass
    """,
    ERROR,
    TIMEOUT,
    dangerous=True,
    bomb=True,
)
add(
    "disk fill",
    """
    import os
    total, block = 0, bytes(1 << 20)
    for folder in (".", "/tmp", "/var/tmp", "/dev/shm", os.path.expanduser("~")):
        try:
            for number in range(24):
                with open(f"{folder}/fill-{number}", "wb", 0) as file:
                    for _ in range(8):
                        total += file.write(block)
        except OSError as error:
            print(error.strerror)
    if total >= 96 << 20:
        print(f"BREACH: {total >> 20} MiB on disk")
    """,
    OK,
    OUTPUT_LIMIT,
    ERROR,
    MEMORY,
    TIMEOUT,
    timeout_seconds=5.0,
    dangerous=True,
)
add(
    "inode fill",
    """
    count = 0
    for folder in (".", "/tmp", "/dev/shm"):
        try:
            for number in range(30_000):
                open(f"{folder}/inode-{number}", "w").close()
                count += 1
        except OSError as error:
            print(error.strerror)
    if count >= 30_000:
        print(f"BREACH: {count} files")
    """,
    OK,
    OUTPUT_LIMIT,
    ERROR,
    TIMEOUT,
    timeout_seconds=5.0,
    dangerous=True,
)
add(
    "folders that are deep",
    """
    import os
    try:
        for _ in range(2000):
            os.mkdir("d" * 100)
            os.chdir("d" * 100)
    except OSError as error:
        print(error.strerror)
    """,
    OK,
    ERROR,
    OUTPUT_LIMIT,
)
add(
    "folders that cannot be opened",
    """
    import os
    os.makedirs("a/b/c")
    open("a/b/c/file", "w").close()
    for path in ("a/b", "a", "."):
        os.chmod(path, 0)
    """,
)
add("endless stdout", "while True: print('x' * 1000)", OUTPUT_LIMIT, plain=True)
add("endless stderr", "import sys\nwhile True: print('x' * 1000, file=sys.stderr)", OUTPUT_LIMIT, plain=True)
add(
    "endless output, byte by byte",
    "import os\nwhile True: os.write(1, b'x')",
    OUTPUT_LIMIT,
    timeout_seconds=20.0,
    plain=True,
)
add(
    "output after its limit is ignored",
    """
    import os, signal
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    while True:
        try:
            os.write(1, bytes(1 << 16))
        except OSError:
            pass
    """,
    OUTPUT_LIMIT,
    plain=True,
)
