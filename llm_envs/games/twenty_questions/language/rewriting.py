"""Ways to put one question brought down to few: subjects, fixed turns, words that change nothing."""

import re
from pathlib import Path

from llm_envs.games.twenty_questions.language.words import word_set

__all__ = [
    "ADJECTIVES",
    "CONNECTED",
    "DETERMINERS",
    "DUMMIES",
    "FIND_VERBS",
    "IT",
    "PREPOSITIONS",
    "REGARDED",
    "TRAILING_PLACE",
    "rewrite",
]

# Of a place, the first six say the same, and so do the next three.
PREPOSITIONS = (
    "in", "inside", "within", "at", "into", "during", "on", "around", "onto", "near", "under", "below",
    "beneath", "above", "by", "beyond", "outside", "along", "among", "between", "underneath", "over", "off",
    "up", "out", "overhead", "underground", "outdoors", "indoors", "about", "above", "downtown",
)  # fmt: skip
FIND_VERBS = word_set("find see keep store locate spot have get buy sell encounter meet notice stock situate")
DETERMINERS = word_set("a an the any some its your their his her my our this that these those one")
DUMMIES = word_set(
    "something anything someone somebody anybody anyone thing things object objects item items stuff one ones what"
)
# Plain adjectives: no nouns, even behind an article.
ADJECTIVES = word_set(
    "big small long short large soft hard strong thick sharp red green blue yellow white black brown pink "
    "orange purple "
    "grey visible special real tiny huge pointed pointy round flat wide narrow colourful bright single "
    "heavy metal wooden "
    "plastic glass electric front back"
)
IT = frozenset(["people", "you", "we", "i", "one", "someone", "somebody", "anyone", "everyone", "humans"])

_AUXILIARIES = "is|are|was|were|does|do|did|can|could|would|will|may|might|should|must|has|have|had"
_IT = (
    r"(?:it|they|this|that|he|she|"
    r"(?:the|this|that|your|my|our) (?:mystery |secret |hidden |unknown )?(?:thing|things|object|item"
    r"|secret|word|answer|one|animal|creature"
    r"|person|mystery|entity|subject)(?: here| itself)?|whatever it is|what you (?:are thinking of|have in "
    r"mind)|these|those|the thing)"
    r"(?: (?:that |which )?(?:you are|i am|you were|i have to|i need to) (?:thinking (?:of|about)|imagining"
    r"|guess)| (?:that |which )?you have in mind| in question"
    r"| in your mind| on your mind| you chose| you picked)?"
)
_PEOPLE = (
    r"(?:(?:a|an|the|any|every|one|a single) (?:average |normal |ordinary |typical |regular )?(?:person"
    r"|human|human being|adult|individual)|(?:most |some |many |all |ordinary |normal |average |a lot of "
    r"|lots of |other |regular |every )?(?:people|humans|adults|persons)"
    r"|you|we|i|one|someone|somebody|anyone|anybody|everyone|everybody|mankind|humankind|folks)"
)
# "this bird": the player has found out that it is one.
_KNOWN = (
    r"(?:thing|object|item|animal|creature|person|bird|fish|insect|bug|mammal|reptile|vehicle|plant|tree"
    r"|flower|fruit|vegetable|food|drink"
    r"|tool|toy|building|place|machine|device|appliance|instrument|weapon|container|structure|product"
    r"|substance|material|job|profession|one"
    r"|piece of (?:furniture|clothing|equipment)|clothing|furniture|entity|organism|living thing|being"
    r"|individual|professional|worker)"
)
_SUBJECTS = [
    (
        re.compile(
            rf"^({_AUXILIARIES})( not)? (?:this|that|the|your) (?:type of |kind of |sort of )?{_KNOWN}(?: "
            rf"of yours)?(?= )(?! (?:that|which|you) )"
        ),
        r"\1\2 it",
    ),
    (re.compile(rf"^({_AUXILIARIES})( not)? {_IT}(?= |$)"), r"\1\2 it"),
    (re.compile(rf"^({_AUXILIARIES})( not)? {_PEOPLE}(?= |$)"), r"\1\2 people"),
    (re.compile(rf"^{_IT} (?=(?:{_AUXILIARIES}|never|not|[a-z]+s)\b)"), "it "),
    (re.compile(rf"^{_PEOPLE} "), "people "),
]
_TURNS = [
    (re.compile(pattern.replace("{KNOWN}", _KNOWN)), replacement)
    for pattern, _, replacement in (
        line.partition("\t")
        for line in Path(__file__).with_name("turns.tsv").read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    )
]
CONNECTED = re.compile(r"^(.+?)( and or | or | and | but | nor | , (?:and |or |but )?)(.+)$")
REGARDED = re.compile(
    r"^(?:(?:generally |usually |commonly |often |typically |normally )?(?:considered|classified"
    r"|categorized|categorised|regarded|called|known|seen"
    r"|thought of|described|viewed|counted|defined|referred to|treated|classed)(?: to be| as being| as|)(?= "
    r"(?:a|an|some|one|very|dangerous|fast|food|furniture|living|alive|clothing|expensive|valuable|healthy)\b) "
    r"|(?:either|both) )"
)
TRAILING_PLACE = re.compile(
    r" (?:in|on|inside|to|at|of|for|from|with|around|about|attached to|inside of|within)(?: it| them| its "
    r"body| its surface| the inside| the outside)?$"
)


def rewrite(text: str) -> str:
    """The same clause in plainer words."""
    if text.startswith(("its ", "it s ")) and not re.match(
        r"^its (?:main|primary|colour|color|shape|name|weight)", text
    ):
        text = "it is " + text.split(" ", 1)[1]
    for pattern, replacement in _SUBJECTS:
        text = pattern.sub(replacement, text, count=1)
    for pattern, replacement in _TURNS:
        text = pattern.sub(replacement, text)
    return text.strip()
