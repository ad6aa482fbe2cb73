"""Understanding yes/no questions about the things of Twenty Questions."""

import re
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from llm_envs.games.twenty_questions.knowledge import Knowledge, Thing
from llm_envs.games.twenty_questions.language.grammar import Grammar
from llm_envs.games.twenty_questions.language.wording import WINDOW, questions, tokens

__all__ = ["Understanding"]

_CACHED = 20_000
_IT = "it|they|that|this|he|she|the (?:answer|thing|object|item|secret|word)"
_GUESS = re.compile(
    rf"^(?:(?:is|are|was) (?:{_IT}) (?:is )?|(?:could|might|would|can|must) (?:{_IT}) be )?"
    rf"(?:(?P<named>(?:my |final |the |i )*(?:guess|answer) (?:is |: |that )?|are you thinking of )"
    rf"|(?:{_IT}) (?:is|are|must be|has to be|could be|might be|would be) )?"
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
    for no or no for yes, 1 is answered that has no answer, and 6 are called unanswerable that are not. That is after
    learning from them: of the half that was held out, 119 of 150 were right at first and 129 just before it was looked
    at. Wording that nobody had thought of was right in 70 to 86 of 100 questions in plain words, and in 12 of 60 that
    are far from the phrase files (``would you be locked out without it``); the rest was called unanswerable. Of 80
    questions in four games that somebody else played, 9 were, and 1 was answered wrongly.

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
        """The single thing that a text names as a guess; None for whatever says more, less or something else.

        An article, ``guess``, or the thing's usual name alone make a guess of it. Else words that can also be read as
        another question are that question: ``can it swing``, ``it is orange``, ``underground``.
        """
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
        if len(found) != 1 or found[0] in self._plain:
            return None
        match = _GUESS.match(" ".join(found[0]))
        row = self._rows.get(match["name"]) if match else None
        if match is None or row is None:
            return None
        thing, name = self._knowledge.things[row], match["name"]
        is_plain = match["named"] or match["article"] or name == thing.phrase or match[0] == thing.name
        return thing if is_plain or self._grammar.says_name(found[0], name) else None


def _read_only(answers: NDArray[np.int8]) -> NDArray[np.int8]:
    if answers.flags.writeable:
        answers = answers.copy()
        answers.flags.writeable = False
    return answers
