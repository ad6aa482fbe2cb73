"""What a player of the coding environments reads."""

import json
from collections.abc import Sequence

from llm_envs.coding.judge import CaseOutcome, Judgement
from llm_envs.coding.problems import CallTest, CheckTest, Problem, StdinTest, Test

__all__ = ["opening", "public_report"]

_BLOCK = """one fenced block, like this:

```python
# your program
```

Only the last fenced block of your answer counts. Of modules there is Python's standard library."""
_SHOWN_CHARACTERS = 1000


def opening(problem: Problem, *, trial: bool) -> str:
    """The statement, what the program must look like, and how to answer.

    Args:
        problem: The task.
        trial: Whether the first answer is tried on the public tests.
    """
    parts = [problem.text.strip(), f"{_form(problem)} Think step by step, then put the whole program into {_BLOCK}"]
    if trial:
        parts.append("Your first answer is run on the public tests and you see the results. Your second one counts.")
    return "\n\n".join(parts)


def _form(problem: Problem) -> str:
    if problem.starter_code.strip():
        return f"Complete this code and keep its signatures:\n\n{problem.starter_code.rstrip()}\n\n"
    call = next((test for test in problem.tests if isinstance(test, CallTest)), None)
    if call is not None:
        arguments = f"{len(call.args)} argument{'' if len(call.args) == 1 else 's'}"
        return f"Write a Python function `{call.name}` that takes {arguments} and returns the result."
    if any(isinstance(test, CheckTest) for test in problem.tests):
        return "Write the function in Python."
    return "Write a Python program that reads standard input and writes standard output."


def public_report(tests: Sequence[Test], judgement: Judgement) -> str:
    """What came of the public tests, with what they expect."""
    if judgement.reason is not None:
        return "The public tests could not be run. Answer once more."
    lines = [f"{judgement.passed} of {len(tests)} public tests passed."]
    for failure in judgement.failures:
        asked, expected = _shown(tests[failure.index])
        lines.append(f"\nTest {failure.index + 1}: {failure.outcome.value}. {failure.detail}")
        lines += [f"Input:\n{_cut(asked)}", f"Expected:\n{_cut(expected)}"]
        if failure.said or failure.outcome is CaseOutcome.WRONG:
            lines.append(f"Yours:\n{_cut(failure.said)}")
    if len(judgement.results) < len(tests):
        lines.append("\nThe tests after that one were not run.")
    return "\n".join([*lines, "\nNow give your final answer."])


def _shown(test: Test) -> tuple[str, str]:
    if isinstance(test, StdinTest):
        return test.stdin, test.expected
    if isinstance(test, CheckTest):
        return test.shown, "no assertion fails"
    shown = json.dumps if test.as_json else repr
    return f"{test.name}({', '.join(shown(arg) for arg in test.args)})", shown(test.expected[-1])


def _cut(text: str) -> str:
    text = text.rstrip()
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
