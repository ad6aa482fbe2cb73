"""Questions that numbers answer: size, weight, age, how many."""

import re

import numpy as np

from llm_envs.games.twenty_questions.knowledge import Knowledge
from llm_envs.games.twenty_questions.language.lexicon import Vector, invert, vector
from llm_envs.games.twenty_questions.language.numbers import number_of, relation

__all__ = ["Measures"]

_METRES = {
    "mm": 0.001, "millimetre": 0.001, "cm": 0.01, "centimetre": 0.01, "m": 1.0, "metre": 1.0, "km": 1000.0,
    "kilometre": 1000.0, "inch": 0.0254, "foot": 0.3048, "ft": 0.3048, "yard": 0.9144, "mile": 1609.3,
}  # fmt: skip
_KILOGRAMS = {
    "g": 0.001, "gram": 0.001, "gramme": 0.001, "kg": 1.0, "kilo": 1.0, "kilogram": 1.0, "ton": 1000.0, "tonne": 1000.0,
    "pound": 0.4536, "lb": 0.4536, "ounce": 0.02835, "oz": 0.02835,
}  # fmt: skip
_SPELLINGS = {
    "meter": "metre", "meters": "metre", "metres": "metre", "kilometers": "kilometre", "kilometer": "kilometre",
    "kilometres": "kilometre", "centimeter": "centimetre", "centimeters": "centimetre", "centimetres": "centimetre",
    "millimeter": "millimetre", "millimeters": "millimetre", "millimetres": "millimetre", "inches": "inch",
    "feet": "foot", "kgs": "kg", "lbs": "lb", "cms": "cm",
}  # fmt: skip

# Things that people compare with and that are not in the table: metres, kilograms.
_REFERENCES = {
    "bread box": (0.42, 2.0), "breadbox": (0.42, 2.0), "shoe box": (0.33, 0.3), "shoebox": (0.33, 0.3),
    "person": (1.7, 70.0), "human": (1.7, 70.0), "human being": (1.7, 70.0), "man": (1.7, 75.0), "me": (1.7, 70.0),
    "woman": (1.65, 63.0), "adult": (1.7, 70.0), "you": (1.7, 70.0), "us": (1.7, 70.0), "people": (1.7, 70.0),
    "humans": (1.7, 70.0), "myself": (1.7, 70.0), "yourself": (1.7, 70.0), "grown man": (1.7, 75.0),
    "average person": (1.7, 70.0), "child": (1.2, 25.0), "kid": (1.2, 25.0), "fist": (0.1, 0.4), "my fist": (0.1, 0.4),
    "thumb": (0.04, 0.03), "finger": (0.05, 0.03), "fingernail": (0.012, 0.001), "head": (0.23, 4.5),
    "my head": (0.23, 4.5), "arm": (0.4, 3.5), "palm": (0.1, 0.2), "golf ball": (0.043, 0.046), "fridge": (1.8, 90.0),
    "baseball": (0.074, 0.145), "soccer field": (100.0, 1e6), "football field": (100.0, 1e6), "room": (4.5, 5000.0),
    "tree": (15.0, 3000.0), "loaf of bread": (0.28, 0.6), "softball": (0.097, 0.18), "van": (5.0, 2000.0),
    "city": (10000.0, 1e10), "country": (500000.0, 1e16), "kitten": (0.2, 0.8), "puppy": (0.3, 3.0),
    "tea cup": (0.1, 0.3), "beach ball": (0.4, 0.1), "marble": (0.016, 0.005), "pea": (0.008, 0.0003),
    "drawer": (0.5, 5.0), "toaster oven": (0.45, 5.0), "ping pong ball": (0.04, 0.0027), "volleyball": (0.21, 0.27),
    "bowling ball": (0.22, 6.0), "building": (15.0, 150000.0), "milk carton": (0.24, 1.0), "lunch box": (0.25, 0.3),
    "lunchbox": (0.25, 0.3), "school bus": (12.0, 12000.0), "average human": (1.7, 70.0), "apartment": (10.0, 1e5),
}  # fmt: skip
# The longest side of what fits in, in metres.
_ROOM_IN = {
    "pocket": 0.17, "purse": 0.3, "handbag": 0.3, "drawer": 0.5, "backpack": 0.45, "suitcase": 0.7, "bag": 0.4,
    "room": 4.5, "living room": 4.5, "bedroom": 4.0, "kitchen": 4.0, "car": 1.8, "house": 10.0, "garage": 5.0,
    "shoe box": 0.33, "shoebox": 0.33, "box": 0.4, "microwave": 0.35, "bread box": 0.42, "breadbox": 0.42,
    "cup": 0.1, "mug": 0.1, "fridge": 0.7, "refrigerator": 0.7, "wallet": 0.1, "matchbox": 0.05, "match box": 0.05,
    "lunch box": 0.25, "lunchbox": 0.25, "bathtub": 1.6, "truck": 8.0, "school bag": 0.45, "schoolbag": 0.45,
    "elevator": 2.3, "mailbox": 0.35, "car trunk": 1.2, "closet": 2.0, "bucket": 0.3, "jar": 0.12, "thimble": 0.015,
    "shopping bag": 0.4, "cupboard": 0.8, "coat pocket": 0.2, "oven": 0.5,
}  # fmt: skip

_BULK, _LENGTH, _WEIGHT = "bulk", "length", "weight"
_MORE = {
    "bigger": _BULK, "larger": _BULK, "greater": _BULK, "huger": _BULK, "heavier": _WEIGHT, "longer": _LENGTH,
    "taller": "height", "higher": "height",
}  # fmt: skip
_LESS = {
    "smaller": _BULK, "littler": _BULK, "tinier": _BULK, "lighter": _WEIGHT, "shorter": _LENGTH,
}  # fmt: skip
_PLAIN = {
    "big": _BULK,
    "large": _BULK,
    "small": _BULK,
    "heavy": _WEIGHT,
    "light": _WEIGHT,
    "long": _LENGTH,
    "tall": "height",
}
_HEDGE = r"(?:(?:much|far|way|a lot|slightly|a bit|a little|even|any|significantly|considerably|lots) )?"
_COMPARED = re.compile(
    rf"^{_HEDGE}(?:(more|less) )?([a-z]+)(?: in (?:size|weight|length|volume|height))?(?: or [a-z]+)? than "
    rf"(?:that of )?(.+)$"
)
_AS_AS = re.compile(r"^(?:at least |about |roughly |just )?as (big|large|small|heavy|light|long|tall) as (.+)$")
_SIZE_OF = re.compile(r"^(?:about|roughly|around|approximately|nearly)? ?the (?:same )?size (?:of|as) (.+)$")
_LIMIT = re.compile(
    r"^(more than|over|above|at least|greater than|bigger than|longer than|heavier than|less than|under"
    r"|below|at most|up to|smaller than"
    r"|fewer than|shorter than|lighter than) (.+?)(?: (?:long|tall|high|wide|in length|in height|in size|in "
    r"weight|across|big|heavy|or more))?$"
)
_QUANTITY = re.compile(
    r"^(?:about |around )?(?:(half|a couple of|[a-z]+|[0-9.]+) )?(?:(a|an|hundred|thousand|million) )?([a-z]+)$"
)
_COUNT = re.compile(
    r"^(?:(more than|over|at least|less than|fewer than|at most|exactly|only|just|under|up to) )?"
    r"([a-z]+|[0-9]+)(?: or (more|fewer|less))? (leg|foot|wheel|paw)s?$"
)
_AGE = re.compile(
    r"^(?:did|was|has|have|were|had|is) it (?:already |been |was )*(exist|existed|around|invented|known"
    r"|available|made|in use|used|built|created|there)"
    r"(?: already)? (before|after|since|in|for|less than|more than|over|within)? ?(?:the )?(?:year |at "
    r"least |last |past |more than |over |many )*"
    r"(?:([0-9]{4})|([a-z]+|[0-9]+) (?:(hundred|thousand) )?(?:of )?(year|centurie|century|decade|hundred"
    r"|thousand)s?(?: of years)?( ago)?)$"
    r"|^(?:did|was|has|have|were|had|is) it (?:been )?(exist|existed|around|known|used)(?: for| in)?( "
    r"ancient times| the middle ages| hundreds of years| thousands of years"
    r"| centuries| a long time| the olden days)$"
)
_COST = re.compile(
    r"^(?:does it|it|can it|would it|do they|is it) (?:cost|worth|priced at)(?: you| me)? (more than|less "
    r"than|over|under|above|below|at least) ([0-9]+)(?: (?:dollar|euro|buck|pound|usd)s?)?$"
)
_PRICE_OF_THE_EXPENSIVE = 100
_THIS_YEAR, _MODERN_YEARS = 2025, 200


_ARTICLE = re.compile(r"^(?:a|an|the|my|your|most) ")
_USUAL = re.compile(r"^(?:average|typical|normal|regular|standard|full grown|grown|adult|big|small|house) ")


class Measures:
    """Answers by number for all things at once. What cannot be read is None."""

    def __init__(self, knowledge: Knowledge) -> None:
        things = knowledge.things
        self._knowledge = knowledge
        self._legs = np.array([thing.legs for thing in things])
        self._values = {
            _BULK: np.array([thing.bulk_m for thing in things]),
            _LENGTH: np.array([thing.size_m for thing in things]),
            _WEIGHT: np.array([thing.weight_kg for thing in things]),
        }
        columns = {key: knowledge.matrix[:, column] for column, key in enumerate(knowledge.attributes)}
        # The longest side is the height only of what stands upright.
        self._upright = columns["tall"] | columns["person"] | columns["trees"] | columns["building"] | columns["flower"]
        self._wheels = {0: ~columns["has_wheels"], 2: columns["two_wheels"], 4: columns["four_wheels"]}
        self._moves, self._flies_fast = columns["moves"], columns["aircraft"]
        self._modern, self._man_made, self._expensive = (
            columns["modern"],
            columns["man_made"] | columns["modern"],
            columns["expensive"],
        )

    def compare(self, text: str) -> Vector | None:
        """``bigger than a cat``, ``as heavy as a car``, ``over two metres long``, ``the size of a dog``."""
        match = _COMPARED.match(text)
        if match:
            more, word, reference = match.groups()
            if word in {"faster", "quicker", "speedier"}:
                return self._faster(reference)
            dimension = _MORE.get(word) or _LESS.get(word) or (_PLAIN.get(word) if more else None)
            greater = (word in _MORE or word in _PLAIN) and word not in {"small", "light"}
            if dimension is not None:
                return self._versus(dimension, reference, greater=greater != (more == "less"))
        match = _AS_AS.match(text)
        if match:
            return self._not_versus(_PLAIN[match[1]], match[2], greater=match[1] in {"small", "light"})
        match = _SIZE_OF.match(text)
        if match:
            return self._about(match[1])
        match = _LIMIT.match(text)
        if match:
            limited = self._limit(match[1], match[2])
            if limited is None or not re.search(r" (?:tall|high|in height)$", text):
                return limited
            # The longest side says how tall a thing is only if it stands upright, or how tall it is at most.
            reached = limited == int(
                match[1] in {"more than", "over", "above", "at least", "greater than", "longer than"}
            )
            return np.where(self._upright | ~reached, limited, -1).astype(np.int8)
        return None

    def fits(self, place: str) -> Vector | None:
        """Whether it would fit in a place."""
        place = re.sub(r"^(?:a|an|the|my|your|one 's|someone 's|most|an average|a normal|a regular) ", "", place)
        place = re.sub(r"^(?:average|normal|regular|standard|typical|small|big|large) (?=[a-z])", "", place)
        longest = _ROOM_IN.get(place)
        return None if longest is None else vector(self._values[_LENGTH] < longest)

    def count(self, text: str) -> Vector | None:
        """``more than four legs``, ``exactly two wheels``."""
        match = _COUNT.match(text)
        if not match:
            return None
        how, number, or_more, part = match.groups()
        wanted = number_of(number)
        if wanted is None or wanted != int(wanted) or number in {"a", "an", "half"}:
            return None
        how = {"more": "at least", "fewer": "at most", "less": "at most"}.get(or_more or "", how or "exactly")
        if part == "wheel":
            return self._wheel_count(how, int(wanted))
        return vector(relation(how)(self._legs, wanted)) if part in {"leg", "foot"} else None

    def age(self, text: str) -> Vector | None:
        """``was it invented before 1800``, ``did it exist 100 years ago``, ``does it cost more than 50 dollars``."""
        match = _COST.match(text)
        if match:
            amount, more = int(match[2]), match[1] not in {"less than", "under", "below"}
            # Beyond the limit nothing is known of what is expensive, below it nothing of what is not.
            dearer = np.where(
                self._expensive,
                1 if amount <= _PRICE_OF_THE_EXPENSIVE else -1,
                -1 if amount < _PRICE_OF_THE_EXPENSIVE else 0,
            )
            answers = dearer.astype(np.int8)
            return answers if more else invert(answers)
        match = _AGE.match(text)
        if not match:
            return None
        verb, how, year, number, factor, unit, ago, _, long = match.groups()
        if long:
            years = 1000.0
        elif year:
            years = _THIS_YEAR - float(year)
        else:
            count = number_of(number.removesuffix("s")) or (
                3.0 if number in {"several", "many", "some", "few"} else None
            )
            if count is None:
                return None
            size = {"hundred": 100.0, "thousand": 1000.0, "century": 100.0, "centurie": 100.0, "decade": 10.0}
            years = count * size.get(factor or "", 1.0) * size.get(unit, 1.0)
        answers = self._older(
            years, turned=how in {"after", "since", "in", "less than", "within"} and not (ago and how == "in")
        )
        # Nobody invents an elephant.
        return (
            np.where(self._man_made, answers, 0).astype(np.int8)
            if verb in {"invented", "made", "built", "created"}
            else answers
        )

    def _older(self, years: float, *, turned: bool) -> Vector:
        old = np.where(self._man_made & self._modern, 0 if years >= _MODERN_YEARS else -1, 1)
        if years > _MODERN_YEARS + 50:
            old = np.where(self._man_made & ~self._modern, -1, old)
        answers = old.astype(np.int8)
        return invert(answers) if turned else answers

    def _faster(self, reference: str) -> Vector | None:
        """Only what stands still and what flies are sure."""
        if self._size(reference, _BULK) is None or re.search("plane|rocket|jet|light|helicopter", reference):
            return None
        return np.where(self._moves, np.where(self._flies_fast, 1, -1), 0).astype(np.int8)

    def _versus(self, dimension: str, reference: str, *, greater: bool) -> Vector | None:
        limit = self._size(reference, _WEIGHT if dimension == _WEIGHT else _BULK if dimension == _BULK else _LENGTH)
        if limit is None:
            return None
        if dimension == "height":
            lengths = self._values[_LENGTH]
            taller = np.where(lengths <= limit, 0, np.where(self._upright, 1, -1)).astype(np.int8)
            return taller if greater else invert(taller)
        values = self._values[dimension]
        return vector(values > limit if greater else values < limit)

    def _not_versus(self, dimension: str, reference: str, *, greater: bool) -> Vector | None:
        # What is as big as a cat is not smaller.
        reached = self._versus(dimension, reference, greater=greater)
        return None if reached is None else invert(reached)

    def _about(self, reference: str) -> Vector | None:
        size = self._size(reference, _BULK)
        if size is None:
            return None
        ratio = np.maximum(self._values[_BULK] / size, size / self._values[_BULK])
        return np.where(ratio < 1.5, 1, np.where(ratio > 3, 0, -1)).astype(np.int8)

    def _limit(self, how: str, quantity: str) -> Vector | None:
        for dimension in (_WEIGHT, _LENGTH):
            limit = _quantity(quantity, _KILOGRAMS if dimension == _WEIGHT else _METRES)
            if limit is not None:
                return vector(relation(how)(self._values[dimension], limit))
        return None

    def weighs(self, text: str) -> Vector | None:
        """``more than a cat``, ``less than 5 kg``, ``as much as a car``."""
        match = re.match(r"^(more|less) than (.+)$|^(over|under|above|below|at least|at most|up to) (.+)$", text)
        if match:
            how, reference = match[1] or match[3], match[2] or match[4]
            greater = how in {"more", "over", "above", "at least"}
            return self._versus(_WEIGHT, reference, greater=greater)
        match = re.match(r"^(?:at least )?as much as (.+)$", text)
        return self._not_versus(_WEIGHT, match[1], greater=False) if match else None

    def _size(self, reference: str, dimension: str) -> float | None:
        """Metres or kilograms of a quantity, a thing of the table or one of those that people compare with."""
        quantity = _quantity(reference, _KILOGRAMS if dimension == _WEIGHT else _METRES)
        if quantity is not None:
            return quantity
        name = _ARTICLE.sub("", reference)
        for candidate in (
            name,
            _USUAL.sub("", name),
            reference,
        ):
            if candidate in _REFERENCES:
                return _REFERENCES[candidate][1 if dimension == _WEIGHT else 0]
            row = self._knowledge.row_of.get(candidate)
            if row is not None:
                return float(self._values[dimension][row])
        return None

    def _wheel_count(self, how: str, wanted: int) -> Vector | None:
        known = np.full(len(self._legs), -1)
        for number, true in self._wheels.items():
            known[true] = number
        answers = vector(relation(how)(known, wanted))
        # What has wheels, but neither two nor four, has one, three or more than four: asked for, we do not know.
        unknown = (known < 0) & ~np.isin(wanted, [0, 2, 4] if how == "exactly" else [0])
        answers[known < 0] = 0 if how == "exactly" else int(how in {"more than", "over", "at least"} and wanted < 1)
        answers[unknown] = -1
        return answers


def _quantity(text: str, units: dict[str, float]) -> float | None:
    """``5 kg``, ``half a metre``, ``a hundred pounds``, ``two metres``."""
    match = _QUANTITY.match(text)
    if not match:
        return None
    first, second, unit = match.groups()
    unit = _SPELLINGS.get(unit, unit)
    if unit not in units:
        unit = unit.removesuffix("s")
    if unit not in units or not (first or second):
        return None
    number = 1.0
    for word in (first, second):
        if word is None:
            continue
        factor = number_of("couple" if word == "a couple of" else word)
        if factor is None:
            return None
        number *= factor
    return number * units[unit]
