"""Tests that are written as assertions, taken apart so that the judged program never sees what they expect.

``assert f(1, 2) == 3`` becomes a call with a value. Every other assertion becomes a `CheckTest`: it runs in a process
of its own where ``f`` only looks up values. What it asks for and is not there, the judged program is asked in another
process, and the assertions start anew.

What this holds: the judged program cannot see an assertion, patch what it uses, end it early or return objects that
lie about being equal; only plain data reaches the assertions. What it does not hold: assertions about objects that are
no plain data, about identity, or about changed arguments cannot be judged, and functions must answer the same call in
the same way. No test of HumanEval and two problems of MBPP are of that kind.
"""

import ast
import builtins
from collections.abc import Iterable

from llm_envs.coding.problems import BrokenRowError, CallTest, CheckTest, Test

__all__ = ["defined_names", "read_asserts", "read_check"]

_SIMPLE = (ast.Assert, ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Expr, ast.Return, ast.Delete)


def defined_names(code: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the functions and of the classes that a program defines at its top level."""
    try:
        body = ast.parse(code).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return (), ()
    functions = tuple(node.name for node in body if isinstance(node, ast.FunctionDef))
    return functions, tuple(node.name for node in body if isinstance(node, ast.ClassDef))


def read_asserts(lines: Iterable[str], *, setup: str, reference: str) -> tuple[Test, ...]:
    """The tests of MBPP: an assertion a line.

    Args:
        lines: The assertions.
        setup: What runs before them.
        reference: A right program, which tells the names of the judged one apart from Python's own.

    Raises:
        BrokenRowError: If they are not Python.
    """
    functions, classes = defined_names(reference)
    tests: list[Test] = []
    for line in lines:
        module = _parse(line)
        called = functions or _unknown_names(module)
        call = _as_call(module.body[0], called) if len(module.body) == 1 and not setup.strip() else None
        source = ast.unparse(ast.fix_missing_locations(_Guard().visit(module)))
        tests.append(call or CheckTest(setup, source, called, classes, line.strip()))
    return tuple(tests)


def read_check(test: str, *, prompt: str, entry_point: str) -> tuple[Test, ...]:
    """The tests of HumanEval: a function ``check(candidate)`` full of assertions.

    Raises:
        BrokenRowError: If there is no such function.
    """
    module = _parse(test)
    check = next((n for n in module.body if isinstance(n, ast.FunctionDef) and n.name == "check"), None)
    if check is None or len(check.args.args) != 1:
        raise BrokenRowError("there is no function check(candidate)")
    tests: list[Test] = []
    rest: list[ast.stmt] = []
    for statement in check.body:
        call = _as_call(statement, (check.args.args[0].arg,))
        if call is not None:
            tests.append(CallTest(entry_point, call.args, call.expected, as_json=False))
        elif not _is_idle(statement):
            rest.append(statement)
    if any(isinstance(node, ast.Assert) for statement in rest for node in ast.walk(statement)):
        check.body = [_Guard().visit(statement) for statement in rest]
        source = ast.unparse(ast.fix_missing_locations(module)) + f"\n\ncheck({entry_point})\n"
        tests.append(CheckTest(prompt, source, (entry_point,), shown="assertions"))
    return tuple(tests)


def _parse(source: str) -> ast.Module:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BrokenRowError(f"the tests are not Python: {error!r:.200}") from error


def _as_call(statement: ast.stmt, names: tuple[str, ...]) -> CallTest | None:
    """A statement of the form ``assert name(literals) == literal``; None if it has another."""
    if not isinstance(statement, ast.Assert) or not isinstance(statement.test, ast.Compare):
        return None
    compared = statement.test
    call = compared.left
    if len(compared.ops) != 1 or not isinstance(compared.ops[0], ast.Eq) or not isinstance(call, ast.Call):
        return None
    if not isinstance(call.func, ast.Name) or call.func.id not in names or call.keywords:
        return None
    try:
        args = tuple(ast.literal_eval(arg) for arg in call.args)
        expected = ast.literal_eval(compared.comparators[0])
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None
    return CallTest(call.func.id, args, (expected,), as_json=False)


def _is_idle(statement: ast.stmt) -> bool:
    """``assert True``, and texts that stand for comments."""
    value = statement.test if isinstance(statement, ast.Assert) else getattr(statement, "value", None)
    return isinstance(statement, ast.Assert | ast.Expr) and isinstance(value, ast.Constant) and bool(value.value)


def _unknown_names(module: ast.Module) -> tuple[str, ...]:
    called = {n.func.id for n in ast.walk(module) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    return tuple(sorted(name for name in called if not hasattr(builtins, name)))


class _Guard(ast.NodeTransformer):
    """Lets the assertions go on after a value that is not there yet, so that one run finds out all that they ask."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if not isinstance(node, _SIMPLE):
            return node
        raise_again = ast.parse("if not missing_answers:\n    raise").body
        handler = ast.ExceptHandler(ast.Name("BaseException", ast.Load()), None, raise_again)
        return ast.Try([node], [handler], [], [])
