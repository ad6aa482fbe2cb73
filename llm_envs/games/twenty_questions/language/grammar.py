"""From the plain words of one question to the answers for all things."""

import re
from collections.abc import Callable

import numpy as np

from llm_envs.games.twenty_questions.language.beings import Beings
from llm_envs.games.twenty_questions.language.lexicon import Vector, both, either, invert, narrow
from llm_envs.games.twenty_questions.language.rewriting import (
    ADJECTIVES,
    CONNECTED,
    DETERMINERS,
    PREPOSITIONS,
    TRAILING_PLACE,
    rewrite,
)
from llm_envs.games.twenty_questions.language.words import word_set

__all__ = ["Grammar"]

_ASKED = re.compile(
    r"^(is|are|was|were|be|does|do|did|can|could|would|will|may|might|should|must|has|have|had)( not)?"
    r" (it|people|there)(?: (.*))?$"
)
_STATED = re.compile(
    r"^(it|people)(?: (is|are|was|were|does|do|did|can|could|would|will|may|might|should|must|has|have|had))?"
    r"( not| never)?(?: (.*))?$"
)
_AUXILIARIES = word_set("does do did can could would will might should is are has have")
_BE, _HAVE = word_set("is are was were be been being"), frozenset(["has", "have", "had"])
_MODALS = word_set("can could would will might may do does should must")
_WHICH = word_set("what who where when why how which whose whom")
_MAX_CONNECTIVES = 5
_PATIENCE = 30  # readings that are tried before a question counts as not understood

# One of these "or" the other asks which, not whether.
_OPPOSITES = (
    "alive/dead", "living/dead", "living/nonliving", "big/small", "large/small", "hot/cold", "hard/soft",
    "indoors/outdoors", "inside/outside", "light/heavy", "natural/man made", "natural/artificial", "old/new",
    "old/young", "long/short", "tall/short", "wild/domestic", "wild/domesticated", "wild/tame", "male/female",
    "fast/slow", "wet/dry", "expensive/cheap", "land/water", "dangerous/safe", "living/non living",
    "animate/inanimate", "bigger/smaller", "larger/smaller", "heavier/lighter", "day/night",
    "carnivore/herbivore", "man/woman", "boy/girl",
)  # fmt: skip
_CHOICE = re.compile(
    r"\banimal , (?:a |an )?vegetable (?:, )?or (?:a )?mineral\b|\b(?:"
    + "|".join(
        f"{one} or (?:a |an |is it |the )?{other}|{other} or (?:a |an |is it |the )?{one}"
        for one, other in (pair.split("/") for pair in _OPPOSITES)
    )
    + r")\b"
)
_PERSONAL = re.compile(
    r"^(?:have|did|had|are|were|am) (?:you|i)\b(?! thinking| talking)"
    r"|^(?:do|would|can|could) (?:you|i) (?:own|have|like|know|want|love|lie|help|tell|give)"
    r"(?: it| one| this| me| us| that)?\b(?: the [a-z]+| a hint)?$"
)
# With these words a question says more than without: its "no" stands, its "yes" may not.
_NARROWER = re.compile(
    r" (?:only|always|exclusively|solely|strictly|purely|entirely|completely)(?= )| like (?:a |an )[a-z ]+$"
    r"| (?:enough|extremely|incredibly|super)(?: to [a-z ]+| for [a-z ]+)?(?= |$)"
)
_SOME_KIND = re.compile(
    r" (?:of (?:some|any|a certain) (?:kind|sort|type)|or (?:something (?:like that|similar)|similar|so))\b"
)
_WHEN_USED = re.compile(
    r" (?:when|while|if|as|before|after) (?:people |you |we |they )?(?:are |is )?(?:it is )?"
    r"(?:in use|being used|use it|using it|used|use|using|lit|burning|switched on|turned on|on)$"
)
_TO_DO_WITH = re.compile(
    r"^(?:something |anything |a lot |much |a |any |some )*(?:to do|connection|relation|link|relationship) "
    r"(?:with|to) (.+)$"
)
_HAS_COLOUR = re.compile(r"^(?:the |a |an )?(?:(?:colour|color) ([a-z]+)|([a-z]+) colou?r(?:ed)?)$")
_WHICH_CLAUSE = re.compile(
    r"^(.+?) (?:that |which |to )?(?:you |people |we )?(?:can |could )?([a-z]+)(?: on| with| in)?$"
)
_MANY = word_set("many several lots multiple various two one")
_GROUP = re.compile(
    r"^(?:to|among) (?:the )?(?:group |class |category |family |group of |kingdom of )?(?:of )?(?:the )?(.+?)"
    r"(?: family| group| class| category)?$"
)


class Grammar(Beings):
    """English yes/no questions about a thing, as they are asked in the game.

    A question is brought into one of a few plain forms, each with a key in the lexicon: ``be red``, ``be a bird``,
    ``have wing``, ``fly``, ``p eat`` (people eat it), ``u cut`` (it is used to cut), ``@ kitchen`` (it is found
    there), ``r music`` (it has to do with that), ``s child use`` (children use it). A phrase of the phrase files is
    learnt under the key that its own question would look for first, so that phrases and questions cannot be read in
    two ways. What has no entry of its own is taken apart: a noun with adjectives and clauses, measures, places, "and",
    "or", "not". What is still not understood is None: an unknown word is never a no.
    """

    def understand(self, words: tuple[str, ...]) -> Vector | None:
        """The answers to a question of plain words; None if it is not understood."""
        self._patience = _PATIENCE
        return self._understand(words)

    def _understand(self, words: tuple[str, ...]) -> Vector | None:
        text = " ".join(words)
        if words[0] in _WHICH or _CHOICE.search(text) or _PERSONAL.search(text):
            return None
        answers = self._sentence(text, _MAX_CONNECTIVES)
        if answers is not None:
            return answers
        mended = tuple(self._spelling.mend(word) for word in words)
        if mended != words:
            return self._understand(mended)
        narrower = _NARROWER.sub("", text)
        if narrower != text:
            answers = self._sentence(narrower, _MAX_CONNECTIVES)
            return None if answers is None else narrow(answers)
        plainer = _SOME_KIND.sub("", text)
        return self._sentence(plainer, _MAX_CONNECTIVES) if plainer != text else None

    def says_name(self, words: tuple[str, ...], name: str) -> bool:
        """Whether words that end with a name are about what it names: ``it is orange`` is about the colour."""
        answers = self.understand(words)
        return answers is not None and np.array_equal(answers, self._names[name])

    def _sentence(self, text: str, connectives_left: int) -> Vector | None:
        if self._patience < 0:
            return None
        plain = rewrite(text)
        answers = self._letters.answers(plain)
        if answers is None:
            answers = self._measures.age(plain)
        if answers is None:
            answers = self._clause(rewrite(text.replace(" , ", " ")) if " , " in text else plain)
        if answers is None and _WHEN_USED.search(text):
            return self._sentence(_WHEN_USED.sub("", text), connectives_left)
        if answers is None and connectives_left:
            answers = self._connected(text, connectives_left)
        return answers

    def _connected(self, text: str, connectives_left: int) -> Vector | None:
        """Joined by "and" or "or", maybe with one beginning or one end in common."""
        match = CONNECTED.match(text)
        if not match:
            return None
        left, word, right = match[1].strip(" ,"), match[2].replace(",", "").strip(), match[3].strip(" ,")
        if not word:
            if not re.search(r"\b(?:or|nor|and)\b", right) and not _ASKED.match(rewrite(right)):
                return None
            word = "or" if re.search(r"\b(?:or|nor)\b", right) else "and"
        head, tail = left.split(), right.split()
        first = self._clause(rewrite(left))
        for start in range(1, min(len(tail), 8)):
            if first is not None or self._patience < 0:
                break
            first = self._clause(rewrite(" ".join([*head, *tail[start:]])))
        if first is None:
            return None
        for stop in range(len(head) - 1, -1, -1):
            # "a long neck and hooves" says nothing of long hooves.
            if stop and (head[stop - 1] == tail[0] or head[stop - 1] in ADJECTIVES):
                continue
            second = self._sentence(" ".join([*head[:stop], *tail]), connectives_left - 1)
            if second is not None:
                return either(first, second) if word in {"or", "and or", "nor"} else both(first, second)
        return None

    def _clause(self, text: str) -> Vector | None:
        """One clause about "it", "people" or another subject."""
        if self._is_lost():
            return None
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
        if words[0] in _AUXILIARIES:
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
        readings: list[Callable[[list[str]], Vector | None]] = [self._complement, self._have, self._predicate]
        lemma = self._words.lemma(words[0])
        if lemma in self._words.verbs and (words[0] != lemma or len(words) > 1):
            readings = [self._predicate, self._complement, self._have]
        never = None
        for reading in readings:
            answers = reading(words)
            if answers is not None and answers.max() > 0:
                return answers
            # "wings" are no thing of the table, but a thing may have them.
            never = answers if never is None else never
        return self._look("s " + self._lemmas(words)) if never is None else never

    def _there(self, words: list[str]) -> Vector | None:
        """``is there metal in it``, ``are there books there``."""
        answers = self._look("have " + self._lemmas(words))
        if answers is None:
            answers = self._have(words)
        if answers is None:
            answers = self._other(["there", *words])
        return answers

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
        if not rest:
            return None
        first = rest[0]
        if verb == "live" and first in PREPOSITIONS:
            where = self._place([first], rest[1:])
            return None if where is None else both(where, self._lexicon["be alive"])
        if verb in {"belong", "exist", "occur", "appear", "stay"} and first in PREPOSITIONS:
            return self._place([first], rest[1:])
        if verb == "fit" and first in {"in", "into", "inside"}:
            return self._measures.fits(" ".join(rest[1:]))
        if verb in {"go", "move", "run", "travel", "drive", "fly", "swim", "get"} and " than " in text:
            return self._measures.compare(text)
        if verb == "need" and rest[:2] == ["to", "be"] and len(rest) > 2 and rest[2] in self._words.participles:
            return self._passive(rest[2:])
        group = _GROUP.match(text)
        if verb == "belong" and group:
            return self._complement(["a", *group[1].split()])
        if verb == "weigh":
            answers = self._measures.weighs(text)
            return self._measures.compare(text) if answers is None else answers
        return self._as_another(verb, rest)

    def _as_another(self, verb: str, rest: list[str]) -> Vector | None:
        """A verb that says what another form says: ``contains``, ``looks``, ``helps people cut``."""
        if verb in {"look", "seem", "feel"}:
            return self._complement(rest) if len(rest) == 1 else None
        if verb in {"contain", "use", "hold"}:
            return self._lexicon.get("have " + self._lemmas(rest))
        if verb == "help":
            rest = rest[1:] if rest[0] in {"people", "you", "us"} else rest
            rest = rest[1:] if rest[:1] == ["to"] else rest
            return self._lexicon.get("u " + self._lemmas(rest))
        return self._letters.answers(" ".join(["it", verb, *rest])) if verb in {"start", "begin", "end"} else None

    def _have(self, words: list[str]) -> Vector | None:
        """What it has."""
        text = " ".join(words)
        if words[0] in {"not", "no", "zero"} and len(words) > 1:
            answers = self._have(words[1:])
            return None if answers is None else invert(answers)
        connected = _TO_DO_WITH.match(text)
        if connected:
            return self._related(connected[1].split())
        if words[0] == "been":
            return self._predicate(words)
        key = self._lemmas(words)
        answers = self._look("have " + key) if key else None
        if answers is not None or not key:
            return answers
        if words[:2] == ["to", "be"] and len(words) > 2 and words[2] in self._words.participles:
            return self._passive(words[2:])
        shorter = TRAILING_PLACE.sub("", text)
        if shorter and shorter != text:
            return self._have(shorter.split())
        answers = self._measures.count(re.sub(r"^(?:the|a|its) ", "", text))
        coloured = _HAS_COLOUR.match(text)
        if answers is None and coloured:
            answers = self._lexicon.get("be " + (coloured[1] or coloured[2]))
        return self._have_plainer(words) if answers is None else answers

    def _have_plainer(self, words: list[str]) -> Vector | None:
        """It may have these, but so many, or of the kind that was asked for? Only a "no" is sure."""
        plainer: list[str] = []
        if words[0] in _MANY and len(words) > 1:
            plainer = words[2:] if words[1] == "of" else words[1:]
        while words and words[0] in DETERMINERS:
            words = words[1:]
        text = " ".join(words)
        clause = _WHICH_CLAUSE.match(text)
        if not plainer and len(words) > 1 and words[0] in ADJECTIVES:
            plainer = words[1:]
        elif not plainer and clause and " " in text[len(clause[1]) + 1 :]:
            plainer = clause[1].split() if self._words.lemma(clause[2]) in self._words.verbs else []
        answers = self._have(plainer) if plainer else None
        return None if answers is None else narrow(answers)
