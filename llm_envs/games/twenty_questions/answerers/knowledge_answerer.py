"""The answerer that looks things up in the table: quick, deterministic, without a model."""

from functools import cache

from llm_envs.games.twenty_questions.answerers.answers import Answer
from llm_envs.games.twenty_questions.knowledge import Thing, load_knowledge
from llm_envs.games.twenty_questions.language.understanding import Understanding

__all__ = ["KnowledgeAnswerer", "load_understanding", "read_guess"]

_ANSWERS = {1: Answer.YES, 0: Answer.NO, -1: Answer.UNANSWERABLE}


@cache
def load_understanding() -> Understanding:
    """What reads questions over the table that comes with the package; one for all environments of a process."""
    return Understanding(load_knowledge())


def read_guess(text: str) -> Thing | None:
    """The single thing that a text names as a guess, in the table of the package."""
    return load_understanding().guess(text)


class KnowledgeAnswerer:
    """Answers from the table of the package, as `Understanding` reads the question."""

    def answer(self, secret: Thing, question: str) -> Answer:
        """Answer one question. Never raises `AnswererDownError`."""
        return _ANSWERS[int(load_understanding().answers(question)[load_knowledge().row_of[secret.name]])]

    def prepare(self, secret: Thing, question: str) -> None:
        """Nothing is slow here."""

    def close(self) -> None:
        """Nothing is held."""
