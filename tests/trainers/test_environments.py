"""Where problems come from, and what is made of environments that break."""

import pytest

from trainers.config import Task, TrainConfig
from trainers.environments import (
    Breakage,
    Broken,
    BrokenEnvironmentError,
    EnvMix,
    EnvPool,
    GivenUpError,
    Problem,
    begin,
    described,
)


class Env:
    """Notes that it was closed; may fail to be."""

    def __init__(self, *, closes: bool = True) -> None:
        self.closed, self.closes = False, closes

    def close(self) -> None:
        self.closed = True
        if not self.closes:
            raise OSError("the other side is gone")


def mix(*weights: float, seed: int = 0) -> EnvMix:
    return EnvMix([Task(f"Env{i}", "", {}, {}, weight) for i, weight in enumerate(weights)], seed=seed)


def tasks(problems: list[Problem]) -> str:
    return "".join(str(problem.task) for problem in problems)


# --- The pool ---


def test_a_pool_makes_keeps_and_closes():
    pool = EnvPool(Env, "Env-v0")
    third = pool.at(2)
    first, second, again = pool.take(3)
    assert again is third
    assert len({id(first), id(second), id(third)}) == 3
    assert pool.take(1) == [first]
    pool.close()
    assert first.closed
    assert second.closed
    assert third.closed
    assert pool.at(0) is not first


def test_slots_that_were_never_used_hold_nothing():
    made: list[Env] = []

    def make() -> Env:
        made.append(Env())
        return made[-1]

    pool = EnvPool(make)
    pool.at(3)
    assert len(made) == 1
    pool.close()
    assert made[0].closed


def test_what_broke_is_closed_and_replaced_even_if_it_cannot_be_closed():
    pool = EnvPool(lambda: Env(closes=False))
    first, second = pool.take(2)
    pool.discard(0)
    assert first.closed
    assert not second.closed
    assert pool.take(2)[0] is not first
    assert pool.take(2)[1] is second
    pool.discard(7)  # one that was never made
    pool.discard(0)
    pool.discard(0)


# --- The mix ---


def test_one_environment_goes_through_the_seeds_in_order():
    one = mix(1.0, seed=2)
    assert one.draw(3) == [Problem(0, 2_000_000_014 + i) for i in range(3)]
    assert one.draw(2) == [Problem(0, 2_000_000_017), Problem(0, 2_000_000_018)]
    assert mix(7.5).draw(2) == [Problem(0, 0), Problem(0, 1)]


def test_batches_hold_the_environments_in_proportion():
    two = mix(2.0, 1.0)
    for _ in range(5):
        assert sorted(tasks(two.draw(12))) == list("000000001111")
    assert tasks(mix(2.0, 1.0).draw(6)) == "010010"  # the one furthest behind, the first of those alike
    assert tasks(mix(1.0, 1.0, 1.0).draw(7)) == "0120120"
    assert tasks(mix(1.0, 9.0).draw(10)).count("0") == 1
    assert tasks(mix(0.1, 0.2, 0.3).draw(6_000)).count("2") == 3_000


def test_no_batch_is_far_from_its_shares():
    weights = (5.0, 3.0, 1.0, 0.7)
    drawn = tasks(mix(*weights).draw(1000))
    for number, weight in enumerate(weights):
        share = weight / sum(weights)
        gaps = [drawn[:n].count(str(number)) - share * n for n in range(1001)]
        assert max(map(abs, gaps)) < 1.5


def test_each_environment_has_problems_of_its_own_in_order():
    drawn = mix(2.0, 1.0, seed=1).draw(9)
    assert [p.seed - 1_000_000_007 for p in drawn if p.task == 0] == [0, 1, 2, 3, 4, 5]
    assert [p.seed - 1_000_000_007 for p in drawn if p.task == 1] == [0, 1, 2]


def test_a_resumed_mix_draws_what_the_other_would_have_drawn():
    first, second = mix(3.0, 1.0, 2.0), mix(3.0, 1.0, 2.0)
    first.draw(7)
    state = first.state_dict()
    assert state == {"drawn": {"Env0": 4, "Env1": 1, "Env2": 2}}
    second.load_state_dict(state)
    assert second.draw(20) == first.draw(20)
    with pytest.raises(ValueError, match="problems were drawn of Env0, Env1, Env2: not the tasks of this run"):
        mix(3.0, 1.0).load_state_dict(state)


def test_the_environments_of_a_run():
    config = TrainConfig(
        model="m", env=("llm_envs:GuessNumber-v0", "llm_envs:GuessNumber-v0"), env_weights=(1, 3), seed=0,
        env_args=('{"high": 6}', '{"high": 8}'), eval_env_args=('{"high": 9}',),
    )  # fmt: skip
    found = EnvMix.of(config)
    assert [pool.name for pool in found.pools] == ["GuessNumber-v0#1", "GuessNumber-v0#2"]
    assert [pool.at(0).unwrapped.high for pool in found.pools] == [6, 8]
    assert [pool.at(0).unwrapped.high for pool in found.eval_pools] == [9, 9]  # type: ignore[attr-defined]
    assert tasks(found.draw(4)).count("1") == 3
    found.close()


def test_games_of_several_players_are_evaluated_as_environments_of_one():
    found = EnvMix.of(TrainConfig(model="m", env=("llm_envs:TicTacToe-v0",), opponents='{"self": 1}'))
    assert len(found.pools[0].at(0).possible_agents) == 2
    assert found.eval_pools[0].at(0).reset(seed=0)[0]
    found.close()


# --- What breaks ---


def test_ten_problems_in_a_row_are_too_many():
    breakage = Breakage()
    for seed in range(9):
        breakage.ended("Env-v0", seed, "OSError: disk\nfull")
    with pytest.raises(BrokenEnvironmentError) as caught:
        breakage.ended("Env-v0", 9, "OSError: the last")
    assert str(caught.value) == (
        "10 problems in a row could not be played, the last one Env-v0 with seed 9: OSError: the last"
    )


def test_one_that_goes_well_begins_the_count_anew():
    breakage = Breakage()
    for _ in range(5):
        for seed in range(9):
            breakage.ended("Env-v0", seed, "OSError")
        breakage.ended("Env-v0", 100)
    assert len(breakage.take()) == 45


def test_many_tries_at_one_problem_are_one():
    breakage = Breakage(limit=3)
    for _ in range(100):
        breakage.ended("Env-v0", 7, "OSError")
        breakage.called("Env-v0", 7, "OSError")
    breakage.ended("Env-v0", 8, "OSError")
    with pytest.raises(BrokenEnvironmentError):
        breakage.ended("Other-v0", 8, "OSError")  # the same seed of another environment is another problem


def test_calls_and_episodes_are_counted_apart():
    breakage = Breakage(limit=3)
    for seed in range(20):  # every episode begins and then breaks: its calls do not fail in a row, its episodes do
        breakage.called("Env-v0", seed)
        breakage.called("Env-v0", seed, "OSError")
        if seed < 2:
            breakage.ended("Env-v0", seed, "OSError")
    with pytest.raises(BrokenEnvironmentError, match="3 problems in a row"):
        breakage.ended("Env-v0", 2, "OSError")
    fresh = Breakage(limit=3)
    fresh.called("Env-v0", 0, "OSError")
    fresh.called("Env-v0", 1, "OSError")
    with pytest.raises(BrokenEnvironmentError, match="3 problems in a row"):
        fresh.called("Env-v0", 2, "OSError")


def test_the_first_failure_of_every_kind_is_said():
    said: list[str] = []
    breakage = Breakage(limit=100, say=said.append)
    breakage.called("A-v0", 3, "OSError: one")
    breakage.called("A-v0", 4, "OSError: two")
    breakage.ended("A-v0", 4, "OSError: two")
    breakage.called("A-v0", 5, "ValueError: three")
    breakage.called("B-v0", 6, "OSError: four")
    breakage.called("", 6, "OSError: five")
    assert said == [
        "A-v0 failed with seed 3: OSError: one",
        "A-v0 failed with seed 5: ValueError: three",
        "B-v0 failed with seed 6: OSError: four",
        "The environment failed with seed 6: OSError: five",
    ]


def test_what_broke_is_told_once():
    breakage = Breakage()
    breakage.ended("A-v0", 3, "OSError", began=False)
    breakage.ended("A-v0", 4)
    breakage.ended("A-v0", 5, "KeyError: 'x'")
    assert breakage.take() == [
        Broken("A-v0", 3, "OSError", began=False),
        Broken("A-v0", 5, "KeyError: 'x'", began=True),
    ]
    assert breakage.take() == []


def test_beginning_is_tried_again_on_a_new_environment():
    breakage, seen = Breakage(), []

    def start(env: Env) -> str:
        seen.append(env)
        if len(seen) < 3:
            raise OSError("not yet")
        return "begun"

    pool = EnvPool(Env)
    assert begin(pool, 0, 5, start, retries=2, breakage=breakage) == "begun"
    assert len({id(env) for env in seen}) == 3
    assert [env.closed for env in seen] == [True, True, False]
    assert pool.at(0) is seen[2]


@pytest.mark.parametrize("retries", [0, 2])
def test_beginning_is_given_up(retries):
    tries: list[int] = []

    def make() -> Env:
        tries.append(0)
        raise ValueError("cannot be\n made")

    with pytest.raises(GivenUpError) as caught:
        begin(EnvPool(make), 0, 5, Env.close, retries=retries, breakage=Breakage())
    assert str(caught.value) == "ValueError: cannot be made"
    assert len(tries) == 1 + retries


def test_ctrl_c_is_no_failure():
    def start(env: Env) -> None:
        raise KeyboardInterrupt

    pool = EnvPool(Env)
    with pytest.raises(KeyboardInterrupt):
        begin(pool, 0, 5, start, retries=2, breakage=Breakage())
    assert not pool.at(0).closed


def test_an_exception_is_one_line():
    assert described(ValueError("a\n  b")) == "ValueError: a b"
    assert described(KeyError()) == "KeyError"
    assert described(OSError("x" * 1000)) == "OSError: " + "x" * 300 + " ..."
