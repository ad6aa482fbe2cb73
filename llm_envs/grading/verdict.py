"""What a judgement can be."""

from enum import StrEnum

__all__ = ["Verdict"]


class Verdict(StrEnum):
    """The closed vocabulary of ``info["verdict"]``."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSED = "unparsed"
    """No answer could be read from the action."""
    ILLEGAL = "illegal"
    """The action was read, but the rules of the game forbid it."""
    TIMEOUT = "timeout"
    """The action's program or formula took too long."""
    UNSCORABLE = "unscorable"
    """We failed, not the player: a broken gold answer, a grader or sandbox that is down. Leave the episode out."""
