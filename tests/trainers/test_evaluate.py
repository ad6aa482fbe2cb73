"""Which problems are evaluated, how, and what is said of the result."""

import dataclasses
from typing import Any

import gymnasium as gym
import pytest

from trainers.evaluation.greedy import evaluate, play_greedily, summarize
from trainers.rollouts import EnvPool
from trainers.trajectories import Completion, Trajectory, Turn


def guessing(**options: Any) -> EnvPool[Any]:
    return EnvPool(lambda: gym.make("llm_envs:GuessNumber-v0", **options))


def always(tokenizer, text: str):
    tokens = [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
    return lambda row, turn: tokens


def test_a_finite_environment_is_played_from_its_first_task(scripted, renderer, tokenizer, settings):
    sampler = scripted(always(tokenizer, "3"))
    pool = guessing(low=1, high=6, max_guesses=2)
    for size, count in ((4, 4), (6, 6), (100, 6)):
        played = evaluate(pool, sampler, renderer, size=size, settings=settings)
        assert [t.total_reward for t in played] == [2.0 if i == 2 else 0.0 for i in range(count)]
    assert {temperature for _, _, temperature in sampler.calls} == {0.0}
    assert {group_size for _, group_size, _ in sampler.opened} == {1}


def test_an_endless_environment_is_played_where_training_never_comes(scripted, renderer, tokenizer, settings):
    pool = EnvPool(lambda: gym.make("llm_envs:Arithmetic-v0"))
    first = evaluate(pool, scripted(always(tokenizer, "3")), renderer, size=5, settings=settings)
    again = evaluate(pool, scripted(always(tokenizer, "4")), renderer, size=5, settings=settings)
    assert len(first) == 5
    assert [t.seed for t in first] == [2**62 + i for i in range(5)]
    assert [t.observations[0] for t in first] == [t.observations[0] for t in again]
    assert len({t.observations[0] for t in first}) == 5


def test_the_problems_can_be_named(scripted, renderer, tokenizer, settings):
    sampler = scripted(always(tokenizer, "68"))
    played = play_greedily(
        guessing(), sampler, renderer, options=[{"index": 67}, {"index": 0}, None],
        settings=dataclasses.replace(settings, max_rows=1),
    )  # fmt: skip
    assert [t.total_reward for t in played[:2]] == [10.0, 0.0]
    assert len(played) == 3
    assert len(sampler.opened) == 3  # in waves


def episode(*, reward=0.0, verdict="wrong", parts=None, stop_reason="stop", tokens=2, turns=1) -> Trajectory:
    found = Trajectory(seed=0)
    for i in range(turns):
        found.append_prompt([1])
        found.append_completion(Completion([2] * tokens, [-1.0] * tokens, stop_reason))
        last = i == turns - 1
        found.turns.append(
            Turn("", tokens, reward if last else 0.0, stop_reason, verdict if last else "wrong", parts or {})
        )
    return found


def test_a_summary_by_hand():
    played = [
        episode(reward=1.0, verdict="correct", parts={"answer": 1.0, "format": 0.0}, tokens=3),
        episode(reward=-0.1, verdict="unparsed", parts={"format": -0.1}, stop_reason="length", tokens=5),
        episode(verdict="wrong", tokens=1, turns=3, parts={"answer": 0.5}),
        episode(verdict="", tokens=2),
        episode(reward=100.0, verdict="unscorable", parts={"answer": 100.0}, tokens=99),
    ]
    assert summarize(played) == pytest.approx(
        {
            "unscorable_share": 0.2,
            "return_mean": 0.9 / 4,
            "verdict_correct": 0.25,
            "verdict_unparsed": 0.25,
            "verdict_wrong": 0.25,
            "verdict_none": 0.25,
            "part_answer": (1.0 + 3 * 0.5) / 4,
            "part_format": -0.1 / 4,
            "truncated_share": 0.25,
            "token_limit_share": 0.25,
            "turns_mean": 6 / 4,
            "action_tokens_mean": (3 + 5 + 3 + 2) / 4,
        }
    )


def test_a_summary_of_an_outage():
    assert summarize([episode(verdict="unscorable")] * 3) == {"unscorable_share": 1.0}


def test_an_environment_that_fails_while_it_is_made_is_made_again(scripted, renderer, tokenizer, settings):
    failures = 2

    def make() -> Any:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise ConnectionError("no sandbox")
        return gym.make("llm_envs:GuessNumber-v0", low=1, high=6, max_guesses=2)

    sampler = scripted(always(tokenizer, "3"))
    assert len(evaluate(EnvPool(make), sampler, renderer, size=4, settings=settings)) == 4
    failures = 10**6
    assert evaluate(EnvPool(make), sampler, renderer, size=4, settings=settings) == []
