"""What an answerer is, and what it can say."""

from enum import StrEnum
from typing import Protocol

from llm_envs.games.twenty_questions.knowledge import Thing

__all__ = ["Answer", "Answerer", "AnswererDownError"]


class Answer(StrEnum):
    """The answer to a question, which is also what the player reads."""

    YES = "Yes."
    NO = "No."
    UNANSWERABLE = "I can't answer that."


class AnswererDownError(RuntimeError):
    """The answerer failed, not the player: a server that is down, a reply that is none. The episode is unscorable."""


class Answerer(Protocol):
    """Answers questions about a secret thing."""

    def answer(self, secret: Thing, question: str) -> Answer:
        """Answer one question, by itself: nothing of the game so far is known.

        Raises:
            AnswererDownError: If it cannot.
        """
        ...

    def prepare(self, secret: Thing, question: str) -> None:
        """A hint that `answer` follows with the same arguments: slow answerers begin, and batch what they were told."""
        ...

    def close(self) -> None:
        """Give back what is held. It may be shared: the last user closes it."""
        ...
