"""Understanding yes/no questions about the things of Twenty Questions."""

import re
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from llm_envs.games.twenty_questions.grammar import Grammar
from llm_envs.games.twenty_questions.knowledge import Knowledge, Thing
from llm_envs.games.twenty_questions.wording import WINDOW, questions, tokens

__all__ = ["Understanding"]

_GUESS = re.compile(
    r"^(?:(?:is|are|was|could|might|would|can|must) (?:it|they|that|this|he|she|the (?:answer|thing|object|item|secret|word))(?: be| is)? "
    r"|(?:it|this|that|they|the (?:answer|thing|object|item|secret|word)|my (?:final )?(?:guess|answer)|the answer) (?:is|are|must be|has to be|could be|might be) "
    r"|(?:my |final |the |i )*(?:guess|answer) (?:is |: |that it is )?|are you thinking of )?"
    r"(?:it is )?(?:maybe |perhaps |probably |possibly |simply |just )?(?:called )?((?:an?|the|some|your) )?([a-z ']+)$"
)


class Understanding:
    """Reads English yes/no questions, and answers them for all things at once."""

    def __init__(self, knowledge: Knowledge) -> None:
        self._knowledge = knowledge
        self._grammar = Grammar(knowledge)
        self._unanswerable = np.full(len(knowledge.things), -1, dtype=np.int8)
        self._unanswerable.flags.writeable = False
        self._rows = {" ".join(tokens(name)): row for name, row in knowledge.row_of.items()}
        self._cached_answers = lru_cache(maxsize=20_000)(self._answers)
        self._cached_guess = lru_cache(maxsize=20_000)(self._guess)

    def answers(self, question: str) -> NDArray[np.int8]:
        """Shape (things,), read-only: 1 yes, 0 no, -1 unanswerable."""
        # Only the end is looked at; one character more says that there was a beginning.
        return self._cached_answers(question if len(question) <= WINDOW else question[-WINDOW - 1 :])

    def guess(self, text: str) -> Thing | None:
        """The single thing that a text names as a guess."""
        return self._cached_guess(text if len(text) <= WINDOW else text[-WINDOW - 1 :])

    def _answers(self, text: str) -> NDArray[np.int8]:
        found = questions(text)
        whole = self._unanswerable
        for index, words in enumerate(found):
            one = self._grammar.understand(words)
            if one is None:
                return self._unanswerable
            whole = one if not index else np.where(whole == one, whole, -1).astype(np.int8)
        if whole.flags.writeable:
            whole = whole.copy()
            whole.flags.writeable = False
        return whole

    def _guess(self, text: str) -> Thing | None:
        found = questions(text)
        if len(found) != 1:
            return None
        match = _GUESS.match(" ".join(found[0]))
        if not match:
            return None
        row = self._rows.get(match[2])
        return None if row is None else self._knowledge.things[row]
