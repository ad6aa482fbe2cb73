"""The benchmark of the games plays what it says, counts rightly, and says so where a bar is missed."""

import importlib.util
from typing import Any

import pytest

from benchmarks import env_throughput
from benchmarks.env_throughput import (
    CELLS,
    FRESH,
    NUMBERS,
    Config,
    Game,
    Times,
    games,
    judge,
    main,
    play_round,
    time_games,
)

OURS = ("tic_tac_toe", "guess_number", "twenty_questions")


def times(step_microseconds: float, steps_per_second: float) -> Times:
    found = Times()
    for factor in (0.5, 1.0, 3.0):  # the median counts
        found.add(100, 100 * step_microseconds * factor / 1e6, 100 / steps_per_second * factor)
    return found


def test_figures_by_hand() -> None:
    found = times(4.0, 50_000.0)
    assert found.step_microseconds == pytest.approx(4.0)
    assert found.steps_per_second == pytest.approx(50_000.0)


def test_bars() -> None:
    good = {name: times(9.9, 1_000.0) for name in OURS}
    assert [bar[-1] for bar in judge(good)] == [True, True, True]
    assert [bar[-1] for bar in judge({**good, "guess_number": times(10.1, 1_000.0)})] == [True, False, True]
    peers = {"TextArena TicTacToe": times(1.0, 900.0), "TextArena GuessTheNumber": times(1.0, 1_100.0)}
    assert judge({**good, **peers})[3:] == [
        ("tic_tac_toe", "at least TextArena TicTacToe's 900 steps/s", "1,000 steps/s", True),
        ("guess_number", "at least TextArena GuessTheNumber's 1,100 steps/s", "1,000 steps/s", False),
    ]


def test_games_are_played_to_their_end() -> None:
    """Tic-tac-toe: some cells go to the opponent. Numbers: all are guessed until one is right, at most 10."""
    found = dict(games())
    for name in set(found) & {*OURS, "tic_tac_toe, PettingZoo"}:
        game = found[name]
        env = game.make()
        for seed in range(20):
            order = list(game.sayings[:20])
            steps, seconds = game.play(env, seed, order)
            assert seconds > 0
            assert 1 <= steps <= {"guess_number": 10, "twenty_questions": 20}.get(name, 9)
            if name in OURS:
                assert env.unwrapped.get_state()["running"] is False
    assert found["tic_tac_toe"].sayings == CELLS
    assert found["guess_number"].sayings == NUMBERS == tuple(str(n) for n in range(1, 21))


@pytest.mark.parametrize("is_fresh", [False, True])
def test_a_round(is_fresh: bool) -> None:
    made: list[Any] = []
    played: list[Any] = []

    def play(env: Any, seed: int, sayings: list[str]) -> tuple[int, float]:
        played.append((env, seed, tuple(sayings)))
        return 3, 0.25

    def make() -> int:
        made.append(None)
        return len(made)

    game = Game(tuple("abcd"), make, play)
    steps, step_seconds, seconds = play_round(game, 7, 5, is_fresh=is_fresh)
    assert (steps, step_seconds) == (15, 1.25)
    assert 0 < seconds < 1
    assert [env for env, _, _ in played] == ([1, 2, 3, 4, 5] if is_fresh else [1] * 5)
    assert [seed for _, seed, _ in played] == list(range(5))
    assert all(sorted(order) == list("abcd") for *_, order in played)
    again = list(played)
    play_round(game, 7, 5, is_fresh=is_fresh)
    assert [order for *_, order in played[5:]] == [order for *_, order in again]


def test_rounds_alternate() -> None:
    order: list[str] = []

    def playing(name: str) -> Any:
        def play(env: Any, seed: int, sayings: list[str]) -> tuple[int, float]:
            order.append(name)
            return 1, 0.1

        return play

    found = time_games({n: Game(("1",), lambda: None, playing(n)) for n in "ab"}, episodes=1, rounds=2)
    assert order == [*"abab", *"baba", *"abab"]
    assert {name: len(of_game.steps) for name, of_game in found.items()} == dict.fromkeys(
        ["a", "b", "a" + FRESH, "b" + FRESH], 2
    )


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[Any] = []
    real = dict(games())
    monkeypatch.setattr(env_throughput, "games", lambda: ((name, real[name]) for name in OURS))
    monkeypatch.setattr(env_throughput, "append_row", lambda name, row: rows.append((name, row)))
    monkeypatch.setattr(env_throughput, "MAX_STEP_MICROSECONDS", 1e6)
    assert main(Config(episodes=5, rounds=1)) == 0
    assert "TextArena is not installed" in capsys.readouterr().out
    assert [(name, row["game"]) for name, row in rows] == [
        ("env_throughput", name + fresh) for fresh in ("", FRESH) for name in OURS
    ]
    monkeypatch.setattr(env_throughput, "MAX_STEP_MICROSECONDS", 0.0)
    assert main(Config(episodes=5, rounds=1, record=False)) == 1
    assert "MISSED tic_tac_toe" in capsys.readouterr().out
    assert len(rows) == 6


@pytest.mark.skipif(importlib.util.find_spec("textarena") is None, reason="textarena is not installed")
@pytest.mark.filterwarnings("ignore")  # of its dependencies
def test_the_peer_is_played_to_its_end() -> None:
    found = dict(games())
    for name, length in (("TextArena TicTacToe", 9), ("TextArena GuessTheNumber", 11)):
        game = found[name]
        env = game.make()
        for seed in range(20):
            steps, _ = game.play(env, seed, list(game.sayings))
            assert 1 <= steps <= length
            assert env.state.done
            assert not any(of_player["invalid_move"] for of_player in env.state.game_info.values())
