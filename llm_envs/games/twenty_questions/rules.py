"""The rules of Twenty Questions, and what the environment and a player of few words say."""

from llm_envs.games.twenty_questions.knowledge import Thing

__all__ = ["MAX_QUESTIONS", "found", "guess_of", "opening", "reward_at", "used_up"]

MAX_QUESTIONS = 20
_BRACKETS = ((5, 10.0), (10, 7.0), (15, 4.0), (MAX_QUESTIONS, 1.0))


def reward_at(turn: int) -> float:
    """What the right guess earns as the ``turn``-th question, counted from 1."""
    return next((reward for last_turn, reward in _BRACKETS if turn <= last_turn), 0.0)


def opening(max_questions: int) -> str:
    """The first text of an episode."""
    questions = "1 question" if max_questions == 1 else f"{max_questions} questions"
    return f"I am thinking of a thing. You have {questions} that I answer with yes or no. Name the thing to win."


def found(thing: Thing) -> str:
    """The last text of an episode that was won."""
    return f"Correct! It is {thing.phrase}."


def used_up(thing: Thing) -> str:
    """The last text of an episode that was lost."""
    return f"No questions left. It was {thing.phrase}."


def guess_of(thing: Thing) -> str:
    """A plain guess."""
    return f"Is it {thing.phrase}?"
