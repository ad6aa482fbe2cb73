"""The lexicon of a grammar, and how it is learnt from the phrase files."""

import re
from abc import ABC, abstractmethod

import numpy as np

from llm_envs.games.twenty_questions.knowledge import Knowledge
from llm_envs.games.twenty_questions.language.letters import Letters
from llm_envs.games.twenty_questions.language.lexicon import FILES, Meanings, Vector, phrases, vector
from llm_envs.games.twenty_questions.language.measures import Measures
from llm_envs.games.twenty_questions.language.rewriting import rewrite
from llm_envs.games.twenty_questions.language.spelling import Spelling
from llm_envs.games.twenty_questions.language.wording import load_lemmas, tokens
from llm_envs.games.twenty_questions.language.words import word_set

__all__ = ["Reader", "clause_of"]

_PRONOUNS = frozenset([",", "you", "they", "we", "i", "me", "us"])
_ASKING = word_set("does do did should are is has was can could would might have")
# Phrases that begin like questions and are some: the others, like "has wings", are said of the thing.
_IS_QUESTION = re.compile(
    r"^(?:are|does|do|did|have) |^(?:is|was|has|could|can|would|might) (?:it|there|its)\b|^is the [a-z]+ [a-z]+"
    r"|^(?:would|could|can|might|should) (?:a|an|one|most|many|some|someone|things|children|cavemen) "
)


_NEGATED = re.compile(r"^(?:it|people) (?:[a-z]+ )?(?:not|never|no) ")


def clause_of(phrase: str) -> str:
    """The sentence that a phrase stands for."""
    text = " ".join(word for word in tokens(phrase) if word != ",")
    first = text.split(" ", 1)[0]
    is_sentence = first == "people" or (first in _ASKING and _IS_QUESTION.search(text))
    return text if is_sentence else f"it {text}"


class FirstLookError(Exception):
    """Ends the reading of a phrase that is being learnt: its key is found."""


class Reader(ABC):
    """Holds what the readings look things up in. A part of `Grammar`, which says what the keys are.

    Args:
        knowledge: The table.

    Raises:
        ValueError: If the phrase files are at odds with themselves or with the table.
    """

    def __init__(self, knowledge: Knowledge) -> None:
        self._words = load_lemmas()
        self._measures = Measures(knowledge)
        self._letters = Letters(thing.name for thing in knowledge.things)
        self._everything = np.ones(len(knowledge.things), dtype=np.int8)
        self._lexicon: dict[str, Vector] = {}
        self._names: dict[str, Vector] = {}
        self._learning = False
        self._patience = 0
        meanings = Meanings(knowledge)
        self._objects = meanings("object")
        self._learn_phrases(meanings)
        self._learn_names(knowledge)
        self._known_words = frozenset(word for key in self._lexicon for word in key.split())
        self._spelling = Spelling(word for phrase in (*self._lexicon, *self._names) for word in phrase.split())

    def key_of(self, phrase: str) -> str:
        """The key that a phrase is learnt under: the first that its question looks for.

        Raises:
            ValueError: If the phrase has no key.
        """
        clause = clause_of(phrase)
        if _NEGATED.search(clause):
            raise ValueError(f"the phrase {phrase!r} is negated: say it of the opposite")
        self._learning = True
        try:
            self._clause(rewrite(clause))
        except FirstLookError as found:
            return str(found)
        finally:
            self._learning = False
        raise ValueError(f"the phrase {phrase!r} has no key")

    def _learn_phrases(self, meanings: Meanings) -> None:
        learnt_from: dict[str, str] = {}
        for file in FILES:
            for meaning, phrase in phrases(file):
                key = self.key_of(phrase.removeprefix("?"))
                learnt = meanings.of_phrase(meaning, phrase, key)
                origin = learnt_from.setdefault(key, f"{phrase!r} of {meaning!r}")
                if not np.array_equal(self._lexicon.setdefault(key, learnt), learnt):
                    raise ValueError(f"{phrase!r} of {meaning!r} and {origin} have the same key {key!r}")

    def _learn_names(self, knowledge: Knowledge) -> None:
        """A name stands for its thing, or for all of the kind that has the same name: a football is a ball, too."""
        rows = np.arange(len(knowledge.things))
        for row, thing in enumerate(knowledge.things):
            for name in thing.names:
                words = tokens(name)
                kind = self._lexicon.get(f"be a {self._lemmas(words)}")
                is_of_kind = kind is not None and kind[row] == 1
                self._names[" ".join(words)] = kind if kind is not None and is_of_kind else vector(rows == row)

    def _look(self, key: str) -> Vector | None:
        if self._learning:
            raise FirstLookError(key)
        return self._lexicon.get(key)

    def _is_lost(self) -> bool:
        """Whether too many readings were tried; counts one more. It bounds the time that nonsense takes."""
        self._patience -= 1
        return self._patience < 0 and not self._learning

    def _lemmas(self, words: list[str]) -> str:
        """The words of a key."""
        drop, lemma = self._words.dropped, self._words.lemma
        return " ".join(lemma(word) for word in words if word not in drop and word not in _PRONOUNS)

    @abstractmethod
    def _clause(self, text: str) -> Vector | None:
        """One clause about "it", "people" or another subject."""

    @abstractmethod
    def _predicate(self, words: list[str]) -> Vector | None:
        """What "it" is or does, verb first."""

    @abstractmethod
    def _complement(self, words: list[str]) -> Vector | None:
        """What it is."""

    @abstractmethod
    def _other(self, words: list[str]) -> Vector | None:
        """Another subject than the thing or people."""

    @abstractmethod
    def _have(self, words: list[str]) -> Vector | None:
        """What it has."""
