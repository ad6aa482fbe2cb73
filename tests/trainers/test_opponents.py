"""Who is drawn, who is kept, and what comes back from a checkpoint."""

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from trainers.games import SELF, Lineup, make_game
from trainers.opponents import OpponentPool


class StubPolicy:
    """Its adapter is one number; `playing_as` writes down which."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.value = 0.0
        self.played: list[Any] = []

    def snapshot(self) -> dict[str, torch.Tensor]:
        return {"w": torch.tensor([self.value])}

    def playing_as(self, snapshot: Any) -> str:
        self.played.append(None if snapshot is None else float(snapshot["w"]))
        return "context"


@pytest.fixture
def policy() -> Any:
    return StubPolicy()


def fill(pool: OpponentPool, policy: Any, *numbers: int) -> None:
    for number in numbers:
        policy.value = number / 100
        pool.remember(number)


def test_shares_need_not_sum_to_one_and_are_kept(policy):
    pool = OpponentPool(policy, {SELF: 5, "past": 2, "random": 3}, kept=2)
    fill(pool, policy, 10, 20)
    drawn = Counter(lineup.opponent for lineup in pool.draw(range(8000), num_seats=2, rng=np.random.default_rng(0)))
    expected = {SELF: 4000, "past 10": 800, "past 20": 800, "random": 2400}
    assert drawn.keys() == expected.keys()
    for name, count in expected.items():
        assert abs(drawn[name] - count) < 4 * count**0.5


def test_draws_are_those_of_the_rng_and_nothing_else(policy):
    pool = OpponentPool(policy, {SELF: 1, "past": 1, "minimax": 1}, kept=3)
    fill(pool, policy, 1, 2, 3)
    first, again = (pool.draw(range(40), num_seats=2, rng=np.random.default_rng([7, 1])) for _ in range(2))
    assert first == again
    assert first != pool.draw(range(40), num_seats=2, rng=np.random.default_rng([7, 2]))


def test_seats_go_round_also_over_batches_of_one(policy):
    pool, rng = OpponentPool(policy, {"random": 1}, kept=1), np.random.default_rng(0)
    assert pool.draw(range(6, 10), num_seats=2, rng=rng) == [
        Lineup(6, "random", 0), Lineup(7, "random", 1), Lineup(8, "random", 0), Lineup(9, "random", 1),
    ]  # fmt: skip
    assert [lineup.seat for lineup in pool.draw(range(7), num_seats=3, rng=rng)] == [0, 1, 2, 0, 1, 2, 0]
    batches = [pool.draw(range(n, n + 1), num_seats=2, rng=rng) for n in range(4)]
    assert [lineup.seat for [lineup] in batches] == [0, 1, 0, 1]


def test_before_there_is_a_past_the_policy_plays_itself(policy):
    pool, rng = OpponentPool(policy, {"past": 1}, kept=1), np.random.default_rng(0)
    assert {lineup.opponent for lineup in pool.draw(range(9), num_seats=2, rng=rng)} == {SELF}
    fill(pool, policy, 10)
    assert {lineup.opponent for lineup in pool.draw(range(9), num_seats=2, rng=rng)} == {"past 10"}


def test_the_newest_are_kept(policy):
    pool, rng = OpponentPool(policy, {"past": 1}, kept=2), np.random.default_rng(0)
    fill(pool, policy, 8, 9, 10, 11)
    assert {lineup.opponent for lineup in pool.draw(range(50), num_seats=2, rng=rng)} == {"past 10", "past 11"}
    assert {number: float(adapter["w"]) for number, adapter in pool.state_dict()["past"].items()} == pytest.approx(
        {10: 0.10, 11: 0.11}
    )


def test_nothing_is_kept_that_nobody_meets(policy):
    pool = OpponentPool(policy, {SELF: 1, "base": 1}, kept=2)
    fill(pool, policy, 10)
    assert pool.state_dict() == {"past": {}}


def test_each_name_plays_as_its_own(policy):
    pool = OpponentPool(policy, {"past": 1}, kept=2)
    fill(pool, policy, 5, 50)
    contexts: list[Any] = [pool.playing(name) for name in ("past 5", "base", "past 50")]
    assert contexts == ["context"] * 3
    assert policy.played == pytest.approx([0.05, None, 0.5])


def test_the_state_goes_round_through_a_file(policy, tmp_path):
    pool = OpponentPool(policy, {"past": 1, SELF: 1}, kept=3)
    fill(pool, policy, 10, 20, 30)
    torch.save(pool.state_dict(), tmp_path / "state.pt")
    other = OpponentPool(policy, {"past": 1, SELF: 1}, kept=3)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    fill(pool, policy, 40)
    fill(other, policy, 40)
    assert list(other.state_dict()["past"]) == list(pool.state_dict()["past"]) == [20, 30, 40]
    for number, adapter in pool.state_dict()["past"].items():
        assert torch.equal(other.state_dict()["past"][number]["w"], adapter["w"])
    first, second = (p.draw(range(30), num_seats=2, rng=np.random.default_rng(3)) for p in (pool, other))
    assert first == second


def test_scripted_players_come_from_the_game(policy):
    pool, game = OpponentPool(policy, {"random": 1}, kept=1), make_game("llm_envs:TicTacToe-v0")
    for name in (SELF, "base", "past", "past 10"):
        assert pool.scripted(name, game, seed=0) is None
    game.reset(seed=0)
    text = game.observe("player_1")["text"]
    openings = []
    for seed in range(20):
        player = pool.scripted("random", game, seed=seed)
        assert player is not None
        player.reset(text, {})
        openings.append(player.act(text))
    assert len(set(openings)) > 4  # the seed is the player's
    with pytest.raises(ValueError, match="unknown solver 'pastor 10'"):
        pool.scripted("pastor 10", game, seed=0)
    named = SimpleNamespace(unwrapped=SimpleNamespace(solver=lambda name, *, seed: (name, seed)))
    found: Any = pool.scripted("careless", named, seed=4)
    assert found == ("careless", 4)
