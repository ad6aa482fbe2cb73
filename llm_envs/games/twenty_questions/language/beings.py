"""What a thing is: adjectives, nouns with what stands before and behind them, and other words after "is"."""

import re

import numpy as np

from llm_envs.games.twenty_questions.language.doings import Doings
from llm_envs.games.twenty_questions.language.lexicon import Vector, both, invert, narrow
from llm_envs.games.twenty_questions.language.rewriting import (
    ADJECTIVES,
    DETERMINERS,
    DUMMIES,
    IT,
    PREPOSITIONS,
    REGARDED,
)
from llm_envs.games.twenty_questions.language.words import word_set

__all__ = ["Beings"]

_LONGEST_NOUN = 6  # words, with its adjectives
_ARTICLES = frozenset(["a", "an"])
_KIND_OF = re.compile(
    r"^(?:(?:a|an|the|one|some|any|of) )*(?:(?:certain|specific|particular|common) )?"
    r"(?:kind|type|sort|form|variety|piece|species|category|example|item|breed|member)s?"
    r" of (?:the )?(?:a |an |the )?(?=[a-z])"
)
_COLOURED = re.compile(
    r"^(?:of )?(?:the |a )?colou?r ([a-z]+)$|^(?:the |of the |a )?([a-z]+)(?: in colou?r| colou?red| colou?r)$"
)
_SUPERLATIVE = re.compile(
    r"^(?:(?:one of )?(?:the|among the) )?(bigg|larg|tall|heavi|small|fast|slow|strong|old|long)est (.+?)"
    r"(?: (?:on earth|in the world|there is|of all|alive))?$"
)
_ABLE = re.compile(
    r"^(?:able to|likely to|supposed to|known to|going to|possible to be|expected to|allowed "
    r"to) (.+)$"
)
_CAPABLE = re.compile(r"^(?:capable of|known for) ([a-z]+ing)\b ?(.*)$")
_POSSIBLE = re.compile(r"^possible (?:for (?:people|you|someone|a person) )?to (.+)$")
_RELATED = re.compile(
    r"^(?:(?:in (?:any|some) way|closely|strongly|directly) )?"
    r"(?:related|connected|linked|associated|relevant|relating|tied) (?:to|with) (.+)$"
    r"|^(?:about(?! the (?:same )?size| as )|involved (?:in|with)) (.+)$"
)
_PURPOSE = re.compile(
    r"^(?:meant|designed|intended|made|built|used|useful|good|created|there|suitable|employed|needed"
    r"|supposed to be used)?"
    r" ?((?:for|to) (?:be )?.+)$"
)
_NO_PURPOSE = re.compile(r"^(?:good for (?:people|you|your|the)|for sale|made to be|good to|to be)\b")
_AMOUNT = re.compile(r"[0-9]|\b(?:kg|metre|meter|pound|inche|feet|foot)s?\b")
_ONGOING = word_set("growing living hanging swimming flying moving")
_MARKERS = word_set(
    "that which who with without in on at from made used for you people we i found kept living under near "
    "usually often to "
    "whose where outside inside"
)
_MODALS = word_set("can could will would might may do does must should")
_PEOPLE_MODALS = word_set("can could would might will may do must should usually")
# Substances stand before a noun as adjectives do; other nouns there make another thing: a water bottle is no water.
_MATERIALS = word_set("metal wood plastic glass paper leather rubber stone clay gold orange toy electronic")
_MASSES = word_set(
    "water food fruit plant seafood furniture clothing jewellery money meat dairy weather art cutlery kitchenware "
    "stationery footwear "
    "headwear fish animal house light drink office kitchen bathroom bedroom air"
)


class Beings(Doings):
    """Readings of what follows "is". A part of `Grammar`."""

    def _complement(self, words: list[str]) -> Vector | None:
        """What it is: an adjective, a noun, a place, a measure, something done to it."""
        words = REGARDED.sub("", " ".join(words)).split()
        if self._is_lost():
            return None
        while words and words[0] in self._words.dropped - DETERMINERS:
            words = words[1:]
        if not words:
            return None
        if words[0] in {"not", "never"}:
            answers = self._complement(words[1:])
            return None if answers is None else invert(answers)
        text = " ".join(words)
        coloured = _COLOURED.match(text)
        if coloured:
            return self._look("be " + self._lemmas([coloured[1] or coloured[2]]))
        superlative = _SUPERLATIVE.match(text)
        if superlative:
            return self._superlative(*superlative.groups())
        if len(words) > 1 and not self._learning and text in self._names:
            return self._named(words)
        construction = self._construction(words)
        answers = construction[0] if construction else self._named(words)
        if answers is None and not construction:
            answers = self._measures.compare(text)
            return self._noun(words) if answers is None else answers
        return answers

    def _superlative(self, most: str, noun: str) -> Vector | None:
        """``one of the biggest animals``: yes only for the very big."""
        answers = self._complement(["a", *noun.split()])
        if answers is None:
            return None
        if most not in {"bigg", "larg"}:
            return narrow(answers)
        big = both(answers, self._lexicon["be big"])
        return np.where(both(big, self._lexicon["be huge"]) == 1, 1, narrow(big)).astype(np.int8)

    def _construction(self, words: list[str]) -> tuple[Vector | None] | None:
        """What stands after "be" and is no noun; None if it is none of these, else what it says, if that is known.

        ``able to fly``, ``used for cutting``, ``connected with music``.
        """
        text = " ".join(words)
        able = _ABLE.match(text)
        if able:
            return (self._predicate(able[1].split()),)
        capable = _CAPABLE.match(text)
        if capable and capable[1] in self._words.gerunds:
            return (self._predicate([self._words.gerunds[capable[1]], *capable[2].split()]),)
        possible = _POSSIBLE.match(text)
        if possible:
            return (self._people(possible[1].split()),)
        related = _RELATED.match(text)
        if related:
            return (self._related((related[1] or related[2]).split()),)
        purpose = _PURPOSE.match(text)
        if purpose and not _NO_PURPOSE.match(text):
            return (self._used(purpose[1].split()),)
        return self._by_first_word(words)

    def _by_first_word(self, words: list[str]) -> tuple[Vector | None] | None:
        """``worn on the feet``, ``something that flies``, ``in space``; as in `_construction`."""
        first, rest = words[0], words[1:]
        if not rest:
            is_done = first in self._words.participles and (
                self._learning or "p " + self._words.verb(first) in self._lexicon
            )
            return (self._passive(words),) if is_done else None
        if first == "used":
            return (self._used(rest),)
        is_dummy = first in DUMMIES and first.startswith(("some", "any"))
        if is_dummy or (first in DETERMINERS and rest[0] in DUMMIES and len(rest) > 1):
            return (self._relative(rest if is_dummy else rest[1:]),)
        if first in _ONGOING:
            return (self._predicate([self._words.gerunds[first], *rest]),)
        if first in self._words.participles:
            return (self._passive(words),)
        if first in {"with", "without"}:
            return (self._relative(words),)
        is_measure = first == "about" or (first in {"under", "over", "below"} and _AMOUNT.search(" ".join(rest)))
        return (self._place([first], rest),) if first in PREPOSITIONS and not is_measure else None

    def _named(self, words: list[str]) -> Vector | None:
        """An entry for the whole, with or without an article; a name."""
        bare = words[1:] if words[0] in DETERMINERS and len(words) > 1 else words
        key, name = self._lemmas(bare), " ".join(bare)
        if not key:
            return None
        # "an orange" is a fruit, "orange" a colour; but "irons" are no metal.
        is_noun = words[0] in _ARTICLES or words[0] == "the" or (name in self._names and name != key)
        if self._learning:
            return self._look(f"be a {key}" if is_noun else f"be {key}")
        noun = self._names.get(name)
        if noun is None:
            noun = self._lexicon.get(f"be a {key}")
        adjective = self._lexicon.get(f"be {key}")
        if is_noun and key in ADJECTIVES - _MATERIALS:
            return noun  # "a red" is no thing yet
        first, second = (noun, adjective) if is_noun else (adjective, noun)
        return second if first is None else first

    def _noun(self, words: list[str]) -> Vector | None:
        """A noun with adjectives before and a clause behind: ``a big animal that lives in water``."""
        text = " ".join(words)
        plainer = _KIND_OF.sub("", text)
        if plainer != text and plainer:
            return self._complement(plainer.split())
        while words and words[0] in DETERMINERS | self._words.dropped:
            words = words[1:]
        if not words:
            return None
        for index in range(1, min(len(words), _LONGEST_NOUN + 1)):
            word = words[index]
            if word in _MARKERS or word in self._words.participles or word in self._words.gerunds:
                head = self._head(words[:index])
                clause = None if head is None else self._relative(words[index:])
                if head is not None and clause is not None:
                    return both(head, clause)
        return self._premodified(words)

    def _head(self, words: list[str]) -> Vector | None:
        if words[-1] in DUMMIES and len(words) == 1:
            return self._everything
        answers = self._named(["a", *words])
        return answers if answers is not None else self._premodified(words)

    def _premodified(self, words: list[str]) -> Vector | None:
        """Adjectives and a noun: ``small furry animal``."""
        if len(words) > _LONGEST_NOUN:
            return None
        for size in (1, 2):
            if len(words) <= size:
                return None
            adjective = self._adjective(words[:size])
            if adjective is None:
                continue
            rest = words[size:]
            if rest[0] == ",":
                rest = rest[1:]
            if len(rest) == 1 and rest[0] in DUMMIES:
                return adjective
            noun = self._named(["a", *rest])
            if noun is None:
                noun = self._premodified(rest)
            if noun is not None:
                return both(adjective, noun)
        return None

    def _adjective(self, words: list[str]) -> Vector | None:
        key = self._lemmas(words)
        if key in _MASSES or (key in self._names and key not in _MATERIALS):
            return None
        answers = self._lexicon.get("be " + key)
        if answers is None and len(words) == 1 and words[0] in self._words.participles:
            answers = self._lexicon.get("p " + self._words.verb(words[0]))
        return answers

    def _relative(self, words: list[str]) -> Vector | None:
        """What follows a noun or "something"."""
        first, rest = words[0], words[1:]
        if not rest:
            return self._complement(words)
        if first in {"that", "which", "who", "whom", "where", "what"}:
            return self._relative_clause(first, rest)
        if first in IT:
            rest = rest[1:] if rest[0] in _PEOPLE_MODALS else rest
            return self._people(rest) if rest else None
        if first == "with":
            return self._have(rest)
        if first == "without":
            answers = self._have(rest)
            return None if answers is None else invert(answers)
        if first == "to":
            answers = self._people(rest)
            return answers if answers is not None else self._used(words)
        if first in self._words.gerunds and first != "building":
            return self._predicate([self._words.gerunds[first], *rest])
        answers = self._complement(words)
        return answers if answers is not None else self._other(words)

    def _relative_clause(self, pronoun: str, words: list[str]) -> Vector | None:
        """What follows ``that``, ``which``, ``who`` or ``where``."""
        first, rest = words[0], words[1:]
        if first == "it":
            return None
        if first in IT:
            return self._people([*rest, "there"]) if pronoun == "where" else self._relative(words) if rest else None
        if pronoun == "where":
            return self._other([*words, "there"])
        if first in {"is", "are", "was", "were"}:
            return self._complement(rest) if rest else None
        if first in {"has", "have"} and rest:
            return self._have(rest)
        if first in _MODALS and rest:
            return self._predicate(rest)
        if not rest and self._words.lemma(first) not in self._words.verbs:
            return None
        answers = self._predicate(words)
        return answers if answers is not None else self._other(words)
