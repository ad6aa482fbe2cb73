import copy
import json
import pickle
import timeit
from typing import Any

import gymnasium as gym
import pytest

from llm_envs.games.twenty_questions import TwentyQuestionsEnv
from llm_envs.games.twenty_questions.answerers.answers import Answer, AnswererDownError
from llm_envs.games.twenty_questions.answerers.knowledge_answerer import KnowledgeAnswerer, read_guess
from llm_envs.games.twenty_questions.knowledge import load_knowledge
from llm_envs.games.twenty_questions.rules import guess_of, reward_at
from llm_envs.testing import check_text_env

TABLE = load_knowledge()
NAMES = [thing.name for thing in TABLE.things]


class Scripted:
    """Says what it is told to; writes down what it was asked."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, str]] = []
        self.prepared: list[tuple[str, str]] = []
        self.closed = 0

    def answer(self, secret, question) -> Answer:
        self.asked.append((secret.name, question))
        answer = self.answers.pop(0) if self.answers else Answer.NO
        if isinstance(answer, Exception):
            raise answer
        return answer

    def prepare(self, secret, question) -> None:
        self.prepared.append((secret.name, question))

    def close(self) -> None:
        self.closed += 1


def play(env, actions, name="elephant") -> Any:
    env.reset(options={"index": env.things.index(name)})
    return [env.step(action) for action in actions]


@pytest.mark.parametrize(
    "kwargs", [{}, {"things": ["cat", "dogs", "elephant"], "max_questions": 2}, {"things": ["sun"], "max_questions": 1}]
)
def test_contracts(kwargs):
    check_text_env("llm_envs:TwentyQuestions-v0", **kwargs)


def test_an_episode():
    env = TwentyQuestionsEnv()
    opening, info = env.reset(seed=0)
    assert opening == (
        "I am thinking of a thing. You have 20 questions that I answer with yes or no. Name the thing to win."
    )
    assert info == {"messages": [{"role": "user", "content": opening}]}  # nothing of the secret
    events = play(env, ["Is it alive?", "Is it a mouse?", "xyzzy plugh", "Can it fly?", "Is it an elephant?"])
    assert [event[0] for event in events] == [
        "Yes.",
        "No.",
        "I can't answer that.",
        "No.",
        "Correct! It is an elephant.",
    ]
    assert [event[1] for event in events] == [0.0, 0.0, 0.0, 0.0, 10.0]
    assert [event[2] for event in events] == [False, False, False, False, True]
    assert [event[4]["verdict"] for event in events] == ["wrong", "wrong", "unparsed", "wrong", "correct"]
    assert events[4][4]["reward_parts"] == {"found": 10.0}


def test_the_questions_run_out():
    env = TwentyQuestionsEnv(max_questions=2)
    assert env.reset()[0].startswith("I am thinking of a thing. You have 2 questions ")
    events = play(env, ["Is it alive?", "Is it a dog?"], name="the sun".removeprefix("the "))
    assert events[1][:4] == ("No questions left. It was the sun.", 0.0, True, False)
    assert events[1][4]["verdict"] == "wrong"
    assert play(env, ["Is it alive?", "xyzzy plugh"])[1][4]["verdict"] == "unparsed"
    assert play(env, ["Is it alive?", "Is it an elephant?"])[1][:3] == ("Correct! It is an elephant.", 10.0, True)
    assert TwentyQuestionsEnv(max_questions=1).reset()[0].startswith("I am thinking of a thing. You have 1 question t")


def test_the_brackets():
    env = TwentyQuestionsEnv()
    for used, reward in ((1, 10), (5, 10), (6, 7), (10, 7), (11, 4), (15, 4), (16, 1), (20, 1)):
        events = play(env, ["Is it alive?"] * (used - 1) + ["Guess: elephant"])
        assert [event[1] for event in events] == [0.0] * (used - 1) + [float(reward)]
        assert reward_at(used) == reward
    assert reward_at(21) == 0.0


@pytest.mark.parametrize("text", ["Is it an elephant?", "Guess: elephant", "elephant", "is it an ELEPHANT"])
def test_guesses(text):
    assert play(TwentyQuestionsEnv(), [text])[0][:2] == ("Correct! It is an elephant.", 10.0)


def test_every_thing_can_be_guessed_and_every_plain_question_asked():
    env = TwentyQuestionsEnv()
    for index, thing in enumerate(TABLE.things):
        env.reset(options={"index": index})
        assert env.step(guess_of(thing))[0] == f"Correct! It is {thing.phrase}."
    guesses = [question for question in TABLE.attributes.values() if read_guess(question) is not None]
    assert guesses == []
    answerer = KnowledgeAnswerer()
    for name in ("elephant", "rice", "scissors"):
        secret = TABLE.things[TABLE.row_of[name]]
        for key, question in TABLE.attributes.items():
            assert (answerer.answer(secret, question) is Answer.YES) == (key in secret.attributes), (name, key)


# --- Answerers ---


def test_an_answerer_of_ones_own():
    answerer = Scripted(Answer.YES, "I can't answer that.", Answer.NO)
    env = TwentyQuestionsEnv(answerer=answerer)
    events = play(env, ["a", "Is it a mouse?", "b", "c \ud800", "elephant"])
    assert [event[0] for event in events[:4]] == ["Yes.", "No.", "I can't answer that.", "No."]
    assert events[4][4]["verdict"] == "correct"
    assert answerer.asked == [("elephant", "a"), ("elephant", "b"), ("elephant", "c \ud800")]  # never a guess
    env.close()
    assert answerer.closed == 0
    assert env.solver_return("greedy") is None
    assert env.solver_return("random") == TwentyQuestionsEnv().solver_return("random")
    with pytest.raises(ValueError, match=r"'Maybe\.' is not a valid Answer"):
        play(TwentyQuestionsEnv(answerer=Scripted("Maybe.")), ["a"])


def test_an_answerer_that_is_down():
    env = TwentyQuestionsEnv(answerer=Scripted(Answer.YES, AnswererDownError("no route")))
    events = play(env, ["a", "b"])
    assert events[1] == (
        "", 0.0, True, False, {"messages": [], "verdict": "unscorable", "reward_parts": {"found": 0.0}}
    )  # fmt: skip
    broken = TwentyQuestionsEnv(answerer=Scripted(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):  # a bug is no outage
        play(broken, ["a"])


def test_prepare_tells_the_answerer():
    answerer = Scripted()
    env = TwentyQuestionsEnv(answerer=answerer)
    env.prepare("too early")
    env.reset(options={"index": NAMES.index("rice")})
    env.prepare("Is it alive?")
    env.prepare("Is it an elephant?")  # a guess asks nobody
    assert answerer.prepared == [("rice", "Is it alive?")]
    assert (env.get_state()["task"]["turn"], answerer.asked) == (0, [])
    env.step("rice")
    env.prepare("after the end")
    assert len(answerer.prepared) == 1


# --- Arguments, states, copies ---


@pytest.mark.parametrize(
    ("kwargs", "error"),
    [
        ({"answerer": "oracle"}, ValueError),
        ({"answerer": 5}, TypeError),
        ({"answerer_args": {"model": "x"}}, ValueError),
        ({"things": "cat"}, TypeError),
        ({"things": [5]}, TypeError),
        ({"things": []}, ValueError),
        ({"things": ["cat", "phlogiston"]}, ValueError),
        ({"things": ["cat", "cats"]}, ValueError),
        ({"max_questions": 0}, ValueError),
        ({"max_questions": 21}, ValueError),
        ({"max_questions": 5.0}, TypeError),
        ({"max_questions": True}, TypeError),
        ({"render_mode": "human"}, ValueError),
    ],
)
def test_bad_arguments(kwargs, error):
    with pytest.raises(error, match=next(iter(kwargs))):
        TwentyQuestionsEnv(**kwargs)


def test_secrets_are_drawn_from_np_random():
    env = TwentyQuestionsEnv(things=["cat", "dog", "sun"])
    drawn = []
    for seed in range(20):
        env.reset(seed=seed)
        expected = gym.utils.seeding.np_random(seed)[0].integers(3)
        drawn.append(env.get_state()["task"]["secret"])
        assert drawn[-1] == env.things[expected]
    assert set(drawn) == {"cat", "dog", "sun"}


def test_states_that_are_refused():
    env = TwentyQuestionsEnv(things=["cat", "dog"])
    env.reset(seed=0)
    state = env.get_state()
    with pytest.raises(ValueError, match=r"\[answerer, max_questions\]"):
        TwentyQuestionsEnv(max_questions=5).set_state(state)
    with pytest.raises(ValueError, match="is not one of the things here"):
        TwentyQuestionsEnv(things=["sun"]).set_state(state)
    for forged in ({"secret": 5}, {"secret": "phlogiston"}, {"turn": 21}, {"turn": "1"}, {"turn": True}):
        with pytest.raises(ValueError, match="broken state"):
            env.set_state({**state, "task": {**state["task"], **forged}})


def test_a_state_goes_on_elsewhere():
    env, other = TwentyQuestionsEnv(), TwentyQuestionsEnv()
    play(env, ["Is it alive?"] * 5)
    other.set_state(json.loads(json.dumps(env.get_state())))
    assert other.step("elephant")[:2] == ("Correct! It is an elephant.", 7.0)


@pytest.mark.parametrize("twin_of", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_copies_go_their_own_way_and_carry_no_table(twin_of):
    env = TwentyQuestionsEnv()
    play(env, ["Is it alive?"])
    twin = twin_of(env)
    assert twin.step("elephant")[0] == "Correct! It is an elephant."
    assert env.step("Is it an animal?")[0] == "Yes."
    assert len(pickle.dumps(env)) < 30_000


def test_vocabulary():
    words = TwentyQuestionsEnv().vocabulary()
    assert len(words) == len(set(words)) == 1 + 3 + 3 * 574 + 433
    assert {
        "Yes.",
        "Is it alive?",
        "Is it the sun?",
        "Correct! It is rice.",
        "No questions left. It was scissors.",
    } <= {*words}
    few = TwentyQuestionsEnv(things=["cat"]).vocabulary()
    assert len(few) == 1 + 3 + 3 + 433


def test_the_id():
    spec = gym.spec("TwentyQuestions-v0")
    assert spec.entry_point == "llm_envs.games.twenty_questions:TwentyQuestionsEnv"
    env = TwentyQuestionsEnv()
    greedy, threshold, random = env.solver_return("greedy"), spec.reward_threshold, env.solver_return("random")
    assert greedy is not None
    assert threshold is not None
    assert random is not None
    assert greedy >= threshold > random
    assert env.optimal_return is None


def test_a_step_is_quick():
    env = gym.make("llm_envs:TwentyQuestions-v0")
    env.reset(seed=0)

    def seconds(question) -> float:
        def turn() -> None:
            env.unwrapped._turn = 0  # type: ignore[attr-defined]
            env.step(question)

        return min(timeit.repeat(turn, number=1000, repeat=5)) / 1000

    assert max(seconds(question) for question in ("Is it alive?", "Is it a mouse?", "xyzzy plugh")) < 20e-6
