"""Twenty Questions: find a hidden thing by asking questions that are answered yes or no.

`TwentyQuestionsEnv` is imported when it is first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm_envs.games.twenty_questions.env import TwentyQuestionsEnv

__all__ = ["TwentyQuestionsEnv"]


def __getattr__(name: str) -> Any:
    if name != "TwentyQuestionsEnv":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from llm_envs.games.twenty_questions.env import TwentyQuestionsEnv

    return TwentyQuestionsEnv
