"""Who plays tic-tac-toe for two: from which openings, and what each player hears."""

from typing import Any

import pytest

from llm_envs.games.tic_tac_toe import TicTacToeEnv
from llm_envs.games.tic_tac_toe.rules import position_of, positions, quiet_moves, read_board, start

pytest.importorskip("pettingzoo", minversion="1.27")

from llm_envs.games.tic_tac_toe import env, raw_env

X, O = "player_1", "player_2"  # noqa: E741 (the marks)


# --- Openings ---


def board_of(game) -> Any:
    return read_board(game.observe(X)["text"])


@pytest.mark.parametrize("count", range(9))
def test_openings(count):
    game, twin = raw_env(opening_moves=count), raw_env(opening_moves=count)
    for seed in range(50):
        game.reset(seed=seed)
        twin.reset(seed=seed)
        position = board_of(game)
        assert position is board_of(twin)
        assert len(position.moves) == 9 - count
        assert not position.is_over
        first, second = (X, O) if count % 2 == 0 else (O, X)
        assert game.agent_selection == first
        mark = "XO"[count % 2]
        assert game.last()[0]["text"] == (
            f"Tic-tac-toe. You are {mark}. Say the number of a free cell.\n{position.text}"
        )
        assert game.infos[second]["messages"] == [{"role": "user", "content": position.text}]
        assert not game.observe(second)["action_mask"].any()
        game.step(str(position.moves[-1]))
        if count < 8 and not game.terminations[X]:
            other = "OX"[count % 2]
            opening = f"Tic-tac-toe. You are {other}. Say the number of a free cell.\n"
            assert game.last()[0]["text"] == opening + board_of(game).text
            game.step(str(board_of(game).moves[0]))
            assert "Tic-tac-toe" not in game.observe(first)["text"]


def test_openings_are_any_there_are():
    """Two quiet moves: 72 boards, all equally likely. Seven: every board on which one can still go on."""
    game = raw_env(opening_moves=2)
    game.reset(seed=0)
    counts: dict[str, int] = {}
    for _ in range(7_200):
        game.reset()
        cells = board_of(game).cells
        counts[cells] = counts.get(cells, 0) + 1
    assert len(counts) == 72
    assert sum((count - 100) ** 2 / 100 for count in counts.values()) < 120  # chi square with 71 degrees: p < 0.0003
    game = raw_env(opening_moves=7)
    game.reset(seed=0)
    seen = set()
    for _ in range(20_000):
        game.reset()
        seen.add(board_of(game))
    assert seen == {p for p in positions().values() if len(p.moves) == 2 and not p.is_over}


def test_an_opening_leaves_room_for_the_rest_of_it():
    """Brute force: all sequences of moves that end no game."""
    reachable = {start()}
    sequences: dict[int, set[tuple[int, ...]]] = {0: {()}}
    for count in range(1, 9):
        sequences[count] = set()
        for moves in sequences[count - 1]:
            position = start()
            for move in moves:
                position = position.after[move]
            sequences[count] |= {(*moves, m) for m, p in position.after.items() if not p.is_over}
        if count == 5:
            break
    for moves in sequences[3]:
        position = start()
        for move in moves:
            position = position.after[move]
        reachable.add(position)
        firsts = {longer[3] for longer in sequences[5] if longer[:3] == moves}
        assert set(quiet_moves(position, 2)) == firsts
    assert len(reachable) == 253
    assert quiet_moves(position_of("XOXOXO.X."), 2) == []


# --- Players ---


@pytest.mark.parametrize("opening_moves", [0, 3, 6])
def test_solvers_of_either_seat(opening_moves):
    """From the position on which play begins, perfect players get its value, and give nothing away."""
    game = env(opening_moves=opening_moves)
    for seed in range(40):
        players = {agent: game.unwrapped.solver("minimax", seed) for agent in (X, O)}
        game.reset(seed=seed)
        first, value = game.agent_selection, board_of(game.unwrapped).value
        totals = dict.fromkeys((X, O), 0.0)
        while game.agents:
            agent = game.agent_selection
            observation, reward, is_over, _, info = game.last()
            totals[agent] += reward
            assert info.get("verdict") not in {"illegal", "unparsed"}
            action = None if is_over else players[agent].act(observation["text"])
            if action is not None:
                assert game.unwrapped.gave_away(observation["text"], action) == 0
            game.step(action)
        assert totals == {first: value, ({X, O} - {first}).pop(): -value}


def test_the_random_solver():
    game = raw_env()
    game.reset()
    text = game.observe(X)["text"]
    player = game.solver("random", 3)
    assert {player.act(text) for _ in range(200)} == set("123456789")
    drawn = [game.solver("random", 3).act(text) for _ in range(3)]
    assert drawn[0] == drawn[1] == drawn[2]


def test_a_policy_hears_the_same_in_both_games():
    """Two players in the game for two; then each of them, with the other as the opponent, in the game for one."""

    class Listener:
        def __init__(self, seed) -> None:
            self.player, self.seed = raw_env().solver("random", seed), seed
            self.heard: list[str] = []

        def reset(self, observation, info) -> None:
            self.player = raw_env().solver("random", self.seed)
            assert info["messages"] == [{"role": "user", "content": observation}]
            self.heard.clear()

        def act(self, observation) -> str:
            self.heard.append(observation)
            return self.player.act(observation)

    for seed in range(50):
        pair = {X: Listener(seed), O: Listener(seed + 1_000)}
        game = env()
        game.reset()
        while game.agents:
            observation, _, is_over, *_ = game.last()
            game.step(None if is_over else pair[game.agent_selection].act(observation["text"]))
        heard = [list(player.heard) for player in pair.values()]
        for agent, other, seat in ((X, O, "first"), (O, X, "second")):
            arguments: dict[str, Any] = {"opponent": pair[other], "seat": seat}
            single = TicTacToeEnv(**arguments)
            observation, info = single.reset()
            pair[agent].reset(observation, info)
            is_over = False
            while not is_over:
                observation, _, is_over, *_ = single.step(pair[agent].act(observation))
            assert [player.heard for player in pair.values()] == heard
