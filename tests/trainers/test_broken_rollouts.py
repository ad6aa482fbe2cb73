"""Environments that fail in every way there is: what becomes of the episode, of its group, and of the run."""

import copy
import dataclasses
import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from trainers.environments import Breakage, Broken, BrokenEnvironmentError, EnvPool, Problem
from trainers.rollouts import RolloutSettings, roll_out, rollout_groups
from trainers.trajectories import Group

STOP = 3  # <end> of the tiny tokenizer
SETTINGS = RolloutSettings(group_size=2, max_tokens=4, temperature=1.0, context_length=128, env_retries=2)


class Plan:
    """What goes wrong, and a list of all that was made and closed."""

    def __init__(self, **faults: Any) -> None:
        self.faults, self.made, self.closed = faults, [], []  # type: ignore[var-annotated]

    def make(self) -> Any:
        if self.faults.get("make"):
            self.faults["make"] -= 1
            raise OSError("no sandbox")
        self.made.append(Faulty(self, len(self.made)))
        return self.made[-1]


class Faulty(gym.Env[str, str]):
    """Two turns; fails where its plan says so."""

    def __init__(self, plan: Plan, number: int) -> None:
        self.plan, self.number = plan, number

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        self.problem, self.turn = seed, 0
        fault = self.plan.faults.get("reset", lambda env: None)(self)
        if isinstance(fault, Exception | KeyboardInterrupt):
            raise fault
        return fault or ("Guess!", {})

    def prepare(self, action: str) -> None:
        fault = self.plan.faults.get("prepare", lambda env: None)(self)
        if fault is not None:
            raise fault

    def step(self, action: str) -> Any:
        self.turn += 1
        fault = self.plan.faults.get("step", lambda env: None)(self)
        if isinstance(fault, BaseException):
            raise fault
        return fault or ("Higher!", 0.5, self.turn == 2, False, {"verdict": "wrong"})

    def close(self) -> None:
        self.plan.closed.append(self.number)


@pytest.fixture
def play(scripted, renderer):
    """Roll out; the sampler, which says the same in every row, is left in `play.sampler`."""

    class Play:
        def __call__(self, plan: Plan, *, seeds=range(3), settings=SETTINGS, **options) -> list[Group]:
            self.sampler = scripted(lambda row, turn: [STOP])
            pool: EnvPool[Any] = EnvPool(plan.make, "Faulty-v0")
            found = rollout_groups(
                pool, self.sampler, renderer, seeds=seeds, settings=settings, sampling_seed=0, **options
            )
            return list(found)

    return Play()


def returns(groups: list[Group]) -> dict[int, list[float]]:
    return {group.seed: [t.total_reward for t in group.trajectories] for group in groups}


# --- Beginning ---


def test_a_reset_that_fails_now_and_then_costs_nothing(play):
    """The second environment fails twice with every problem, and works on the third try."""
    failed = dict.fromkeys(range(3), 0)

    def reset(env: Faulty) -> Exception | None:
        if env.number % 2 and failed[env.problem or 0] < 2:
            failed[env.problem or 0] += 1
            return OSError("try again")
        return None

    plan, said = Plan(reset=reset), []  # type: ignore[var-annotated]
    breakage = Breakage(say=said.append)
    assert returns(play(plan, breakage=breakage)) == {0: [1.0, 1.0], 1: [1.0, 1.0], 2: [1.0, 1.0]}
    assert plan.closed  # each that failed was closed, and another one made
    assert len(plan.made) == 6 + len(plan.closed)
    assert breakage.take() == []
    assert said == ["Faulty-v0 failed with seed 0: OSError: try again"]


@pytest.mark.parametrize("env_retries", [0, 2])
def test_a_problem_that_does_not_begin_is_given_up(play, env_retries):
    tries: list[int] = []

    def reset(env: Faulty) -> Exception | None:
        if env.problem == 1:
            tries.append(env.number)
            return ValueError("bad row")
        return None

    plan, breakage = Plan(reset=reset), Breakage()
    groups = play(plan, settings=dataclasses.replace(SETTINGS, env_retries=env_retries), breakage=breakage)
    assert returns(groups) == {0: [1.0, 1.0], 2: [1.0, 1.0]}
    assert len(tries) == len(set(tries)) == 1 + env_retries  # of one member: the group cannot be whole
    assert breakage.take() == [Broken("Faulty-v0", 1, "ValueError: bad row", began=False)]
    assert play.sampler.opened == [(2, 2, 0)]
    assert play.sampler.calls[0][0] == {0, 1, 2, 3}


def test_a_make_that_fails_counts_like_a_reset(play):
    breakage = Breakage()
    assert returns(play(Plan(make=5), breakage=breakage)) == {1: [1.0, 1.0], 2: [1.0, 1.0]}
    assert breakage.take() == [Broken("Faulty-v0", 0, "OSError: no sandbox", began=False)]


@pytest.mark.parametrize(
    ("beginning", "reason"),
    [
        ((7, {}), "TypeError: the observation is of type int, not str"),
        (("Guess!", ["info"]), "TypeError: the info is of type list, no mapping"),
        (("Guess!", {"messages": [{"role": "user"}]}), "KeyError: 'content'"),
        (("only one thing",), "ValueError: not enough values to unpack"),
    ],
)
def test_a_beginning_that_makes_no_sense(play, beginning, reason):
    breakage = Breakage()
    groups = play(Plan(reset=lambda env: beginning if env.problem == 1 else None), breakage=breakage)
    assert list(returns(groups)) == [0, 2]
    [broken] = breakage.take()
    assert broken.seed == 1
    assert broken.reason.startswith(reason)


def test_a_prompt_over_the_context_is_given_up_and_not_tried_again(play):
    plan, said = Plan(reset=lambda env: ("Guess! " * 200, {}) if env.problem == 1 else None), []  # type: ignore[var-annotated]
    breakage = Breakage(say=said.append)
    assert list(returns(play(plan, breakage=breakage))) == [0, 2]
    reason = "prompt too long: it has 201 tokens, the model's context is 128"
    assert breakage.take() == [Broken("Faulty-v0", 1, reason, began=False)]
    assert said == [f"Faulty-v0 failed with seed 1: {reason}"]
    assert not plan.closed


def test_nothing_is_sampled_where_nothing_begins(play):
    assert play(Plan(reset=lambda env: OSError("down"))) == []
    assert play.sampler.opened == []


# --- Playing ---


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (OSError("the server\nis gone"), "OSError: the server is gone"),
        (("Higher!", float("nan"), False, False, {}), "ValueError: step gave the reward nan"),
        (("Higher!", float("-inf"), True, False, {}), "ValueError: step gave the reward -inf"),
        (("Higher!", "1.0", True, False, {}), "TypeError: must be real number, not str"),
        (("Higher!", None, True, False, {}), "TypeError: must be real number, not NoneType"),
        ((None, 0.0, True, False, {}), "TypeError: the observation is of type NoneType, not str"),
        (("Higher!", 0.0, True, False, None), "TypeError: the info is of type NoneType, no mapping"),
        (("Higher!", 0.0, True, False, {"reward_parts": {"x": "y"}}), "ValueError: could not convert"),
        (("Higher!", 0.0, False, False, {"messages": [{}]}), "KeyError: 'role'"),
        (("Higher!", 0.0, True, False), "ValueError: not enough values to unpack (expected 5, got 4)"),
        (7, "TypeError: cannot unpack non-iterable int object"),
    ],
)
def test_a_step_that_fails_breaks_one_episode(play, fault, reason):
    """The second turn of the second try at seed 1: row 3."""
    plan = Plan(step=lambda env: fault if env.number == 3 and env.turn == 2 else None)
    breakage = Breakage()
    groups = play(plan, breakage=breakage)
    assert returns(groups) == {0: [1.0, 1.0], 1: [1.0, 0.5], 2: [1.0, 1.0]}
    whole, broken = groups[1].trajectories
    assert (whole.is_scorable, broken.is_scorable) == (True, False)
    assert [turn.verdict for turn in broken.turns] == ["wrong", "unscorable"]
    assert [turn.stop_reason for turn in broken.turns] == ["stop", "env"]
    assert broken.failure.startswith(reason)
    assert broken.observations == ["Guess!", "Higher!", ""]
    assert sum(turn.num_tokens for turn in broken.turns) == broken.num_action_tokens == 2
    assert plan.closed == [3]
    assert [(b.task, b.seed, b.began) for b in breakage.take()] == [("Faulty-v0", 1, True)]


def test_the_environment_that_broke_is_replaced_for_the_next_wave(play):
    plan = Plan(step=lambda env: OSError("gone") if env.number == 1 else None)
    groups = play(plan, settings=dataclasses.replace(SETTINGS, max_rows=2))
    assert returns(groups) == {0: [1.0, 0.0], 1: [1.0, 1.0], 2: [1.0, 1.0]}
    assert len(plan.made) == 3


def test_what_fails_to_prepare_breaks_the_same_way(play):
    stepped: list[int] = []

    def step(env: Faulty) -> None:
        stepped.append(env.number)

    plan = Plan(prepare=lambda env: OSError("no room") if env.number == 2 else None, step=step)
    groups = play(plan)
    assert [t.failure for t in groups[1].trajectories] == ["OSError: no room", ""]
    assert 2 not in stepped
    assert len(groups[1].trajectories[0].turns) == 1


def test_progress_counts_what_broke(play):
    told: list[tuple[str, int, int]] = []
    plan = Plan(
        reset=lambda env: OSError("down") if env.problem == 0 else None,
        step=lambda env: OSError("down") if env.problem == 1 else None,
    )
    play(plan, progress=lambda *now: told.append(now))
    assert told[0] == ("sampling", 2, 6)
    assert told[-1] == ("sampling", 6, 6)
    assert [done for doing, done, _ in told if doing == "grading"] == [3, 4, 5, 6]


def test_ctrl_c_passes(play):
    for where in ("reset", "step"):
        with pytest.raises(KeyboardInterrupt):
            play(Plan(**{where: lambda env: KeyboardInterrupt()}))


def test_a_failing_sampler_is_no_environments_fault(scripted, renderer):
    def say(row: int, turn: int) -> list[int]:
        raise MemoryError("out of memory")

    with pytest.raises(MemoryError):
        list(
            rollout_groups(EnvPool(Plan().make), scripted(say), renderer, seeds=[0], settings=SETTINGS, sampling_seed=0)
        )


# --- Ten in a row ---


def test_ten_that_do_not_begin_end_the_run(play):
    plan = Plan(reset=lambda env: OSError(f"down at {env.problem}"))
    with pytest.raises(BrokenEnvironmentError) as caught:
        play(plan, seeds=range(100))
    assert str(caught.value) == (
        "10 problems in a row could not be played, the last one Faulty-v0 with seed 9: OSError: down at 9"
    )
    assert len(plan.made) == 9 * 3 + 1  # and the other 90 were not waited for


def test_ten_that_break_in_play_end_the_run(play):
    plan = Plan(step=lambda env: OSError("down"))
    with pytest.raises(BrokenEnvironmentError, match=r"10 problems in a row could not be played, .* seed 9: OSError"):
        play(plan, seeds=range(100))


def test_the_count_goes_on_over_waves_and_updates(play):
    breakage = Breakage()
    small = dataclasses.replace(SETTINGS, max_rows=4)

    def step(env: Faulty) -> Exception | None:  # the first turn goes well, so that calls do not fail in a row
        return OSError("down") if env.turn == 2 else None

    for update in range(3):
        groups = play(Plan(step=step), seeds=range(3 * update, 3 * update + 3), settings=small, breakage=breakage)
        assert len(groups) == 3
    with pytest.raises(BrokenEnvironmentError, match="seed 9"):
        play(Plan(step=step), seeds=range(9, 12), settings=small, breakage=breakage)


def test_an_outage_of_the_judge_ends_the_run_too(play):
    """As when a sandbox is down: the environment answers, but cannot say what an answer is worth."""
    info = {"verdict": "unscorable", "reason": "no sandbox\nanswers"}
    plan = Plan(step=lambda env: ("", 0.0, True, False, info))
    assert [t.failure for g in play(plan) for t in g.trajectories] == ["verdict unscorable: no sandbox answers"] * 6
    with pytest.raises(BrokenEnvironmentError, match="with seed 9: verdict unscorable: no sandbox answers"):
        play(plan, seeds=range(20))


def test_one_bad_row_of_data_never_ends_a_run(play):
    """Sixteen tries at it break, in every one of many updates."""
    breakage, wide = Breakage(), dataclasses.replace(SETTINGS, group_size=16)
    for _ in range(5):
        plan = Plan(step=lambda env: OSError("bad row") if env.problem == 0 else None)
        assert len(play(plan, seeds=[0], settings=wide, breakage=breakage)) == 1
    assert len(breakage.take()) == 80


@pytest.mark.parametrize("where", ["reset", "step"])
def test_nine_of_ten_may_break(play, where):
    plan = Plan(**{where: lambda env: None if env.problem % 10 == 9 else OSError("down")})
    for max_rows in (2, 512):
        breakage = Breakage()
        groups = play(
            plan, seeds=range(50), settings=dataclasses.replace(SETTINGS, max_rows=max_rows), breakage=breakage
        )
        assert sum(t.is_scorable for g in groups for t in g.trajectories) == 10
        assert len(breakage.take()) == (45 if where == "reset" else 90)


def test_different_problems_for_one_seed_stay_an_error_of_the_environment(play):
    plan = Plan(reset=lambda env: (f"Guess! {env.number}", {}))
    with pytest.raises(RuntimeError, match="two different problems for seed 0: not a group"):
        play(plan)


def test_one_environment_of_a_mix_may_break(scripted, renderer):
    good, bad = Plan(), Plan(reset=lambda env: OSError("down"))
    breakage = Breakage(limit=3)
    problems = [Problem(number % 2, number // 2) for number in range(8)]
    groups = list(
        roll_out(
            [EnvPool(good.make, "Good"), EnvPool(bad.make, "Bad")], scripted(lambda row, turn: [STOP]), renderer,
            problems=problems, settings=SETTINGS, sampling_seed=0, breakage=breakage,
        )
    )  # fmt: skip
    assert [(group.task, group.seed) for group in groups] == [("Good", n) for n in range(4)]
    assert [(broken.task, broken.seed) for broken in breakage.take()] == [("Bad", n) for n in range(4)]


def test_exit_breaks_one_episode(play):
    plan = Plan(step=lambda env: SystemExit(1) if env.problem == 1 and env.number % 2 else None)
    groups = play(plan)
    assert [[t.is_scorable for t in group.trajectories] for group in groups] == [[True] * 2, [True, False], [True] * 2]
    assert groups[1].trajectories[1].failure == "SystemExit: 1"


def test_exit_while_beginning_is_tried_again(play):
    tries: list[int] = []

    def reset(env: Faulty) -> Any:
        tries.append(env.number)
        if len(tries) == 1:
            raise SystemExit
        return None

    assert set(returns(play(Plan(reset=reset)))) == {0, 1, 2}


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"mask": np.array([1, 0])}, {"mask": np.array([0, 1])}),
        ({"mask": np.array([1, 0])}, {"mask": np.array([1, 0, 1])}),
        ({"score": math.nan, "hints": [1, (2,)]}, {"score": math.nan, "hints": [1, (3,)]}),
        ({"score": math.nan}, {"score": 0.0}),
        ({"a": {"b": np.array([math.nan, 1.0])}}, {"a": {"c": np.array([math.nan, 1.0])}}),
    ],
)
def test_infos_are_compared_by_what_is_in_them(play, first, second, same):
    infos = {0: first, 1: copy.deepcopy(first) if same else second}
    plan = Plan(reset=lambda env: ("Guess!", infos[env.number % 2]))
    if same:
        assert returns(play(plan)) == {0: [1.0, 1.0], 1: [1.0, 1.0], 2: [1.0, 1.0]}
    else:
        with pytest.raises(RuntimeError, match="two different problems for seed 0"):
            play(plan)


def test_an_answer_that_was_cut_is_cut_though_the_environment_ends_there_too(scripted, renderer):
    plan = Plan(step=lambda env: ("Over.", 0.5, False, True, {"verdict": "wrong"}))
    pool: EnvPool[Any] = EnvPool(plan.make, "Faulty-v0")
    sampler = scripted(lambda row, turn: [7] if row % 2 else [STOP])
    [group] = rollout_groups(pool, sampler, renderer, seeds=[0], settings=SETTINGS, sampling_seed=0)
    assert [t.turns[0].stop_reason for t in group.trajectories] == ["env", "length"]
