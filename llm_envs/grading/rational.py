r"""Numbers, exactly: the layer that settles most answers."""

import re
from fractions import Fraction
from typing import NamedTuple

from llm_envs.grading.latex import clean
from llm_envs.grading.units import is_unit

__all__ = ["Number", "parse_number", "read_number"]

_MAX_LENGTH = 256  # code points; far below the 4,300 digits at which int() raises
_MAX_EXPONENT = 400

_INTEGER = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)"
_PLAIN = re.compile(r"-?[0-9]{1,200}")
_NUMBER = re.compile(
    r"(?P<sign>[+-]?)\s*"
    rf"(?:\\frac\s*(?:\{{\s*(?P<over>-?{_INTEGER})\s*\}}\s*\{{\s*(?P<under>-?{_INTEGER})\s*\}}"
    r"|(?P<over_digit>[0-9])\s*(?P<under_digit>[0-9])(?![0-9])|\{\s*(?P<over_group>-?[0-9]+)\s*\}(?P<under_single>[0-9])(?![0-9])"
    r"|(?P<over_single>[0-9])\s*\{\s*(?P<under_group>-?[0-9]+)\s*\})"
    rf"|(?P<slash_over>{_INTEGER})\s*/\s*(?P<slash_under>{_INTEGER})"
    rf"|(?P<decimal>{_INTEGER}(?:\.[0-9]+)?|\.[0-9]+)(?:(?P<e>[eE])(?P<exponent>[+-]?[0-9]{{1,4}})|\s*(?:\\times|\\cdot|\*)\s*10\s*\^\s*"
    r"(?:\{\s*(?P<power_group>[+-]?\s*[0-9]{1,4})\s*\}|(?P<power>-?[0-9]{1,4})))?)"
    r"(?P<mark>\s*(?:%|\^\s*(?:\{\s*\\circ\s*\}|\\circ)))?"
    r"(?P<unit>(?:\s+|(?=\\text|\\mathrm|\\mbox)).*)?",
    re.DOTALL,
)
_TEXT = re.compile(r"\\(?:text(?:rm|bf|it|normal)?|mathrm|mbox)\s*\{([^{}]*)\}")
_EULER = re.compile(r"[+-]?[0-9]+e[+-][0-9]")
_POWER = re.compile(r"\s*(\^\s*(?:[23]|\{[23]\}))")


class Number(NamedTuple):
    """A number, the unit behind it and whether a percent sign stood there."""

    value: Fraction
    unit: str = ""
    percent: bool = False


def parse_number(text: str) -> Fraction | None:
    r"""Read a text that is one number, exactly.

    - ``72``, ``+5``, ``-3``, ``18.00``, ``.5``, ``72.`` (a full stop), ``1,234`` (groups of three only).
    - ``1/2``, ``\frac{1}{2}``, ``\dfrac``, ``\tfrac``, ``\frac12``, each maybe signed, of whole numbers.
    - ``1.5e3``, ``1.5 \times 10^{3}``.
    - Dollar signs do not count (``$18``, ``-\$18``, ``$18$``), neither does percent: ``50%`` is 50, for that is how the
      data sets write it. Degrees do not count either.
    - Up to five words after a space are a unit and do not count: ``18 dollars``, ``5 \text{ cm}^2``, ``60 miles/hour``.
      Words that would change the number make it unreadable: ``18 million``, ``2 and a half``, ``5 or more``.
    - Not numbers: equations (``x = 5``), products (``5 t``), digits of other scripts, anything over 256 characters.

    Returns:
        The number; None if the text is not one.
    """
    if len(text) > _MAX_LENGTH:
        return None
    number = read_number(clean(text), letters_are_units=True)
    return None if number is None else number.value


def read_number(text: str, *, letters_are_units: bool = False) -> Number | None:
    """As `parse_number`, of a cleaned text; with its unit.

    Args:
        text: A text that `llm_envs.grading.latex.clean` has returned.
        letters_are_units: Whether a single letter behind a space is a unit (``5 m``) and not a variable, and the e of
            ``5e-3`` no number. Right for answers where a plain number is expected.
    """
    if _PLAIN.fullmatch(text):
        return Number(Fraction(int(text)))
    if len(text) > _MAX_LENGTH:
        return None
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    if match["e"] == "e" and _EULER.fullmatch(text) and not letters_are_units:
        return None  # 2e-1 may be 2e - 1
    unit = _read_unit(match["unit"] or "", letters_are_units=letters_are_units)
    value = _value(match)
    if unit is None or value is None:
        return None
    mark = match["mark"] or ""
    if "circ" in mark and not unit:
        unit = "degree"
    percent = "%" in mark or unit in {"percent", "pct"}
    return Number(-value if match["sign"] == "-" else value, "" if percent else unit, percent)


def _value(match: re.Match[str]) -> Fraction | None:
    group = match.group
    over = group("over") or group("over_digit") or group("over_group") or group("over_single") or group("slash_over")
    if over is not None:
        under = (
            group("under")
            or group("under_digit")
            or group("under_single")
            or group("under_group")
            or group("slash_under")
        )
        denominator = int(under.replace(",", ""))
        return Fraction(int(over.replace(",", "")), denominator) if denominator else None
    value = Fraction(group("decimal").replace(",", ""))
    exponent = group("exponent") or group("power_group") or group("power")
    if exponent is None:
        return value
    power = int(exponent.replace(" ", ""))
    return value * Fraction(10) ** power if abs(power) <= _MAX_EXPONENT else None


def _read_unit(text: str, *, letters_are_units: bool) -> str | None:
    """The unit in the rest of a number; None if the rest is no unit."""
    if not text.strip():
        return ""
    in_text = "\\" in text
    if in_text:
        text = _TEXT.sub(r" \1 ", text)
    text = " ".join(_POWER.sub(r"\1", text).replace("{", "").replace("}", "").split()).rstrip(".").removeprefix("per ")
    return text if is_unit(text, in_text=in_text or letters_are_units) else None
