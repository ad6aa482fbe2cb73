"""`grade`: layers, the cheapest first, each of which may decide *unequal* as well as equal."""

import logging
import re
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from threading import Lock
from typing import NamedTuple

from llm_envs.grading.answers import read_answer
from llm_envs.grading.comparison import same_answer
from llm_envs.grading.evaluation import same_value
from llm_envs.grading.latex import MAX_LENGTH, clean, is_damaged, squeeze
from llm_envs.grading.rational import Number, read_number
from llm_envs.grading.units import unit_ratio
from llm_envs.grading.values import Formula, Opaque, Words
from llm_envs.grading.verdict import Verdict
from llm_envs.grading.words import says_so
from llm_envs.grading.workers import WorkerCrashedError, WorkerPool, WorkerTimeoutError

__all__ = ["check_gold", "clear_cache", "grade", "grade_many", "is_text_only", "warm_up"]

_MAX_CHOICE_LENGTH = 400
_LOG = logging.getLogger("llm_envs.grading")
_DIGITS = WorkerPool("llm_envs.grading.digits:judge")
_SYMPY = WorkerPool("llm_envs.grading.symbolic:judge")
_SYMBOLIC = re.compile(r"\\(?:sum|prod|i*int|oint|lim|det)(?![A-Za-z])")

_CHOICE = re.compile(
    r"(?:\\(?:text(?:bf|rm|it)?|math(?:rm|bf)|mbox|bf)\s*\{)?\s*(?:(?:[Oo]ption|[Cc]hoice|[Aa]nswer)\s+)?"
    r"(?:\((?P<bracketed>[A-J])\)|(?P<marked>[A-J])\s*[).:](?=\s)|(?P<single>[A-J])(?=[).:]?\s*\}?\Z)"
    r"|\((?P<small_bracketed>[a-j])\)(?=\s*\}?\Z)|(?P<small>[a-df-hj])(?=[).]?\s*\}?\Z))"
    r"[).:]?\s*\}?(?=\s|\\|\Z)(?P<content>.*)",
    re.DOTALL,
)
_NO_CONTENT = re.compile(
    r"\s*(?:[-+*/=<>^,;|&]|or\b|and\b|\\(?:text\s*\{\s*(?:or|and)|cup|cap|le|ge|ne|in)\b)|.*(?:\([A-J]\)|\b[A-J][).])|.*[=:].*:",
    re.DOTALL,
)
_DAMAGE = re.compile(
    r"\\frac\s*\{\s*\}|\\frac\s*\{[^{}]*\}\s*\{\s*\}|\\sqrt\s*(?:\{\s*\}|$)"  # an argument is gone
    r"|\\[0-9]"  # the name of a command is gone
    r"|(?:^|[-(+=]|(?<!\\)\{)\s*\^\s*[0-9](?!.*[CP]_)"  # what is raised to a power is gone
    r"|\(\s*\)",  # what was in brackets is gone
    re.DOTALL,
)


class _Gold(NamedTuple):
    text: str
    squeezed: str
    number: Number | None
    choice: "_Choice | None"
    damage: str | None


def grade(answer: str | None, gold: str | None, *, timeout_seconds: float = 1.0) -> Verdict:
    r"""Judge a final answer. Never raises, never runs text as code, never takes much longer than the limit.

    1. Equal texts, after light normalisation.
    2. Numbers, as exact fractions.
    3. Structure (tuples, sets, intervals, matrices, relations, units, words), and formulas: exact arithmetic at
       rational points proves equality, floating point only ever refutes it.
    4. What is then left, in a worker process that is killed at the limit: equality to many digits, and SymPy.

    A percent sign or a unit that one side lacks does not count; ``x = 5`` equals ``5``; a list without brackets is
    unordered.

    Args:
        answer: The content of the box; None if there was none.
        gold: The gold answer; None if it could not be read.
        timeout_seconds: The limit for layer 4, from the moment that a worker takes the pair.

    Returns:
        ``UNSCORABLE`` if ``gold`` is broken or the grader failed (that is logged with the pair), else ``UNPARSED`` if
        ``answer`` cannot be read, ``TIMEOUT``, ``CORRECT`` or ``WRONG``.
    """
    verdict = _settle(answer, gold)
    if verdict is not None:
        return verdict
    pair = _cleaned_pair(answer, gold)
    cached = _CACHE.get(pair)
    if cached is not None:
        return cached
    return _ask_workers([pair], timeout_seconds)[pair]


def grade_many(pairs: Sequence[tuple[str | None, str | None]], *, timeout_seconds: float = 1.0) -> list[Verdict]:
    """Grade many (answer, gold) pairs on all cores; a pair that hangs costs the others nothing.

    Args:
        pairs: Answers with their gold answers.
        timeout_seconds: The limit for each pair.

    Returns:
        A verdict for each pair, as `grade` gives.
    """
    verdicts = [_settle(answer, gold) for answer, gold in pairs]
    # A pair that occurs many times, as in groups of trajectories, is asked once.
    open_pairs = {_cleaned_pair(*pair) for pair, verdict in zip(pairs, verdicts, strict=True) if verdict is None}
    known = {pair: verdict for pair in open_pairs if (verdict := _CACHE.get(pair)) is not None}
    known |= _ask_workers([pair for pair in open_pairs if pair not in known], timeout_seconds)
    return [verdict or known[_cleaned_pair(*pair)] for verdict, pair in zip(verdicts, pairs, strict=True)]


def check_gold(gold: str | None) -> str | None:
    """Why answers cannot be graded against a gold answer, in a few words; None if they can."""
    if gold is None or not gold.strip():
        return "there is no gold answer"
    prepared = _prepare_gold(gold)
    if prepared.damage is not None:
        return prepared.damage
    verdict = grade(gold, gold)
    return None if verdict is Verdict.CORRECT else f"graded {verdict.value} against itself"


def is_text_only(gold: str) -> bool:
    """Whether a gold answer cannot be read, so that only the same text can be equal to it."""
    prepared = _prepare_gold(gold)
    if prepared.choice is not None or prepared.number is not None or _SYMBOLIC.search(prepared.text):
        return False
    return isinstance(read_answer(prepared.text), Opaque)


def warm_up() -> None:
    """Start a worker without waiting for it, so that the first formula does not wait."""
    _DIGITS.warm_up()


def clear_cache() -> None:
    """Forget verdicts and parsed answers: for measurements."""
    _CACHE.clear()
    _prepare_gold.cache_clear()
    read_answer.cache_clear()


# --- Layers 1 to 3 ---


def _settle(answer: str | None, gold: str | None) -> Verdict | None:
    """The verdict of the layers that run here; None if a worker must decide."""
    try:
        return _settle_unguarded(answer, gold)
    except Exception:
        _LOG.exception("grading failed: answer %.300r, gold %.300r", answer, gold)
        return Verdict.UNSCORABLE


def _settle_unguarded(answer: str | None, gold: str | None) -> Verdict | None:
    if gold is None:
        return Verdict.UNSCORABLE
    expected = _prepare_gold(gold)
    if expected.damage is not None:
        return Verdict.UNSCORABLE
    if answer is None:
        return Verdict.UNPARSED
    if answer == gold:
        return Verdict.CORRECT
    if len(answer) > MAX_LENGTH:
        return Verdict.CORRECT if answer.strip() == gold.strip() else Verdict.UNPARSED
    text = clean(answer)
    if not text:
        return Verdict.UNPARSED
    if text == expected.text or squeeze(text) == expected.squeezed:
        return Verdict.CORRECT
    if expected.number is not None:
        number = read_number(text, letters_are_units=True)
        if number is not None:
            return Verdict.CORRECT if _same_number(number, expected.number) else Verdict.WRONG
    return _compare(text, expected)


def _compare(text: str, expected: _Gold) -> Verdict | None:
    choice = _choice(text)
    if expected.choice is not None:
        if choice is not None:
            return _same_choice(choice, expected.choice)
        if expected.choice.content:
            return _settle_unguarded(text, expected.choice.content)
    text = _without_choice(text, choice, expected)
    value, gold = read_answer(text), read_answer(expected.text)
    if isinstance(gold, Words) and says_so(value, gold):
        return Verdict.CORRECT
    if isinstance(value, Opaque) and not _SYMBOLIC.search(text):
        return Verdict.UNPARSED
    if isinstance(value, Opaque) or isinstance(gold, Opaque):
        both_are_formulas = isinstance(value, Opaque | Formula) and isinstance(gold, Opaque | Formula)
        return (
            None
            if both_are_formulas and (isinstance(gold, Formula) or _SYMBOLIC.search(expected.text))
            else Verdict.WRONG
        )
    same = same_answer(value, gold, same_value)
    if same is None:
        return None
    if same:
        return Verdict.CORRECT
    return Verdict.UNPARSED if isinstance(value, Words) and not isinstance(gold, Words) else Verdict.WRONG


@lru_cache(maxsize=65_536)
def _prepare_gold(gold: str) -> _Gold:
    text = clean(gold) if len(gold) <= MAX_LENGTH else gold.strip()
    choice = _choice(text)
    if choice is not None and not choice.is_capital and not choice.content and "(" not in text:
        choice = None  # a variable
    damage = None
    if not text:
        damage = "there is no gold answer"
    elif len(gold) > MAX_LENGTH:
        damage = "the gold answer is too long"
    elif choice is None:
        damage = "damaged LaTeX" if is_damaged(gold) or _DAMAGE.search(text) or _has_open_bracket(text) else None
    return _Gold(text, squeeze(text), read_number(text), choice, damage)


def _has_open_bracket(text: str) -> bool:
    """Whether brackets do not match; ``(1, 2]`` does, and ``]1, 2[`` is spared, too."""
    openings = len(re.findall(r"(?<!\\)[(\[]", text))
    closings = len(re.findall(r"(?<!\\)[)\]]", text))
    return openings != closings


def _same_number(number: Number, gold: Number) -> bool:
    ratio = unit_ratio(number.unit, gold.unit)
    if ratio is None or (number.percent and gold.unit) or (gold.percent and number.unit):
        return False
    value = number.value * ratio
    if value == gold.value:
        return True
    if number.percent == gold.percent:
        return False
    return value == gold.value / 100 if gold.percent else value / 100 == gold.value


class _Choice(NamedTuple):
    letter: str
    content: str
    is_capital: bool


def _choice(text: str) -> _Choice | None:
    """The letter of a multiple choice, and what is written behind it."""
    match = _CHOICE.fullmatch(text) if len(text) <= _MAX_CHOICE_LENGTH else None
    if match is None:
        return None
    letter = next(letter for letter in match.groups()[:-1] if letter)
    content = match["content"].strip()
    if content and _NO_CONTENT.match(content):
        return None
    return _Choice(letter.upper(), content, letter.isupper())


def _without_choice(text: str, choice: _Choice | None, gold: _Gold) -> str:
    """Where nobody asked for a letter, what stands behind it."""
    if gold.choice is None and choice is not None and choice.content and choice.is_capital:
        return clean(choice.content)
    return text


def _same_choice(choice: _Choice, gold: _Choice) -> Verdict:
    """The letters decide, unless both say what stands behind them and that differs."""
    if choice.letter != gold.letter:
        return Verdict.WRONG
    if choice.content and gold.content:
        values = [read_answer(clean(content)) for content in (choice.content, gold.content)]
        if (
            not any(isinstance(value, Opaque) for value in values)
            and same_answer(values[0], values[1], same_value) is False
        ):
            return Verdict.WRONG
    return Verdict.CORRECT


# --- Layer 4 ---


@lru_cache(maxsize=2)
def _is_installed(package: str) -> bool:
    """Whether what the workers need is there; says so once where it is not."""
    if find_spec(package) is not None:
        return True
    _LOG.error("%s is not installed; some formulas stay unscored: pip install 'llm-envs[math]'", package)
    return False


class _Cache:
    """Verdicts of workers on pairs: groups of trajectories repeat each other."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._verdicts: OrderedDict[tuple[str, str], Verdict] = OrderedDict()
        self._lock = Lock()

    def get(self, pair: tuple[str, str]) -> Verdict | None:
        return self._verdicts.get(pair)

    def put(self, pair: tuple[str, str], verdict: Verdict) -> None:
        with self._lock:
            self._verdicts[pair] = verdict
            if len(self._verdicts) > self._size:
                self._verdicts.popitem(last=False)

    def clear(self) -> None:
        with self._lock:
            self._verdicts.clear()


_CACHE = _Cache(16_384)


def _cleaned_pair(answer: str | None, gold: str | None) -> tuple[str, str]:
    expected = _prepare_gold(gold or "")
    text = clean(answer or "")
    choice = _choice(text)
    if expected.choice is not None and expected.choice.content and choice is None:
        return text, clean(expected.choice.content)
    return _without_choice(text, choice, expected), expected.text


def _ask_workers(pairs: Sequence[tuple[str, str]], timeout_seconds: float) -> dict[tuple[str, str], Verdict]:
    """Verdicts on cleaned pairs, each asked once."""
    verdicts: dict[tuple[str, str], Verdict] = {}
    for workers, needs, package in ((_DIGITS, False, "mpmath"), (_SYMPY, True, "latex2sympy2_extended")):
        asked = [pair for pair in pairs if bool(_SYMBOLIC.search("\n".join(pair))) is needs]
        if asked and not _is_installed(package):
            for pair in asked:
                # Where only the answer needs it, the answer is at fault: nobody may choose to be unscorable.
                is_ours = not needs or _SYMBOLIC.search(pair[1])
                verdicts[pair] = Verdict.UNSCORABLE if is_ours else Verdict.UNPARSED
        elif len(asked) == 1:
            verdicts[asked[0]] = _from_worker(asked[0], _call(workers, asked[0], timeout_seconds))
        elif asked:
            outcomes = workers.call_many(asked, timeout_seconds=timeout_seconds)
            verdicts |= {pair: _from_worker(pair, outcome) for pair, outcome in zip(asked, outcomes, strict=True)}
    return verdicts


def _call(workers: WorkerPool, pair: tuple[str, str], timeout_seconds: float) -> object:
    try:
        return workers.call(*pair, timeout_seconds=timeout_seconds)
    except (WorkerTimeoutError, WorkerCrashedError) as error:
        return error


def _from_worker(pair: tuple[str, str], outcome: object) -> Verdict:
    if isinstance(outcome, WorkerTimeoutError) or "MemoryError" in str(outcome):
        return Verdict.TIMEOUT  # not remembered: the machine may have been busy
    if isinstance(outcome, str):
        verdict = Verdict(outcome)
        _CACHE.put(pair, verdict)
        return verdict
    _LOG.error("grading failed: answer %.300r, gold %.300r: %s", *pair, outcome)
    return Verdict.UNSCORABLE
