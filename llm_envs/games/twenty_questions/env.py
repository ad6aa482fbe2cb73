"""TwentyQuestions: find a hidden thing by questions that are answered yes or no."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, Literal

from llm_envs.games.twenty_questions.answerers.answers import Answer, Answerer, AnswererDownError
from llm_envs.games.twenty_questions.answerers.knowledge_answerer import (
    KnowledgeAnswerer,
    load_understanding,
    read_guess,
)
from llm_envs.games.twenty_questions.knowledge import Thing, load_knowledge
from llm_envs.games.twenty_questions.rules import MAX_QUESTIONS, found, guess_of, opening, reward_at, used_up
from llm_envs.grading import Verdict
from llm_envs.solvers.twenty_questions import (
    CarelessAsker,
    GreedyAsker,
    LookaheadAsker,
    RandomGuesser,
    exact_return,
    random_return,
)
from llm_envs.text_env import Message, Outcome, TextEnv, user_message

__all__ = ["TwentyQuestionsEnv"]

_ANSWERERS = ("knowledge", "llm")


class TwentyQuestionsEnv(TextEnv):
    """Find a secret thing with at most ``max_questions`` questions, guesses among them.

    The opening tells the rules. Each turn is one question or guess, answered by:

    - ``Correct! It is an elephant.`` to the right guess; the episode ends, verdict ``correct``.
    - ``Yes.`` or ``No.``; verdict ``wrong``, which means: not found yet.
    - ``I can't answer that.``: it was no question about the thing that yes or no would answer, or the answerer cannot
      know. It costs the turn; verdict ``unparsed``, by which such questions are counted.
    - ``No questions left. It was an elephant.`` instead of these when the last turn is used up; the episode ends
      (terminated) with the verdict that the turn would have had.
    - Nothing, if the answerer is down: the episode ends, verdict ``unscorable``, reward 0.

    Reward, all of it the part ``"found"``, by the number of questions that were used, the right guess counted: within
    5 questions 10, within 10 7, within 15 4, within 20 1; not found 0.

    A guess names a thing and nothing else: ``Is it an elephant?``, ``Guess: elephant``, ``elephants``; see
    `knowledge_answerer.read_guess`. A wrong one is answered ``No.`` whatever the answerer, or ``Yes.`` if the name
    is also that of a kind that the secret is of.

    Who answers everything else:

    - ``knowledge``: the table of the package, quick and deterministic; see `understanding.Understanding`.
    - ``llm``: a fixed language model; see `llm_answerer.LlmAnswerer` for ``answerer_args``. Environments with equal
      ``answerer_args`` share it, within a process. It is made when it is first needed.
    - an object of yours that keeps the protocol `answers.Answerer`. It is shared, and yours to close.

    Solvers: ``random`` guesses things, ``careless`` asks any question that splits what is still possible halfway well,
    ``greedy`` asks the most informative one, ``lookahead`` also thinks of the brackets of the reward. They ask the
    plain questions of the table's attributes. The expected return of ``random`` is known, that of ``greedy`` and
    ``lookahead`` with the answerer ``knowledge``. Nobody knows the best possible one.

    Args:
        answerer: A name or an object, see above.
        answerer_args: Keyword arguments of the answerer ``llm``.
        things: Names of the things to choose the secret from, as `knowledge.Knowledge.find` knows them; None: all 574.
        max_questions: How many turns an episode has at most, up to 20.
        render_mode: ``"ansi"`` or None.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a name is not known or a number is out of range.
    """

    solvers: ClassVar = {
        "random": RandomGuesser,
        "careless": CarelessAsker,
        "greedy": GreedyAsker,
        "lookahead": LookaheadAsker,
    }

    def __init__(
        self,
        *,
        answerer: Literal["knowledge", "llm"] | Answerer = "knowledge",
        answerer_args: Mapping[str, Any] | None = None,
        things: Sequence[str] | None = None,
        max_questions: int = MAX_QUESTIONS,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(render_mode=render_mode)
        if type(max_questions) is not int:
            raise TypeError(f"max_questions must be an int, got {max_questions!r}")
        if not 1 <= max_questions <= MAX_QUESTIONS:
            raise ValueError(f"max_questions must lie in 1..{MAX_QUESTIONS}, got {max_questions}")
        _check_answerer(answerer, answerer_args)
        self.max_questions = max_questions
        self.things = _find_things(things)  # names: an environment is copied and pickled without the table
        self.answerer_name = answerer if isinstance(answerer, str) else None
        self._answerer_args = answerer_args
        self._answerer: Answerer | None = None if isinstance(answerer, str) else answerer
        self._opening = opening(max_questions)
        self._secret = self._thing(0)
        self._turn = 0

    @property
    def num_tasks(self) -> int:
        """How many things there are to choose from."""
        return len(self.things)

    def vocabulary(self) -> list[str]:
        """The texts of the environment, the plain questions of all attributes, and a guess of every thing."""
        texts = [self._opening, *(answer.value for answer in Answer)]
        things = [self._thing(index) for index in range(self.num_tasks)]
        texts += [found(thing) for thing in things] + [used_up(thing) for thing in things]
        texts += load_knowledge().attributes.values()
        texts += [guess_of(thing) for thing in things]
        return list(dict.fromkeys(texts))

    def prepare(self, action: str) -> None:
        """Let a slow answerer begin with a question that `step` is about to ask."""
        if self._running and read_guess(action) is None:
            self._open_answerer().prepare(self._secret, action)

    def close(self) -> None:
        """Let go of the answerer; the next question opens it again."""
        if self.answerer_name is not None:
            self._answerer = None
        super().close()

    def _begin(self, seed: int | None, index: int | None) -> tuple[list[Message], dict[str, Any]]:  # noqa: ARG002
        self._secret = self._thing(int(self.np_random.integers(self.num_tasks)) if index is None else index)
        self._turn = 0
        return [user_message(self._opening)], {}

    def _play(self, action: str) -> Outcome:
        self._turn += 1
        guess = read_guess(action)
        if guess is not None and guess.name == self._secret.name:
            parts = {"found": reward_at(self._turn)}
            return Outcome(found(self._secret), Verdict.CORRECT, parts, terminated=True)
        try:
            answer = self._answer(action, guess)
        except AnswererDownError:
            return Outcome("", Verdict.UNSCORABLE, {"found": 0.0}, terminated=True)
        verdict = Verdict.UNPARSED if answer is Answer.UNANSWERABLE else Verdict.WRONG
        if self._turn >= self.max_questions:
            return Outcome(used_up(self._secret), verdict, {"found": 0.0}, terminated=True)
        return Outcome(answer.value, verdict, {"found": 0.0}, terminated=False)

    def _answer(self, action: str, guess: Thing | None) -> Answer:
        if guess is None:
            return Answer(self._open_answerer().answer(self._secret, action))
        of_that_kind = load_understanding().answers(action)[load_knowledge().row_of[self._secret.name]] == 1
        return Answer.YES if of_that_kind else Answer.NO

    def _thing(self, index: int) -> Thing:
        table = load_knowledge()
        return table.things[table.row_of[self.things[index]]]

    def _open_answerer(self) -> Answerer:
        if self._answerer is None:
            if self.answerer_name == "knowledge":
                self._answerer = KnowledgeAnswerer()
            else:
                from llm_envs.games.twenty_questions.answerers.llm_answerer import shared_answerer

                self._answerer = shared_answerer(self._answerer_args or {})
        return self._answerer

    def _rules(self) -> list[Any]:
        return [self.answerer_name, self.max_questions]

    def _save(self) -> dict[str, Any]:
        return {"rules": self._rules(), "secret": self._secret.name, "turn": self._turn}

    def _load(self, task: dict[str, Any]) -> None:
        secret, turn = load_knowledge().find(str(task["secret"])), task["turn"]
        if task["rules"] != self._rules():
            raise ValueError(f"it was saved with [answerer, max_questions] = {task['rules']}, not {self._rules()}")
        if secret is None or secret.name not in self.things:
            raise ValueError(f"the secret {task['secret']!r} is not one of the things here")
        if type(turn) is not int or not 0 <= turn <= self.max_questions:
            raise ValueError(f"turn {turn!r} is not in 0..{self.max_questions}")
        self._secret, self._turn = secret, turn

    def _solver_return(self, name: str) -> float | None:
        if name == "random":
            return random_return(self.num_tasks, self.max_questions)
        if name == "careless" or self.answerer_name != "knowledge":
            return None
        return exact_return(self.things, self.max_questions, name)


def _check_answerer(answerer: object, args: Mapping[str, Any] | None) -> None:
    if isinstance(answerer, str):
        if answerer not in _ANSWERERS:
            raise ValueError(f"answerer must be an object or one of {_ANSWERERS}, got {answerer!r}")
    elif not all(callable(getattr(answerer, name, None)) for name in ("answer", "prepare", "close")):
        raise TypeError(f"answerer must be a name or have answer(), prepare() and close(), got {answerer!r}")
    if answerer == "llm":
        from llm_envs.games.twenty_questions.answerers.llm_answerer import check_arguments

        check_arguments(args)
    elif args is not None:
        raise ValueError(f"answerer_args go with answerer='llm' only, got {args!r}")


@cache
def _all_things() -> tuple[str, ...]:
    return tuple(thing.name for thing in load_knowledge().things)


def _find_things(names: Sequence[str] | None) -> tuple[str, ...]:
    table = load_knowledge()
    if names is None:
        return _all_things()
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"things must be a list of names, got {names!r:.200}")
    chosen: dict[str, None] = {}
    for name in names:
        thing = table.find(name)
        if thing is None:
            raise ValueError(f"things: nothing is known of {name!r}")
        if thing.name in chosen:
            raise ValueError(f"things: {name!r} is there twice")
        chosen[thing.name] = None
    if not chosen:
        raise ValueError("things must not be empty")
    return tuple(chosen)
