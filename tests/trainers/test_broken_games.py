"""Games of several players that fail: what becomes of the game, of its group, and of the run."""

from typing import Any

import numpy as np
import pytest
from pettingzoo import AECEnv

from trainers.environments import Breakage, Broken, BrokenEnvironmentError, EnvPool
from trainers.games import SELF, Lineup, play_games
from trainers.rollouts import RolloutSettings
from trainers.trajectories import Group

STOP = 3  # <end> of the tiny tokenizer
SETTINGS = RolloutSettings(group_size=2, max_tokens=4, temperature=1.0, context_length=128, env_retries=2)


class FaultyGame(AECEnv):  # type: ignore[misc]
    """Two players, two moves each; fails where its plan says so."""

    def __init__(self, plan: "GamePlan", number: int) -> None:
        super().__init__()
        self.plan, self.number = plan, number
        self.possible_agents = ["a", "b"]

    def fail(self, where: str) -> None:
        fault = self.plan.faults.get(where, lambda env: None)(self)
        if fault is not None:
            raise fault

    def reset(self, seed: int | None = None, options: Any = None) -> None:
        self.problem, self.moves = seed, 0
        self.agents = self.possible_agents[:]
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos: dict[str, Any] = {agent: {} for agent in self.agents}
        self.agent_selection = "a"
        self._skip_agent_selection = None
        self.fail("reset")

    def observe(self, agent: str) -> str:
        self.fail("observe")
        return "Guess!"

    def step(self, action: str | None) -> None:
        if self.terminations[self.agent_selection]:
            self._was_dead_step(action)
            return
        self.moves += 1
        self.fail("step")
        agent = self.agent_selection
        self._cumulative_rewards[agent] = 0.0
        self.rewards = dict.fromkeys(self.agents, self.plan.pay)
        self._accumulate_rewards()
        self.infos[agent]["verdict"] = "wrong"
        self.terminations = dict.fromkeys(self.agents, self.moves == 4)
        self.agent_selection = "b" if agent == "a" else "a"

    def close(self) -> None:
        self.plan.closed.append(self.number)


class GamePlan:
    """What goes wrong, and a list of all that was made and closed."""

    pay = 0.25

    def __init__(self, **faults: Any) -> None:
        self.faults, self.made, self.closed = faults, [], []  # type: ignore[var-annotated]

    def make(self) -> Any:
        if self.faults.get("make"):
            self.faults["make"] -= 1
            raise OSError("no board")
        self.made.append(FaultyGame(self, len(self.made)))
        return self.made[-1]


class Nobody:
    """No opponents but scripted ones that stumble."""

    def scripted(self, name: str, env: Any, *, seed: int) -> Any:
        return self

    def reset(self, observation: str, info: Any) -> None:
        pass

    def act(self, observation: str) -> str:
        raise LookupError("no move found")

    def playing(self, name: str) -> Any:
        raise AssertionError(name)


@pytest.fixture
def play_plan(scripted, renderer):
    def of_plan(plan: GamePlan, *, seeds=range(3), opponent=SELF, settings=SETTINGS, **options) -> list[Group]:
        pool = EnvPool(plan.make, "Game")
        return list(
            play_games(
                pool, scripted(lambda row, turn: [STOP]), renderer, Nobody(), sampling_seed=0,
                lineups=[Lineup(seed, opponent) for seed in seeds], settings=settings, **options,
            )
        )  # fmt: skip

    return of_plan


def test_games_that_do_not_begin_are_given_up(play_plan):
    plan = GamePlan(reset=lambda env: OSError("down") if env.problem == 1 else None)
    breakage, told = Breakage(), []
    groups = play_plan(plan, breakage=breakage, progress=lambda *now: told.append(now))
    assert [(group.seed, group.agent, group.task) for group in groups] == [
        (0, "a", "Game"), (0, "b", "Game"), (2, "a", "Game"), (2, "b", "Game"),
    ]  # fmt: skip
    assert breakage.take() == [Broken("Game", 1, "OSError: down", began=False)]
    assert all(t.is_scorable for group in groups for t in group.trajectories)
    assert told[0] == ("sampling", 2, 6)
    assert told[-1] == ("grading", 6, 6)


def test_a_game_that_breaks_is_unscorable_for_everyone(play_plan):
    """The third move of the second game of seed 1."""
    plan = GamePlan(step=lambda env: OSError("down") if env.number == 3 and env.moves == 3 else None)
    breakage = Breakage()
    groups = play_plan(plan, breakage=breakage)
    assert [[t.is_scorable for t in g.trajectories] for g in groups] == [
        [True, True], [True, True], [True, False], [True, False], [True, True], [True, True],
    ]  # fmt: skip
    a, b = (group.trajectories[1] for group in groups[2:4])
    assert [turn.verdict for turn in a.turns] == ["wrong", "unscorable"]
    assert [turn.stop_reason for turn in a.turns] == ["stop", "env"]
    assert [turn.verdict for turn in b.turns] == ["unscorable"]  # what it had said led nowhere, too
    assert a.num_action_tokens == 2
    assert (a.failure, b.failure) == ("OSError: down",) * 2
    record = groups[2].games[1]
    assert record["failure"] == "OSError: down"
    assert "failure" not in groups[2].games[0]
    assert record["agents"] == ["a", "b", "a"]
    assert plan.closed == [3]
    assert breakage.take() == [Broken("Game", 1, "OSError: down", began=True)]


def test_a_player_that_stumbles_and_a_reward_that_is_none(play_plan):
    for group in play_plan(GamePlan(), opponent="stumbling"):
        assert [t.failure for t in group.trajectories] == ["LookupError: no move found"] * 2
    plan = GamePlan()
    plan.pay = float("nan")
    for group in play_plan(plan):
        assert [t.failure for t in group.trajectories] == ["ValueError: the game gave the reward nan"] * 2
        assert not any(np.isnan(t.total_reward) for t in group.trajectories)


def test_ten_broken_games_in_a_row_end_the_run(play_plan):
    for where in ("reset", "observe", "step"):
        with pytest.raises(BrokenEnvironmentError, match="with seed 9: OSError: down"):
            play_plan(GamePlan(**{where: lambda env: OSError("down")}), seeds=range(20))
    with pytest.raises(KeyboardInterrupt):
        play_plan(GamePlan(step=lambda env: KeyboardInterrupt()))


def test_a_game_that_cannot_be_made(play_plan):
    assert len(play_plan(GamePlan(make=2))) == 6
    with pytest.raises(BrokenEnvironmentError, match="Game cannot be made: OSError: no board"):
        play_plan(GamePlan(make=3))
