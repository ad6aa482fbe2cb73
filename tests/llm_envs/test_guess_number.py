import time
from fractions import Fraction
from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_envs.games.guess_number import GuessNumberEnv, read_guess
from llm_envs.solvers.guess_number import careless_return, optimal_return, random_return
from llm_envs.testing import check_text_env


@pytest.mark.parametrize(
    "kwargs", [{}, {"low": -3, "high": 4, "max_guesses": 2}, {"low": 0, "high": 1, "max_guesses": 1}]
)
def test_contracts(kwargs):
    check_text_env("llm_envs:GuessNumber-v0", **kwargs)


def play(env, actions, index) -> Any:
    env.reset(options={"index": index})
    return [env.step(action) for action in actions]


def test_an_episode():
    env = GuessNumberEnv()
    assert env.reset(seed=0)[0] == "Guess my number from 1 to 100. You have 10 guesses."
    events = play(env, ["50", "Is it 75?", "dunno", "I guess 60."], index=59)
    assert [event[0] for event in events] == ["Higher!", "Lower!", "Say one whole number.", "Correct!"]
    assert [event[1] for event in events] == [0.0, 0.0, 0.0, 7.0]
    assert [event[2] for event in events] == [False, False, False, True]
    assert [event[4]["verdict"] for event in events] == ["wrong", "wrong", "unparsed", "correct"]
    assert events[3][4] == {
        "messages": [{"role": "user", "content": "Correct!"}],
        "verdict": "correct",
        "reward_parts": {"found": 7.0},
    }


def test_the_guesses_run_out():
    env = GuessNumberEnv(low=1, high=8, max_guesses=2)
    events = play(env, ["9", "0"], index=0)
    assert [event[0] for event in events] == ["Lower!", "No guesses left."]
    assert events[1][1:4] == (0.0, True, False)
    assert events[1][4]["verdict"] == "wrong"
    assert play(env, ["2", "1"], index=0)[1][:3] == ("Correct!", 1.0, True)


def test_secrets_are_drawn_from_np_random():
    env = GuessNumberEnv()
    for seed in range(20):
        env.reset(seed=seed)
        expected = gym.utils.seeding.np_random(seed)[0].integers(1, 100, endpoint=True)
        assert env.get_state()["task"]["secret"] == expected


@pytest.mark.parametrize(
    ("text", "guess"),
    [
        ("50", 50), ("Is it 50?", 50), ("Guess: 50", 50), ("is it 50", 50), ("I guess 50.", 50), ("(50)", 50),
        ("$50", 50), ("**50**", 50), ("050", 50), ("\n50\n", 50), ("-50", -50), ("+50", 50),
        ("\N{MINUS SIGN}50", -50), ("no-50", 50), ("it is: -0", 0), ("5" * 18, int("5" * 18)),
        ("9" * 5_000, 10**18), ("-" + "9" * 5_000, -(10**18)), ("0" * 5_000 + "7", 7), ("", None), ("fifty", None),
        ("50 or 51", None), ("50.5", None), (".5", None), ("1,000", None), ("1e5", None), ("x50", None),
        ("50th", None), ("50_", None), ("\uff15\uff10", None), ("\u0663" + "50", None), ("50\u00b2", None),
        ("50/100", None), ("1-50", None),
    ],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
def test_the_grammar(text, guess):
    assert read_guess(text) == guess


@given(st.integers(-(10**18) + 1, 10**18 - 1))
def test_every_number_is_read(number):
    assert read_guess(f"Is it {number}?") == number


@pytest.mark.parametrize(
    "junk", ["x" * 10**6, "1" * 10**6, "1 " * 500_000, "-" * 10**6, "é1" * 500_000], ids=lambda j: j[:2]
)
def test_reading_is_linear(junk):
    began = time.perf_counter()
    read_guess(junk)
    assert time.perf_counter() - began < 1


@pytest.mark.parametrize(
    ("kwargs", "error"),
    [
        ({"low": 5, "high": 5}, ValueError),
        ({"low": 6, "high": 5}, ValueError),
        ({"high": 10**18}, ValueError),
        ({"max_guesses": 0}, ValueError),
        ({"low": 1.0}, TypeError),
        ({"high": "100"}, TypeError),
        ({"max_guesses": True}, TypeError),
        ({"render_mode": "human"}, ValueError),
    ],
)
def test_bad_arguments(kwargs, error):
    with pytest.raises(error, match=next(iter(kwargs))):
        GuessNumberEnv(**kwargs)


def test_a_state_of_other_rules_is_refused():
    env = GuessNumberEnv()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="low, high, max_guesses"):
        GuessNumberEnv(high=10).set_state(env.get_state())
    forged = env.get_state()
    forged["task"]["secret"] = 101
    with pytest.raises(ValueError, match=r"secret 101 is not in 1\.\.100"):
        env.set_state(forged)


def test_vocabulary():
    assert GuessNumberEnv(low=1, high=3, max_guesses=2).vocabulary() == [
        "Guess my number from 1 to 3. You have 2 guesses.",
        "Higher!",
        "Lower!",
        "Correct!",
        "Say one whole number.",
        "No guesses left.",
        "1",
        "2",
        "3",
    ]
    assert "You have 1 guess." in GuessNumberEnv(max_guesses=1).vocabulary()[0]
    with pytest.raises(NotImplementedError, match="too many"):
        GuessNumberEnv(high=10**7).vocabulary()


# --- What the solvers earn ---

GAMES = [(n, k) for n in (2, 3, 5, 8, 13, 20) for k in (1, 2, 3, 4, 6)]


@cache
def best_total(n, k) -> Any:
    """The best return summed over n secrets, by trying every first guess."""
    if n == 0 or k == 0:
        return 0
    return k + max(best_total(g, k - 1) + best_total(n - 1 - g, k - 1) for g in range(n))


@cache
def careless_total(n, k) -> Any:
    if n == 0 or k == 0:
        return Fraction(0)
    return k + sum(careless_total(g, k - 1) + careless_total(n - 1 - g, k - 1) for g in range(n)) / Fraction(n)


def return_of(env, name, index=None, seed=0) -> Any:
    solver = env.solver(name, seed)
    observation, info = env.reset(options=None if index is None else {"index": index})
    solver.reset(observation, info)
    total, terminated = 0.0, False
    while not terminated:
        observation, reward, terminated, _, _ = env.step(solver.act(observation))
        total += reward
    return total


@pytest.mark.parametrize(("n", "k"), GAMES)
def test_returns_against_brute_force(n, k):
    assert optimal_return(n, k) == best_total(n, k) / n
    assert careless_return(n, k) == pytest.approx(float(careless_total(n, k) / n), rel=1e-12)
    miss = Fraction(n - 1, n)
    assert random_return(n, k) == pytest.approx(float(sum((k - t) * miss**t / n for t in range(k))), rel=1e-12)


@pytest.mark.parametrize(("n", "k"), [(100, 10), (100, 3), (7, 3), (8, 3), (1000, 10)])
def test_bisection_earns_the_optimum_over_all_secrets(n, k):
    env = GuessNumberEnv(low=-5, high=n - 6, max_guesses=k)
    assert np.mean([return_of(env, "optimal", index) for index in range(n)]) == pytest.approx(
        env.optimal_return, rel=1e-12
    )


@pytest.mark.parametrize("n", [*range(2, 40), 1_023, 1_024, 1_025])
@pytest.mark.parametrize("k", [1, 3, 10, 20])
def test_bisection_earns_the_optimum_whatever_the_size(n, k):
    """Its own tree, walked; up to 39 numbers, the best of all trees as well."""
    earned = total_of_bisection(n, k)
    assert optimal_return(n, k) == earned / n
    if n < 40:
        assert earned == best_total(n, k)


@cache
def total_of_bisection(n, k) -> Any:
    """Summed over n secrets. Of an even number the solver guesses the lower of the two in the middle."""
    if n == 0 or k == 0:
        return 0
    below = (n - 1) // 2
    return k + total_of_bisection(below, k - 1) + total_of_bisection(n - 1 - below, k - 1)


@pytest.mark.parametrize(
    ("high", "max_guesses", "expected"),
    [
        (1_024, 10, 2_036 / 1_024),  # 1 * 10 + 2 * 9 + ... + 512 * 1; one secret is out of reach
        (1_024, 11, 3_060 / 1_024),  # 1 * 11 + 2 * 10 + ... + 512 * 2 + 1
        (4_096, 12, 8_178 / 4_096),
        (4_096, 10, 2_036 / 4_096),
        (10**6, 20, 2_048_555 / 10**6),
    ],
)
def test_great_ranges(high, max_guesses, expected):
    env = GuessNumberEnv(high=high, max_guesses=max_guesses)
    assert env.optimal_return == total_of_bisection(high, max_guesses) / high == expected
    if high <= 4_096:
        played = np.mean([return_of(env, "optimal", index) for index in range(high)])
        assert played == pytest.approx(expected, rel=1e-12)
    else:  # a sample of secrets, each at the depth that the tree gives it
        rng = np.random.default_rng(0)
        returns = [return_of(env, "optimal", int(index)) for index in rng.integers(high, size=2_000)]
        assert min(returns) >= 1
        assert abs(np.mean(returns) - expected) < 5 * np.std(returns) / len(returns) ** 0.5


@pytest.mark.parametrize("name", ["random", "careless"])
def test_returns_against_play(name):
    env = GuessNumberEnv(high=20, max_guesses=5)
    returns = [return_of(env, name, index=i % 20, seed=i) for i in range(4_000)]
    error = np.std(returns) / len(returns) ** 0.5
    assert abs(np.mean(returns) - env.solver_return(name)) < 5 * error


def test_the_known_returns():
    env = GuessNumberEnv()
    assert env.optimal_return == env.solver_return("optimal") == 5.20
    assert env.solver_return("careless") == pytest.approx(3.6476382364597)
    assert env.solver_return("random") == pytest.approx(0.5338254258717)
    began = time.perf_counter()
    assert GuessNumberEnv(high=100_000, max_guesses=50).solver_return("careless") == pytest.approx(29.6, abs=2)
    assert GuessNumberEnv(high=10**17, max_guesses=60).optimal_return == pytest.approx(5, abs=1)
    assert time.perf_counter() - began < 5
    with pytest.raises(ValueError, match=r"unknown solver 'best'.*\['careless', 'optimal', 'random'\]"):
        env.solver_return("best")
