"""Values of formulas: exact where they are rational, else in floating point with a bound that only ever refutes.

`same_value` never says that two formulas are equal because they look close: equality is proved by exact arithmetic
here, or to many digits in a worker process (`llm_envs.grading.digits`).
"""

import cmath
import math
import operator
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import lru_cache
from hashlib import blake2b

from llm_envs.grading.expressions import Node, variables

__all__ = [
    "TRIGONOMETRIC",
    "NotExactError",
    "exact",
    "is_integer_name",
    "num_points",
    "same_value",
    "sample",
    "to_float",
]

_MAX_BITS = 40_000  # some 12,000 digits: products of such numbers still take microseconds
_MAX_FACTORIAL = 2500
_MAX_EXACT_EXPONENT = 20_000
_POINTS = 8
_SMOOTH_POINTS = 3
_HUGE = 1e300


class NotExactError(ArithmeticError):
    """The value is not rational, does not exist, or is too large to be computed exactly here."""


# --- Exact ---


def exact(node: Node, point: Mapping[str, Fraction]) -> Fraction:
    """The value at a point, exactly.

    Raises:
        NotExactError: If it cannot be had.
    """
    kind = node[0]
    if kind == "num":
        return _bounded(node[1])
    if kind == "var":
        if node[1] not in point:
            raise NotExactError("a variable")
        return point[node[1]]
    if kind == "fn":
        function = _EXACT.get(node[1])
        if function is None:
            raise NotExactError(node[1])
        return _bounded(function(*(exact(part, point) for part in node[2:])))
    operation = _EXACT_OPERATIONS.get(kind)
    if operation is None:
        raise NotExactError(kind)
    return _bounded(operation(*(exact(part, point) for part in node[1:])))


def _bounded(value: Fraction) -> Fraction:
    if value.numerator.bit_length() + value.denominator.bit_length() > _MAX_BITS:
        raise NotExactError("too large")
    return value


def _quotient(over: Fraction, under: Fraction) -> Fraction:
    if not under:
        raise NotExactError("division by zero")
    return over / under


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator > 1:
        base = _root(base, exponent.denominator)
        exponent = Fraction(exponent.numerator)
    n = exponent.numerator
    size = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(n) > _MAX_EXACT_EXPONENT and abs(base) not in {0, 1}:
        raise NotExactError("a large exponent")
    if size * abs(n) > 2 * _MAX_BITS and abs(base) not in {0, 1}:
        raise NotExactError("too large")
    if not base and n <= 0:
        raise NotExactError("zero to no positive power")
    if abs(base) == 1:
        return base if n % 2 else Fraction(1)
    return base**n


def _root(value: Fraction, degree: int) -> Fraction:
    """The rational real root; of a negative number none, for its principal root is not real."""
    if value < 0 or degree > 64:
        raise NotExactError("a root that is not rational")
    parts = []
    for number in (value.numerator, value.denominator):
        root = math.isqrt(number) if degree == 2 else round(number ** (1 / degree)) if number < 2**52 else -1
        if root < 0 or root**degree != number:
            raise NotExactError("a root that is not rational")
        parts.append(root)
    return Fraction(*parts)


def _whole(value: Fraction) -> int:
    if value.denominator != 1:
        raise NotExactError("not a whole number")
    return value.numerator


def _factorial(value: Fraction) -> Fraction:
    n = _whole(value)
    if not 0 <= n <= _MAX_FACTORIAL:
        raise NotExactError("a factorial")
    return Fraction(math.factorial(n))


def _choose(n: Fraction, k: Fraction) -> Fraction:
    over, under = _whole(n), _whole(k)
    if not 0 <= over <= _MAX_FACTORIAL or under < 0:
        raise NotExactError("a binomial")
    return Fraction(math.comb(over, under))


def _falling(n: Fraction, k: Fraction) -> Fraction:
    over, under = _whole(n), _whole(k)
    if not 0 <= over <= _MAX_FACTORIAL or under < 0:
        raise NotExactError("permutations")
    return Fraction(math.perm(over, under))


def _exact_root(value: Fraction, degree: Fraction) -> Fraction:
    n = _whole(degree)
    if n < 2:
        raise NotExactError("a root")
    if value < 0 and n % 2:
        return -_root(-value, n)  # the real root is what school means
    return _root(value, n)


def _logarithm(value: Fraction, base: Fraction | None = None) -> Fraction:
    """Rational logarithms: of 1, and of powers of a written base."""
    if value == 1 and base not in {0, 1}:
        return Fraction(0)
    if base is None or base <= 0 or base == 1 or value <= 0:
        raise NotExactError("a logarithm")
    ratio = _float_log(value) / (_float_log(base) or math.inf)
    guess = Fraction(ratio).limit_denominator(64)
    if abs(guess.numerator) > 1000 or base**guess.numerator != value**guess.denominator:
        raise NotExactError("a logarithm")
    return guess


def _float_log(value: Fraction) -> float:
    """Also of fractions beyond the range of floating point."""
    return math.log(value.numerator) - math.log(value.denominator)


def _decimal_logarithm(value: Fraction) -> Fraction:
    return _logarithm(value, Fraction(10))


def _least_common(*values: Fraction) -> Fraction:
    return Fraction(math.lcm(*map(_whole, values)))


_EXACT_OPERATIONS: Mapping[str, Callable[..., Fraction]] = {
    "add": operator.add,
    "mul": operator.mul,
    "div": _quotient,
    "pow": _power,
    "neg": operator.neg,
    "deg": lambda value: value,
    "pct": lambda value: value / 100,
}
_EXACT: Mapping[str, Callable[..., Fraction]] = {
    "sqrt": lambda value: _root(value, 2),
    "root": _exact_root,
    "cbrt": lambda value: _exact_root(value, Fraction(3)),
    "abs": abs,
    "floor": lambda value: Fraction(math.floor(value)),
    "ceil": lambda value: Fraction(math.ceil(value)),
    "factorial": _factorial,
    "binom": _choose,
    "falling": _falling,
    "gcd": lambda *values: Fraction(math.gcd(*map(_whole, values))),
    "lcm": _least_common,
    "max": lambda *values: max(values),
    "min": lambda *values: min(values),
    "sgn": lambda value: Fraction((value > 0) - (value < 0)),
    "re": lambda value: value,
    "im": lambda value: value * 0,
    "lg": _decimal_logarithm,
    "lb": lambda value: _logarithm(value, Fraction(2)),
    "log": lambda value, base=None: _logarithm(value, base),
}  # fmt: skip


# --- In floating point ---


class _Floats:
    """Evaluates once and remembers the largest magnitude on the way, for the bound on rounding errors."""

    def __init__(self, point: Mapping[str, complex], *, natural_log: bool) -> None:
        self.point = point
        self.natural_log = natural_log
        self.largest = 0.0

    def __call__(self, node: Node, *, in_function: bool = False) -> complex:
        value = self._value(node, in_function)
        if not value.imag:
            value = complex(value.real)  # -4-0j lies on the other side of the branch cut of the root
        size = abs(value)
        if not size < _HUGE:
            raise OverflowError("too large for floating point")
        self.largest = max(self.largest, size)
        return value

    def _value(self, node: Node, in_function: bool) -> complex:
        kind = node[0]
        if kind == "num":
            return complex(node[1])
        if kind == "var":
            return self.point[node[1]]
        if kind == "const":
            if node[1] == "inf":
                raise OverflowError("infinity")
            return {"pi": math.pi, "e": math.e, "i": 1j}[node[1]]
        if kind == "fn":
            is_angle = node[1] in TRIGONOMETRIC
            return self._function(node[1], [self(part, in_function=is_angle) for part in node[2:]])
        if kind in {"pm", "mp", "based"}:
            raise ArithmeticError(kind)
        values = [self(part, in_function=in_function) for part in node[1:]]
        if kind == "pow":
            return _float_power(node[1], values[0], values[1])
        if kind == "deg":
            return values[0] * math.pi / 180 if in_function else values[0]
        if kind == "pct":
            return values[0] / 100
        return _OPERATIONS[kind](*values)

    def _function(self, name: str, values: list[complex]) -> complex:
        if name == "log":
            base = values[1] if len(values) > 1 else (math.e if self.natural_log else 10)
            return cmath.log(values[0]) / cmath.log(base)
        if name in _REAL_FUNCTIONS:
            if any(abs(value.imag) > 1e-12 * abs(value) for value in values):
                raise ArithmeticError(f"{name} of no real number")
            return complex(_REAL_FUNCTIONS[name](*(value.real for value in values)))
        return _COMPLEX_FUNCTIONS[name](*values)


def _float_power(base_node: Node, base: complex, exponent: complex) -> complex:
    if base_node == ("const", "e"):
        return cmath.exp(exponent)
    if exponent.imag == 0 and exponent.real == round(exponent.real) and abs(exponent.real) < 1e6:
        return base ** int(exponent.real)
    if base.imag == 0 and base.real > 0 and exponent.imag == 0:
        return complex(math.pow(base.real, exponent.real))
    return base**exponent


def _float_root(value: complex, degree: complex) -> complex:
    n = round(degree.real)
    if n != degree or n < 1:
        raise ArithmeticError("a root")
    if value.imag == 0 and value.real < 0 and n % 2:
        return complex(-((-value.real) ** (1 / n)))
    return value ** (1 / n)


def _float_factorial(value: float) -> float:
    if value < 0 and value == round(value):
        raise ArithmeticError("a factorial")
    return math.gamma(value + 1)


def _float_binomial(n: float, k: float) -> float:
    if n == round(n) and k == round(k) and 0 <= n < 1000 and k >= 0:
        return float(math.comb(round(n), round(k)))
    return math.gamma(n + 1) / (math.gamma(k + 1) * math.gamma(n - k + 1))


def _rounding(function: Callable[[float], int]) -> Callable[[float], float]:
    """Floor and ceiling, which floating point cannot decide beside a whole number."""

    def rounded(value: float) -> float:
        if abs(value - round(value)) < 1e-9 * max(1.0, abs(value)):
            raise ArithmeticError("too close to a whole number")
        return float(function(value))

    return rounded


_OPERATIONS: Mapping[str, Callable[..., complex]] = {
    "add": operator.add,
    "mul": operator.mul,
    "div": operator.truediv,
    "neg": operator.neg,
}
_REAL_FUNCTIONS: Mapping[str, Callable[..., float]] = {
    "floor": _rounding(math.floor),
    "ceil": _rounding(math.ceil),
    "factorial": _float_factorial,
    "gamma": math.gamma,
    "binom": _float_binomial,
    "falling": lambda n, k: math.gamma(n + 1) / math.gamma(n - k + 1),
    "max": lambda *values: max(values),
    "min": lambda *values: min(values),
    "sgn": lambda value: float((value > 0) - (value < 0)),
    "gcd": lambda *values: float(math.gcd(*(round(value) for value in values))),
    "lcm": lambda *values: float(math.lcm(*(round(value) for value in values))),
}
_COMPLEX_FUNCTIONS: Mapping[str, Callable[..., complex]] = {
    "sin": cmath.sin, "cos": cmath.cos, "tan": cmath.tan,
    "sec": lambda z: 1 / cmath.cos(z), "csc": lambda z: 1 / cmath.sin(z), "cot": lambda z: 1 / cmath.tan(z),
    "asin": cmath.asin, "acos": cmath.acos, "atan": cmath.atan, "acot": lambda z: math.pi / 2 - cmath.atan(z),
    "asec": lambda z: cmath.acos(1 / z), "acsc": lambda z: cmath.asin(1 / z),
    "sinh": cmath.sinh, "cosh": cmath.cosh, "tanh": cmath.tanh, "coth": lambda z: 1 / cmath.tanh(z),
    "sech": lambda z: 1 / cmath.cosh(z), "csch": lambda z: 1 / cmath.sinh(z),
    "asinh": cmath.asinh, "acosh": cmath.acosh, "atanh": cmath.atanh,
    "ln": cmath.log, "lg": cmath.log10, "lb": lambda z: cmath.log(z) / math.log(2), "exp": cmath.exp,
    "sqrt": cmath.sqrt, "root": _float_root, "cbrt": lambda z: _float_root(z, 3 + 0j),
    "abs": lambda z: complex(abs(z)), "re": lambda z: complex(z.real), "im": lambda z: complex(z.imag),
    "arg": lambda z: complex(cmath.phase(z)),
}  # fmt: skip
_WITH_CORNERS = frozenset(
    {"abs", "max", "min", "sgn", "sqrt", "root", "cbrt", "floor", "ceil", "asin", "acos", "atan", "acot", "acosh"}
)
TRIGONOMETRIC = frozenset({"sin", "cos", "tan", "sec", "csc", "cot"})


def to_float(node: Node) -> float | None:
    """A real value to some 15 digits, infinities included, for putting things in order; None if there is none."""
    if node == ("const", "inf"):
        return math.inf
    if node == ("neg", ("const", "inf")):
        return -math.inf
    try:
        value = _Floats({}, natural_log=True)(node)
    except (ArithmeticError, ValueError, KeyError):
        return None
    return value.real if abs(value.imag) <= 1e-12 * abs(value) else None


# --- Comparison ---


def same_value(left: Node, right: Node) -> bool | None:
    """Whether two formulas are equal for all real values of their variables; None where that is not clear here."""
    if left == right:
        return True
    if _has_infinity(left) or _has_infinity(right):
        return _infinity_sign(left) == _infinity_sign(right) != 0
    names = variables(left) | variables(right)
    if not names:
        values = _exact_constant(left), _exact_constant(right)
        return _refuted(left, right, names) if None in values else values[0] == values[1]
    for attempt in range(num_points(left, right) if has_corners(left, right) else _SMOOTH_POINTS):
        point = {name: _exact_sample(name, attempt) for name in names}
        try:
            if exact(left, point) != exact(right, point):
                return False
        except (ArithmeticError, ValueError):
            return _refuted(left, right, names)
    return True


@lru_cache(maxsize=4096)
def _exact_constant(node: Node) -> Fraction | None:
    """Remembered, for every item of a set meets every other."""
    try:
        return exact(node, {})
    except (ArithmeticError, ValueError):
        return None


@lru_cache(maxsize=1024)
def _exact_sample(name: str, attempt: int) -> Fraction:
    """A rational number with 40 bits: two rational functions that agree at three such points are one."""
    chance = _chance(name, attempt)
    size = Fraction(2**32 + 2 * (chance >> 32) + 1, 2 ** (31 + attempt % 4)) * _scale(attempt)
    return -size if _is_negative(chance, attempt) else size


@lru_cache(maxsize=1024)
def sample(name: str, attempt: int) -> Fraction:
    """A real number for a variable, of either sign; the first eight are between 0.2 and 3 in size, others greater."""
    chance = _chance(name, attempt)
    size = (Fraction(1, 5) + Fraction(chance >> 44, 2**20) * Fraction(14, 5)) * _scale(attempt)
    return -size if _is_negative(chance, attempt) else size


def _chance(name: str, attempt: int) -> int:
    """64 bits that depend on nothing else, so that a verdict is the same everywhere."""
    return int.from_bytes(blake2b(f"{attempt}:{name}".encode(errors="surrogatepass"), digest_size=8).digest())


def _is_negative(chance: int, attempt: int) -> bool:
    """Of eight points the first is positive and the second negative in all variables; the others as chance has it."""
    return (False, True)[attempt % _POINTS] if attempt % _POINTS < 2 else bool(chance & 1)


def _scale(attempt: int) -> int:
    return (1, 16, 1024)[attempt // _POINTS % 3]


def num_points(left: Node, right: Node) -> int:
    """At how many points of each kind two formulas are compared: more where they have corners, far from zero, too."""
    return 3 * _POINTS if has_corners(left, right) else _POINTS


def has_corners(*nodes: Node) -> bool:
    """Whether formulas may agree in a part of their domain only."""
    return any(
        (node[0] == "fn" and node[1] in _WITH_CORNERS)
        or has_corners(*(part for part in node[1:] if isinstance(part, tuple)))
        for node in nodes
    )


def is_integer_name(name: str) -> bool:
    """Whether a variable of this name is a whole number to everyone who writes factorials of it."""
    return name in {"n", "k", "m", "N", "K", "M"}


def _has_infinity(node: Node) -> bool:
    return node == ("const", "inf") or any(isinstance(part, tuple) and _has_infinity(part) for part in node[1:])


def _infinity_sign(node: Node) -> int:
    if node == ("const", "inf"):
        return 1
    return -_infinity_sign(node[1]) if node[0] == "neg" else 0


def _refuted(left: Node, right: Node, names: frozenset[str]) -> bool | None:
    """False if the values differ, by more than rounding can explain, under every reading; else None."""
    readings = (True, False) if _mentions_log(left) or _mentions_log(right) else (True,)
    return False if all(_differs(left, right, names, natural_log=reading) for reading in readings) else None


def _mentions_log(node: Node) -> bool:
    """Whether there is a logarithm without a base, which is natural to some and decimal to others."""
    if node[0] == "fn" and node[1] == "log" and len(node) == 3:
        return True
    return any(isinstance(part, tuple) and _mentions_log(part) for part in node[1:])


def _differs(left: Node, right: Node, names: frozenset[str], *, natural_log: bool) -> bool:
    for attempt in range(num_points(left, right) if names else 1):
        point = {name: complex(sample(name, attempt)) for name in names}
        found = []
        for node in (left, right):
            floats = _Floats(point, natural_log=natural_log)
            try:
                found.append((floats(node), floats.largest))
            except (ArithmeticError, ValueError):
                break
        if len(found) < 2:
            continue
        (a, a_largest), (b, b_largest) = found
        real = [abs(value.imag) <= 1e-9 * abs(value) for value in (a, b)]
        if names and real[0] != real[1]:
            continue  # outside of one formula's domain
        error = 1e-10 * max(a_largest, b_largest)
        if abs(a - b) > 1e-7 * max(abs(a), abs(b)) + error:
            return not (names and _needs_whole_numbers(left, right))
    return False


def _needs_whole_numbers(left: Node, right: Node) -> bool:
    """Whether both sides may differ only between whole numbers: factorials, powers of -1, cos(n pi)."""
    return any(_is_whole_number_formula(node) for node in (left, right))


def _is_whole_number_formula(node: Node) -> bool:
    if node[0] == "fn" and node[1] in {"factorial", "binom", "falling", "floor", "ceil", "gcd", "lcm", *TRIGONOMETRIC}:
        return any(map(is_integer_name, variables(node)))
    if node[0] == "pow" and any(map(is_integer_name, variables(node[2]))):
        base = node[1]
        return base[0] == "neg" or (base[0] == "num" and base[1] < 0) or "i" in base[1:]
    return any(isinstance(part, tuple) and _is_whole_number_formula(part) for part in node[1:])
