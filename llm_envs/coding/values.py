"""What a program returned, read as what it is: data that it may have made up in order to do harm."""

import json
import re
from typing import Any

from llm_envs.coding.wire import decode

__all__ = ["MAX_DEPTH", "MAX_VALUE_CHARACTERS", "UnreadableValueError", "equals", "read_tree"]

MAX_VALUE_CHARACTERS = 1 << 20
MAX_DEPTH = 100
_MAX_INNER_ITEMS = 100  # of a set within a set, which no expected value limits; hashes can be made to collide
# One that is never closed is taken to the end: to try from each of its quotes again would take quadratic time.
_STRING = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\\?\Z)', re.DOTALL)
_BRACKET = re.compile(r"[\[\]{}]")


class UnreadableValueError(ValueError):
    """A program gave back something that is no value."""


def read_tree(text: str) -> Any:
    """JSON of limited size, depth and digits.

    Raises:
        UnreadableValueError: If it is anything else.
    """
    if len(text) > MAX_VALUE_CHARACTERS:
        raise UnreadableValueError("the value is too large")
    depth = 0
    for bracket in _BRACKET.finditer(_STRING.sub("", text)):
        depth += 1 if bracket[0] in "[{" else -1
        if depth > MAX_DEPTH:
            raise UnreadableValueError("the value is nested too deeply")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: more than 4,300 digits, too
        raise UnreadableValueError("the value cannot be read") from error


def equals(expected: Any, tree: Any, *, as_json: bool) -> bool:
    """Whether a tree of `wire.encode` is the expected value, by Python's ``==`` for plain data.

    It goes along the expected value, so that the other one decides neither how deep nor how far it goes, and no set or
    dictionary is made that is larger than the expected one. NaN equals nothing.

    Args:
        expected: Plain data.
        tree: What came back.
        as_json: Whether the values are compared as JSON would hold them: a tuple is a list, keys are strings.
    """
    if isinstance(expected, list | tuple):
        items = _items(tree, ("list", "tuple") if as_json else (type(expected).__name__,))
        if items is None or len(items) != len(expected):
            return False
        return all(equals(wanted, item, as_json=as_json) for wanted, item in zip(expected, items, strict=True))
    if isinstance(expected, dict):
        return _equal_dicts(expected, tree, as_json)
    if isinstance(expected, set | frozenset):
        items = _items(tree, ("set", "frozenset"))
        if items is None or len(items) != len(expected):
            return False
        return bool(_decoded_set(items) == expected)
    if isinstance(expected, bool | int | float | complex):
        value = _decoded(tree) if isinstance(tree, dict) and tree.get("$") == "complex" else tree
        return type(value) in (bool, int, float, complex) and bool(value == expected)
    if isinstance(expected, bytes):
        return isinstance(tree, dict) and tree.get("$") == "bytes" and bool(_decoded(tree) == expected)
    return type(tree) is type(expected) and bool(tree == expected)


def _items(tree: Any, kinds: tuple[str, ...]) -> list[Any] | None:
    if isinstance(tree, list):
        return tree if "list" in kinds else None
    if isinstance(tree, dict) and tree.get("$") in kinds and isinstance(tree.get("v"), list):
        items: list[Any] = tree["v"]
        return items
    return None


def _equal_dicts(expected: dict[Any, Any], tree: Any, as_json: bool) -> bool:
    pairs = _items(tree, ("dict",))
    if pairs is None or len(pairs) != len(expected):
        return False
    found = {}
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2:
            return False
        key = _decoded(pair[0])
        try:
            found[_json_key(key) if as_json else key] = pair[1]
        except TypeError:  # a key that cannot be hashed
            return False
    wanted = {_json_key(key): value for key, value in expected.items()} if as_json else expected
    return all(key in found and equals(value, found[key], as_json=as_json) for key, value in wanted.items())


def _json_key(key: Any) -> Any:
    """As `json.dumps` writes keys."""
    return json.dumps(key) if key is None or isinstance(key, bool | int | float) else key


def _decoded(tree: Any) -> Any:
    """The value of a tree, or one that equals nothing."""
    if _has_large_set(tree):
        return object()
    try:
        return decode(tree)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return object()  # equals nothing


def _decoded_set(items: list[Any]) -> Any:
    try:
        return {_decoded(item) for item in items}
    except TypeError:  # an item that cannot be hashed
        return None


def _has_large_set(tree: Any) -> bool:
    if isinstance(tree, dict):
        content = tree.get("v")
        if isinstance(content, list) and tree.get("$") != "tuple" and len(content) > _MAX_INNER_ITEMS:
            return True
        tree = content
    return isinstance(tree, list) and any(_has_large_set(item) for item in tree)
