"""Equality of formulas to many digits: for the worker processes, for it can take long."""

import math
import operator
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import mpmath

from llm_envs.grading import evaluation
from llm_envs.grading.answers import read_answer
from llm_envs.grading.comparison import same_answer
from llm_envs.grading.expressions import Node, variables

__all__ = ["GUARD_DIGITS", "HugeError", "coordinate", "judge", "same_digits", "value_at"]

GUARD_DIGITS = 40
_MAX_DIGITS = 3000
_MAX_LOG = 1e7  # beyond exp of this, a value is not computed


class HugeError(ArithmeticError):
    """A value that is too large, or too small, to be computed."""


class _MoreDigitsError(ArithmeticError):
    def __init__(self, digits: int) -> None:
        super().__init__(f"{digits} digits are needed")
        self.digits = digits


def judge(answer: str, gold: str) -> str:
    """The verdict on a cleaned pair that the light layers could not decide: ``correct``, ``wrong``, ``timeout``."""
    try:
        return "correct" if same_answer(read_answer(answer), read_answer(gold), same_digits) else "wrong"
    except HugeError:
        return "timeout"


def same_digits(left: Node, right: Node) -> bool | None:
    """Whether two formulas agree, at several points and to far more digits than they could agree by chance.

    The number of digits grows with the digits written and with the range of magnitudes on the way, so that neither
    ``1 + 10^{-200}`` nor a long decimal passes for what it is close to.

    Raises:
        HugeError: If a value is too large to be computed.
    """
    quick = evaluation.same_value(left, right)
    if quick is not None:
        return quick
    outcomes = [_agree(left, right, natural_log=natural) for natural in (True, False)]
    if any(outcomes):
        return True
    return None if None in outcomes else False


def _agree(left: Node, right: Node, *, natural_log: bool) -> bool | None:
    names = variables(left) | variables(right)
    valid = 0
    for attempt in range(evaluation.num_points(left, right) if names else 1):
        point = {name: coordinate(name, attempt) for name in names}
        found = _agree_at(left, right, point, natural_log)
        if found is False:
            return False
        valid += found is True
    return True if valid >= (2 if names else 1) else None


def coordinate(name: str, attempt: int) -> Fraction:
    """The value of a variable at the n-th point: a whole number for names that mean one."""
    return (
        Fraction(attempt + 1 + (len(name) + ord(name[0])) % 3)
        if evaluation.is_integer_name(name)
        else evaluation.sample(name, attempt)
    )


def _agree_at(left: Node, right: Node, point: Mapping[str, Fraction], natural_log: bool) -> bool | None:
    """None where a value does not exist, or only one of the two is real: outside of a domain."""
    digits = GUARD_DIGITS + 2 * (_written_digits(left) + _written_digits(right))
    while True:
        with mpmath.workdps(digits):
            try:
                values = [_Digits(point, natural_log) for _ in range(2)]
                (a, _), (b, _) = values[0](left), values[1](right)
            except HugeError:
                raise
            except _MoreDigitsError as error:
                digits = error.digits
                if digits > _MAX_DIGITS:
                    raise HugeError("too many digits are needed") from None
                continue
            except (ArithmeticError, ValueError):
                return None
            largest = max(value.largest for value in values)
            smallest = min(value.smallest for value in values)
            if point and _is_real(a, largest, digits) != _is_real(b, largest, digits):
                return None
            noise = mpmath.mpf(10) ** (15 - digits) * largest
            if abs(a - b) > noise:
                return False
            spread = int(mpmath.log10(largest / smallest))
        needed = GUARD_DIGITS + spread + 2 * (_written_digits(left) + _written_digits(right))
        if needed <= digits:
            return True
        if needed > _MAX_DIGITS:
            raise HugeError("too many digits are needed")
        digits = needed


def _is_real(value: Any, largest: Any, digits: int) -> bool:
    return bool(abs(mpmath.im(value)) <= largest * mpmath.mpf(10) ** (15 - digits))


def _written_digits(node: Node) -> int:
    if node[0] == "num":
        return int(node[1].numerator.bit_length() + node[1].denominator.bit_length()) // 3
    return sum(_written_digits(part) for part in node[1:] if isinstance(part, tuple))


class _Digits:
    """Evaluates once and remembers the largest and the smallest magnitude on the way."""

    def __init__(self, point: Mapping[str, Fraction], natural_log: bool) -> None:
        self.point = point
        self.natural_log = natural_log
        self.largest = mpmath.mpf(1)
        self.smallest = mpmath.mpf(1)

    def __call__(self, node: Node, *, in_function: bool = False) -> tuple[Any, bool]:
        """The value, and whether all its digits mean something: what is left of a cancellation may be mere noise."""
        is_angle = node[0] == "fn" and node[1] in evaluation.TRIGONOMETRIC
        in_function = is_angle if node[0] == "fn" else in_function
        parts = [self(part, in_function=in_function) for part in node[1:] if isinstance(part, tuple)]
        values = [value for value, _ in parts]
        value = self._value(node, values, in_function)
        size = abs(value)
        if not mpmath.isfinite(size):
            raise ArithmeticError("not finite")
        if node[0] in {"add", "fn"}:
            self.largest = max(self.largest, *(abs(part) for part in values))  # what can cancel
        means_something = all(meant for _, meant in parts)
        if node[0] in {"add", "fn"}:
            scale = max([abs(part) for part in values] + [mpmath.mpf(node[0] == "fn")])
            means_something = means_something and size > scale * mpmath.mpf(10) ** (15 - mpmath.mp.dps)
        if means_something and size:
            self.smallest = min(self.smallest, size)
        return value, means_something

    def _value(self, node: Node, values: list[Any], in_function: bool) -> Any:
        kind = node[0]
        if kind == "num":
            return mpmath.mpf(node[1].numerator) / node[1].denominator
        if kind == "var":
            return mpmath.mpf(self.point[node[1]].numerator) / self.point[node[1]].denominator
        if kind == "const":
            if node[1] == "inf":
                raise ArithmeticError("infinity")
            return {"pi": +mpmath.pi, "e": +mpmath.e, "i": mpmath.mpc(0, 1)}[node[1]]
        if kind == "fn":
            return self._function(node[1], values)
        if kind == "deg":
            return values[0] * mpmath.pi / 180 if in_function else values[0]
        if kind not in _OPERATIONS:
            raise ArithmeticError(kind)
        return _OPERATIONS[kind](*values)

    def _function(self, name: str, values: list[Any]) -> Any:
        if name == "log":
            base = values[1] if len(values) > 1 else (mpmath.e if self.natural_log else 10)
            return mpmath.log(values[0]) / mpmath.log(base)
        if name in {"exp", "sinh", "cosh"} and abs(values[0]) > _MAX_LOG:
            raise HugeError(name)
        if any(abs(value) > mpmath.mpf(10) ** 400 for value in values) and name in _PERIODIC:
            raise HugeError(name)
        if name in _REAL:
            if any(mpmath.im(value) for value in values):
                raise ArithmeticError(f"{name} of no real number")
            values = [mpmath.re(value) for value in values]
        if name in {"factorial", "gamma", "binom", "falling"} and max(abs(value) for value in values) > 1e6:
            raise HugeError(name)
        return _FUNCTIONS[name](*values)


def _power(base: Any, exponent: Any) -> Any:
    if not base:
        if mpmath.re(exponent) <= 0:
            raise ZeroDivisionError("zero to no positive power")
        return base
    if abs(mpmath.log(abs(base)) * exponent) > _MAX_LOG or abs(exponent) > mpmath.mpf(10) ** 400:
        raise HugeError("a power")
    return mpmath.power(base, exponent)


def _root(value: Any, degree: Any) -> Any:
    n = int(mpmath.nint(mpmath.re(degree)))
    if n != degree or not 1 <= n <= 10_000:
        raise ArithmeticError("a root")
    if not mpmath.im(value) and mpmath.re(value) < 0 and n % 2:
        return -mpmath.root(-value, n)
    return mpmath.root(value, n)


def _whole(function: Any) -> Any:
    """Floor and ceiling; a value that is a whole number but for rounding is one."""

    def rounded(value: Any) -> Any:
        size = int(mpmath.log10(1 + abs(value)))
        if size > mpmath.mp.dps - 2 * GUARD_DIGITS:
            raise _MoreDigitsError(size + 3 * GUARD_DIGITS)
        nearest = mpmath.nint(value)
        return (
            nearest
            if abs(value - nearest) < mpmath.mpf(10) ** (20 - mpmath.mp.dps) * (1 + abs(value))
            else function(value)
        )

    return rounded


_PERIODIC = evaluation.TRIGONOMETRIC | {"floor", "ceil", "gcd", "lcm"}
_REAL = frozenset({"floor", "ceil", "max", "min", "sgn", "gcd", "lcm"})
_OPERATIONS: Mapping[str, Any] = {
    "add": operator.add,
    "mul": operator.mul,
    "div": operator.truediv,
    "neg": operator.neg,
    "pow": _power,
    "pct": lambda value: value / 100,
}
_FUNCTIONS: Mapping[str, Any] = {
    "sin": mpmath.sin, "cos": mpmath.cos, "tan": mpmath.tan, "sec": mpmath.sec, "csc": mpmath.csc, "cot": mpmath.cot,
    "asin": mpmath.asin, "acos": mpmath.acos, "atan": mpmath.atan, "acot": lambda z: mpmath.pi / 2 - mpmath.atan(z),
    "asec": mpmath.asec, "acsc": mpmath.acsc,
    "sinh": mpmath.sinh, "cosh": mpmath.cosh, "tanh": mpmath.tanh, "coth": mpmath.coth,
    "sech": mpmath.sech, "csch": mpmath.csch,
    "asinh": mpmath.asinh, "acosh": mpmath.acosh, "atanh": mpmath.atanh,
    "ln": mpmath.log, "lg": mpmath.log10, "lb": lambda z: mpmath.log(z, 2), "exp": mpmath.exp,
    "sqrt": mpmath.sqrt, "root": _root, "cbrt": lambda z: _root(z, mpmath.mpf(3)),
    "abs": abs, "re": mpmath.re, "im": mpmath.im, "arg": mpmath.arg,
    "floor": _whole(mpmath.floor), "ceil": _whole(mpmath.ceil),
    "factorial": mpmath.factorial, "gamma": mpmath.gamma, "binom": mpmath.binomial,
    "falling": lambda n, k: mpmath.factorial(n) / mpmath.factorial(n - k),
    "max": lambda *values: max(values), "min": lambda *values: min(values), "sgn": mpmath.sign,
    "gcd": lambda *values: mpmath.mpf(_integers("gcd", values)),
    "lcm": lambda *values: mpmath.mpf(_integers("lcm", values)),
}  # fmt: skip


def _integers(name: str, values: tuple[Any, ...]) -> int:
    numbers = [int(mpmath.nint(value)) for value in values]
    if any(number != value for number, value in zip(numbers, values, strict=True)):
        raise ArithmeticError(f"{name} of no whole numbers")
    return int(getattr(math, name)(*numbers))


def value_at(node: Node, point: Mapping[str, Fraction], digits: int) -> Any:
    """The value of a formula to so many digits; None if it has none there."""
    with mpmath.workdps(digits):
        try:
            return _Digits(point, natural_log=True)(node)[0]
        except (ArithmeticError, ValueError):
            return None
