r"""Single-turn questions whose answer is a number in a \boxed{}."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from llm_envs.datasets import Data, DatasetSource, Row, fixed_order, load_rows
from llm_envs.grading import Verdict, extract_boxed, grade, parse_number
from llm_envs.maths.few_shot import EXAMPLE_ANSWER, EXAMPLE_QUESTION
from llm_envs.rewards import REWARDS
from llm_envs.solvers.maths import RANDOM_ANSWERS, Oracle, RandomAnswerer
from llm_envs.text_env import Message, Outcome, TextEnv, user_message

__all__ = ["ANSWER_SUFFIX", "DatasetMathEnv", "MathEnv", "Question"]

ANSWER_SUFFIX = "\n\nThink step by step, then write the final answer inside \\boxed{}."


@dataclass(frozen=True)
class Question:
    """One task.

    Attributes:
        text: What is asked.
        gold: The right answer; None where it cannot be read.
        index: Its number in a finite set of tasks; None where they are endless.
    """

    text: str
    gold: str | None
    index: int | None = None


class MathEnv(TextEnv):
    r"""Ask one question, grade the last ``\boxed{}`` of the answer as an exact number, end.

    The opening holds, with ``few_shot``, a worked example (user, assistant), then the question and the request for a
    box. The first action ends the episode (terminated, no reply). `extract_boxed` and `parse_number` say what is read.

    Verdicts: ``correct``; ``wrong``: another number; ``unparsed``: no box, or a box that holds no number;
    ``unscorable``: the gold answer is broken (reward 0, to be left out).

    Reward parts ``"correct"`` and ``"format"``, by preset (c is ``format_coef``):

    ========== ========= ================ ========
    ``reward`` correct   else, with a box no box
    ========== ========= ================ ========
    "format"   1         0                -c
    "strict"   1         c - 1            -1
    ========== ========= ================ ========

    Solvers: ``random`` (a whole number in 0..99), ``oracle`` (reads the gold answer off the environment it plays).

    Args:
        few_shot: Whether a worked example precedes the question.
        reward: The preset.
        format_coef: What a missing box costs; finite, at least 0.
        render_mode: ``"ansi"`` or None.

    Raises:
        ValueError: If an argument is out of range.
    """

    solvers: ClassVar = {"random": RandomAnswerer, "oracle": Oracle}
    best_solver: ClassVar[str | None] = "oracle"

    def __init__(
        self, *, few_shot: bool, reward: str = "format", format_coef: float = 0.1, render_mode: str | None = None
    ) -> None:
        super().__init__(render_mode=render_mode)
        if reward not in REWARDS:
            raise ValueError(f"unknown reward {reward!r}; known: {sorted(REWARDS)}")
        if not 0 <= format_coef < float("inf"):
            raise ValueError(f"format_coef must be finite and at least 0, got {format_coef}")
        self.few_shot, self.reward, self.format_coef = few_shot, reward, float(format_coef)
        self._question = Question("", None)

    @property
    def gold(self) -> str | None:
        """The answer to the current question, for the oracle. No player sees it."""
        return self._question.gold

    @abstractmethod
    def _draw(self, seed: int | None, index: int | None) -> Question:
        """Choose the question, as `TextEnv._begin` says."""

    def _begin(self, seed: int | None, index: int | None) -> tuple[list[Message], dict[str, Any]]:
        self._question = self._draw(seed, index)
        messages = [user_message(self._question.text + ANSWER_SUFFIX)]
        if self.few_shot:
            example = [
                user_message(EXAMPLE_QUESTION + ANSWER_SUFFIX),
                {"role": "assistant", "content": EXAMPLE_ANSWER},
            ]
            messages = example + messages
        return messages, {} if self._question.index is None else {"index": self._question.index}

    def _play(self, action: str) -> Outcome:
        boxed = extract_boxed(action)
        verdict = grade(boxed, self._question.gold)
        if verdict is Verdict.UNSCORABLE:
            parts = {"correct": 0.0, "format": 0.0}
        else:
            parts = REWARDS[self.reward](verdict is Verdict.CORRECT, boxed is not None, self.format_coef)
        return Outcome("", verdict, parts, terminated=True)

    def _save(self) -> dict[str, Any]:
        return asdict(self._question)

    def _load(self, task: dict[str, Any]) -> None:
        text, gold, index = task["text"], task["gold"], task["index"]
        if not isinstance(text, str) or not isinstance(gold, str | None):
            raise TypeError("text and gold must be strings")
        num_tasks = self.num_tasks
        if index is not None if num_tasks is None else index not in range(num_tasks):
            raise ValueError(f"index is {index!r}, but the number of tasks is {self.num_tasks}")
        self._question = Question(text, gold, index)

    def _solver_return(self, name: str) -> float | None:
        return 1.0 if name == "oracle" else None


class DatasetMathEnv(MathEnv):
    """Questions from the rows of a data set.

    A subclass sets ``source`` and implements `_read`. Seeds ``0 .. num_tasks - 1`` visit every row exactly once, in an
    order that ``order_seed`` decides; greater seeds go round again. Without a seed a row is drawn uniformly.

    Args:
        split: The split of the data set.
        data: A path to a JSONL or Parquet file, or rows; None: look where `llm_envs.datasets.load_rows` says.
        order_seed: Decides which seed gets which row.
        few_shot: As in `MathEnv`.
        reward: As in `MathEnv`.
        format_coef: As in `MathEnv`.
        render_mode: ``"ansi"`` or None.

    Raises:
        DataUnavailableError: If the rows are nowhere to be had.
        ValueError: If an argument is out of range or a row is broken.
    """

    source: ClassVar[DatasetSource]

    def __init__(
        self,
        *,
        split: str = "train",
        data: Data | None = None,
        order_seed: int = 0,
        few_shot: bool = True,
        reward: str = "format",
        format_coef: float = 0.1,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(few_shot=few_shot, reward=reward, format_coef=format_coef, render_mode=render_mode)
        self._rows: Sequence[Row] = load_rows(self.source, data=data, split=split)
        self._order = fixed_order(len(self._rows), order_seed)

    @staticmethod
    @abstractmethod
    def _read(row: Row) -> tuple[str, str | None]:
        """The text of a row's question, and its gold answer or None."""

    @property
    def num_tasks(self) -> int:
        """How many rows there are."""
        return len(self._rows)

    def _draw(self, seed: int | None, index: int | None) -> Question:
        if index is None:
            n = len(self._rows)
            index = int(self.np_random.integers(n) if seed is None else self._order[seed % n])
        return Question(*self._read(self._rows[index]), index)

    def _solver_return(self, name: str) -> float:
        """By counting: a task without a readable gold answer earns 0, every other one what its answers deserve."""
        reward = REWARDS[self.reward]
        right, wrong = (sum(reward(correct, True, self.format_coef).values()) for correct in (True, False))
        golds = [gold for gold in map(self._number, self._rows) if gold is not None]
        if name == "oracle":
            return right * len(golds) / len(self._rows)
        said = frozenset(RANDOM_ANSWERS)  # finds a Fraction by its hash, where a range would search
        hits = sum(gold in said for gold in golds) / len(said)
        return (right * hits + wrong * (len(golds) - hits)) / len(self._rows)

    def _number(self, row: Row) -> Any:
        gold = self._read(row)[1]
        return None if gold is None else parse_number(gold)
