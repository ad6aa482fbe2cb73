"""Values between the judge and the sandbox, as JSON.

The text of this file is also part of the programs that run in the sandbox: it imports nothing of ours, and what comes
back is only ever looked at by `llm_envs.coding.values`, for in the sandbox anything may have been changed.

``None``, booleans, numbers, strings and lists stand for themselves; all else is ``{"$": kind, "v": content}``.
"""

from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from decimal import Decimal
from fractions import Fraction
from itertools import islice
from typing import Any

__all__ = ["OBJECT", "decode", "encode"]

OBJECT = "object"
"""The kind of a value that cannot be told; the content names its type."""
_INTEGER_LIMIT = 10**4000  # Python itself reads and writes no more than 4,300 digits
_MOST_ITEMS = 10**5
_TYPES = {kind.__name__: kind for kind in (bool, bytes, complex, dict, float, int, list, set, str, tuple)}


def encode(value: Any) -> Any:
    """A value as JSON; of subclasses what they are at heart, and of numpy's arrays and numbers their plain form."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if -_INTEGER_LIMIT < value < _INTEGER_LIMIT else {"$": OBJECT, "v": "int"}
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, list):
        return [encode(item) for item in value]
    for kind in (tuple, set, frozenset):
        if isinstance(value, kind):
            return {"$": kind.__name__, "v": [encode(item) for item in value]}
    return _encode_rest(value)


def _encode_rest(value: Any) -> Any:
    if isinstance(value, dict):
        return {"$": "dict", "v": [[encode(key), encode(item)] for key, item in value.items()]}
    if isinstance(value, complex):
        return {"$": "complex", "v": [value.real, value.imag]}
    if isinstance(value, bytes | bytearray):
        return {"$": "bytes", "v": value.hex()}
    if isinstance(value, type) and value in _TYPES.values():
        return {"$": "type", "v": value.__name__}
    if hasattr(value, "deferred_call"):
        return {"$": "call", "v": value.deferred_call}
    lazy = _encode_lazy(value)
    if lazy is not None:
        return lazy
    if isinstance(value, Fraction | Decimal) and (isinstance(value, Fraction) or value.is_finite()):
        return {"$": "fraction", "v": [encode(part) for part in value.as_integer_ratio()]}
    if hasattr(value, "tolist") and not isinstance(value, type):
        return encode(value.tolist())
    return {"$": OBJECT, "v": type(value).__name__[:100]}


def _encode_lazy(value: Any) -> Any:
    """Ranges, views and iterators; None for all else."""
    if isinstance(value, range):
        return {"$": "range", "v": [value.start, value.stop, value.step]}
    if isinstance(value, KeysView | ItemsView):
        return {"$": "set", "v": [encode(item) for item in value]}
    if isinstance(value, ValuesView):
        return [encode(item) for item in value]
    if isinstance(value, Iterator):
        items = list(islice(value, _MOST_ITEMS + 1))
        if len(items) <= _MOST_ITEMS:
            return {"$": "iterator", "v": [encode(item) for item in items]}
    return None


def _fraction(numerator: Any, denominator: Any) -> Fraction:
    if type(numerator) is not int or type(denominator) is not int or denominator < 1:
        raise ValueError("a fraction is of two whole numbers")  # a string could ask for a power of any size
    return Fraction(numerator, denominator)


_MADE_OF_PARTS: dict[str, Any] = {"complex": complex, "range": range, "fraction": _fraction}


def decode(tree: Any, call: Any = None) -> Any:
    """The inverse of `encode`; ``call(name, args)`` makes what has to be made by the program that is judged.

    Raises:
        ValueError: If the tree is not one that `encode` makes.
        TypeError: The same.
    """
    if isinstance(tree, list):
        return [decode(item, call) for item in tree]
    if not isinstance(tree, dict):
        return tree
    kind, content = tree["$"], tree["v"]
    if kind in ("tuple", "set", "frozenset"):
        return {"tuple": tuple, "set": set, "frozenset": frozenset}[kind](decode(item, call) for item in content)
    if kind == "dict":
        return {decode(key, call): decode(item, call) for key, item in content}
    if kind == "bytes":
        return bytes.fromhex(content)
    if kind == "type":
        return _TYPES[content]
    if kind in _MADE_OF_PARTS:
        return _MADE_OF_PARTS[kind](*content)
    if kind == "iterator":
        return iter([decode(item, call) for item in content])
    if kind == "call" and call is not None:
        return call(content["name"], [decode(item, call) for item in content["args"]])
    if kind == OBJECT:
        return object()
    raise ValueError(f"unknown kind {kind!r}")
