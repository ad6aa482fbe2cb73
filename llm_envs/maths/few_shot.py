r"""A worked example that shows the answer's format."""

__all__ = ["EXAMPLE_ANSWER", "EXAMPLE_QUESTION"]

EXAMPLE_QUESTION = 'How many times does the letter "r" occur in "strawberry"?'
EXAMPLE_ANSWER = (
    "I spell the word and count: s, t, r (1), a, w, b, e, r (2), r (3), y. The letter occurs three times.\n\n\\boxed{3}"
)
