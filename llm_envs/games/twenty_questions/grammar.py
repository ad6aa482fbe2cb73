"""From the plain words of one question to the answers for all things."""

import re
from collections.abc import Callable, Mapping

import numpy as np

from llm_envs.games.twenty_questions.knowledge import Knowledge
from llm_envs.games.twenty_questions.lexicon import FILES, Meanings, Vector, both, either, invert, narrow, phrases, vector
from llm_envs.games.twenty_questions.measures import Measures
from llm_envs.games.twenty_questions.rewriting import (
    CONNECTED,
    FIND_VERBS,
    IT,
    PREPOSITIONS,
    REGARDED,
    TRAILING_PLACE,
    rewrite,
)
from llm_envs.games.twenty_questions.wording import load_lemmas, tokens

__all__ = ["Grammar"]

_ASKED = re.compile(
    r"^(is|are|was|were|be|does|do|did|can|could|would|will|may|might|should|must|has|have|had)( not)? (it|people|there)(?: (.*))?$"
)
_STATED = re.compile(
    r"^(it|people)(?: (is|are|was|were|does|do|did|can|could|would|will|may|might|should|must|has|have|had))?( not| never)?(?: (.*))?$"
)
_BE, _HAVE = frozenset("is are was were be been being".split()), frozenset(["has", "have", "had"])
_ARTICLES = frozenset(["a", "an"])
_DETERMINERS = frozenset("a an the any some its your their his her my our this that these those one".split())
_DUMMIES = frozenset("something anything someone somebody anybody anyone thing things object objects item items stuff one ones what".split())
_KIND_OF = re.compile(
    r"^(?:(?:a|an|the|one|some|any|of) )*(?:(?:certain|specific|particular|common) )?(?:kind|type|sort|form|variety|piece|species|category|example|item|breed|member|part)s?"
    r" of (?:the )?(?:a |an |the )?(?=[a-z])"
)
# The question before the game: which of three, not whether.
_CHOICE = re.compile(r"\banimal , (?:a )?vegetable (?:, )?or (?:a )?mineral\b")
_SOME_KIND = re.compile(r" (?:of (?:some|any|a certain) (?:kind|sort|type)|or (?:something (?:like that|similar)|similar|so))\b")
_MODALS = frozenset("can could would will might may do does should must".split())
_WHEN_USED = re.compile(r" (?:when|while|if|as|before|after) (?:people |you |we |they )?(?:are |is )?(?:it is )?(?:in use|being used|use it|using it|used|use|using)$")
_PRONOUNS = frozenset([",", "you", "they", "we", "i"])
_NARROWING = frozenset(
    "big small long short large soft hard strong thick sharp red green blue yellow white black brown pink orange purple grey "
    "visible special real large tiny huge pointed pointy round flat wide narrow colourful bright single heavy metal "
    "wooden plastic glass electric front back".split()
)
_MARKERS = frozenset(
    "that which who with without in on at from made used for you people we i found kept living under near usually often to "
    "whose where outside inside".split()
)
_MAX_CONNECTIVES = 5


class _FirstLookError(Exception):
    """Ends the reading of a phrase that is being learnt: its key is found."""


class Grammar:
    """English yes/no questions about a thing, as they are asked in the game.

    A question is brought into one of a few plain forms, each with a key in the lexicon: ``be red``, ``be a bird``, ``have
    wing``, ``fly``, ``p eat`` (people eat it), ``u cut`` (it is used to cut), ``@ kitchen`` (it is found there), ``r music``
    (it has to do with that), ``s child use`` (children use it). A phrase of the phrase files is learnt under the key that
    its own question would look for first, so that phrases and questions can never be read in two ways. What has no entry
    of its own is taken apart: a noun with adjectives and clauses, measures, places, "and", "or", "not".
    """

    def __init__(self, knowledge: Knowledge) -> None:
        self._words = load_lemmas()
        self._measures = Measures(knowledge)
        self._everything = np.ones(len(knowledge.things), dtype=np.int8)
        self._lexicon: dict[str, Vector] = {}
        self._learning = False
        self._names: dict[str, Vector] = {}
        self._whole: dict[tuple[str, ...], Vector] = {}
        self._learn_all(knowledge)

    # ---- learning -------------------------------------------------------------------------------------------------

    def _learn_all(self, knowledge: Knowledge) -> None:
        meanings = Meanings(knowledge)
        answers: dict[str, Vector] = {}
        learnt_from: dict[str, str] = {}
        conflicts = []
        for file in FILES:
            for meaning, phrase in phrases(file):
                if meaning not in answers:
                    answers[meaning] = meanings(meaning)
                learnt = narrow(answers[meaning]) if phrase.startswith("?") else answers[meaning]
                key = self.key_of(phrase.removeprefix("?"))
                if key in self._lexicon and not np.array_equal(self._lexicon[key], learnt):
                    conflicts.append(f"{phrase!r} of {meaning!r} and {learnt_from[key]} have the same key {key!r}")
                self._lexicon.setdefault(key, learnt)
                learnt_from.setdefault(key, f"{phrase!r} of {meaning!r}")
        if conflicts:
            raise ValueError("; ".join(conflicts))
        for key, question in knowledge.attributes.items():
            column = answers.get(key)
            self._whole[tuple(tokens(question)[:-1])] = meanings(key) if column is None else column
        rows = np.arange(len(knowledge.things))
        for row, thing in enumerate(knowledge.things):
            own = vector(rows == row)
            for name in thing.names:
                words = " ".join(tokens(name))
                kind = self._lexicon.get(f"be a {self._lemmas(words.split())}")
                is_kind = kind is not None and kind[row] == 1
                self._names[words] = own if kind is None or not is_kind else kind

    def key_of(self, phrase: str) -> str:
        """The key that a phrase is learnt under.

        Raises:
            ValueError: If the phrase has no key.
        """
        words = [word for word in tokens(phrase) if word != ","]
        first = words[0]
        starts_sentence = first in {"people", "does", "do", "are", "is", "has", "was", "can", "could", "would", "might", "have"}
        asks = starts_sentence and first != "people" and len(words) > 1
        if first in {"is", "has", "was", "could", "can", "would", "might"} and not re.match(
            r"^\w+ (?:it|there|its|someone|the|food|one|most)\b", " ".join(words)
        ):
            asks = False
        clause = " ".join(words) if first == "people" or asks else "it " + " ".join(words)
        self._learning = True
        try:
            self._clause(rewrite(clause))
        except _FirstLookError as found:
            return str(found)
        finally:
            self._learning = False
        raise ValueError(f"the phrase {phrase!r} has no key")

    def _look(self, key: str) -> Vector | None:
        if self._learning:
            raise _FirstLookError(key)
        return self._lexicon.get(key)

    def _lemmas(self, words: list[str]) -> str:
        """The words of a key."""
        drop, lemma = self._words.dropped, self._words.lemma
        return " ".join(lemma(word) for word in words if word not in drop and word not in _PRONOUNS)

    # ---- sentences ------------------------------------------------------------------------------------------------

    def understand(self, words: tuple[str, ...]) -> Vector | None:
        """The answers to a question of plain words; None if it is not understood."""
        whole = self._whole.get(words)
        if whole is not None:
            return whole
        text = " ".join(words)
        if _CHOICE.search(text):
            return None
        answers = self._sentence(text, _MAX_CONNECTIVES)
        plainer = _SOME_KIND.sub("", text)
        return self._sentence(plainer, _MAX_CONNECTIVES) if answers is None and plainer != text else answers

    def _sentence(self, text: str, connectives_left: int) -> Vector | None:
        plain = rewrite(text)
        answers = self._measures.letters(plain)
        if answers is None:
            answers = self._measures.age(plain)
        if answers is None and " , " not in text:
            answers = self._clause(plain)
        if answers is None and _WHEN_USED.search(text):
            return self._sentence(_WHEN_USED.sub("", text), connectives_left)
        if answers is None and " , " in text:
            answers = self._clause(rewrite(text.replace(" , ", " ")))
        if answers is None and connectives_left:
            answers = self._connected(text, connectives_left)
        return answers

    def _connected(self, text: str, connectives_left: int) -> Vector | None:
        """Joined by "and" or "or", maybe with one beginning or one end in common."""
        match = CONNECTED.match(text)
        if not match:
            return None
        left, right = match[1].strip(" ,"), match[3].strip(" ,")
        word = match[2].strip()
        if word == ",":
            if not re.search(r"\b(?:or|nor|and)\b", right) and not _ASKED.match(rewrite(right)):
                return None
            word = "or" if re.search(r"\b(?:or|nor)\b", right) else "and"
        join: Callable[[Vector, Vector], Vector] = either if word in {"or", "and or", "nor"} else both
        head, tail = left.split(), right.split()
        first = self._clause(rewrite(left))
        if first is None:
            for start in range(1, min(len(tail), 8)):
                first = self._clause(rewrite(" ".join([*head, *tail[start:]])))
                if first is not None:
                    break
        if first is None:
            return None
        for stop in range(len(head) - 1, -1, -1):
            if stop and head[stop - 1 : stop] == tail[:1]:
                continue
            second = self._sentence(" ".join([*head[:stop], *tail]), connectives_left - 1)
            if second is not None:
                return join(first, second)
        return None

    def _clause(self, text: str) -> Vector | None:
        """One clause about "it", "people" or another subject."""
        match = _ASKED.match(text)
        if match:
            auxiliary, _, subject, rest = match.groups()
            return self._asked(auxiliary, subject, (rest or "").split())
        match = _STATED.match(text)
        if match:
            subject, auxiliary, negated, rest = match.groups()
            words = (rest or "").split()
            if subject == "people" and auxiliary in {"have", "do"} and not negated:
                auxiliary, words = None, [auxiliary, *words]
            answers = self._asked(auxiliary or "do", subject, words)
            return answers if answers is None or not negated else invert(answers)
        words = text.split()
        if not words:
            return None
        if words[0] in {"does", "do", "did", "can", "could", "would", "will", "might", "should", "is", "are", "has", "have"}:
            return self._other(words[1:])
        return self._fragment(words)

    def _asked(self, auxiliary: str, subject: str, rest: list[str]) -> Vector | None:
        if subject == "there":
            return self._there(rest)
        if subject == "people":
            return self._people(rest) if auxiliary not in _BE else self._other(["people", "be", *rest])
        if not rest:
            return None
        if auxiliary in _BE:
            return self._predicate(["be", *rest])
        if auxiliary in _HAVE:
            rest = rest[1:] if rest[0] == "got" else rest
            if rest and rest[0] in {"been", "not", "never"}:
                return self._predicate(rest)
            return self._predicate(["have", *rest])
        return self._predicate(rest)

    def _other(self, words: list[str]) -> Vector | None:
        """Another subject than the thing or people: only what the lexicon knows by itself."""
        if words[:1] == ["not"]:
            words = words[1:]
        words = [word for word in words if word not in _MODALS]
        return self._look("s " + self._lemmas(words)) if words else None

    def _fragment(self, words: list[str]) -> Vector | None:
        """No sentence: ``a mammal``, ``wings``, ``in the kitchen``, ``flies``, ``bigger than a cat``."""
        if words[0] in {"not", "never"}:
            rest = self._fragment(words[1:]) if len(words) > 1 else None
            return None if rest is None else invert(rest)
        readings: list[Callable[[], Vector | None]] = [
            lambda: self._complement(words),
            lambda: self._have(words),
            lambda: self._predicate(words),
            lambda: self._people(words),
        ]
        if self._words.lemma(words[0]) in self._words.verbs and (words[0] != self._words.lemma(words[0]) or len(words) > 1):
            readings.insert(0, readings.pop(2))
        for reading in readings:
            answers = reading()
            if answers is not None:
                return answers
        return self._place(words[:1], words[1:]) if words[0] in PREPOSITIONS else self._look("s " + self._lemmas(words))

    def _there(self, words: list[str]) -> Vector | None:
        """``is there metal in it``, ``are there books there``."""
        answers = self._look("have " + self._lemmas(words))
        if answers is None:
            answers = self._have(words)
        if answers is None:
            answers = self._other(["there", *words])
        return answers

    # ---- what is said of it -----------------------------------------------------------------------------------------

    def _predicate(self, words: list[str]) -> Vector | None:
        """What "it" is or does, verb first."""
        while words and words[0] in self._words.dropped:
            words = words[1:]
        if not words:
            return None
        first, rest = words[0], words[1:]
        if first in {"not", "never"}:
            answers = self._predicate(rest)
            return None if answers is None else invert(answers)
        if first in _BE and rest:
            return self._complement(rest)
        if first in PREPOSITIONS and (rest or first in PREPOSITIONS[-8:]):
            return self._place([first], rest) if rest else self._place(["in"], [first])
        verb = self._words.lemma(first)
        if verb == "have" and rest:
            return self._have(rest)
        if verb in {"relate", "involve", "concern"} and rest:
            return self._related(rest[1:] if rest[0] in {"to", "with"} else rest)
        if verb == "get" and len(rest) > 1 and rest[0] in self._words.participles:
            return self._complement(rest)
        if verb == "do" and len(rest) > 1 and rest[0] in {"not", "never"}:
            return self._predicate(words[1:])
        answers = self._look(self._lemmas(words))
        return answers if answers is not None else self._active(verb, rest)

    def _active(self, verb: str, rest: list[str]) -> Vector | None:
        """A verb phrase that the lexicon lacks."""
        text = " ".join(rest)
        if verb == "live" and rest and rest[0] in PREPOSITIONS:
            where = self._place(rest[:1], rest[1:])
            alive = self._lexicon["be alive"]
            return None if where is None else both(where, alive)
        if verb in {"belong", "exist", "occur", "appear", "stay", "go", "come", "stand"} and rest and rest[0] in PREPOSITIONS:
            return self._place(rest[:1], rest[1:]) if verb in {"belong", "exist", "occur", "appear", "stay"} else None
        if verb == "fit" and rest and rest[0] in {"in", "into", "inside"}:
            return self._measures.fits(" ".join(rest[1:]))
        group = re.match(r"^(?:to|among) (?:the )?(?:group |class |category |family |group of |kingdom of )?(?:of )?(?:the )?(.+?)(?: family| group| class| category)?$", text)
        if verb in {"go", "move", "run", "travel", "drive", "fly", "swim", "get"} and " than " in f" {text} ":
            return self._measures.compare(text)
        if verb == "need" and rest[:2] == ["to", "be"] and len(rest) > 2 and rest[2] in self._words.participles:
            return self._passive(rest[2:])
        if verb == "belong" and group:
            return self._complement(["a", *group[1].split()])
        if verb == "weigh":
            answers = self._measures.weighs(text)
            return self._measures.compare(text) if answers is None else answers
        if verb in {"look", "seem", "feel", "taste"} and rest:
            return self._complement(rest) if len(rest) == 1 else None
        if verb in {"contain", "use", "need", "hold"} and rest:
            return self._lexicon.get("have " + self._lemmas(rest))
        if verb == "help" and rest:
            rest = rest[1:] if rest[0] in {"people", "you", "us"} else rest
            rest = rest[1:] if rest[:1] == ["to"] else rest
            return self._lexicon.get("u " + self._lemmas(rest))
        if verb in {"start", "begin", "end", "contain", "spelled"}:
            return self._measures.letters("it " + " ".join([verb, *rest]))
        return None

    def _have(self, words: list[str]) -> Vector | None:
        """What it has."""
        if words[0] in {"not", "no", "zero"} and len(words) > 1:
            answers = self._have(words[1:])
            return None if answers is None else invert(answers)
        connected = re.match(r"^(?:something |anything |a lot |much |a |any |some )*(?:to do|connection|relation|link|relationship) (?:with|to) (.+)$", " ".join(words))
        if connected:
            return self._related(connected[1].split())
        if words[0] == "been":
            return self._predicate(words)
        key = self._lemmas(words)
        if not key:
            return None
        answers = self._look("have " + key)
        if answers is not None:
            return answers
        if words[:2] == ["to", "be"] and len(words) > 2 and words[2] in self._words.participles:
            return self._passive(words[2:])
        shorter = TRAILING_PLACE.sub("", " ".join(words))
        if shorter and shorter != " ".join(words):
            return self._have(shorter.split())
        counted = re.sub(r"^(?:the|a|its) ", "", " ".join(words))
        answers = self._measures.count(counted)
        if answers is not None:
            return answers
        coloured = re.match(r"^(?:the |a |an )?(?:colour |color )?([a-z]+)(?: colour| color| coloured| colored)?$", " ".join(words))
        if coloured and re.search("colou?r", " ".join(words)):
            return self._lexicon.get("be " + coloured[1])
        if words[0] in {"many", "several", "lots", "multiple", "various", "two", "one"} and len(words) > 1:
            return self._plainer(words[2:] if words[1] == "of" else words[1:])
        while words and words[0] in _DETERMINERS:
            words = words[1:]
        if len(words) > 1 and words[0] in _NARROWING:
            return self._plainer(words[1:])
        clause = re.match(r"^(.+?) (?:that |which |to )?(?:you |people |we )?(?:can |could )?([a-z]+)(?: on| with| in)?$", " ".join(words))
        if clause and " " in clause[0][len(clause[1]) + 1 :] and self._words.lemma(clause[2]) in self._words.verbs:
            return self._plainer(clause[1].split())
        return None

    def _plainer(self, words: list[str]) -> Vector | None:
        """It may have these, but of the kind that was asked for? Only a "no" is sure."""
        answers = self._have(words) if words else None
        return None if answers is None else narrow(answers)

    def _related(self, words: list[str]) -> Vector | None:
        answers = self._look("r " + self._lemmas(words))
        if answers is None and words and words[0] in self._words.gerunds:
            answers = self._lexicon.get("u " + self._lemmas([self._words.verb(words[0]), *words[1:]]))
        return answers

    # ---- what it is -------------------------------------------------------------------------------------------------

    def _complement(self, words: list[str]) -> Vector | None:
        """What it is: an adjective, a noun, a place, a measure, something done to it."""
        words = REGARDED.sub("", " ".join(words)).split()
        while words and words[0] in self._words.dropped - _DETERMINERS:
            words = words[1:]
        if not words:
            return None
        if words[0] in {"not", "never"}:
            answers = self._complement(words[1:])
            return None if answers is None else invert(answers)
        coloured = re.match(r"^(?:(?:of )?(?:the |a )?colou?r |the )([a-z]+)(?: colou?r| in colou?r| coloured| colored)?$|^([a-z]+)(?: in colou?r| colou?red| colou?r)$", " ".join(words))
        if coloured and "colo" in " ".join(words):
            return self._look("be " + self._lemmas([coloured[1] or coloured[2]]))
        superlative = re.match(r"^(?:(?:one of )?(?:the|among the) )?(?:big|larg|tall|heavi|small|fast|slow|strong|old|long)est (.+?)(?: (?:on earth|in the world|there is|of all|alive))?$", " ".join(words))
        if superlative:
            noun = self._complement(["a", *superlative[1].split()])
            return None if noun is None else narrow(noun)
        special = self._construction(words)
        if special is not NotImplemented:
            return special
        text = " ".join(words)
        for answers in (self._named(words), self._measures.compare(text), self._noun(words)):
            if answers is not None:
                return answers
        return None

    def _construction(self, words: list[str]) -> "Vector | None":
        """What stands after "be" and is no noun: ``able to fly``, ``used for cutting``, ``worn on the feet``, ``in space``."""
        text = " ".join(words)
        able = re.match(r"^(?:able to|likely to|supposed to|known to|going to|possible to be|expected to|allowed to) (.+)$", text)
        if able:
            return self._predicate(able[1].split())
        capable = re.match(r"^(?:capable of|good at|known for) ([a-z]+ing)\b ?(.*)$", text)
        if capable and capable[1] in self._words.gerunds and "good at" not in text:
            return self._predicate([self._words.gerunds[capable[1]], *capable[2].split()])
        possible = re.match(r"^possible (?:for (?:people|you|someone|a person) )?to (.+)$", text)
        if possible:
            return self._people(possible[1].split())
        related = re.match(
            r"^(?:(?:in (?:any|some) way|closely|strongly|directly) )?(?:related|connected|linked|associated|relevant|relating|tied) (?:to|with) (.+)$|^(?:about|involved (?:in|with)) (.+)$",
            text,
        )
        if related:
            return self._related((related[1] or related[2]).split())
        purpose = re.match(
            r"^(?:meant|designed|intended|made|built|used|useful|good|created|there|suitable|employed|needed|supposed to be used)?"
            r" ?((?:for|to) (?:be )?.+)$",
            text,
        )
        if purpose and not re.match(r"^(?:good for (?:people|you|your|the)|for sale|made to be|good to|to be)\b", text):
            return self._used(purpose[1].split())
        first = words[0]
        if first == "used" and len(words) > 1:
            return self._used(words[1:])
        if first in {"something", "anything", "someone", "somebody", "anyone"} or (
            len(words) > 1 and first in _DETERMINERS and words[1] in _DUMMIES and len(words) > 2
        ):
            start = 1 if first in _DUMMIES and first != "one" else 2
            if words[start:]:
                return self._relative(words[start:])
        if first in self._words.participles and (len(words) > 1 or self._look_quietly("p " + self._words.verb(first))):
            return self._passive(words)
        if first in PREPOSITIONS and first not in {"about", "over", "under"} and len(words) > 1:
            return self._place(words[:1], words[1:])
        if first in {"under", "over", "below"} and not re.search(r"[0-9]|\b(?:kg|metre|meter|pound|inche|feet|foot)s?\b", text):
            return self._place(words[:1], words[1:])
        return NotImplemented

    def _look_quietly(self, key: str) -> bool:
        return self._learning or key in self._lexicon

    def _passive(self, words: list[str]) -> Vector | None:
        """``worn on the feet``, ``made of metal``, ``used by children``."""
        verb, rest = self._words.participles[words[0]], words[1:]
        if verb in {"make", "compose", "build", "construct"} and rest[:1] in (["of"], ["from"], ["out"], ["up"]):
            return self._look("be make " + self._lemmas(rest)) if rest[:2] != ["up", "of"] else self._look("be make " + self._lemmas(rest[1:]))
        text = " ".join(rest)
        agent = re.search(r"(?:^| )by (?:people|humans|man|us|someone|a person|a human|most people|hand)(?= |$)", text)
        if agent and not (verb in {"make", "hold"} and "hand" in agent[0]):
            rest = (text[: agent.start()] + text[agent.end() :]).split()
        elif rest[:1] == ["by"] and len(rest) > 1:
            answers = self._look("be " + self._lemmas(words))
            return answers if answers is not None else self._look("s " + self._lemmas([*rest[1:], verb]))
        return self._people([verb, *rest])

    def _place(self, preposition: list[str], words: list[str]) -> Vector | None:
        """Where it is found. Most prepositions say the same."""
        kept = [] if preposition[0] in PREPOSITIONS[:6] else ["on"] if preposition[0] in PREPOSITIONS[6:9] else preposition
        answers = self._look("@ " + self._lemmas([*kept, *words]))
        if answers is None and words and words[0] in {"most", "many", "every", "average", "normal", "typical", "people", "everyone"}:
            rest = words[1:]
            return self._place(preposition, rest[1:] if rest[:1] == ["'s"] else rest) if rest else None
        if answers is None and preposition[0] in PREPOSITIONS[:9]:
            answers = self._lexicon.get("@ " + ("" if kept else "on ") + self._lemmas(words))
        return answers

    def _named(self, words: list[str]) -> Vector | None:
        """An entry for the whole, with or without an article; a name."""
        with_article = words[0] in _ARTICLES
        bare = words[1:] if words[0] in _DETERMINERS and len(words) > 1 else words
        key, name = self._lemmas(bare), " ".join(bare)
        if not key:
            return None
        if with_article or words[0] == "the":
            if self._learning:
                return self._look("be a " + key)
            order = (self._names.get(name), self._lexicon.get("be a " + key), self._lexicon.get("be " + key))
        else:
            if self._learning:
                return self._look("be " + key)
            order = (self._lexicon.get("be " + key), self._names.get(name), self._lexicon.get("be a " + key))
        return next((answers for answers in order if answers is not None), None)

    def _noun(self, words: list[str]) -> Vector | None:
        """A noun with adjectives before and a clause behind: ``a big animal that lives in water``."""
        text = " ".join(words)
        plainer = _KIND_OF.sub("", text)
        if plainer != text and plainer:
            return self._complement(plainer.split())
        while words and words[0] in _DETERMINERS | self._words.dropped:
            words = words[1:]
        if not words:
            return None
        for index in range(1, len(words)):
            word = words[index]
            if word in _MARKERS or word in self._words.participles or word in self._words.gerunds:
                head = self._head(words[:index])
                clause = None if head is None else self._relative(words[index:])
                if head is not None and clause is not None:
                    return both(head, clause)
        return self._premodified(words)

    def _head(self, words: list[str]) -> Vector | None:
        if words[-1] in _DUMMIES and len(words) == 1:
            return self._everything
        answers = self._named(["a", *words])
        return answers if answers is not None else self._premodified(words)

    def _premodified(self, words: list[str]) -> Vector | None:
        for size in (1, 2):
            if len(words) <= size:
                return None
            adjective = self._adjective(words[:size])
            if adjective is None:
                continue
            rest = words[size:]
            if rest[0] == ",":
                rest = rest[1:]
            if len(rest) == 1 and rest[0] in _DUMMIES:
                return adjective
            noun = self._named(["a", *rest])
            if noun is None:
                noun = self._premodified(rest)
            if noun is not None:
                return both(adjective, noun)
        return None

    def _adjective(self, words: list[str]) -> Vector | None:
        answers = self._lexicon.get("be " + self._lemmas(words))
        if answers is None and len(words) == 1 and words[0] in self._words.participles:
            answers = self._lexicon.get("p " + self._words.verb(words[0]))
        return answers

    def _relative(self, words: list[str]) -> Vector | None:
        """What follows a noun or "something"."""
        first, rest = words[0], words[1:]
        if first in {"that", "which", "who", "whom", "where", "what"}:
            if not rest:
                return None
            if first == "where" and rest[0] in IT:
                return self._people([*rest[1:], "there"])
            words, first, rest = rest, rest[0], rest[1:]
            if first == "it":
                return None
            if first not in IT and first not in _BE and not rest and self._words.lemma(first) not in self._words.verbs:
                return None
            if first in {"is", "are", "was", "were"}:
                return self._complement(rest) if rest else None
            if first in {"can", "could", "will", "would", "might", "may", "do", "does", "must", "should", "has", "have"} and rest:
                return self._predicate(rest) if first not in {"has", "have"} else self._have(rest)
            if first not in IT:
                answers = self._predicate(words)
                return answers if answers is not None else self._other(words)
        if first in IT:
            if rest[:1] and rest[0] in {"can", "could", "would", "might", "will", "may", "do", "must", "should", "usually"}:
                rest = rest[1:]
            return self._people(rest) if rest else None
        if first == "with" and rest:
            return self._have(rest)
        if first == "without" and rest:
            answers = self._have(rest)
            return None if answers is None else invert(answers)
        if first == "to" and rest:
            answers = self._people(rest)
            return answers if answers is not None else self._used(words)
        if first in self._words.gerunds and first != "building":
            return self._predicate([self._words.gerunds[first], *rest])
        answers = self._complement(words)
        return answers if answers is not None else self._other(words)

    # ---- what people do with it -------------------------------------------------------------------------------------

    def _people(self, words: list[str]) -> Vector | None:
        """What people do with it, verb first; "it" is left out."""
        text = re.sub(r"^(?:(?:ever|normally|usually|often|typically|generally|commonly|all|sometimes|actually|always|be able to|get to|easily) )+", "", " ".join(words))
        if text.startswith(("not ", "never ")):
            answers = self._people(text.split()[1:])
            return None if answers is None else invert(answers)
        said = re.match(r"^(?:call|consider|describe|classify|regard|count|categorize|see) it (?:as |to be )?(?:being )?(.+)$", text)
        if said and not text.startswith("see it"):
            return self._complement(said[1].split())
        words = re.sub(r" one(?= (?:in|on|at|with|for|to|when|as|every)\b|$)", "", text).split()
        words = [word for word in words if word not in {"it", "them", "itself"}]
        if not words:
            return None
        first, rest = self._words.lemma(words[0]), words[1:]
        if first == "use" and len(rest) > 1 and rest[0] in {"to", "for", "in", "when", "while", "as", "on", "with", "by", "during"}:
            return self._used(rest)
        if first == "make" and rest[:1] in (["of"], ["from"], ["out"]):
            return self._look("p make " + self._lemmas(rest))
        if first in FIND_VERBS and len(rest) > 1 and rest[0] in PREPOSITIONS and rest[0] not in {"by"}:
            return self._place(rest[:1], rest[1:])
        if first in FIND_VERBS | {"use"} and rest and rest[0] in {"outdoors", "indoors", "underground", "outside", "inside", "overhead"}:
            return self._place(["in"], rest)
        key = self._lemmas([first, *rest])
        answers = self._look("p " + key)
        return answers if answers is not None else self._done(first, rest, text)

    def _done(self, verb: str, rest: list[str], text: str) -> Vector | None:
        """What people do, where the lexicon lacks the whole."""
        if rest and rest[-1] in {"in", "inside", "at", "into", "to"}:
            return self._lexicon.get("p " + self._lemmas([verb, *rest[:-1], "there"]))
        if rest and rest[-1] == "there":
            return self._lexicon.get("p " + self._lemmas([verb, *rest[:-1], "in"]))
        if rest and rest[-1] == "with":
            return self._lexicon.get("u " + self._lemmas([verb, *rest[:-1]]))
        if verb in {"fit", "put", "carry", "take", "pack"} and rest and rest[0] in {"in", "into", "inside"}:
            return self._measures.fits(" ".join(rest[1:]))
        if verb in {"need", "require"} and rest:
            text = re.sub(r" to (?:use|operate|play|drive|wear|make|turn on|power)(?: it)?$", "", " ".join(rest))
            return self._predicate(["need", *text.split()])
        inside = re.match(r"^(?:find|see|have|keep) (.+) (?:in|on|inside) it$", text)
        if inside:
            return self._lexicon.get("have " + self._lemmas(inside[1].split()))
        return self._lexicon.get("be " + self._lemmas([verb, *rest])) if verb in {"spot", "stripe"} else None

    def _used(self, words: list[str]) -> Vector | None:
        """What it is for: ``to cut``, ``for cutting``, ``in the kitchen``, ``by children``."""
        first, rest = words[0], words[1:]
        if not rest:
            answers = self._look("u " + self._lemmas(words))
            return self._place(["in"], words) if answers is None and first in PREPOSITIONS else answers
        if first == "when" and rest[0] in IT and len(rest) > 1:
            rest = rest[1:]
        if first == "by" and rest[0] not in self._words.gerunds:
            if rest[0] in IT:
                return self._people(["use", *rest[1:]])
            return self._look("s " + self._lemmas([*rest, "use"]))
        verb = self._words.verb(rest[0])
        if first in {"to", "for", "in", "when", "while", "by", "during"} and (rest[0] in self._words.gerunds or first in {"to", "when"}):
            answers = self._look("u " + self._lemmas([verb, *rest[1:]]))
            if answers is None:
                answers = self._lexicon.get("p " + self._lemmas([verb, *rest[1:], "with"]))
            if answers is None and rest[-1] in {"with", "things", "something", "on"}:
                answers = self._used([first, *rest[:-1]]) if len(rest) > 1 else None
            return answers
        key = self._lemmas(rest)
        answers = self._look(f"u {key}" if first in {"for", "in"} else f"u {first} {key}")
        if answers is None and first in PREPOSITIONS:
            answers = self._place([first], rest)
        return answers


def lookups(grammar: Grammar) -> Mapping[str, Vector]:
    """The lexicon, for tests."""
    return grammar._lexicon
