"""From what a player wrote to the plain words of one question: case, contractions, politeness, tags, inflections."""

import re
import unicodedata
from functools import cache, lru_cache
from pathlib import Path

from llm_envs.games.twenty_questions.language.words import word_set

__all__ = ["WINDOW", "Lemmas", "load_lemmas", "questions", "tokens"]

WINDOW = 400  # characters from the end of a text that are looked at
_MAX_WORDS, _MAX_QUESTIONS = 45, 3
_UNKNOWN = "\ufffd"
_WORD = re.compile(r"[a-z0-9\ufffd]")
_FILE = "words.txt"

_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_TOKEN = re.compile(r"[a-z]+|[0-9]+(?:\.[0-9]+)?|'s\b|[,:;.?!()\n\ufffd]")
_CONTRACTED = {
    "n't": " not",
    "'re": " are",
    "'ll": " will",
    "'d": " would",
    "'ve": " have",
    "'m": " am",
}
_CONTRACTION = re.compile(r"(?<=[a-z])(?:n't|'re|'ll|'d|'ve|'m)\b")
_IS = re.compile(r"\b(it|that|there|what|he|she|who|this|where|how|thing|object|animal|here)'s\b")
_BARE = re.compile(r"\b(is|are|was|were|does|do|did|would|could|should|has|have|wo|ca)nt\b")
_CANNOT = re.compile(r"\b(?:cannot|ca not)\b")
_QUOTES = str.maketrans(
    {"\u2018": "'", "\u2019": "'", "\u02bc": "'", "`": "'", "\u2013": " ", "\u2014": ",", "\u2026": ".", "\x00": " "}
)
_THINKING = re.compile(r".*</[a-z]{2,12}>", re.DOTALL)

# Words in front of a question that say nothing.
_FILLERS = word_set(
    "ok okay k so well hmm hm hmmm mm mmm um umm uh uhm er erm ah aha oh ooh alright right then now and but "
    "also great "
    "thanks thank thx nice good cool interesting yes no yeah yep nope please pls maybe perhaps finally next "
    "first second "
    "lastly hey hi hello sure fine excellent perfect wow just really listen um "
    "understood noted wait sorry again anyway gotcha "
    "alternatively otherwise therefore thus hence simply"
)
_LEAD = re.compile(
    r"^(?:(?:please |kindly |now |so |ok |okay |well |and |then |right |but |hmm |um |uh |just |alright |oh "
    r"|also |great |yes |no "
    r"|thanks |cool |hey |hi |hello |anyway |hm |er |ah |next |finally |first |maybe |perhaps |good |nice "
    r"|sure |wait )"
    r"|(?:please )?(?:can|could|will|would) you (?:please )?(?:tell|say|confirm|answer)(?: me| us)?(?: "
    r"this)? (?:if|whether|that) "
    r"|(?:please )?(?:tell me|say|answer|answer me|answer this|confirm)(?: please)? (?:if|whether|that|is "
    r"it true that) "
    r"|(?:let me (?:ask|see|think|guess)|let us (?:see|say|try)|i see|got it|i have a question|thank you|of "
    r"course)(?: if| whether|) "
    r"|i (?:just )?(?:wonder|was wondering|am wondering|want to know|would like to know|would like to ask"
    r"|need to know|want to ask"
    r"|am curious|am asking|ask|would ask) (?:if|whether) "
    r"|(?:do|did|would|could|can) (?:you|we|one|people) (?:think|say|know|believe|agree|reckon|guess"
    r"|suppose|argue|claim"
    r"|expect) (?:that |if |whether )?(?=it |this |that |the |they |people |you |there |most |its )"
    r"|(?:is|would) it (?:be )?(?:true|correct|right|fair|the case|safe|accurate|a fact)(?: to (?:say"
    r"|assume))? (?:that|if) "
    r"|(?:am i|would i be|are we) (?:right|correct|wrong)(?: in (?:thinking|saying|assuming)| to (?:think"
    r"|say|assume))?(?: that)? "
    r"|i (?:would )?(?:just )?(?:think|guess|believe|suppose|bet|say|assume|am guessing|am thinking|imagine"
    r"|suspect|take it|reckon)"
    r"(?: that)?(?: maybe| perhaps)? "
    r"|(?:(?:so )?you are|are you) (?:saying|thinking|telling me) (?:that )?(?=it )"
    r"|(?:my |the |here is my |ok )?(?:next |first |second |last |final |new |following )?(?:yes no |yes or "
    r"no )?question(?: number)?"
    r"(?: [0-9]+)?(?: is| :)?(?: whether| if)? (?=is|are|does|do|can|could|would|has|it|did|will|was)"
    r"|(?:my |the |final |so )*guess(?: is)? (?:that )?(?=it is )"
    r"|[0-9]+ (?:: )?(?=(?:is|are|does|do|can|could|would|has|did|will|was) )"
    r"|(?:how about|what if|what about|let us say|so) (?=it |is |does |can |a |an |the )"
    r"|since it [a-z ]{1,60} , "
    r")"
)
_TAIL = re.compile(
    r"(?:(?: ,)? (?:right|correct|eh|huh|yeah|ok|okay|please|pls|then|though|or not|or no|yes or no|true or "
    r"false|or what|by any chance"
    r"|at all|or something(?: like that| similar| else)?|or anything|i wonder|would you say|do you think|do "
    r"you know|in your opinion"
    r"|perhaps|maybe|too|as well|anyway|am i right|am i correct|is that (?:right|correct|true|so)|is that "
    r"it|thanks|thank you"
    r"|in (?:general|any way|some way|real life|most cases|a way|your view|reality"
    r"|particular)|for sure"
    r"|most of the time|some of the time|on average|as a rule|as far as you know|in the first place|and why"
    r"|just yes or no"
    r"|answer (?:with )?(?:only )?yes or no|only yes or no|you think|i guess|or does it not|or is it not"
    r"|would not you say"
    r"|if you know|if you do not mind|my friend|sir|buddy|dude|lol|haha|hmm|hm|already|normally"
    r"|usually|often|commonly)"
    r"| , (?:yes|no|please answer yes or no))$"
)
_TAG = re.compile(
    r" , (is|are|does|do|can|has|have|will|would|could|was) (not )?(?:it|they|you|we|he|she|that)(?: not)?$"
    r"|(?<=[a-z]) (is|are|does|do|can|has|have|will|would|could|was) (not) (?:it|they|you|we|he|she|that)$"
)
_LABEL = word_set(
    "question q , okay my next number guess final answer player asker me user ok here is the first second third "
    "last and new a turn "
    "yes no human assistant round tell let us see so ask me ask asks i one another"
)
_EXAMPLE = re.compile(r" \( (?:e g|for example|for instance|like|such as|i e|yes|y|true|think|or not)\b[^()]*\)")
_NUMBERED = re.compile(r"^ ?(?:q|question|no|number|turn|round)? ?[0-9]+ ?[):] ")
_ASIDE = re.compile(
    r" , (?:by any chance|perhaps|maybe|in fact|say|generally|usually|in general|typically|by chance|then"
    r"|please) ,(?= )"
)
_SUCH_AS = re.compile(r" , (?:such as|like|for example|for instance|e g|say|i e) .*$")
# Sentences that ask nothing by themselves.
_EMPTY = re.compile(
    r"^ ?(?:(?:is|does|can|do|has|are)(?: not)? (?:it|they|people|you)|am i (?:right|correct|close)|(?:is "
    r"that )?(?:right|correct|true|so|it)|yes or no|(?:just |only )?(?:answer |say )?(?:with )?yes or no"
    r"|really|ok|okay"
    r"|what do you (?:say|think)|do you know|thanks|thank you|please|please answer|got it|ready|hm+|huh|is "
    r"that right|can you tell me|eh)"
    r"[ .?!;\n]*$"
)
_SENTENCE = re.compile(r"[^.?!;\n]+(?:[.?!;\n ]*)")
_AUXILIARY = word_set(
    "is are was were does do did can could would will may might should must has have had am isnt arent doesnt dont cant"
)


def tokens(text: str) -> list[str]:
    r"""Words in lower case without accents; digits and the marks ``, : ; . ? ! ( )`` and line ends by themselves.

    What is written in another script becomes one ``\ufffd`` a run: an unknown word. Symbols fall away.
    """
    text = text.translate(_QUOTES).lower()
    if _NOT_ASCII.search(text):
        # One character may stand for many.
        text = "".join(_plain(char) for char in unicodedata.normalize("NFKD", text)[-2 * WINDOW :]).lower()
    text = _BARE.sub(r"\1n't", text)
    text = _IS.sub(r"\1 is", text)
    text = _CONTRACTION.sub(lambda match: _CONTRACTED[match[0]], text)
    text = text.replace("won't", "will not").replace(" wo not", " will not").replace("let's", "let us")
    text = _CANNOT.sub("can not", text)
    text = re.sub(r"(?<=[0-9]),(?=[0-9]{3}\b)", "", text)
    return _TOKEN.findall(text)


def _plain(char: str) -> str:
    if char < "\x80" or unicodedata.combining(char):
        return "" if char >= "\x80" else char
    return _UNKNOWN if char.isalnum() else " "


@lru_cache(maxsize=256)  # a text is read for a guess, then for a question
def questions(text: str) -> tuple[tuple[str, ...], ...]:
    """The questions to be answered, each as plain words: those marked by ``?``, else the last sentence.

    Nothing if there is none, or if the last sentence is too long to be looked at. What has too many words, and more
    than three questions, become one unknown word.
    """
    is_cut = len(text) > WINDOW
    text = text[-WINDOW:]
    if "</" in text:
        text = _THINKING.sub("", text)
    joined = _EXAMPLE.sub("", " ".join(tokens(text)) + " ").strip()
    sentences = _SENTENCE.findall(joined)[1 if is_cut else 0 :]  # the first may have begun before the window
    sentences = [one for one in sentences if _WORD.search(one) and not _EMPTY.match(one)]
    chosen = [one for one in sentences if "?" in one] or sentences[-1:]
    found = []
    for sentence in chosen:
        words = _strip(sentence.strip(" .?!;\n"))
        if words and not (len(chosen) > 1 and _FILLERS.issuperset(words)):
            found.append(tuple(words) if len(words) <= _MAX_WORDS else (_UNKNOWN,))
    return tuple(found) if len(found) <= _MAX_QUESTIONS else ((_UNKNOWN,),)


def _strip(sentence: str) -> list[str]:
    """Without labels, politeness, tags and examples."""
    sentence = _ASIDE.sub("", _NUMBERED.sub("", sentence))
    head, colon, rest = sentence.rpartition(" : ")
    if colon:
        sentence = rest if all(word in _LABEL or word.isdigit() for word in head.split()) else sentence
    sentence = sentence.strip(" ,:")
    sentence = _SUCH_AS.sub("", sentence)
    if "," in sentence:
        sentence = _main_clause(sentence)
    sentence = _lead(sentence)
    before = ""
    while before != sentence:
        before = sentence
        sentence = _TAIL.sub("", sentence).strip(" ,")
    match = _TAG.search(sentence)
    neither = re.match(r"^(.*)\bneither (.+) nor (.+)$", sentence)
    if neither:
        sentence = f"{neither[1]}not {neither[2]} and not {neither[3]}"
    if match and match.start():
        sentence = _untag(sentence[: match.start()].strip(" ,"), positive=not (match[2] or match[4]))
    return sentence.split()


def _lead(sentence: str) -> str:
    before = ""
    while before != sentence:
        before = sentence
        shorter = _LEAD.sub("", sentence + " ", count=1).strip(" ,")
        sentence = shorter or sentence
    return sentence


def _untag(statement: str, *, positive: bool) -> str:
    """``it is not alive, is it`` asks whether it is alive."""
    statement = _lead(statement)
    words = statement.split()
    if positive and words and words[0] not in _AUXILIARY and "not" in words[:4]:
        words.remove("not")
        return " ".join(words)
    return statement


def _main_clause(sentence: str) -> str:
    """Without the parts between commas that say nothing or only lead up to the question."""
    parts = [part.strip() for part in sentence.split(",")]
    while len(parts) > 1 and all(word in _FILLERS for word in parts[0].split()):
        parts.pop(0)
    asks = [index for index, part in enumerate(parts) if (_lead(part).split() or [""])[0] in _AUXILIARY]
    if asks and asks[0] > 0 and not _TAG.search(" , " + parts[asks[0]]):
        parts = parts[asks[0] :]
    return " , ".join(parts)


class Lemmas:
    """Words and the one form that stands for each: ``wings`` to ``wing``, ``worn`` to ``wear``.

    Args:
        text: What words.txt holds.
    """

    def __init__(self, text: str) -> None:
        self.verbs: set[str] = set()
        self.participles: dict[str, str] = {}
        self.gerunds: dict[str, str] = {}
        self._lemmas: dict[str, str] = {}
        self.dropped: set[str] = set()
        section = ""
        for line in text.splitlines():
            if not line or line.startswith("#"):
                continue
            if not line.startswith(" "):
                section = line
            elif section == "verbs":
                for word in line.split():
                    self._add_verb(*word.split("/"))
            elif section == "same":
                base, _, others = line.strip().partition(":")
                for word in [base, *others.split()]:
                    self._lemmas[word] = base
            else:
                self.dropped.update(line.split())

    def _add_verb(self, base: str, *irregular: str) -> None:
        self.verbs.add(base)
        doubled = base + base[-1] if re.fullmatch("[^aeiou]*[aeiou][^aeiouwxy]", base) else base
        stem = doubled.removesuffix("e") if not base.endswith("ee") else base
        self.gerunds[{"lie": "lying", "die": "dying", "tie": "tying"}.get(base, stem + "ing")] = base
        past = irregular or ((base[:-1] + "ied",) if re.search("[^aeiou]y$", base) else (stem + "ed",))
        self._lemmas.update(dict.fromkeys(past, base))
        self.participles[past[-1]] = base
        if len(irregular) == 1 and base in {"burn", "learn", "spell", "dream", "light", "smell"}:
            self.participles[stem + "ed"] = base

    @lru_cache(maxsize=4096)  # noqa: B019 (there is one instance)
    def lemma(self, word: str) -> str:
        """The one form of a word."""
        word = self.gerunds.get(word, word) if word not in {"building", "painting", "seasoning"} else word
        if word in self._lemmas:
            base = self._lemmas[word]
            return self._lemmas.get(base, base) if base != word else base
        singular = _singular(word)
        return self._lemmas.get(singular, singular)

    def verb(self, word: str) -> str:
        """The base of a verb in any form."""
        base = self.gerunds.get(word) or self.participles.get(word) or word
        return self.lemma(base)


def _singular(word: str) -> str:
    if len(word) < 4 or word.endswith(("ss", "us", "is")) or not word.endswith("s"):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith(("xes", "ches", "shes", "sses", "zzes", "oes")):
        return word[:-2]
    return word[:-1]


@cache
def load_lemmas() -> Lemmas:
    """The words that come with the package."""
    return Lemmas(Path(__file__).with_name(_FILE).read_text(encoding="utf-8"))
