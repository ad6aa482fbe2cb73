"""What every backend does alike. A backend's test is a subclass with a fixture ``sandbox``."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from textwrap import dedent

import pytest

from sandboxes import MAX_OUTPUT_BYTES, Job, RunResult, Sandbox, Status

SLACK_SECONDS = 1.5
"""How much later than its limit a program may come back: the machine may be busy."""


def run(sandbox: Sandbox, code: str, **options) -> RunResult:
    return sandbox.run(dedent(code), timeout_seconds=options.pop("timeout_seconds", 10.0), **options)


def output(sandbox: Sandbox, code: str, **options) -> str:
    """What a program wrote that must end well."""
    result = run(sandbox, code, **options)
    assert result.status == "ok", result
    assert result.exit_code == 0
    return result.stdout


OWN_STREAM = """
import os, sys
class Out:
    text = ""
    def write(self, text):
        self.text += text
    def flush(self):
        os.write(1, self.text.encode())
        self.text = ""
sys.stdout = Out()
print("hi")
"""


class SandboxConformance:
    """Semantics that do not depend on how strong a sandbox is."""

    # How it ends

    def test_a_program_that_ends_well(self, sandbox):
        started = time.monotonic()
        result = run(sandbox, "import sys\nprint('out')\nprint('err', file=sys.stderr)")
        assert (result.status, result.stdout, result.stderr, result.exit_code) == (Status.OK, "out\n", "err\n", 0)
        assert 0 < result.seconds <= time.monotonic() - started

    def test_an_empty_program(self, sandbox):
        result = run(sandbox, "")
        assert (result.status, result.stdout, result.stderr, result.exit_code) == (Status.OK, "", "", 0)

    @pytest.mark.parametrize(
        ("code", "exit_code"),
        [
            ("sys.exit()", 0),
            ("sys.exit(0)", 0),
            ("sys.exit(3)", 3),
            ("sys.exit(True)", 1),
            ("sys.exit('no')", 1),
            ("raise SystemExit", 0),
            ("exit()", 0),
            ("quit(4)", 4),
            ("os._exit(0)", 0),
            ("os._exit(5)", 5),
            ("sys.stdout.flush(); os._exit(0)", 0),
        ],
    )
    def test_exit_codes(self, sandbox, code, exit_code):
        result = run(sandbox, f"import os, sys\nprint('before', flush=True)\n{code}\nprint('after')")
        assert (result.exit_code, result.stdout) == (exit_code, "before\n")
        assert result.status == ("error" if exit_code else "ok")

    @pytest.mark.parametrize(
        ("code", "stdout", "exit_code"),
        [
            ("class A:\n  def __del__(self): print('bye', h())\ndef h(): return 42\na = A()", "bye 42\n", 0),
            ("import sys\nprint('x')\nsys.stdout = None", "x\n", 0),
            ("import io, sys\nprint('x')\nsys.stdout = io.StringIO()", "x\n", 0),
            ("out = open(1, 'w', closefd=False)\nout.write('hey')", "hey", 0),
            (OWN_STREAM, "hi\n", 0),
            ("def g():\n  try: yield\n  finally: print('end')\nx = g()\nnext(x)", "end\n", 0),
            ("raise SystemExit(2**64)", "", 255),
        ],
        ids=["destructor", "no stdout", "other stdout", "file", "own stream", "generator", "large code"],
    )
    def test_its_end_is_that_of_any_python(self, sandbox, code, stdout, exit_code):
        result = run(sandbox, code)
        assert (result.stdout, result.exit_code) == (stdout, exit_code), result

    def test_the_message_of_sys_exit(self, sandbox):
        assert run(sandbox, "import sys\nsys.exit('gone')").stderr == "gone\n"

    @pytest.mark.parametrize(
        ("code", "message"),
        [
            ("x = 1\n1 / 0", "ZeroDivisionError: division by zero"),
            ("x = 1\nassert x == 2", "AssertionError"),
            ("x = 1\nraise KeyError('k')", "KeyError: 'k'"),
            ("x = 1\ninput()", "EOFError"),
            ("x = 1\ndef f(:", "SyntaxError"),
            ("x = 1\nreturn 3", "SyntaxError: 'return' outside function"),
        ],
    )
    def test_an_error_shows_its_line_and_message(self, sandbox, code, message):
        result = run(sandbox, code)
        assert (result.status, result.stdout, result.exit_code) == ("error", "", 1)
        assert message in result.stderr
        assert "line 2" in result.stderr

    def test_endless_recursion_is_an_error(self, sandbox):
        result = run(sandbox, "def f():\n    f()\nf()")
        assert (result.status, result.exit_code) == ("error", 1)
        assert "RecursionError" in result.stderr

    def test_a_crash_is_an_error_with_its_signal(self, sandbox):
        result = run(sandbox, "import ctypes\nprint('before', flush=True)\nctypes.string_at(0)")
        assert (result.status, result.stdout, result.exit_code) == ("error", "before\n", -11)

    @pytest.mark.parametrize("code", ["while True: pass", "import time\ntime.sleep(60)"])
    def test_timeout(self, sandbox, code):
        started = time.monotonic()
        result = run(sandbox, f"print('before', flush=True)\n{code}", timeout_seconds=0.5)
        assert (result.status, result.stdout, result.exit_code) == ("timeout", "before\n", -9)
        assert 0.5 <= result.seconds <= time.monotonic() - started < 0.5 + SLACK_SECONDS

    @pytest.mark.parametrize(
        "code",
        [
            "import atexit\n@atexit.register\ndef hang():\n    while True: pass",
            "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()",
            "import os, sys, time\nos.close(1)\nos.close(2)\ntime.sleep(60)",
        ],
        ids=["atexit", "thread", "closed outputs"],
    )
    def test_a_program_that_will_not_end_is_a_timeout(self, sandbox, code):
        assert run(sandbox, code, timeout_seconds=0.5).status == "timeout"

    @pytest.mark.parametrize(
        "code", ["x = bytearray(10**9)", "x = []\nwhile True: x.append(' ' * 10**6)", "raise MemoryError"]
    )
    def test_memory(self, sandbox, code):
        result = run(sandbox, f"print('before', flush=True)\n{code}", memory_mb=128)
        assert (result.status, result.stdout) == ("memory", "before\n")

    def test_a_memory_error_that_is_caught_is_the_programs_own_business(self, sandbox):
        code = "try:\n    x = bytearray(10**9)\nexcept MemoryError:\n    print('caught')"
        assert output(sandbox, code) == "caught\n"

    def test_the_limit_of_memory_is_the_jobs(self, sandbox):
        code = "x = b'1' * (120 << 20)\nprint(len(x))"
        assert run(sandbox, code, memory_mb=96).status == "memory"
        assert output(sandbox, code, memory_mb=384) == f"{120 << 20}\n"

    # Output

    @pytest.mark.parametrize("stream", ["stdout", "stderr"])
    def test_output_up_to_the_limit(self, sandbox, stream):
        result = run(sandbox, f"import sys\nsys.{stream}.write('x' * {MAX_OUTPUT_BYTES})")
        assert (result.status, result.exit_code) == ("ok", 0)
        assert getattr(result, stream) == "x" * MAX_OUTPUT_BYTES

    @pytest.mark.parametrize("stream", ["stdout", "stderr"])
    @pytest.mark.parametrize(
        "code", ["write('x' * (1 << 20) + 'y')", "write('x' * (8 << 20))"], ids=["by one", "by far"]
    )
    def test_output_over_the_limit(self, sandbox, stream, code):
        result = run(sandbox, f"import sys, time\nsys.{stream}.{code}\nsys.{stream}.flush()\ntime.sleep(0.2)")
        assert result.status == "output_limit"
        assert getattr(result, stream) == "x" * MAX_OUTPUT_BYTES

    def test_both_outputs_at_once(self, sandbox):
        code = "import sys\nfor i in range(3000):\n    print('o' * 99)\n    print('e' * 99, file=sys.stderr)"
        result = run(sandbox, code)
        assert (result.status, len(result.stdout), len(result.stderr)) == ("ok", 300_000, 300_000)

    def test_invalid_utf8_becomes_replacement_characters(self, sandbox):
        assert output(sandbox, r"import os; os.write(1, b'a\xff\xfe\xc3b')") == "a\ufffd\ufffd\ufffdb"

    def test_nul_and_control_characters_come_through(self, sandbox):
        assert output(sandbox, r"import os; os.write(1, b'a\0b\r\n\x1b[0m')") == "a\0b\r\n\x1b[0m"

    def test_text_is_utf8(self, sandbox):
        assert output(sandbox, "print('é ß 漢字 🙂')") == "é ß 漢字 🙂\n"
        assert run(sandbox, "import sys\nprint('é🙂', file=sys.stderr)").stderr == "é🙂\n"

    def test_a_lone_surrogate_cannot_be_printed(self, sandbox):
        result = run(sandbox, r"print('\ud800')")
        assert (result.status, result.stdout, result.exit_code) == ("error", "", 1)
        assert "UnicodeEncodeError" in result.stderr

    def test_a_closed_stdout(self, sandbox):
        assert run(sandbox, "import sys\nsys.stdout.close()").status in ("ok", "error")
        assert run(sandbox, "import os\nos.close(1)\nos.close(2)\nos._exit(0)").status == "ok"

    # Input

    @pytest.mark.parametrize(
        "code",
        [
            "print(input() + '|' + input())",
            "import sys\nprint('|'.join(line.strip() for line in sys.stdin))",
            "import sys\nprint('|'.join(sys.stdin.read().split()))",
            "import sys\nprint('|'.join(sys.stdin.buffer.read().decode().split()))",
            "print('|'.join(open(0).read().split()))",
            "import os\nprint('|'.join(os.read(0, 99).decode().split()))",
            "import sys\nprint('|'.join(map(str.strip, sys.stdin.readlines())))",
            "import sys\ninput = sys.stdin.readline\nprint(input().strip() + '|' + input().strip())",
        ],
    )
    def test_ways_to_read_stdin(self, sandbox, code):
        assert output(sandbox, code, stdin="één\n2\n") == "één|2\n"

    def test_stdin_is_empty_unless_given(self, sandbox):
        assert output(sandbox, "import sys\nprint(repr(sys.stdin.read()))") == "''\n"

    def test_stdin_reaches_the_program_byte_by_byte(self, sandbox):
        code = "import sys\nprint(sys.stdin.buffer.read())"
        assert output(sandbox, code, stdin="a\r\n\0\ud800é") == "b'a\\r\\n\\x00\\xed\\xa0\\x80\\xc3\\xa9'\n"

    def test_much_stdin(self, sandbox):
        stdin = "0123456789abcde\n" * (1 << 18)
        code = "import sys\nprint(len(sys.stdin.read()))"
        assert output(sandbox, code, stdin=stdin) == f"{1 << 22}\n"
        assert output(sandbox, "print('not read')", stdin=stdin) == "not read\n"
        assert output(sandbox, "print(input())", stdin=stdin) == "0123456789abcde\n"

    # Source

    def test_a_megabyte_of_source(self, sandbox):
        code = "x = 0\n" + "x += 1  # a line of the program\n" * (1 << 15) + "print(x)"
        assert len(code) > 1 << 20
        assert output(sandbox, code, memory_mb=512, timeout_seconds=20.0) == f"{1 << 15}\n"

    def test_nul_in_the_source(self, sandbox):
        result = run(sandbox, "print(1)\n\0")
        assert (result.status, result.stdout, result.exit_code) == ("error", "", 1)
        assert "null bytes" in result.stderr

    def test_a_lone_surrogate_in_the_source(self, sandbox):
        result = run(sandbox, "print('\ud800')")
        assert (result.status, result.stdout, result.exit_code) == ("error", "", 1)
        assert "'utf-8' codec can't" in result.stderr

    def test_line_ends_of_all_kinds(self, sandbox):
        assert output(sandbox, "for i in range(2):\r\n    print(i)\r\nprint('end')") == "0\n1\nend\n"

    # What it finds

    def test_it_is_the_main_module(self, sandbox):
        code = """
            import sys, __main__, pickle, dataclasses
            @dataclasses.dataclass
            class Point:
                x: int
            assert pickle.loads(pickle.dumps(Point(3))) == Point(3)
            assert __main__.Point is Point and sys.modules["__main__"].__dict__ is globals()
            if __name__ == "__main__":
                print(__name__, Point.__module__, sys.argv)
        """
        assert output(sandbox, code) == "__main__ __main__ ['main.py']\n"

    def test_nothing_of_ours_is_in_its_way(self, sandbox):
        code = "print([name for name in globals() if not name.startswith('__')])"
        assert output(sandbox, code) == "[]\n"
        assert output(sandbox, "def f(x: 1 + 1): pass\nprint(f.__annotations__)") == "{'x': 2}\n"

    def test_the_working_directory_is_empty_and_writable(self, sandbox):
        code = """
            import os
            print(os.listdir())
            os.mkdir("folder")
            with open("folder/file", "w") as file:
                file.write("text")
            os.rename("folder/file", "moved")
            print(open("moved").read(), sorted(os.listdir()))
        """
        assert output(sandbox, code) == "[]\ntext ['folder', 'moved']\n"
        assert output(sandbox, code) == "[]\ntext ['folder', 'moved']\n"

    def test_files(self, sandbox):
        files = {"a.txt": "één\n", "b/c/d.bin": b"\0\xff", "b/e": "", "big": b"x" * (1 << 20)}
        code = """
            import os
            print(sorted(os.path.join(folder, name) for folder, _, names in os.walk(".") for name in names))
            print(repr(open("a.txt", encoding="utf-8").read()), open("b/c/d.bin", "rb").read(), os.path.getsize("big"))
            open("a.txt", "a").write("more")
        """
        expected = "['./a.txt', './b/c/d.bin', './b/e', './big']\n'één\\n' b'\\x00\\xff' 1048576\n"
        assert output(sandbox, code, files=files) == expected
        assert output(sandbox, code, files=files) == expected

    def test_the_standard_library(self, sandbox):
        code = """
            import bisect, cmath, collections, copy, datetime, decimal, enum, fractions, functools, heapq, itertools
            import json, math, operator, queue, random, re, statistics, string, sys, typing, uuid, zlib, hashlib
            sys.setrecursionlimit(10**6)
            print(json.dumps([math.comb(50, 25), str(fractions.Fraction(6, 4)), hashlib.md5(b"").hexdigest()[:4]]))
        """
        assert json.loads(output(sandbox, code)) == [126410606437752, "3/2", "d41d"]

    def test_a_thread_with_a_deep_stack(self, sandbox):
        code = """
            import sys, threading
            sys.setrecursionlimit(1 << 20)
            threading.stack_size(64 << 20)
            def depth(n):
                return 0 if n == 0 else 1 + depth(n - 1)
            thread = threading.Thread(target=lambda: print(depth(20_000)))
            thread.start()
            thread.join()
        """
        assert output(sandbox, code) == "20000\n"

    # The next job

    def test_jobs_know_nothing_of_each_other(self, sandbox):
        first = """
            import builtins, json, os, sys
            open("left", "w").write("x")
            os.environ["LEFT"] = "x"
            os.umask(0o777)
            sys.setrecursionlimit(50)
            builtins.left = json.loads = json.left = 1
        """
        second = """
            import builtins, json, os, sys
            print(os.listdir(), "LEFT" in os.environ, os.umask(0o22) == 0o777, sys.getrecursionlimit() < 100)
            print(hasattr(builtins, "left"), hasattr(json, "left"), json.loads("[2]"))
        """
        assert output(sandbox, first) == ""
        assert output(sandbox, second) == "[] False False False\nFalse False [2]\n"

    def test_every_way_of_ending_leaves_it_ready(self, sandbox):
        for code in (
            "while True: pass",
            "print('x' * (4 << 20))",
            "x = bytearray(10**9)",
            "1 / 0",
            "import os; os.abort()",
        ):
            run(sandbox, code, timeout_seconds=0.3)
            assert output(sandbox, "print('ready')") == "ready\n"

    # Ways to ask

    def test_run_many_keeps_the_order(self, sandbox):
        jobs = [Job(f"print({n})" if n % 3 else "raise ValueError", timeout_seconds=10.0) for n in range(12)]
        results = sandbox.run_many(jobs, concurrency=4)
        assert [result.stdout for result in results] == [f"{n}\n" if n % 3 else "" for n in range(12)]
        assert [result.status for result in results] == ["ok" if n % 3 else "error" for n in range(12)]
        assert sandbox.run_many([]) == []
        with pytest.raises(ValueError, match="concurrency"):
            sandbox.run_many(jobs, concurrency=0)

    def test_coroutines(self, sandbox: Sandbox):
        async def both() -> list[RunResult]:
            return list(await asyncio.gather(*(sandbox.arun(f"print({n})", timeout_seconds=10.0) for n in range(4))))

        assert [result.stdout for result in asyncio.run(both())] == ["0\n", "1\n", "2\n", "3\n"]

    def test_many_threads(self, sandbox):
        seen: list[tuple[int, str]] = []

        def ask(number):
            seen.extend((number, output(sandbox, "print(input())", stdin=f"{number}\n")) for _ in range(3))

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(seen) == sorted((number, f"{number}\n") for number in range(6) for _ in range(3))

    def test_what_cannot_be_asked(self, sandbox):
        with pytest.raises(ValueError, match="timeout_seconds"):
            sandbox.run("", timeout_seconds=0)
        with pytest.raises(ValueError, match="plain relative path"):
            sandbox.run("", files={"../x": ""})
        with pytest.raises(TypeError, match="str"):
            sandbox.run(b"print(1)")

    def test_it_says_what_it_is(self, sandbox):
        assert sandbox.name in sandbox.describe()
        assert "\n" not in sandbox.describe()
        assert sandbox.concurrency >= 1

    # Sessions

    def test_a_session_starts_afresh_each_time(self, sandbox):
        code = """
            import os
            print(os.listdir(), "counter" in globals(), int(input()) ** 2)
            counter = 1
            open("left", "w").write("x")
        """
        with sandbox.session(dedent(code)) as session:
            for number in (3, 4, 5):
                result = session.run(f"{number}\n", timeout_seconds=10.0)
                assert (result.status, result.stdout) == ("ok", f"[] False {number**2}\n"), result

    def test_a_session_has_its_files_each_time(self, sandbox):
        code = "print(open('a').read())\nopen('a', 'w').write('changed')"
        with sandbox.session(code, files={"a": "first"}) as session:
            assert [session.run(timeout_seconds=10.0).stdout for _ in range(3)] == ["first\n"] * 3

    def test_a_session_survives_what_its_runs_do(self, sandbox):
        code = dedent("""
            import os, sys, time
            what = input()
            if what == "hang":
                time.sleep(60)
            if what == "flood":
                print("x" * (4 << 20))
            if what == "grow":
                x = bytearray(10**9)
            if what == "crash":
                import ctypes
                ctypes.string_at(0)
            if what == "exit":
                os._exit(7)
            print("well")
        """)
        expected = {
            "hang": "timeout",
            "flood": "output_limit",
            "grow": "memory",
            "crash": "error",
            "exit": "error",
            "fine": "ok",
        }
        with sandbox.session(code, memory_mb=128) as session:
            for what, status in expected.items():
                result = session.run(what + "\n", timeout_seconds=0.5 if what == "hang" else 10.0)
                assert (what, result.status) == (what, status), result
                assert session.run("fine\n", timeout_seconds=10.0).stdout == "well\n"

    def test_a_session_of_a_program_that_does_not_compile(self, sandbox):
        for code in ("def f(:", "\0", "'\ud800'"):
            with sandbox.session(code) as session:
                for _ in range(2):
                    result = session.run("x\n", timeout_seconds=10.0)
                    assert (result.status, result.stdout, result.exit_code) == ("error", "", 1), result
                    assert "Error" in result.stderr

    def test_sessions_side_by_side(self, sandbox):
        with sandbox.session("print('a' + input())") as a, sandbox.session("print('b' + input())") as b:
            for number in range(3):
                assert a.run(f"{number}", timeout_seconds=10.0).stdout == f"a{number}\n"
                assert b.run(f"{number}", timeout_seconds=10.0).stdout == f"b{number}\n"
                assert output(sandbox, "print('between')") == "between\n"
