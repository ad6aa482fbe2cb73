"""Ways to put one question brought down to few: subjects, fixed turns, words that change nothing."""

import re

__all__ = ["CONNECTED", "FIND_VERBS", "IT", "PREPOSITIONS", "REGARDED", "TRAILING_PLACE", "rewrite"]

# Of a place, the first six say the same, and so do the next three.
PREPOSITIONS = (
    "in", "inside", "within", "at", "into", "during", "on", "around", "onto", "near", "under", "below", "beneath", "above",
    "by", "beyond", "outside", "along", "among", "between", "underneath", "over", "off", "up", "out", "overhead",
    "underground", "outdoors", "indoors", "about", "above", "downtown",
)  # fmt: skip
FIND_VERBS = frozenset("find see keep store locate spot have get buy sell encounter meet notice stock situate".split())
IT = frozenset(["people", "you", "we", "i", "one", "someone", "somebody", "anyone", "everyone", "humans"])

_AUXILIARIES = "is|are|was|were|does|do|did|can|could|would|will|may|might|should|must|has|have|had"
_IT = (
    r"(?:it|they|this|that|he|she|"
    r"(?:the|this|that|your|my|our) (?:mystery |secret |hidden |unknown )?(?:thing|things|object|item|secret|word|answer|one|animal|creature"
    r"|person|mystery|entity|subject)(?: here| itself)?|whatever it is|what you (?:are thinking of|have in mind)|these|those|the thing)"
    r"(?: (?:that |which )?(?:you are|i am|you were|i have to|i need to) (?:thinking (?:of|about)|imagining|guess)| (?:that |which )?you have in mind| in question"
    r"| in your mind| on your mind| you chose| you picked)?"
)
_PEOPLE = (
    r"(?:(?:a|an|the|any|every|one|a single) (?:average |normal |ordinary |typical |regular )?(?:person|human|human being|adult|individual)|(?:most |some |many |all |ordinary |normal |average |a lot of |lots of |other |regular |every )?(?:people|humans|adults|persons)"
    r"|you|we|i|one|someone|somebody|anyone|anybody|everyone|everybody"
    r"|(?:a|an|the|any|every|one|a single) (?:average |normal |ordinary |typical |regular )?(?:person|human|human being|adult|individual)"
    r"|mankind|humankind|folks)"
)
# "this bird": the player has found out that it is one.
_KNOWN = (
    r"(?:thing|object|item|animal|creature|person|bird|fish|insect|bug|mammal|reptile|vehicle|plant|tree|flower|fruit|vegetable|food|drink"
    r"|tool|toy|building|place|machine|device|appliance|instrument|weapon|container|structure|product|substance|material|job|profession|one"
    r"|piece of (?:furniture|clothing|equipment)|clothing|furniture|entity|organism|living thing|being|individual|professional|worker)"
)
_SUBJECTS = [
    (re.compile(rf"^({_AUXILIARIES})( not)? (?:this|that|the|your) (?:type of |kind of |sort of )?{_KNOWN}(?: of yours)?(?= )(?! (?:that|which|you) )"), r"\1\2 it"),
    (re.compile(rf"^({_AUXILIARIES})( not)? {_IT}(?= |$)"), r"\1\2 it"),
    (re.compile(rf"^({_AUXILIARIES})( not)? {_PEOPLE}(?= |$)"), r"\1\2 people"),
    (re.compile(rf"^{_IT} (?=(?:{_AUXILIARIES}|never|not|[a-z]+s)\b)"), "it "),
    (re.compile(rf"^{_PEOPLE} "), "people "),
]
_TURNS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (rf"(?<!it )\b(?:this|these|that|those) (?:type of |kind of |sort of )?{_KNOWN}s?\b(?! (?:that|which|you)\b)", "it"),
        (r"\bone of (?:these|those|them|it)\b(?: things)?", "it"),
        (r"(?<=[a-z] )(?:this|these|those)(?= (?:in|on|at|with|to|for|as|by)\b|$)", "it"),
        (r"\bused to (be|have)\b", r"\1"),
        (r"^(?:did|was|were|has) it (?:be |been )?(?:ever|once|formerly|previously)(?: be| been)? ", "was it once "),
        (r"^did it be ", "was it once "),
        (r"\b(needs?|requires?|uses?|has|have) (.+?) (?:in order )?to (?:work|function|operate|run|be used|use it|make it work)$", r"\1 \2"),
        (r"\b(?:a lot|lots|plenty) of (?=(?:people|children|them|legs))", "many "),
        (r"\b(?:kids|children 's)\b", "children"),
        (r"^(?:are|were) (?:you|we) (?:thinking|talking) (?:of|about) ", "is it "),
        (r"^(?:you are|i think you are) thinking (?:of|about) ", "it is "),
        (r"^(?:is|are|was) (?:not )?(.+?) (?:what|the thing|the answer|the object|the secret|the word)(?: (?:that )?you (?:are thinking (?:of|about)|have in mind))?$", r"is it \1"),
        (r"^(?:is|are) (?:there )?(?:a chance|any chance) (?:that )?", ""),
        (r"^(?:does|do) its name ", "it name "),
        (r"^(?:does|do|is) (?:the )?(?:name|word|spelling)(?: of it| of the thing| of the object| for it)? ", "it name "),
        (r"^is its name ", "it name "),
        (r"^(?:is|are) its? (?:main |primary |usual |typical |overall |natural )?(?:colour|color)s? ", "is it "),
        (r"^(?:is|are) its? (?:usual |general |overall )?(?:shape|form) ", "is it "),
        (r"^(?:is|are) its? (?:main |primary )?(?:purpose|function|use|job)(?: is)? (?=to |for )", "is it used "),
        (r"^(?:is|are) its? (?:main |primary )?(?:purpose|function|use) ", "is it used for "),
        (r"^is its (?:weight|mass) (?=more|less|over|under|above|below|at)", "does it weigh "),
        (r"^(?:is|are) its (?:natural )?(?:habitat|home|environment) ", "does it live in "),
        (r"^(?:is|are) its ([a-z]+) ([a-z]+)$", r"does it have \2 \1"),
        (r"^(?:is|would|could) (?:one of |part of )?its (?:main |primary )?(?:uses|purposes|functions) ", "is it used for "),
        (r"^is it something (?:that )?(?:you would|one would|people would|you could|you can|people can|i can|i could|i would|we can|someone can|someone could|a person can"
         r"|one can|one could|people could|someone would|you might|people might|we could|we would|anyone can) ", "is it something people "),
        (r"\b(?:that|which) (?:you|we|i|people|one|someone) (?:would|could|can|might|will|usually|often|commonly|normally|typically|generally)(?: be able to| normally| usually| typically| commonly| often| generally)? ",
         "that people "),
        (r"\b(?:would|could|can) (?:normally|usually|typically|commonly|often|generally|ever|probably|likely|easily) ", "would "),
        (r"\b(?:come|comes|came) across\b", "find"),
        (r"\b(?:expect|likely|want|have|hope|tend) to (find|see|use|encounter|meet|eat|wear|drink|hold|buy|keep|touch|carry)\b", r"\1"),
        (r"\b(?:is|are|be) (?:mostly |usually |typically |commonly |mainly |often |primarily |generally |normally |sometimes )+", "is "),
        (r"\b(?:for the purpose of|in order to|with the purpose of)\b", "for"),
        (r"\bused for the (?:purpose of )?", "used for "),
        (r"\bmade (?:up |mostly |mainly |entirely |partly |primarily |completely |largely |chiefly |wholly |purely |usually |out |at least partly )+(?=of|from|out)", "made "),
        (r"\bmade of (?:mostly|mainly|partly|primarily) ", "made of "),
        (r"\b(?:composed|constructed|comprised|manufactured|fabricated|formed|crafted) (?:mostly |mainly |out )?(?:of|from) ", "made of "),
        (r"\bmade (?:from|out of|with|up of) (?=(?:a )?(?:metal|wood|plastic|glass|paper|cloth|fabric|leather|stone|rubber|clay|water)\b)", "made of "),
        (r"\bhave any ", "have "),
        (r"^(?:is|was|would) it (?:be )?(?:wrong|incorrect|false|untrue) (?:to (?:call|say|describe|claim|think) |that )(?:that )?it (?:is |as )?", "is it not "),
        (r"^(?:is|was|would) it (?:be )?(?:right|fair|correct|ok|fine|possible|reasonable) to (?:call|describe|classify) it (?:as )?", "is it "),
        (r"\b(?:one|a single|a) (?:of us |person |adult |human )(?=(?:easily )?(?:lift|carry|pick|hold|move)\b)", "people "),
        (r"^(?:could|can|would) (?:one |a single )(?:people|person) ", "can people "),
        (r"\bhas got\b", "has"),
        (r"\bhave got\b", "have"),
        (r"\b(?:in|on|at|with) (?:any|some) way\b", ""),
        (r"\b(?:at least )?some of the time\b", ""),
        (r"\bthe (?:inside|interior) of\b", "inside"),
        (r"\b(?:kind of|sort of) (?=(?:round|soft|hard|big|small|long|flat|sharp|shiny|red|green|brown)\b)", ""),
        (r"\bthings? (?:like that|of that kind)\b", ""),
        (r"\b(?:equipped|fitted|furnished|provided|covered) with (?=(?:a|an|wheels|wings)\b)", "with "),
        (r"^is it with ", "does it have "),
        (r"^(?:does|do) it come with ", "does it have "),
        (r"^(?:does|did|can|could|would|will) it (?:usually |often |typically |normally |generally |commonly |sometimes |mostly |mainly |ever |actually |really )+", "does it "),
        (r"^(?:would|could|can|will|might|should) it be ", "is it "),
        (r"^(?:does|do|can|could) it (?:get|become) (?=used|worn|eaten|played|kept|sold|thrown|kicked|ridden|cooked|drunk|made|found)", "is it "),
        (r"^(?:could|can|might|may|would) (?:it be used|people use it) (?:as a weapon|to (?:hurt|kill|harm) (?:a person|someone|people|somebody))$", "is it usable as a weapon"),
    )
]  # fmt: skip
CONNECTED = re.compile(r"^(.+?)( and or | or | and | but | nor | , (?:and |or |but )?)(.+)$")
REGARDED = re.compile(
    r"^(?:(?:generally |usually |commonly |often |typically |normally )?(?:considered|classified|categorized|categorised|regarded|called|known|seen"
    r"|thought of|described|viewed|counted|defined|referred to|treated|classed)(?: to be| as being| as|)(?= (?:a|an|some|one|very|dangerous|fast|food|furniture|living|alive|clothing|expensive|valuable|healthy)\b) "
    r"|(?:either|both) )"
)
TRAILING_PLACE = re.compile(r" (?:in|on|inside|to|at|of|for|from|with|around|about|attached to|inside of|within)(?: it| them| its body| its surface| the inside| the outside)?$")


def rewrite(text: str) -> str:
    """The same clause in plainer words."""
    if text.startswith(("its ", "it s ")) and not re.match(r"^its (?:main|primary|colour|color|shape|name|weight)", text):
        text = "it is " + text.split(" ", 1)[1]
    for pattern, replacement in _SUBJECTS:
        text = pattern.sub(replacement, text, count=1)
    for pattern, replacement in _TURNS:
        text = pattern.sub(replacement, text)
    return text.strip()
