"""What solvers draw from has nothing to do with what environments draw from."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from llm_envs.solvers.base import solver_rng
from llm_envs.solvers.coding import RandomProgrammer
from llm_envs.solvers.maths import RandomAnswerer

THINGS = ["cat", "dog", "sun", "rice", "elephant", "spoon", "rose", "piano", "apple", "hammer"]


def numbers(rng: np.random.Generator) -> list[int]:
    return [int(n) for n in rng.integers(1_000, size=20)]


def test_a_seed_is_a_stream():
    assert numbers(solver_rng(7)) == numbers(solver_rng(7))
    seeds = [0, 1, 2, 2**31, 2**40]
    streams = [numbers(make(seed)) for make in (solver_rng, np.random.default_rng) for seed in seeds]
    assert len({tuple(stream) for stream in streams}) == 10
    assert numbers(solver_rng(None)) != numbers(solver_rng(None))
    with pytest.raises(ValueError, match="non-negative"):
        solver_rng(-1)


@pytest.mark.parametrize(
    ("env_id", "name", "options", "chance"),
    [
        ("GuessNumber-v0", "random", {}, 1 / 100),
        ("GuessNumber-v0", "careless", {}, 1 / 100),
        ("TwentyQuestions-v0", "random", {"things": THINGS}, 1 / 10),
    ],
)
def test_a_first_guess_hits_as_often_as_chance(env_id, name, options, chance):
    """With one stream the first guess is the secret, always: both are drawn as the first number of the same range."""
    env: Any = gym.make(f"llm_envs:{env_id}", **options).unwrapped
    hits = 0
    for seed in range(2_000):
        observation, info = env.reset(seed=seed)
        solver = env.solver(name, seed)
        solver.reset(observation, info)
        hits += env.step(solver.act(observation))[4]["verdict"] == "correct"
    assert abs(hits - 2_000 * chance) < 4 * (2_000 * chance * (1 - chance)) ** 0.5


def test_solvers_of_problems_draw_from_it_too():
    no_env: Any = None
    for seed in range(3):
        answerer, programmer = RandomAnswerer(no_env, seed), RandomProgrammer(no_env, seed)
        rng = solver_rng(seed)
        assert [answerer.act("") for _ in range(9)] == [f"\\boxed{{{rng.integers(100)}}}" for _ in range(9)]
        rng = solver_rng(seed)
        programs = [f"```python\nprint({rng.integers(10)})\n```" for _ in range(9)]
        assert [programmer.act("") for _ in range(9)] == programs
