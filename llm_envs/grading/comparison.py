"""Whether two answers are the same: by their structure, down to formulas, which a given function compares.

Every comparison has three outcomes: True, False, and None where the formulas could not be decided. What could not be
read is never equal to anything but the same text.
"""

import math
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise

from llm_envs.grading.evaluation import NotExactError, exact, sample, to_float
from llm_envs.grading.expressions import Node, number, variables
from llm_envs.grading.regions import region_of, same_region
from llm_envs.grading.units import unit_ratio
from llm_envs.grading.values import REALS, Formula, Group, Matrix, Opaque, Relation, SetFormula, Value, Words
from llm_envs.grading.words import tidy_words

__all__ = ["SameValue", "same_answer"]

SameValue = Callable[[Node, Node], bool | None]
"""Compares two formulas."""

_MAX_UNORDERED = 32
_MAX_TERMS = 64
_EQUAL = ("=",)
_NOT_LABELS = frozenset(
    {"not", "no", "never", "false", "wrong", "more", "less", "greater", "than", "most", "least", "is"}
)
_OPAQUE_NAME = re.compile(r"(?!.*\\(?:not|neg|lnot|sim|ne)(?![A-Za-z]))[A-Za-z\\][A-Za-z0-9_{}()',.|\\ ]*")


def same_answer(answer: Value, gold: Value, same: SameValue) -> bool | None:
    """Compare a whole answer with a whole gold answer."""
    if answer == gold:
        return True
    answer, gold = _without_names(answer, gold)
    return _same(answer, gold, same)


def _same(left: Value, right: Value, same: SameValue) -> bool | None:
    if left == right:
        return True
    if isinstance(left, Formula) and isinstance(right, Formula):
        return _same_formula(left, right, same)
    names = _region_names(left), _region_names(right)
    if names[0] and names[1] and names[0] != names[1] and not all(map(_stands_for_result, names[0] | names[1])):
        return False
    if _is_region(left) or _is_region(right):
        regions = region_of(left), region_of(right)
        if regions[0] is not None and regions[1] is not None:
            return same_region(regions[0], regions[1], same)
    if isinstance(left, Relation) and isinstance(right, Relation):
        return _same_relation(left, right, same)
    if isinstance(left, Matrix) and isinstance(right, Matrix):
        return _same_matrix(left, right, same)
    if isinstance(left, Group) and isinstance(right, Group):
        return _same_group(left, right, same)
    if isinstance(left, SetFormula) and isinstance(right, SetFormula):
        return left.kind == right.kind and _same_unordered(left.parts, right.parts, same)
    found = _same_kinds(left, right, same)
    return _same_kinds(right, left, same) if found is False else found


def _same_kinds(one: Value, other: Value, same: SameValue) -> bool | None:
    """Values of different kinds: ``{5}`` and ``5``, ``4:30`` and ``4:30 p.m.``, ``1:2`` and one half."""
    if isinstance(one, Group) and one.opening == "\\{" and len(one.items) == 1 and not isinstance(other, Group):
        return _same(one.items[0], other, same)
    if isinstance(one, Group) and one.opening == ":":
        quotient = _quotient(one)
        if isinstance(other, Words):
            return other.text.rpartition(" ")[0] == _clock(one)
        if quotient is not None and isinstance(other, Formula):
            return same(quotient, other.node)
    return isinstance(one, Words) and isinstance(other, Formula) and _is_same_letter(one, other)


def _clock(ratio: Group) -> str:
    """``4:30`` as a time of day is written."""
    numbers = [item.node[1] for item in ratio.items if isinstance(item, Formula) and item.node[0] == "num"]
    return ":".join(f"{number}" if i == 0 else f"{int(number):02d}" for i, number in enumerate(numbers))


def _is_region(value: Value) -> bool:
    """Whether a value is a set of real numbers and nothing else; ``(1, 2)`` may be a point, too."""
    if isinstance(value, Group):
        conditions = not value.opening and any(
            isinstance(item, Relation) and item.signs != _EQUAL for item in value.items
        )
        return conditions or (value.opening, value.closing) in {("(", "]"), ("[", ")")}
    if isinstance(value, Relation):
        return bool(set(value.signs) - {"="})
    return isinstance(value, SetFormula) or value == REALS


def _region_names(value: Value) -> frozenset[str]:
    """The variables of conditions; none for intervals, which have no names."""
    if isinstance(value, Relation) and set(value.signs) - {"=", ":"}:
        return frozenset().union(*(variables(side.node) for side in value.sides if isinstance(side, Formula)))
    if isinstance(value, SetFormula):
        return frozenset().union(*map(_region_names, value.parts))
    return frozenset()


# --- Names in front ---


def _without_names(answer: Value, gold: Value) -> tuple[Value, Value]:
    """Take off ``x =`` where only one side has it, or both have the same."""
    if isinstance(gold, Relation) and isinstance(answer, Relation):
        if gold.signs == answer.signs == _EQUAL:
            names = _name(answer), _name(gold)
            if None not in names and (names[0] == names[1] or all(_stands_for_result(name) for name in names)):
                return _named(answer), _named(gold)
        elif gold.signs == _EQUAL and len(set(answer.signs)) == 1 and _is_chain_of_equals(answer):
            return Relation(_EQUAL, (answer.sides[0], answer.sides[-1])), gold
        return answer, gold
    if isinstance(answer, Relation) and not isinstance(gold, Relation):
        answer = _last_side(answer)
    elif isinstance(gold, Relation):
        gold = _last_side(gold)
    if isinstance(answer, Group) and isinstance(gold, Group):
        return _assigned(answer, gold), _assigned(gold, answer)
    return answer, gold


def _last_side(relation: Relation) -> Value:
    """What a chain ``x = a = b`` says x is; the relation itself where it has no name or its sides are not equal."""
    if set(relation.signs) != {"="}:
        return relation
    if len(relation.sides) == 2:
        if _name(relation) is not None:
            return _named(relation)
        if _is_sum_of_unknowns(relation.sides[0]):
            return relation.sides[1]
    start = 0 if _name(relation) is None else 1
    last = relation.sides[-1]
    between = [side for side in relation.sides[start:-1] if _formula_name(side) is None or len(relation.sides) < 3]
    values = [side.node if isinstance(side, Formula) else None for side in (*between, last)]  # of AB = BC = 5 the 5
    for node in values[:-1]:
        if node is None or values[-1] is None or not _equal_exactly(node, values[-1]):
            return relation
    return last


def _is_sum_of_unknowns(value: Value) -> bool:
    """Whether a side can only be what was asked for, as in ``a + bi = 2 + i``: an equation leaves two unknowns open."""
    return isinstance(value, Formula) and value.node[0] == "add" and len(variables(value.node)) > 1


def _is_chain_of_equals(relation: Relation) -> bool:
    if set(relation.signs) != {"="} or len(relation.sides) < 3 or _name(relation) is None:
        return False
    return _last_side(relation) is not relation


def _equal_exactly(left: Node, right: Node) -> bool:
    try:
        return exact(left, {}) == exact(right, {})
    except NotExactError:
        a, b = to_float(left), to_float(right)
        return a is not None and b is not None and math.isclose(a, b, rel_tol=1e-9)


def _name(relation: Relation) -> str | None:
    """What an equation names, if one side is a name: a variable, ``f(x)``, a tuple of names, or a label in words."""
    return next((name for name in _side_names(relation) if name is not None), None)


def _side_names(relation: Relation) -> list[str | None]:
    """The names of the sides that may be names: the first, and of two the last one, too."""
    first = relation.sides[0]
    if isinstance(first, Group) and first.opening == "(" and len(relation.sides) == 2:
        names = [_name_of(item.node) if isinstance(item, Formula) else None for item in first.items]
        return [None if None in names else ",".join(map(str, names))]
    if isinstance(first, Words):
        return [_label(first.text)]
    if isinstance(first, Opaque):
        return [first.text if _OPAQUE_NAME.fullmatch(first.text) else None]
    sides = (first, relation.sides[-1]) if len(relation.sides) == 2 else (first,)
    return [_formula_name(side) for side in sides]


def _formula_name(side: Value) -> str | None:
    return _name_of(side.node) if isinstance(side, Formula) and not side.unit and not side.percent else None


def _label(words: str) -> str | None:
    """A text in front of an equals sign, unless it denies or bends what follows."""
    found = words.split()
    return None if len(found) > 4 or _NOT_LABELS & set(found) else "\\text{" + words + "}"


def _name_of(node: Node) -> str | None:
    """``x``, ``f(x)``, ``|AB|``, ``tan(theta)``."""
    if node[0] == "var":
        return str(node[1])
    if node[0] == "fn" and len(node) == 3 and node[2][0] == "var":
        return f"{node[1]}({node[2][1]})"
    return None


def _named(relation: Relation) -> Value:
    """The side that is not the name; of a tuple of names, in their alphabetical order."""
    first, last = relation.sides[0], relation.sides[-1]
    if _side_names(relation)[0] is None:
        return first
    if isinstance(first, Group) and isinstance(last, Group) and len(first.items) == len(last.items):
        order = sorted(range(len(first.items)), key=lambda i: str(first.items[i]))
        return Group(last.opening, last.closing, tuple(last.items[i] for i in order))
    return last


def _stands_for_result(name: str | None) -> bool:
    """Names that say no more than *the result*: y, f(x)."""
    return name is not None and "^" not in name and (name == "y" or name.endswith(")") or name.startswith("\\text{"))


def _assigned(group: Group, other: Group) -> Group:
    """``x = 1, x = 2`` as its values; ``x = 1, y = 2`` against a tuple as a tuple."""
    relations = [item for item in group.items if isinstance(item, Relation) and item.signs == _EQUAL]
    if len(relations) != len(group.items) or not relations:
        return group
    names = [_name(relation) for relation in relations]
    values = tuple(_named(relation) for relation in relations)
    if None in names:
        return group
    if len({str(name).partition("_")[0] for name in names}) == 1 and not any(
        isinstance(item, Relation) for item in other.items
    ):
        return Group(group.opening, group.closing, values)
    if (
        other.opening == "("
        and len(set(names)) == len(names)
        and not any(isinstance(item, Relation) for item in other.items)
    ):
        ordered = sorted(zip(names, values, strict=True), key=lambda pair: str(pair[0]))
        return Group("(", ")", tuple(value for _, value in ordered))
    return group


# --- Formulas ---


def _same_formula(left: Formula, right: Formula, same: SameValue) -> bool | None:
    factor = unit_ratio(left.unit, right.unit)
    if factor is None or (left.percent and right.unit) or (right.percent and left.unit):
        return False
    a, b = left.node, right.node
    if (a[0] == "based") != (b[0] == "based"):
        return False
    if a[0] == "based":
        return bool(a[2] == b[2] and a[1].lstrip("0") == b[1].lstrip("0"))
    if factor != 1:
        a = ("mul", number(factor), a)
    found = same(a, b)
    if found is not True and left.percent != right.percent:
        part, whole = (a, b) if left.percent else (b, a)
        scaled = same(("div", part, number(100)), whole)
        return scaled if scaled or found is False else None
    return found


def _is_same_letter(words: Words, formula: Formula) -> bool:
    """A name in a text against the same name as a formula."""
    node = formula.node
    return node[0] in {"var", "const"} and tidy_words(str(node[1])).replace("overline", "").strip() == words.text


# --- Lists, tuples, sets ---


def _same_group(left: Group, right: Group, same: SameValue) -> bool | None:
    if left.opening == right.opening == ":":
        return _same_ratio(left, right, same)
    unordered = [group.opening in {"", "\\{"} for group in (left, right)]
    if all(unordered):
        return _same_sets(left, right, same)
    if any(unordered):
        bare, other = (left, right) if unordered[0] else (right, left)
        if bare.opening or other.opening != "(" or other.closing != ")" or _may_be_interval(other):
            return False
        return _same_ordered(left.items, right.items, same)
    if _brackets(left) != _brackets(right):
        return False
    return _same_ordered(left.items, right.items, same)


def _same_ratio(left: Group, right: Group, same: SameValue) -> bool | None:
    """``1:2`` is ``2:4``; where the second number has two digits it may be a time of day, and nothing is cancelled."""
    direct = _same_ordered(left.items, right.items, same)
    quotients = _quotient(left), _quotient(right)
    if direct or quotients[0] is None or quotients[1] is None or all(map(_may_be_clock, (left, right))):
        return direct
    return same(quotients[0], quotients[1])


def _quotient(ratio: Group) -> Node | None:
    nodes = [item.node for item in ratio.items if isinstance(item, Formula)]
    return ("div", nodes[0], nodes[1]) if len(nodes) == len(ratio.items) == 2 else None


def _may_be_clock(ratio: Group) -> bool:
    last = ratio.items[-1]
    return isinstance(last, Formula) and last.node[0] == "num" and 10 <= last.node[1] < 60


def _brackets(group: Group) -> tuple[str, str]:
    return ("(", ")") if group.opening == "\\langle" else (group.opening, group.closing)


def _may_be_interval(group: Group) -> bool:
    if len(group.items) != 2:
        return False
    ends = [to_float(item.node) if isinstance(item, Formula) else None for item in group.items]
    return ends[0] is None or ends[1] is None or ends[0] < ends[1]


def _same_sets(left: Group, right: Group, same: SameValue) -> bool | None:
    if max(len(left.items), len(right.items)) > _MAX_UNORDERED:
        return False
    a, b = _written_out(left.items), _written_out(right.items)
    if any(isinstance(item, Opaque) and "\\ldots" in item.text for item in (*a, *b)):
        return _same_ordered(a, b, same)  # what the dots stand for depends on the order
    if left.opening or right.opening:  # in a set a value counts once
        a, b = _distinct(a, same), _distinct(b, same)
    return _same_unordered(a, b, same)


def _written_out(items: tuple[Value, ...]) -> tuple[Value, ...]:
    """``0, 1, 2, ..., 9`` with all its terms; other items as they are."""
    places = [i for i, item in enumerate(items) if isinstance(item, Opaque) and item.text == "\\ldots"]
    if len(places) != 1 or places[0] < 2 or places[0] != len(items) - 2:
        return items
    try:
        values = [exact(item.node, {}) for item in (*items[: places[0]], items[-1]) if isinstance(item, Formula)]
    except NotExactError:
        return items
    *head, last = values
    if len(head) != places[0]:
        return items
    step = head[1] - head[0]
    if not step or any(b - a != step for a, b in pairwise(head)):
        return items
    count = (last - head[0]) / step
    if count.denominator != 1 or not len(head) <= count < _MAX_TERMS:
        return items
    return tuple(Formula(number(head[0] + i * step)) for i in range(int(count) + 1))


def _distinct(items: Sequence[Value], same: SameValue) -> tuple[Value, ...]:
    found: list[Value] = []
    for item in items:
        if not any(_same(item, other, same) for other in found):
            found.append(item)
    return tuple(found)


def _same_ordered(left: Sequence[Value], right: Sequence[Value], same: SameValue) -> bool | None:
    if len(left) != len(right):
        return False
    found: bool | None = True
    for a, b in zip(left, right, strict=True):
        equal = _same(a, b, same)
        if equal is False:
            return False
        found = found if equal else None
    return found


def _same_unordered(left: Sequence[Value], right: Sequence[Value], same: SameValue) -> bool | None:
    """Whether there is a matching: one of certain pairs makes True, none even of possible pairs False."""
    if len(left) != len(right) or len(left) > _MAX_UNORDERED:
        return False
    equal = [[_same(a, b, same) for b in right] for a in left]
    if _has_matching([[entry is True for entry in row] for row in equal]):
        return True
    return None if _has_matching([[entry is not False for entry in row] for row in equal]) else False


def _has_matching(edges: Sequence[Sequence[bool]]) -> bool:
    """Whether a bipartite graph has a perfect matching, by augmenting paths."""
    partner: dict[int, int] = {}

    def augment(row: int, seen: set[int]) -> bool:
        for column, edge in enumerate(edges[row]):
            if edge and column not in seen:
                seen.add(column)
                if column not in partner or augment(partner[column], seen):
                    partner[column] = row
                    return True
        return False

    return all(augment(row, set()) for row in range(len(edges)))


def _same_matrix(left: Matrix, right: Matrix, same: SameValue) -> bool | None:
    if left.kind != right.kind or len(left.rows) != len(right.rows):
        return False
    if left.kind == "cases":
        rows = [[Group("(", ")", row) for row in matrix.rows] for matrix in (left, right)]
        return _same_unordered(rows[0], rows[1], same)
    if len(left.rows[0]) != len(right.rows[0]):
        return False
    flat = [[entry for row in matrix.rows for entry in row] for matrix in (left, right)]
    return _same_ordered(flat[0], flat[1], same)


# --- Equations and inequalities ---

_FLIPPED = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}


def _same_relation(left: Relation, right: Relation, same: SameValue) -> bool | None:
    if len(left.signs) != len(right.signs):
        return False
    direct = _same_ordered(left.sides, right.sides, same) if left.signs == right.signs else False
    if direct:
        return True
    if len(left.signs) > 1:
        turned = tuple(_FLIPPED.get(sign, sign) for sign in reversed(right.signs))
        return _same_ordered(left.sides, right.sides[::-1], same) if left.signs == turned else direct
    gaps = [_gap(relation) for relation in (left, right)]
    if gaps[0] is None or gaps[1] is None or gaps[0][0] != gaps[1][0]:
        return _same_turned(left, right, same)
    return _proportional(gaps[0][1], gaps[1][1], same, positive=gaps[0][0] in {"<", "\\le"})


def _same_turned(left: Relation, right: Relation, same: SameValue) -> bool | None:
    """``a R b`` against ``b R a`` of sides that are no formulas."""
    if left.signs[0] != _FLIPPED.get(right.signs[0], right.signs[0]) or right.signs[0] in {"\\to", "\\mapsto"}:
        return False
    return _same_ordered(left.sides, right.sides[::-1], same)


def _gap(relation: Relation) -> tuple[str, Node] | None:
    """``l < r`` as ``l - r < 0``."""
    left, right = relation.sides
    sign = relation.signs[0]
    if sign not in {"=", "\\ne", *_FLIPPED} or not isinstance(left, Formula) or not isinstance(right, Formula):
        return None
    if sign in {">", "\\ge"}:
        left, right, sign = right, left, _FLIPPED[sign]
    return sign, ("add", left.node, ("neg", right.node))


def _proportional(f: Node, g: Node, same: SameValue, *, positive: bool) -> bool | None:
    """Whether f is a constant times g, the constant not zero and, where the sign counts, positive."""
    names = variables(f) | variables(g)
    if not names:
        return same(f, g)
    for attempt in range(8, 16):  # not where `same` looks
        point = {name: sample(name, attempt) for name in names}
        f0, g0 = _substituted(f, point), _substituted(g, point)
        a, b = to_float(f0), to_float(g0)
        if a and b:
            return False if positive and a * b < 0 else same(("mul", f, g0), ("mul", g, f0))
    return False


def _substituted(node: Node, point: dict[str, Fraction]) -> Node:
    if node[0] == "var":
        return number(point[node[1]])
    return (node[0], *(_substituted(part, point) if isinstance(part, tuple) else part for part in node[1:]))
