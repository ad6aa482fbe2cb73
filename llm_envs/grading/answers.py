r"""The structure of a final answer: formulas, lists, tuples, sets, intervals, matrices, relations, words."""

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import product

from llm_envs.grading.brackets import OPENING, find, matching, split, top_level
from llm_envs.grading.expressions import Node, number, parse_expression
from llm_envs.grading.latex import LatexError, Token, squeeze, tokenize
from llm_envs.grading.quantities import split_unit
from llm_envs.grading.units import unit_factor
from llm_envs.grading.values import EMPTY_SET, REALS, Formula, Group, Matrix, Opaque, Relation, SetFormula, Value
from llm_envs.grading.words import join, read_clock, read_words

__all__ = ["read_answer"]

_BRACKETS = {("(", ")"), ("[", "]"), ("(", "]"), ("[", ")"), ("\\{", "\\}"), ("\\langle", "\\rangle"), ("<", ">")}
_RELATION_NAMES = r"""= < > \le \ge \ne \equiv \cong \sim \perp \parallel \to \mapsto \subset \subseteq \Rightarrow
    \implies \iff \Leftrightarrow \propto \notin"""
_RELATIONS = set(_RELATION_NAMES.split())
_SET_SIGNS = {"\\cup": "cup", "\\cap": "cap", "\\setminus": "setminus"}
_CONNECTIVES = {"or": "or", "and": "and", "\\lor": "or", "\\vee": "or", "\\land": "and", "\\wedge": "and"}
_MATRICES = {"matrix", "pmatrix", "bmatrix", "Bmatrix", "smallmatrix", "array", "vmatrix", "cases", "aligned"}
_NAME = re.compile(r"(?:\\?[A-Za-z]+(?:_\w|_\{\w+\})?'*|\((?:\\?[A-Za-z](?:_\w)?,)+\\?[A-Za-z](?:_\w)?\))")
_CALL = re.compile(r"[a-hp-wyA-Z](?:_\w|_\{\w+\})?'*(?:\^\{-1\})?\((?:[A-Za-z]|[0-9]+)(?:,(?:[A-Za-z]|[0-9]+))*\)")
_TEXT_SEPARATOR = re.compile(r"(,|;|\band\b|\bor\b)")
_LABEL = re.compile(r"[A-Za-z ]{1,40}:\s*")
_BASED = re.compile(r"\(?([0-9A-Za-z.]+)\)?_\{?\(?(?:base)?([0-9]{1,2})\)?\}?")  # above ten, digits are letters
_THOUSANDS = re.compile(r"[0-9]{1,3}")
_MAX_DEPTH = 12
_MAX_SIGNS = 3


@lru_cache(maxsize=4096)
def read_answer(text: str) -> Value:
    """Read a cleaned text. Never raises: what cannot be read is `Opaque` or, where words stand in it, `Words`."""
    try:
        return read_clock(text) or _Reader(text).value(_prepare(tokenize(text)), 0)
    except (ValueError, ArithmeticError, RecursionError):  # LatexError among them
        return read_words(text, None)


def _prepare(tokens: list[Token]) -> list[Token]:
    """Cut texts at commas and connectives, and close the thousands groups that stand outside of brackets."""
    found: list[Token] = []
    depth = 0
    i = 0
    while i < len(tokens):
        token = tokens[i]
        if token.kind == "text":
            for piece in _TEXT_SEPARATOR.split(token.text):
                if piece in {",", ";"}:
                    found.append(Token("op", piece, False))
                elif piece.strip():
                    found.append(Token("text", piece.strip(), True))
        elif token.kind == "num" and depth == 0 and _THOUSANDS.fullmatch(token.text) and _is_group(tokens, i + 1):
            digits = token.text
            while "." not in digits and _is_group(tokens, i + 1):
                digits += tokens[i + 2].text
                i += 2
            found.append(Token("num", digits, token.spaced))
        else:
            depth += (token.text in {"(", "[", "\\{"}) - (token.text in {")", "]", "\\}"})
            found.append(token)
        i += 1
    return [token for i, token in enumerate(found) if token.text != "," or not _is_doubled(found, i)]


def _is_doubled(tokens: list[Token], i: int) -> bool:
    """A comma in front of a connective: ``1, 2, and 3``."""
    return i + 1 < len(tokens) and tokens[i + 1].text in {"and", "or", ","}


def _is_group(tokens: Sequence[Token], i: int) -> bool:
    """Whether ``,ddd`` or ``,ddd.d`` stands here, without spaces."""
    if (
        i + 1 >= len(tokens)
        or tokens[i].text != ","
        or tokens[i].spaced
        or tokens[i + 1].spaced
        or tokens[i + 1].kind != "num"
    ):
        return False
    return len(tokens[i + 1].text.partition(".")[0]) == 3


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text

    def value(self, tokens: Sequence[Token], depth: int) -> Value:
        if depth > _MAX_DEPTH:
            raise LatexError("nested too deeply")
        if not tokens:
            raise LatexError("nothing")
        tokens = _without_label(_without_range(tokens))
        for read in (self.braced, self.listed, self.related, self.combined, self.ratio, self.bracketed, self.matrix):
            found = read(tokens, depth)
            if found is not None:
                return found
        return self.formula(tokens)

    # Each of these returns None where the tokens are not of its kind.

    def braced(self, tokens: Sequence[Token], depth: int) -> Value | None:
        """``{...}``: a LaTeX group around everything, or a set whose backslashes were lost."""
        if tokens[0].text != "{" or matching(tokens, 0) != len(tokens) - 1 or len(tokens) < 3:
            return None
        inner = tokens[1:-1]
        if len(split(inner, {","})) > 1:
            return Group("\\{", "\\}", self.items(inner, {",", ";"}, depth))
        return None if find(inner, {"\\choose"}) else self.value(inner, depth + 1)

    def listed(self, tokens: Sequence[Token], depth: int) -> Value | None:
        """Values with commas or ``or`` or ``and`` between them."""
        connectives = {_CONNECTIVES[token.text] for token in top_level(tokens) if token.text in _CONNECTIVES}
        parts = split(tokens, {",", ";", *_CONNECTIVES})
        if len(parts) < 2:
            return None
        if any(not part for part in parts[:-1]):
            raise LatexError("an empty place in a list")
        items = tuple(self.value(part, depth + 1) for part in parts if part)
        if len(items) == 1:
            return items[0]
        if any(_is_condition(item) for item in items) and len(connectives) == 1 and not find(tokens, {",", ";"}):
            return SetFormula("cup" if connectives == {"or"} else "cap", items)
        return Group("", "", _flat(_with_names(items)))

    def related(self, tokens: Sequence[Token], depth: int) -> Value | None:
        exact_side = _without_approximation(tokens)
        if exact_side is not tokens:
            return self.value(exact_side, depth + 1)
        member = split(tokens, {"\\in"})
        if len(member) == 2 and member[1] and _is_name(member[0]) and not find(member[1], _RELATIONS | {":", "|"}):
            return self.value(member[1], depth + 1)
        signs = tuple(token.text for token in top_level(tokens) if token.text in _RELATIONS)
        if not signs:
            return None
        parts = split(tokens, _RELATIONS)
        if signs in {("<", ">"), ("<",)} and not parts[0] and tokens[-1].text == ">":
            return Group("\\langle", "\\rangle", self.items(tokens[1:-1], {","}, depth))
        if not parts[0] and len(parts) == 2 and signs[0] in {"=", "\\Rightarrow", "\\implies"}:
            return self.value(parts[1], depth + 1)
        if not all(parts):
            raise LatexError("a relation lacks a side")
        sides = tuple(self.side(part, depth) for part in parts)
        if signs == ("=",) and isinstance(sides[1], Group) and not sides[1].opening:  # x = \pm 2
            return sides[1]
        return Relation(signs, sides)

    def side(self, tokens: Sequence[Token], depth: int) -> Value:
        """One side of a relation; what a label says is not read."""
        name = _call(tokens)
        if name is not None:
            return Formula(("var", name))
        try:
            return self.value(tokens, depth + 1)
        except LatexError:
            return Opaque(squeeze(join(tokens)))

    def combined(self, tokens: Sequence[Token], depth: int) -> Value | None:
        signs = {_SET_SIGNS[token.text] for token in top_level(tokens) if token.text in _SET_SIGNS}
        if not signs and len(tokens) > 3 and tokens[0].text == "\\mathbb{R}" and tokens[1].text == "-":
            return SetFormula("setminus", (REALS, self.value(tokens[2:], depth + 1)))
        if len(signs) != 1:
            if signs:
                raise LatexError("several set operations")
            return None
        parts = split(tokens, set(_SET_SIGNS))
        return SetFormula(signs.pop(), tuple(self.value(part, depth + 1) for part in parts))

    def ratio(self, tokens: Sequence[Token], depth: int) -> Value | None:
        """``1:2`` and ``1:2:3``."""
        parts = split(tokens, {":"})
        if len(parts) < 2 or not all(parts):
            return None
        return Group(":", ":", tuple(self.value(part, depth + 1) for part in parts))

    def bracketed(self, tokens: Sequence[Token], depth: int) -> Value | None:
        transposed = len(tokens) > 4 and [token.text for token in tokens[-2:]] in (["^", "T"],)
        if len(tokens) > 4 and [token.text for token in tokens[-4:]] == ["^", "{", "T", "}"]:
            return _transpose(self.value(tokens[:-4], depth + 1))
        if transposed:
            return _transpose(self.value(tokens[:-2], depth + 1))
        if tokens[0].text not in OPENING or matching(tokens, 0) != len(tokens) - 1:
            return None
        opening, closing = tokens[0].text, tokens[-1].text
        if (opening, closing) not in _BRACKETS:
            return None
        inner = tokens[1:-1]
        if not inner:
            if opening == "\\{":
                return EMPTY_SET
            raise LatexError("empty brackets")
        if opening == "\\{":
            builder = split(inner, {":", "|"})
            if len(builder) == 2 and all(builder):
                return self.built_set(builder[0], builder[1], depth)
        elif inner[0].kind == "begin" and inner[-1].kind == "end" and (opening, closing) in {("(", ")"), ("[", "]")}:
            return self.matrix(inner, depth + 1)
        elif len(split(inner, {",", ";"})) < 2:
            return self.value(inner, depth + 1) if (opening, closing) == ("(", ")") else None
        return Group(opening, closing, self.items(inner, {",", ";"}, depth))

    def built_set(self, head: Sequence[Token], condition: Sequence[Token], depth: int) -> Value:
        """``{x : x > 3}`` is its condition; of anything else than a bare name, as ``{2k : ...}``, both count."""
        name = split(head, {"\\in"})[0]
        if (
            len(name) == 1
            and name[0].kind in {"word", "cmd"}
            and any(token.text == name[0].text for token in condition)
        ):
            return self.value(condition, depth + 1)
        return Relation((":",), (self.side(head, depth), self.side(condition, depth)))

    def items(self, tokens: Sequence[Token], separators: set[str], depth: int) -> tuple[Value, ...]:
        parts = split(tokens, separators)
        if not all(parts):
            raise LatexError("an empty place in a list")
        return _flat(tuple(self.value(part, depth + 1) for part in parts))

    def matrix(self, tokens: Sequence[Token], depth: int) -> Value | None:
        start = next((i for i, token in enumerate(tokens) if token.kind == "begin"), -1)
        if start > 0 and tokens[-1].kind == "end" and matching(tokens, start) == len(tokens) - 1:
            return _scaled(tokens[:start], self.matrix(tokens[start:], depth + 1))
        if start or tokens[-1].kind != "end" or tokens[0].text not in _MATRICES:
            return None
        if any(token.kind == "begin" for token in tokens[1:]):
            raise LatexError("a matrix in a matrix")
        rows = [row for row in split(tokens[1:-1], {"\\cr"}) if row]
        kind = {"vmatrix": "determinant", "cases": "cases", "aligned": "cases"}.get(tokens[0].text, "matrix")
        entries = tuple(tuple(self.value(entry, depth + 1) for entry in split(row, {"&"})) for row in rows)
        if not entries or (kind != "cases" and len({len(row) for row in entries}) > 1):
            raise LatexError("rows of unequal length")
        return Matrix(kind, entries)

    def formula(self, tokens: Sequence[Token]) -> Value:
        """A formula and its unit; words; or what cannot be read."""
        based = _BASED.fullmatch(join(tokens).replace(" ", ""))
        if based is not None and 10 < int(based[2]) <= 36:
            return Formula(("based", based[1].upper(), int(based[2])))
        body, unit = split_unit(tokens)
        try:
            node = parse_expression(body)
        except LatexError:
            return read_words(self.text, tokens)
        if node == ("var", "emptyset"):
            return EMPTY_SET
        percent = node[0] == "pct"
        node, degrees = _without_degrees(node[1] if percent else node)
        try:
            branches = _branches(node)
        except LatexError:
            return Opaque(squeeze(join(tokens)))
        unit = unit or ("degree" if degrees else "")
        if unit_factor(unit) == unit_factor("percent") is not None:
            percent, unit = True, ""
        if len(branches) > 1:
            return Group("", "", tuple(Formula(branch, unit, percent) for branch in branches))
        return Formula(node, unit, percent)


# --- Parts ---


def _without_label(tokens: Sequence[Token]) -> Sequence[Token]:
    r"""Leave out a text with a colon in front: ``\text{Area: } 5``."""
    if len(tokens) > 1 and tokens[0].kind in {"text", "word"} and (tokens[0].kind == "text" or len(tokens[0].text) > 3):
        if _LABEL.fullmatch(tokens[0].text):
            return tokens[1:]
        if tokens[1].text == ":" and len(tokens) > 2:
            return tokens[2:]
    return tokens


def _without_range(tokens: Sequence[Token]) -> Sequence[Token]:
    r"""Leave out what a formula holds for: ``n^3 \text{ for all } n``."""
    for i, token in enumerate(tokens[1:], start=1):
        if token.kind == "text" and token.text.startswith(("for all", "for every", "for any", "where")):
            return tokens[:i]
    return tokens


def _without_approximation(tokens: Sequence[Token]) -> Sequence[Token]:
    r"""Of ``2/3 \approx 0.67`` the exact side."""
    parts = [part for part in split(tokens, {"\\approx", "\\simeq", "\\doteq"}) if part]
    if not parts or len(parts[0]) == len(tokens):
        return tokens
    return parts[1] if len(parts) > 1 and _is_name(parts[0]) else parts[0]


def _is_name(tokens: Sequence[Token]) -> bool:
    """Names, maybe with an index, maybe several in brackets: ``x``, ``x_1``, ``(x, y)``, ``f(x)``."""
    text = "".join(token.text for token in tokens)
    return _NAME.fullmatch(text) is not None or _call(tokens) is not None


def _call(tokens: Sequence[Token]) -> str | None:
    """``f(x)``, ``P(A)``, ``f^{-1}(x)`` as one name; None for anything else: ``x(x+1)`` is a product."""
    text = "".join(token.text for token in tokens)
    return text if _CALL.fullmatch(text) else None


def _is_condition(value: Value) -> bool:
    return isinstance(value, Relation) and bool(set(value.signs) - {"="})


def _with_names(items: tuple[Value, ...]) -> tuple[Value, ...]:
    """``x = 1, 2``: the name holds for what follows it, too."""
    first = items[0]
    if isinstance(first, Relation) and first.signs == ("=",) and all(isinstance(item, Formula) for item in items[1:]):
        return tuple(item if isinstance(item, Relation) else Relation(("=",), (first.sides[0], item)) for item in items)
    return items


def _flat(items: tuple[Value, ...]) -> tuple[Value, ...]:
    """Values of a plus-minus join the list that they stand in."""
    found: list[Value] = []
    for item in items:
        found += item.items if isinstance(item, Group) and not item.opening else [item]
    return tuple(found)


def _transpose(value: Value) -> Value:
    if isinstance(value, Group):
        return Matrix("matrix", tuple((item,) for item in value.items))
    if isinstance(value, Matrix):
        if value.kind != "matrix":
            raise LatexError("no matrix is transposed")
        return Matrix(value.kind, tuple(zip(*value.rows, strict=True)))
    raise LatexError("a transposed formula")


def _scaled(tokens: Sequence[Token], value: Value | None) -> Value | None:
    """A matrix with a factor in front."""
    if (
        not isinstance(value, Matrix)
        or value.kind != "matrix"
        or not all(isinstance(entry, Formula) for row in value.rows for entry in row)
    ):
        return None
    factor = number(-1) if [token.text for token in tokens] == ["-"] else parse_expression(tokens)
    rows = tuple(
        tuple(Formula(("mul", factor, entry.node)) for entry in row if isinstance(entry, Formula)) for row in value.rows
    )
    return Matrix(value.kind, rows)


def _without_degrees(node: Node) -> tuple[Node, bool]:
    if node[0] == "deg":
        return node[1], True
    if node[0] in {"neg", "pm", "mp"} and node[-1][0] == "deg":
        return (*node[:-1], node[-1][1]), True
    return node, False


def _branches(node: Node) -> list[Node]:
    """The formulas that plus-minus stands for: beside a minus-plus all signs go together, else each alone."""
    if not _has(node, {"pm", "mp"}):
        return [node]
    count = _count(node)
    if _has(node, {"mp"}) or count == 1:
        return [_resolved(node, [sign] * count) for sign in (True, False)]
    if count > _MAX_SIGNS:
        raise LatexError("too many signs")
    return [_resolved(node, list(signs)) for signs in product((True, False), repeat=count)]


def _count(node: Node) -> int:
    return int(node[0] in {"pm", "mp"}) + sum(_count(part) for part in node[1:] if isinstance(part, tuple))


def _has(node: Node, kinds: set[str]) -> bool:
    return node[0] in kinds or any(isinstance(part, tuple) and _has(part, kinds) for part in node[1:])


def _resolved(node: Node, signs: list[bool]) -> Node:
    """The formula with the signs, in their order, instead of plus-minus; takes them off the list."""
    parts = [_resolved(part, signs) if isinstance(part, tuple) else part for part in node[1:]]
    if node[0] not in {"pm", "mp"}:
        return (node[0], *parts)
    positive = signs.pop(0) == (node[0] == "pm")
    return ("add", parts[0], parts[1] if positive else ("neg", parts[1]))
