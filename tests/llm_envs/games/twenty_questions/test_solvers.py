import itertools
import time
from functools import cache
from typing import Any

import numpy as np
import pytest

from llm_envs.games.twenty_questions import TwentyQuestionsEnv
from llm_envs.games.twenty_questions.answerers.answers import Answer
from llm_envs.games.twenty_questions.knowledge import load_knowledge
from llm_envs.games.twenty_questions.rules import reward_at
from llm_envs.solvers import twenty_questions as solvers

TABLE = load_knowledge()
NAMES = [thing.name for thing in TABLE.things]
FEW = ["cat", "dog", "sun", "rice", "elephant", "spoon", "rose"]


def play(env, solver, index) -> Any:
    observation, info = env.reset(options={"index": index})
    solver.reset(observation, info)
    said, total, terminated = [], 0.0, False
    while not terminated:
        said.append(solver.act(observation))
        observation, reward, terminated, _, info = env.step(said[-1])
        total += reward
    return total, said, info["verdict"]


def mean_return(env, name, seed=0) -> float:
    solver = env.solver(name, seed)
    return float(np.mean([play(env, solver, index)[0] for index in range(env.num_tasks)]))


def test_what_they_earn():
    env = TwentyQuestionsEnv()
    assert env.solver_return("greedy") == pytest.approx(3760 / 574, abs=1e-12)
    assert env.solver_return("lookahead") == pytest.approx(3784 / 574, abs=1e-12)
    assert env.solver_return("random") == pytest.approx(0.18961931854, abs=1e-9)
    assert env.solver_return("careless") is None


@pytest.mark.parametrize("name", ["greedy", "lookahead"])
@pytest.mark.parametrize(
    "kwargs",
    [{}, {"things": NAMES[::7]}, {"things": FEW, "max_questions": 3}, {"things": ["sun"]}, {"max_questions": 9}],
)
def test_returns_against_all_episodes(name, kwargs):
    env = TwentyQuestionsEnv(**kwargs)
    assert mean_return(env, name) == pytest.approx(env.solver_return(name), abs=1e-12)


def test_the_random_return_against_play_and_by_hand():
    env = TwentyQuestionsEnv(things=FEW, max_questions=6)
    by_hand = sum(reward * (6 / 7) ** n / 7 for n, reward in enumerate((10, 10, 10, 10, 10, 7)))
    assert env.solver_return("random") == pytest.approx(by_hand, abs=1e-12)
    solver = env.solver("random", 0)
    returns = [play(env, solver, index % 7)[0] for index in range(4_000)]
    assert abs(np.mean(returns) - by_hand) <= 5 * np.std(returns) / 4_000**0.5


def test_the_careless_player():
    env = TwentyQuestionsEnv()
    solver = env.solver("careless", 0)
    plays = [play(env, solver, index) for index in range(574)]
    assert {verdict for _, _, verdict in plays} == {"correct"}
    greedy = env.solver_return("greedy")
    assert greedy is not None
    assert 0.7 * greedy < np.mean([total for total, _, _ in plays]) < 0.9 * greedy
    column_of = {question: column for column, question in enumerate(TABLE.attributes.values())}
    first = [column_of[said[0]] for _, said, _ in plays]
    shares = TABLE.matrix.mean(axis=0)
    assert set(first) == set(np.flatnonzero((shares >= 0.2) & (shares <= 0.8)))
    for _, said, _ in plays[:50]:
        assert len(set(said)) == len(said)  # nothing is asked twice
        assert all(text in column_of for text in said[:-2])


def by_hand(things) -> Any:
    """Greedy, from its definition: the sum of returns over the things."""

    def total(rows, turn) -> float:
        if not rows:
            return 0.0
        trues = [[row for row in rows if TABLE.matrix[row, column]] for column in range(433)]
        unevenness = [abs(2 * len(true) - len(rows)) for true in trues]
        if min(unevenness) >= abs(len(rows) - 2):
            return reward_at(turn) + total(rows[1:], turn + 1)
        true = trues[unevenness.index(min(unevenness))]
        return total(true, turn + 1) + total([row for row in rows if row not in true], turn + 1)

    return total([NAMES.index(name) for name in things], 1)


def test_greedy_by_its_definition():
    for things in (FEW, NAMES[::20], NAMES[5:8]):
        env = TwentyQuestionsEnv(things=things)
        assert env.solver_return("greedy") == pytest.approx(by_hand(things) / len(things), abs=1e-12)


def test_greedy_asks_what_splits_most_evenly():
    env = TwentyQuestionsEnv()
    said = play(env, env.solver("greedy"), NAMES.index("elephant"))[1]
    counts = TABLE.matrix.sum(axis=0)
    assert said[0] == list(TABLE.attributes.values())[int(np.abs(counts - 287).argmin())]
    assert said[-1] == "Is it an elephant?"
    # Three are left: a guess splits as well as any question, and may win.
    env = TwentyQuestionsEnv(things=["cat", "dog", "sun"])
    assert play(env, env.solver("greedy"), 0)[1] == ["Is it a cat?"]


def test_perfect_totals_by_trying_everything():
    @cache
    def best(m, turn) -> float:
        if m == 0 or turn > 20:
            return 0.0
        splits = [best(a, turn + 1) + best(m - a, turn + 1) for a in range(1, m)]
        return max(reward_at(turn) + best(m - 1, turn + 1), *splits) if splits else reward_at(turn)

    totals = solvers.perfect_totals(40)
    for m, turn in itertools.product(range(41), range(1, 22)):
        assert totals[turn, m] == best(m, turn), (m, turn)
    bound = solvers.perfect_totals(574)[1, 574] / 574
    assert bound == pytest.approx(6.6759581881533)
    assert TwentyQuestionsEnv().solver_return("lookahead") < bound


def test_the_lookahead_thinks_of_the_brackets():
    """At turn 10 with four left, a guess wins 7 one time in four and loses nothing: all are still found by turn 15."""
    board = solvers.board_of(tuple(NAMES))
    rows = np.array([NAMES.index(name) for name in ("cat", "dog", "sun", "rice")])
    assert not solvers.choose_greedily(board, rows, 10).is_guess
    assert solvers.choose_with_lookahead(board, rows, 10).is_guess
    assert not solvers.choose_with_lookahead(board, rows, 8).is_guess


def test_making_a_solver_is_quick_and_so_is_the_exact_return():
    solvers.exact_return.cache_clear()
    solvers._remembered.cache_clear()
    env = TwentyQuestionsEnv()
    began = time.perf_counter()
    env.solver("lookahead")
    assert time.perf_counter() - began < 0.1
    env.solver_return("greedy")
    env.solver_return("lookahead")
    assert time.perf_counter() - began < 2


class Confused:
    """An answerer that is often at odds with the table, as a model is."""

    def __init__(self, wrong, unanswered, seed=0) -> None:
        self.rng = np.random.default_rng(seed)
        self.shares = wrong, unanswered

    def answer(self, secret, question) -> Answer:
        column = list(TABLE.attributes.values()).index(question)
        drawn = self.rng.random()
        if drawn < self.shares[1]:
            return Answer.UNANSWERABLE
        is_true = bool(TABLE.matrix[NAMES.index(secret.name), column]) != (drawn > 1 - self.shares[0])
        return Answer.YES if is_true else Answer.NO

    def prepare(self, secret, question) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.mark.parametrize("name", ["careless", "greedy", "lookahead"])
def test_answers_that_contradict_the_table(name):
    found = {}
    for wrong, unanswered in ((0.0, 0.3), (0.1, 0.0), (1.0, 0.0), (0.0, 1.0)):
        env = TwentyQuestionsEnv(answerer=Confused(wrong, unanswered))
        solver = env.solver(name, 0)
        plays = [play(env, solver, index) for index in range(0, 574, 10)]
        for _, said, _ in plays:
            assert len(set(said)) == len(said)  # neither a question nor a guess is wasted
        found[wrong, unanswered] = np.mean([verdict == "correct" for _, _, verdict in plays])
    assert found[0.0, 0.3] > 0.9
    assert found[0.1, 0.0] > 0.3
