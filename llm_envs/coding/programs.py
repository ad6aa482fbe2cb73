"""The programs that run in the sandbox: the judged one as it is or wrapped for calls, and assertions without it.

Nothing that they are given tells what is expected, but for the assertions, which run where the judged program does not.
"""

import json
import re
from collections.abc import Iterable
from functools import cache
from importlib import import_module
from pathlib import Path

from llm_envs.coding import wire
from llm_envs.coding.problems import CheckTest

__all__ = ["MARKER", "PRELUDE", "call_program", "calls_as_stdin", "check_program", "stdin_program"]

MARKER = "\x1eVALUE "
"""Stands before the line that the wrapper writes. It only keeps it apart from what a program prints by itself: whoever
forges it says what he believes the value to be, as anyone does who returns it."""

_MODULES = (
    *("string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics"),
    *("itertools", "functools", "operator", "io", "sys", "json"),
)
# The builtins come late: math's pow and io's open are not what programs mean by these names.
_STARS = (*_MODULES, "builtins", "typing")
_WORD = re.compile(r"[^\W\d]\w*")
_MAY_NAME_ANYTHING = frozenset({"eval", "exec", "globals", "locals", "vars"})


def _contest_prelude(stars: Iterable[str], modules: Iterable[str]) -> str:
    lines = [*(f"from {name} import *" for name in stars), f"import {', '.join(['sys', *modules])}"]
    return "; ".join([*lines, "sys.setrecursionlimit(6 * 10**5)"])


PRELUDE = _contest_prelude(_STARS, _MODULES)
"""What answers to contests take for granted, in one line: LiveCodeBench runs it before every program."""


@cache
def _exported() -> dict[str, frozenset[str]]:
    """What each module of the prelude brings."""
    found = {}
    for name in _STARS:
        module = import_module(name)
        public = [key for key in vars(module) if not key.startswith("_")]
        found[name] = frozenset(getattr(module, "__all__", public))
    return found


def _trimmed(prelude: str, code: str) -> str:
    """The part of `PRELUDE` that a program can make use of: all of it costs a warm Python a millisecond a run."""
    words = set(_WORD.findall(code))
    if prelude != PRELUDE or words & _MAY_NAME_ANYTHING:
        return prelude
    stars = [name for name, brought in _exported().items() if not words.isdisjoint(brought)]
    covered = set().union(*(_exported()[name] for name in stars if name != "builtins"))
    if words.isdisjoint(covered & _exported()["builtins"]):
        stars = [name for name in stars if name != "builtins"]  # they are there anyway, where nothing covers them
    return _contest_prelude(stars, [name for name in _MODULES if name in words])


_CALL_MAIN = """
def _run(prelude, source):
    import json, os, sys, types
    write, flush, dumps = os.write, sys.stdout.flush, json.dumps
    depth, limit_depth = sys.getrecursionlimit, sys.setrecursionlimit
    calls = json.loads(sys.stdin.buffer.read())
    module = types.ModuleType("solution")
    sys.modules["solution"] = module
    exec(compile(prelude, "prelude.py", "exec"), module.__dict__)
    exec(compile(source, "main.py", "exec"), module.__dict__)

    def find(name):
        owner = getattr(module, "Solution", None)
        if isinstance(owner, type) and hasattr(owner, name):
            return getattr(owner(), name)
        return getattr(module, name)

    def make(name, args):
        return getattr(module, name)(*args)

    trees = []
    for call in calls:
        args = [decode(arg, make) for arg in call["args"]]
        kwargs = {name: decode(arg, make) for name, arg in call.get("kwargs", {}).items()}
        value = find(call["name"])(*args, **kwargs)
        kept = depth()
        limit_depth(1000)  # a value that holds itself ends soon
        trees.append(encode(value))
        limit_depth(kept)
    said = ("\\n" + MARKER + dumps(trees) + "\\n").encode()
    try:
        flush()
    except (OSError, ValueError):
        pass
    while said:
        said = said[write(1, said):]
"""

_CHECK_MAIN = """
class _MissingError(BaseException):
    pass


class _Deferred:
    def __init__(self, call):
        self.deferred_call = call


def _run(setup, source, functions, classes):
    import json, os, random, sys
    answers = dict(json.loads(sys.stdin.buffer.read()))
    asked = {}

    def function(name):
        def ask(*args, **kwargs):
            named = {key: encode(arg) for key, arg in kwargs.items()}
            call = {"name": name, "args": encode(list(args)), "kwargs": named}
            key = json.dumps(call, sort_keys=True)
            if key in answers:
                return decode(answers[key])
            asked[key] = call
            raise _MissingError
        return ask

    def made(name):
        return lambda *args: _Deferred({"name": name, "args": encode(list(args))})

    def say(kind, detail=""):
        report = {"kind": kind, "detail": detail, "asked": list(asked.items())}
        sys.stdout.write("\\n" + MARKER + json.dumps(report) + "\\n")
        sys.stdout.flush()
        os._exit(0)

    space = {"__name__": "check", "missing_answers": asked}
    for name in ("collections", "copy", "datetime", "itertools", "math", "random", "re", "string", "sys"):
        space[name] = __import__(name)
    random.seed(0)  # the same calls every time that it runs
    try:
        exec(compile(setup, "setup.py", "exec"), space)
    except BaseException as error:
        say("broken", type(error).__name__)
    space.update({name: function(name) for name in functions}, **{name: made(name) for name in classes})
    try:
        exec(compile(source, "check.py", "exec"), space)
    except BaseException as error:
        held = "an assertion does not hold" if isinstance(error, AssertionError) else type(error).__name__
        say("asked" if asked else "failed" if answers else "broken", held)  # with no answer it is the test's own fault
    say("asked" if asked else "passed")
"""


@cache
def _wire_source() -> str:
    return Path(wire.__file__).read_text(encoding="utf-8") + f"\n\nMARKER = {MARKER!r}\n"


def stdin_program(code: str, prelude: str) -> str:
    """The program as it is, behind a prelude of one line."""
    prelude = _trimmed(prelude, code)
    if not prelude:
        return code
    if "__future__" in code:  # must stand first, which in a source of its own it does
        return f"{prelude}\nimport builtins; builtins.exec(builtins.compile({code!r}, 'main.py', 'exec'), globals())\n"
    return f"{prelude}\n{code}"


def call_program(code: str, prelude: str) -> str:
    """Runs the program as a module, then calls what standard input says, and writes the values behind `MARKER`."""
    return f"{_wire_source()}{_CALL_MAIN}\n_run({_trimmed(prelude, code)!r}, {code!r})\n"


def calls_as_stdin(name: str, args: tuple[object, ...]) -> str:
    """One call, as `call_program` reads it."""
    return json.dumps([{"name": name, "args": [wire.encode(arg) for arg in args]}])


def check_program(test: CheckTest) -> str:
    """Runs assertions with the values that standard input holds, and writes what came of them or what is missing."""
    arguments = f"{test.setup!r}, {test.source!r}, {test.functions!r}, {test.classes!r}"
    return f"{_wire_source()}{_CHECK_MAIN}\n_run({arguments})\n"
