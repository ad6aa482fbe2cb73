"""Understanding yes/no questions about the things of Twenty Questions."""

import re
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from llm_envs.games.twenty_questions.grammar import Grammar
from llm_envs.games.twenty_questions.knowledge import Knowledge, Thing
from llm_envs.games.twenty_questions.wording import WINDOW, questions, tokens

__all__ = ["Understanding"]

_CACHED = 20_000
_IT = "it|they|that|this|he|she|the (?:answer|thing|object|item|secret|word)"
_GUESS = re.compile(
    rf"^(?P<asked>(?:is|are|was|could|might|would|can|must) (?:{_IT})(?: be| is)? )?"
    rf"(?:(?:{_IT}|my (?:final )?(?:guess|answer)) (?:is|are|must be|has to be|could be|might be|would be) "
    r"|(?:my |final |the |i )*(?:guess|answer) (?:is |: |that it is )?|are you thinking of )?"
    r"(?:it is )?(?:maybe |perhaps |probably |possibly |simply |just )?(?:called )?(?:(?P<article>an?|the"
    r"|some|your) )?(?P<name>[a-z ']+)$"
)


class Understanding:
    """Reads English yes/no questions, and answers them for all things at once.

    - Of a text the last 400 characters count; of those the sentences with a question mark, or else the last. Two
      questions with different answers are unanswerable; so is what is no yes/no question, and whatever holds an unknown
      word, unless it is a slip in a long word.
    - ``isn't it alive`` and ``it isn't alive, is it`` ask whether it is alive; ``is it not alive`` and ``it isn't
      alive, right`` are read literally. "or" says yes when either holds, "and" when both do; opposites (``big or
      small``) ask which, not whether, and are unanswerable.
    - What is vague for a thing is unanswerable for it alone: whether gloves are an accessory, whether a car has a
      switch. What says more than the table knows (``only``, ``made of steel``) is unanswerable where the table says
      yes, and no elsewhere.
    - Bigger and smaller compare `Thing.bulk_m`, longer and shorter `Thing.size_m`, heavier and lighter
      `Thing.weight_kg`; a person is 1.7 m and 70 kg.
    - A name is its thing, and all of the kind of the same name (a football is a ball). ``an orange`` is the fruit,
      ``orange`` the colour.

    Rates. Of the 300 questions in the tests, written before any of this, 293 are rightly answered, none is answered yes
    for no or no for yes, 1 is answered that has no answer, and 6 are called unanswerable that are not; of the half that
    was held out while this was made, 119 of 150 were right at first and 129 just before it was looked at. When first
    tried, 28 of 40 more questions in plain words were right, and 12 of 60 that are far from the phrase files (``would
    you be locked out without it``); all others of these were called unanswerable.

    Args:
        knowledge: The table. What its plain questions ask is read off its matrix.
    """

    def __init__(self, knowledge: Knowledge) -> None:
        self._knowledge = knowledge
        self._plain = {
            tuple(tokens(question)[:-1]): _read_only(knowledge.matrix[:, column].astype(np.int8))
            for column, question in enumerate(knowledge.attributes.values())
        }
        self._unanswerable = _read_only(np.full(len(knowledge.things), -1, dtype=np.int8))
        self._rows = {" ".join(tokens(name)): row for name, row in knowledge.row_of.items()}
        self._cached_answers = lru_cache(maxsize=_CACHED)(self._answers)
        self._cached_guess = lru_cache(maxsize=_CACHED)(self._guess)

    def answers(self, question: str) -> NDArray[np.int8]:
        """Shape (things,), read-only: 1 yes, 0 no, -1 unanswerable."""
        # Only the end is looked at; one character more says that there was a beginning.
        return self._cached_answers(question if len(question) <= WINDOW else question[-WINDOW - 1 :])

    def guess(self, text: str) -> Thing | None:
        """The single thing that a text names as a guess; None for whatever says more, less or something else."""
        return self._cached_guess(text if len(text) <= WINDOW else text[-WINDOW - 1 :])

    @cached_property
    def _grammar(self) -> Grammar:
        # It takes most of a second to learn, and plain questions can do without.
        return Grammar(self._knowledge)

    def _answers(self, text: str) -> NDArray[np.int8]:
        whole = None
        for words in questions(text):
            one = self._plain.get(words)
            if one is None:
                one = self._grammar.understand(words)
            if one is None:
                return self._unanswerable
            whole = one if whole is None else np.where(whole == one, whole, -1).astype(np.int8)
        return self._unanswerable if whole is None else _read_only(whole)

    def _guess(self, text: str) -> Thing | None:
        found = questions(text)
        match = _GUESS.match(" ".join(found[0])) if len(found) == 1 else None
        row = self._rows.get(match["name"]) if match else None
        if match is None or row is None:
            return None
        thing = self._knowledge.things[row]
        is_mass = thing.phrase == thing.name
        if match["asked"] and not match["article"] and not is_mass and self._grammar.is_adjective(match["name"]):
            return None  # "is it orange" is about the colour
        if match["name"] == match[0] != thing.name and self._grammar.is_verb(thing.name):
            return None  # "flies" is about wings
        return thing


def _read_only(answers: NDArray[np.int8]) -> NDArray[np.int8]:
    if answers.flags.writeable:
        answers = answers.copy()
        answers.flags.writeable = False
    return answers
