import collections
import enum
import itertools
import json
import time
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from llm_envs.coding.values import MAX_DEPTH, MAX_VALUE_CHARACTERS, UnreadableValueError, equals, read_tree
from llm_envs.coding.wire import decode, encode

VALUES = [
    None,
    True,
    -3,
    10**3000,
    0.5,
    "\ud800 \0 é",
    b"\xff",
    1 + 2j,
    [1, [2, (3, "x")]],
    (1,),
    {1, 2},
    frozenset({(1, 2)}),
    {1: "a", (2, 3): {"b": None}},
    int,
    float("inf"),
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_what_is_encoded_comes_back_as_it_was(value):
    tree = json.loads(json.dumps(encode(value)))
    assert decode(tree) == value
    assert type(decode(tree)) is type(value)
    if not isinstance(value, type):
        assert equals(value, read_tree(json.dumps(encode(value))), as_json=False)


class Answer(enum.IntEnum):
    YES = 1


Pair = collections.namedtuple("Pair", "a b")


class AlwaysEqual:
    def __eq__(self, other):
        return True

    __hash__ = None  # type: ignore[assignment]


class EqualInt(int):
    def __eq__(self, other):
        return True

    __hash__ = int.__hash__


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (collections.Counter("aa"), {"a": 2}),
        (collections.OrderedDict(a=1), {"a": 1}),
        (Pair(1, 2), (1, 2)),
        (Answer.YES, 1),
        (EqualInt(7), 7),
        (np.int64(3), 3),
        (np.array([[1, 2]]), [[1, 2]]),
    ],
)
def test_of_subclasses_counts_what_they_are_at_heart(value, plain):
    assert decode(encode(value)) == plain
    assert type(decode(encode(value))) is type(plain)


@pytest.mark.parametrize(
    ("value", "same"),
    [
        (range(2, 9, 3), range(2, 9, 3)),
        ({"a": 1}.keys(), {"a"}),
        ({"a": 1}.values(), [1]),
        ({"a": 1}.items(), {("a", 1)}),
        (Fraction(1, 3), Fraction(1, 3)),
        (Decimal("0.5"), 0.5),
    ],
)
def test_what_assertions_may_ask_of(value, same):
    assert decode(json.loads(json.dumps(encode(value)))) == same


def test_iterators():
    assert list(decode(encode(x * x for x in range(3)))) == [0, 1, 4]
    assert encode(itertools.count())["$"] == "object"


@pytest.mark.parametrize("parts", [["1e999999999", 1], [1, 0], [1, -1], [1.5, 2], [True, 1], [1]])
def test_a_fraction_that_is_none_equals_nothing(parts):
    began = time.perf_counter()
    assert not equals({1, 2}, {"$": "set", "v": [{"$": "fraction", "v": parts}, 2]}, as_json=False)
    assert time.perf_counter() - began < 1


def test_an_unclosed_string_takes_linear_time():
    began = time.perf_counter()
    for text in ('"' + '\\"' * 400_000, '"' * 800_001, '"\\' * 400_000):
        with pytest.raises(UnreadableValueError):
            read_tree(text)
    assert time.perf_counter() - began < 2


ODD = [AlwaysEqual(), itertools.count(), lambda: 1, object, 10**5000]


@pytest.mark.parametrize("value", ODD, ids=lambda value: type(value).__name__)
def test_what_is_no_value_equals_nothing(value):
    tree = json.loads(json.dumps(encode(value)))
    assert tree["$"] == "object"
    anything: list[object] = [1, [1], True, None, "", {}, set()]
    for expected in anything:
        assert not equals(expected, tree, as_json=True)
        assert not equals(expected, tree, as_json=False)


@pytest.mark.parametrize(
    ("expected", "value", "as_python", "as_json"),
    [
        (1, True, True, True),
        (2, 2.0, True, True),
        ([1, 2], (1, 2), False, True),
        ([[1], [2]], [(1,), (2,)], False, True),
        ((1, 2), [1, 2], False, True),
        ({"1": 2}, {1: 2}, False, True),
        ({"true": 2}, {True: 2}, False, True),
        ([1], {1}, False, False),
        ({1, 2}, frozenset({2, 1}), True, True),
        ({1}, {1, 2}, False, False),
        ("1", 1, False, False),
        (None, 0, False, False),
        (False, None, False, False),
        (float("nan"), float("nan"), False, False),
        ([1, 2], [1], False, False),
        (0.1 + 0.2, 0.3, False, False),
        (b"a", "a", False, False),
    ],
)
def test_equals(expected, value, as_python, as_json):
    tree = json.loads(json.dumps(encode(value)))
    assert equals(expected, tree, as_json=False) is as_python
    assert equals(expected, tree, as_json=True) is as_json


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1",
        "1" * 5000,
        "[" * 200_000,
        "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1),
        '{"a":' * 500_000,
        '"' + "x" * MAX_VALUE_CHARACTERS + '"',
        "[1] [2]",
    ],
)
def test_what_is_too_much_is_refused_quickly(text):
    began = time.perf_counter()
    with pytest.raises(UnreadableValueError):
        read_tree(text)
    assert time.perf_counter() - began < 1


def test_brackets_in_strings_do_not_count():
    assert read_tree(json.dumps(["[" * 1000, '\\"{' * 300])) == ["[" * 1000, '\\"{' * 300]


@pytest.mark.parametrize(
    "tree",
    [
        {"$": "set", "v": [[1]]},
        {"$": "set", "v": 5},
        {"$": "dict", "v": [[[], 1]]},
        {"$": "dict", "v": [5]},
        {"$": "complex", "v": ["1", "2"]},
        {"$": "bytes", "v": "zz"},
        {"$": "call", "v": {"name": "f", "args": []}},
        {"$": ["x"], "v": 1},
        {"v": 1},
        {},
    ],
)
@pytest.mark.parametrize("expected", [{1}, {"a": 1}, 1j, b"a", [1], 1])
def test_forged_trees_equal_nothing(tree, expected):
    assert not equals(expected, tree, as_json=True)
    assert not equals(expected, tree, as_json=False)


def test_a_set_made_to_collide_is_never_built():
    tree = {"$": "frozenset", "v": [number * (2**61 - 1) for number in range(40_000)]}
    inside = [tree, {"$": "tuple", "v": [tree]}]
    began = time.perf_counter()
    assert not equals({1, 2}, tree, as_json=False)
    for item in inside:
        assert not equals({1}, {"$": "set", "v": [item]}, as_json=False)
        assert not equals({1: 2}, {"$": "dict", "v": [[item, 2]]}, as_json=True)
    assert time.perf_counter() - began < 1
