r"""From what people write to tokens: Unicode, spaces and the many spellings of one LaTeX command."""

import re
from typing import NamedTuple

from llm_envs.grading.boxes import extract_boxed
from llm_envs.grading.spelling import SPELLINGS, unicode_to_latex
from llm_envs.grading.units import UNIT_LETTERS

__all__ = ["MAX_LENGTH", "LatexError", "Token", "clean", "is_damaged", "squeeze", "tokenize"]

MAX_LENGTH = 4000
"""Code points beyond which a text is compared as a text only."""
_MAX_TOKENS = 2000
_MAX_TEXT_DEPTH = 8


class LatexError(ValueError):
    """A text that cannot be read."""


_PHANTOM = re.compile(r"\\[vh]?phantom\s*(?:\{[^{}]*\}|-)|\\(?:[hv]space|mspace|label|tag)\s*\{[^{}]*\}")
_DIGIT_GAP = re.compile(r"(?<=[0-9])\s*(?:\{,\}|,\s*\\!|\\[,;:! ]|\\thinspace(?![A-Za-z])|~)\s*(?=[0-9]{3}(?![0-9]))")
_SPACE = re.compile(r"\\[,;:> !]|~|\s+")
_CLOSING_MARKS = re.compile(r"(?:\s|\\(?:cr|checkmark|blacksquare|square|qed)(?![A-Za-z]))+\Z")
_NEGATED = re.compile(r"\\not\s*(=|<|>|\\in(?![A-Za-z])|\\le(?![A-Za-z])|\\ge(?![A-Za-z]))")
_NEGATIONS = {"=": "\\ne ", "<": "\\ge ", ">": "\\le ", "\\in": "\\notin ", "\\le": ">", "\\ge": "<"}
_ROW_GAP = re.compile(r"(?<=\\cr)\s*\[\s*-?[0-9.]+\s*(?:pt|em|ex|mm|cm)\s*\]")
_COLON = re.compile(r"\s*(?:\\!\s*)?(?:\{:\}|:)\s*(?:\\!)?(?=\s*[0-9])")
_LEAD = re.compile(
    r"(?:\\text\s*\{\s*)?(?:the\s+)?(?:final\s+)?answer(?:\s*:|\s+is\s*:?)\s*\}?\s*:?\s*(?=\S)", re.IGNORECASE
)  # what is said before an answer
_SPELLING = re.compile(r"\\[A-Za-z]+|\.\.\.|[<>!]=|\*\*")
_SPACING = re.compile(r"(?<![0-9A-Za-z]) | (?![0-9A-Za-z])")
_MATH_MARKS = re.compile(r"\\[()]|\\\[(?!\s*-?[0-9.]+\s*(?:pt|em|ex|mm|cm)\])|(?<!\\)\\\]|\$")
_MONEY = re.compile(r"\s*(-?)\\?\$\s*(-?[0-9][0-9,.]*?)\.?\s*\Z")
_WRAPPED = re.compile(r"\\(?:text(?:rm|bf|it|normal)?|mathrm|mathbf|mbox)\s*\{([^{}A-Za-z\\]*)\}")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_BRACE = re.compile(r"\\\\|\\[{}]|[{}]")


def clean(text: str) -> str:
    r"""Rewrite a final answer so that one thing has one spelling, without taking anything of its meaning away.

    Unicode becomes LaTeX; math marks, dollar signs, sizes and bold type fall away; ``\dfrac`` becomes ``\frac``; gaps
    inside of numbers (``1{,}000``) close. A box inside stands for its content.
    """
    if "\\boxed" in text or "\\fbox" in text:
        text = extract_boxed(text) or text
    if not text.isascii():
        text = unicode_to_latex(text)
    text = _MONEY.sub(r"\1\2 dollars", text) if "$" in text else text
    if "\\" in text:
        text = _ROW_GAP.sub("", text.replace("\\\\", "\\cr "))
        text = _NEGATED.sub(lambda match: _NEGATIONS[match[1]], text)
        for escaped, plain in (("\\$", ""), ("\\%", "%"), ("\\#", "#"), ("\\&", "&")):
            text = text.replace(escaped, plain)
        text = _MATH_MARKS.sub(" ", _DIGIT_GAP.sub("", _PHANTOM.sub("", text)))
    elif "{,}" in text:
        text = _DIGIT_GAP.sub("", text)
    if ":" in text:
        text = _COLON.sub(":", text)
    text = _CLOSING_MARKS.sub("", text.replace("$", " ").strip().strip("*`").strip())
    text = _SPELLING.sub(lambda match: SPELLINGS.get(match[0], match[0]), text)
    text = _LEAD.sub("", text) if text[:1] in "\\TtFfAa" else text
    text = _SPACE.sub(" ", text) if "\\" in text or not text.isalnum() else text
    text = text.strip()
    if text.endswith((".", ",", ";", ":")) and not text.endswith("..."):
        text = text[:-1].rstrip()
    wrapped = _WRAPPED.fullmatch(text)
    return wrapped[1].strip() if wrapped else text


def squeeze(text: str) -> str:
    """A cleaned text without the spaces that say nothing: those not between two letters or digits."""
    return _SPACING.sub("", text)


def is_damaged(text: str) -> bool:
    """Whether a text is no LaTeX that anyone wrote: control characters, or braces that do not match."""
    if _CONTROL.search(text):
        return True
    depth = 0
    for brace in _BRACE.findall(text):
        depth += (brace == "{") - (brace == "}")
        if depth < 0:
            return True
    return depth != 0


class Token(NamedTuple):
    """One token.

    Attributes:
        kind: ``num``, ``word`` (a run of letters), ``cmd`` (a LaTeX command), ``op`` (one character), ``text`` (what a
            LaTeX text says), ``begin`` or ``end`` (of an environment).
        text: As written; of a text and an environment, what stands in the braces.
        spaced: Whether a space stood in front.
    """

    kind: str
    text: str
    spaced: bool


_TOKEN = re.compile(
    r"(?P<space>\s+)"
    r"|\\(?P<place>begin|end)\s*\{(?P<env>[A-Za-z]+)\*?\}(?:\s*\{[lcr|@ ]*\})?"
    r"|\\(?P<style>text(?:bf|it|rm|normal|sf|tt|sc)?|math(?:rm|bf|it|sf|tt|normal|cal|scr|bb|frak|up)|mbox|hbox|operatorname\*?"
    r"|boldsymbol|bm|vec|hat|bar|overline|tilde|widehat|overrightarrow|dot|mathop|mathbin|mathrel|underline|emph)(?![A-Za-z])\s*(?P<open>\{)?"
    r"|(?P<cmd>\\(?:[A-Za-z]+|.))"
    r"|(?P<num>[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
    r"|(?P<word>[A-Za-z]+)"
    r"|(?P<op>.)",
    re.DOTALL,
)
_TEXT_CONTENT = re.compile(r"[A-Za-z][A-Za-z ,.'/^0-9{}()-]*")
_MARKED = {
    "vec",
    "hat",
    "bar",
    "overline",
    "tilde",
    "widehat",
    "overrightarrow",
    "mathbb",
    "mathcal",
    "mathfrak",
    "dot",
    "mathscr",
}


def tokenize(text: str, *, depth: int = 0) -> list[Token]:
    """Tokens of a cleaned text.

    Raises:
        LatexError: If a brace does not close, or there are too many tokens.
    """
    if depth > _MAX_TEXT_DEPTH:
        raise LatexError("texts in texts")
    tokens: list[Token] = []
    position, spaced = 0, False
    while position < len(text):
        match = _TOKEN.match(text, position)
        assert match is not None
        position = match.end()
        kind = match.lastgroup
        if kind == "space":
            spaced = True
            continue
        if match["style"]:
            position = _read_styled(match, text, tokens, spaced, depth)
        elif match["place"]:
            tokens.append(Token(match["place"], match["env"], spaced))
        else:
            assert kind is not None
            tokens.append(Token(kind, match[0], spaced))
        spaced = False
        if len(tokens) > _MAX_TOKENS:
            raise LatexError("too long")
    return tokens


def _read_styled(match: re.Match[str], text: str, tokens: list[Token], spaced: bool, depth: int) -> int:
    """Read a text, a font or an accent; returns where it ends."""
    style = match["style"].rstrip("*")
    if match["open"]:
        end = _closing_brace(text, match.end())
        content = text[match.end() : end].strip()
        end += 1
    else:  # \vec v, \bar x
        argument = _TOKEN.match(text, match.end())
        if argument is None:
            raise LatexError("nothing behind \\" + style)
        end, content = argument.end(), argument[0]
    if style in _MARKED and (style != "overline" or content.isalpha()):
        tokens.append(Token("cmd", f"\\{style}{{{content}}}", spaced))
    elif style == "overline":
        tokens += [
            Token("cmd", "\\overline", spaced),
            Token("op", "{", False),
            *tokenize(content, depth=depth + 1),
            Token("op", "}", False),
        ]
    elif style in {"mathbf", "boldsymbol", "bm"} and len(content) == 1 and content in "ijk":
        tokens.append(Token("cmd", f"\\vec{{{content}}}", spaced))  # unit vectors, not the imaginary unit
    elif style == "operatorname":
        tokens.append(Token("word", content, spaced))
    elif (len(content) > 1 and _TEXT_CONTENT.fullmatch(content)) or (
        len(content) == 1
        and content in UNIT_LETTERS
        and tokens
        and (tokens[-1].kind == "num" or tokens[-1].text in {"}", ")"})
    ):
        tokens.append(Token("text", content, spaced))
    elif content:
        inner = tokenize(content, depth=depth + 1)
        if inner:
            tokens += [inner[0]._replace(spaced=spaced or match[0].startswith("\\text")), *inner[1:]]
    return end


def _closing_brace(text: str, start: int) -> int:
    depth = 1
    for brace in _BRACE.finditer(text, start):
        depth += (brace[0] == "{") - (brace[0] == "}")
        if not depth:
            return brace.start()
    raise LatexError("a brace does not close")
