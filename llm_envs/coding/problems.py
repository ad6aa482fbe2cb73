"""Problems and their tests, and how they are read from the rows of each source."""

import ast
import base64
import io
import json
import pickle
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llm_envs.coding.outputs import EXACT, OutputRule

__all__ = [
    "BrokenRowError",
    "CallTest",
    "CheckTest",
    "Problem",
    "StdinTest",
    "Test",
    "decode_private_tests",
    "load_literal",
    "output_rule",
    "read_tests",
]

_MAX_UNPACKED_BYTES = 1 << 29
_TOLERANCE = 1e-6
_ANY_CASE, _CLOSE_NUMBERS = 2, 3  # TACO's special_judge_case


class BrokenRowError(ValueError):
    """The tests of a row cannot be read."""


@dataclass(frozen=True)
class StdinTest:
    """The program gets ``stdin`` and must print ``expected``."""

    stdin: str
    expected: str


@dataclass(frozen=True)
class CallTest:
    """A call must return one of ``expected``, plain data all.

    Attributes:
        name: A function, or a method of the class ``Solution``.
        args: Its positional arguments.
        expected: The values that are right; more than one where a source wraps some of its values in a list.
        as_json: As in `llm_envs.coding.values.equals`.
    """

    name: str
    args: tuple[Any, ...]
    expected: tuple[Any, ...]
    as_json: bool = True


@dataclass(frozen=True)
class CheckTest:
    """Assertions that are more than calls with a known value; `llm_envs.coding.asserts` makes them.

    They run in a sandbox of their own, in which calls are answered by what the judged program returned elsewhere.

    Attributes:
        setup: Runs first. Where it fails the row is broken, not the program.
        source: The assertions.
        functions: Names that stand for functions of the judged program.
        classes: Names that stand for its classes.
        shown: For people.
    """

    setup: str
    source: str
    functions: tuple[str, ...]
    classes: tuple[str, ...] = ()
    shown: str = ""


Test = StdinTest | CallTest | CheckTest


@dataclass(frozen=True)
class Problem:
    """One task.

    Attributes:
        text: The statement.
        tests: Decide whether a program is right; a problem without any can be solved by none.
        starter_code: What the program must begin like; empty where it is free.
        public_tests: Those that may be shown.
        prelude: Runs before the program.
        rule: How outputs are compared.
        reference: A right program; None where none is known.
        index: Its number among the tasks.
        broken: What is wrong with the row; None if nothing is.
    """

    text: str
    tests: tuple[Test, ...]
    starter_code: str = ""
    public_tests: tuple[Test, ...] = ()
    prelude: str = ""
    rule: OutputRule = EXACT
    reference: str | None = None
    index: int | None = None
    broken: str | None = None


def read_tests(column: Any, *, function: str | None = None) -> tuple[Test, ...]:
    """The tests of a ``tests`` or ``input_output`` column, of whichever source.

    Known are lists of ``{"input", "output"}``, with ``"type"`` and ``"fn_name"`` (PrimeIntellect), with ``"testtype"``
    (LiveCodeBench) or with neither (Codeforces), and ``{"inputs", "outputs"}`` with ``"fn_name"`` where functions are
    called (TACO, APPS); each as it is or as JSON or a Python literal of it.

    Args:
        column: The column's value.
        function: What a functional test calls that does not say so itself.

    Raises:
        BrokenRowError: If it is none of these.
    """
    tests = load_literal(column) if isinstance(column, str) else column
    if isinstance(tests, Mapping) and "test_cases" in tests:  # the whole of PrimeIntellect's verification_info
        tests = tests["test_cases"]
    try:
        if isinstance(tests, Mapping):
            return _read_columns(tests)
        return tuple(_read_one(test, function) for test in tests)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BrokenRowError(f"the tests cannot be read: {error!r:.200}") from error


def load_literal(text: str) -> Any:
    """JSON, or else a Python literal.

    Raises:
        BrokenRowError: If it is neither.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        try:
            return ast.literal_eval(text)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
            raise BrokenRowError(f"neither JSON nor a Python literal: {text[:80]!r}") from error


def _read_columns(tests: Mapping[str, Any]) -> tuple[Test, ...]:
    """TACO and APPS."""
    name = tests.get("fn_name")
    pairs = zip(tests["inputs"], tests["outputs"], strict=True)
    if name:
        return tuple(_wrapped_call(name, args, value) for args, value in pairs)
    return tuple(StdinTest(_as_text(stdin), _as_text(expected)) for stdin, expected in pairs)


def _read_one(test: Mapping[str, Any], function: str | None) -> Test:
    name = test.get("fn_name")
    if test.get("type") == "function_call" or (name and test.get("testtype") is None):
        return _wrapped_call(name or function, test["input"], test["output"])
    if test.get("testtype") == "functional":
        if not function:
            raise BrokenRowError("a functional test without the name of a function")
        args = [json.loads(line) for line in str(test["input"]).split("\n") if line.strip()]
        return CallTest(function, tuple(args), (json.loads(test["output"]),))
    return StdinTest(_as_text(test["input"]), _as_text(test["output"]))


def _wrapped_call(name: Any, args: Any, value: Any) -> CallTest:
    """A call whose value may stand in a list of its own, which only the program's answer can tell."""
    if not isinstance(name, str) or not name:
        raise BrokenRowError("a call without the name of a function")
    if not isinstance(args, list | tuple):
        raise BrokenRowError(f"the arguments of a call are no list but {type(args).__name__}")
    unwrapped = (value[0],) if isinstance(value, list) and len(value) == 1 else ()
    return CallTest(name, tuple(args), (value, *unwrapped))


def _as_text(value: Any) -> str:
    """Standard input or output, which some sources keep as a list of lines."""
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        return "\n".join(_as_text(line) for line in value)
    if isinstance(value, bool | int | float):
        return str(value)
    raise BrokenRowError(f"input and output are text, got {type(value).__name__}")


def output_rule(row: Mapping[str, Any]) -> OutputRule:
    """How outputs of DeepCoder and TACO are compared: as APPS does it, and with what some rows are marked with.

    The checkers of these sources leave out empty lines and take numbers by value; a tolerance only marked rows have.
    """
    case = row.get("special_judge_case")
    tolerance = _TOLERANCE if case == _CLOSE_NUMBERS else None
    return OutputRule(ignore_case=case == _ANY_CASE, by_value=True, ignore_blank=True, tolerance=tolerance)


# --- LiveCodeBench's private tests ---


class _OnlyPlainData(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"refused: {module}.{name}")


def decode_private_tests(column: Any) -> Any:
    """The list of tests in a ``private_test_cases`` column: JSON, or JSON that was pickled, packed and base64-encoded.

    Nothing but a string is taken out of the pickle.

    Raises:
        BrokenRowError: If it is neither.
    """
    if not isinstance(column, str):
        return column
    try:
        return json.loads(column)
    except ValueError:
        pass
    try:
        unpacker = zlib.decompressobj()
        unpacked = unpacker.decompress(base64.b64decode(column, validate=True), _MAX_UNPACKED_BYTES)
        text = _OnlyPlainData(io.BytesIO(unpacked)).load()
    except Exception as error:  # the unpickler raises all sorts of things
        raise BrokenRowError(f"the private tests cannot be unpacked: {error!r:.200}") from error
    if not isinstance(text, str):
        raise BrokenRowError(f"the private tests are no text but {type(text).__name__}")
    try:
        return json.loads(text)
    except ValueError as error:
        raise BrokenRowError("the private tests are not JSON") from error
