"""Units and the words that stand behind a number."""

import re
from fractions import Fraction

__all__ = ["UNIT_LETTERS", "is_unit", "unit_factor", "unit_ratio"]

# name -> (what it measures, how many of the base unit it is)
_TABLE: dict[str, tuple[str, Fraction]] = {}


def _define(measure: str, spec: str) -> None:
    for entry in spec.split(";"):
        names, _, factor = entry.partition("=")
        for name in names.split():
            _TABLE[name] = measure, Fraction(factor.strip() or "1")


_define(
    "length",
    "mm millimeter millimetre=1/1000; cm centimeter centimetre=1/100; dm decimeter=1/10; m meter metre=1; "
    "km kilometer kilometre=1000; inch inches in=0.0254; ft foot feet=0.3048; yd yard=0.9144; mi mile=1609.344",
)
_define("time", "ms millisecond=1/1000; s sec second=1; min minute=60; h hr hour=3600; day=86400; week=604800")
_define("month", "month=1; yr year=12")
_define("mass", "mg milligram=1/1000; g gram gm=1; kg kilogram=1000; ton tonne=1000000")
_define("weight", "oz ounce=1; lb pound=16")
_define("money", "cent ¢ c=1/100; dollar usd buck=1")
_define("volume", "ml milliliter millilitre cc=1/1000; l liter litre=1")
_define("angle", "degree deg °=1")
_define("radian", "radian rad=1")
_define("percent", "percent pct=1")
_define("length/time", "mph=1397/3125; kmh kph=5/18")

_MORE_UNITS = """sq square cu cubic unit per rpm gal pt qt pint hz khz mhz hp kw kwh amp volt ohm watt joule newton
    pascal liter celsius fahrenheit kelvin men man boy girl kid child children woman women people person student cup
    pie hat box boxes bag car cat dog egg pen toy bus pet cow pig hen ant bee job jar can row lap way tin won yen gbp
    eur fish sheep mice geese teeth apple book ticket page coin ball card slice piece marble block dice loaves knives
    leaves wolves o'clock total whole us ¢"""
_KNOWN = frozenset(_TABLE) | frozenset(_MORE_UNITS.split())
# Words that end like plurals and yet say something about the number.
_SAY_MORE = """plus minus times thirds quarters fourths fifths sixths sevenths eighths ninths tenths hundredths
    thousandths halves dozens hundreds thousands millions billions trillions quadrillions lakhs crores scores grosses
    squares cubes powers roots numbers reals integers afterwards onwards upwards downwards backwards forwards versus
    less unless means equals exceeds modulus sometimes always besides towards percents perhaps yes does this others as
    is has was its thus"""
_NOT_UNITS = frozenset(_SAY_MORE.split())
UNIT_LETTERS = frozenset("mgshlLNJWVA")
"""Letters that are read as a unit, where a plain number is expected: behind a space, or in a text."""

_TERM = r"[A-Za-z¢°'.]+(?:\^-?[1-3])?"
_UNIT = re.compile(rf"{_TERM}(?:(?: ?/ ?| per | )(?:of )?{_TERM})*")
_MAX_UNIT_WORDS = 5


def is_unit(text: str, *, in_text: bool) -> bool:
    r"""Whether what stands behind a number may be left out: units, or plural nouns that say what is counted.

    Args:
        text: Words, maybe with exponents and slashes: ``cm^2``, ``km/h``, ``miles per hour``, ``red apples`` (which is
            none: *fewer apples* would look the same).
        in_text: Whether it stood in a LaTeX text, where single letters are units and not variables.
    """
    if not _UNIT.fullmatch(text):
        return False
    words = [word for word in re.split(r"[ /]+", text) if word not in {"per", "of"}]
    return 0 < len(words) <= _MAX_UNIT_WORDS and all(_is_unit_word(word, in_text=in_text) for word in words)


def _is_unit_word(word: str, *, in_text: bool) -> bool:
    stem = word.partition("^")[0].rstrip(".")
    if len(stem) == 1:
        return in_text and stem in UNIT_LETTERS
    stem = stem.casefold()
    if stem in _KNOWN or _singular(stem) in _KNOWN:
        return True
    return (
        len(stem) > 3 and stem.endswith("s") and not stem.endswith("ss") and stem.isalpha() and stem not in _NOT_UNITS
    )


def unit_factor(unit: str) -> tuple[str, Fraction] | None:
    """What a unit measures and how many base units it is; None if it is not known.

    >>> unit_factor("square feet")
    ('length^2', Fraction(145161, 1562500))
    """
    parts = re.split(r"/| per ", unit)
    if len(parts) == 2:
        over, under = unit_factor(parts[0]), unit_factor(parts[1])
        return None if over is None or under is None else (f"{over[0]}/{under[0]}", over[1] / under[1])
    words = [word.rstrip(".,") for word in unit.casefold().replace("\\", " ").split()]
    power = 1
    while words and words[0] in {"square", "sq", "cubic", "cu"}:
        power = 2 if words.pop(0).startswith("sq") else 3
    if len(words) != 1:
        return None
    name, caret, exponent = words[0].partition("^")
    if caret:
        power = int(exponent.strip("{}")) if exponent.strip("{}") in {"1", "2", "3"} else 0
    found = _TABLE.get(name) or _TABLE.get(_singular(name))
    if found is None or not power:
        return None
    measure, factor = found
    return (measure if power == 1 else f"{measure}^{power}"), factor**power


def unit_ratio(left: str, right: str) -> Fraction | None:
    """How many of the right unit are in one of the left; 1 where one is missing; None where they differ."""
    if not left or not right or left == right:
        return Fraction(1)
    one, other = unit_factor(left), unit_factor(right)
    if one is not None and other is not None:
        return one[1] / other[1] if one[0] == other[0] else None
    if left.casefold() == right.casefold() and len(left) < 4:
        return None  # mW and MW
    words = [{_singular(word.rstrip(".")) for word in re.split(r"[ /]+", unit.casefold())} for unit in (left, right)]
    return Fraction(1) if words[0] <= words[1] or words[1] <= words[0] else None


def _singular(name: str) -> str:
    return name[:-1] if name.endswith("s") and len(name) > 2 else name
