import copy
import itertools
import json
import subprocess
import sys
from fractions import Fraction
from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from llm_envs.games.tic_tac_toe import TicTacToeEnv
from llm_envs.games.tic_tac_toe.rules import position_of, positions, read_board, start
from llm_envs.solvers.tic_tac_toe import expected_return
from llm_envs.testing import check_text_env

OPENING = "Tic-tac-toe. You are X. Say the number of a free cell.\n1 2 3\n4 5 6\n7 8 9"


def lowest(board) -> str:
    """An opponent that plays the first free cell."""
    return f"I play {next(char for char in board if char.isdigit())}."


@pytest.mark.parametrize("kwargs", [{}, {"opponent": "optimal", "seat": "first"}, {"opponent": "mixed"}])
def test_contracts(kwargs):
    check_text_env("llm_envs:TicTacToe-v0", **kwargs)


@pytest.mark.parametrize("opponent", [lowest, lambda board: "dunno"])
def test_contracts_with_a_callable(opponent):
    check_text_env(lambda: TicTacToeEnv(opponent=opponent), vector=False)
    check_text_env(lambda: TicTacToeEnv(opponent=opponent, seat="second", illegal_penalty=-3), vector=False)


def play(env, actions, **reset) -> Any:
    env.reset(**reset)
    return [env.step(action) for action in actions]


def test_a_win():
    env = TicTacToeEnv(opponent=lowest, seat="first")
    observation, info = env.reset(seed=0)
    assert observation == OPENING
    assert info == {"messages": [{"role": "user", "content": OPENING}]}
    events = play(env, ["5", "Then 3.", "7"])
    assert [event[0] for event in events] == [
        "O 2 3\n4 X 6\n7 8 9",
        "O O X\n4 X 6\n7 8 9",
        "You win.\nO O X\n4 X 6\nX 8 9",
    ]
    assert [event[1:4] for event in events] == [(0.0, False, False), (0.0, False, False), (1.0, True, False)]
    assert [event[4]["verdict"] for event in events] == ["wrong", "wrong", "correct"]
    assert events[2][4]["reward_parts"] == {"won": 1.0}


def test_a_loss_as_the_second():
    env = TicTacToeEnv(opponent=lowest, seat="second")
    assert env.reset(seed=0)[0] == "Tic-tac-toe. You are O. Say the number of a free cell.\nX 2 3\n4 5 6\n7 8 9"
    events = play(env, ["9", "8"])
    assert events[0][:2] == ("X X 3\n4 5 6\n7 8 O", 0.0)
    assert events[1][:4] == ("You lose.\nX X X\n4 5 6\n7 O O", -1.0, True, False)
    assert events[1][4]["verdict"] == "wrong"
    assert events[1][4]["reward_parts"] == {"won": -1.0}


def test_a_draw():
    answers = iter(["5", "3", "4", "8"])
    events = play(TicTacToeEnv(opponent=lambda board: next(answers), seat="first"), "12769")
    assert events[-1][:3] == ("A draw.\nX X O\nO O X\nX O X", 0.0, True)
    assert events[-1][4]["verdict"] == "wrong"
    assert events[-1][4]["reward_parts"] == {"won": 0.0}


@pytest.mark.parametrize("penalty", [-1.0, -2.5, 0])
@pytest.mark.parametrize(
    ("action", "said", "verdict"),
    [
        ("5", "Cell 5 is taken: you lose.", "illegal"),
        ("it is 1", "Cell 1 is taken: you lose.", "illegal"),
        ("10", "Your answer names no cell: you lose.", "unparsed"),
        ("", "Your answer names no cell: you lose.", "unparsed"),
        ("3 or 4", "Your answer names no cell: you lose.", "unparsed"),
    ],
)
def test_no_legal_move(action, said, verdict, penalty):
    events = play(TicTacToeEnv(opponent=lowest, seat="first", illegal_penalty=penalty), ["5", action])
    assert events[1] == (
        said,
        penalty,
        True,
        False,
        {
            "messages": [{"role": "user", "content": said}],
            "verdict": verdict,
            "reward_parts": {"illegal": penalty},
        },
    )


@pytest.mark.parametrize("nonsense", ["", "5", "no idea", "0"])
def test_an_opponent_without_a_legal_move_loses(nonsense):
    events = play(TicTacToeEnv(opponent=lambda board: nonsense, seat="first"), ["5"])
    assert events[0][:4] == ("O made no legal move.", 1.0, True, False)
    assert events[0][4]["verdict"] == "correct"
    assert events[0][4]["reward_parts"] == {"won": 1.0}


def test_an_opponent_without_a_first_move_loses():
    env = TicTacToeEnv(opponent=lambda board: "after you", seat="second")
    assert env.reset(seed=0)[0] == "X made no legal move."
    state = env.get_state()
    assert env.step("?")[:3] == ("X made no legal move.", 1.0, True)
    env.set_state(json.loads(json.dumps(state)))
    assert env.step("5")[1] == 1.0


def test_what_a_callable_is_shown_and_may_do():
    shown = []

    def opponent(board):
        shown.append(board)
        return lowest(board)

    play(TicTacToeEnv(opponent=opponent, seat="second"), ["9", "8"])
    assert shown == ["1 2 3\n4 5 6\n7 8 9", "X 2 3\n4 5 6\n7 8 O", "X X 3\n4 5 6\n7 O O"]
    broken: Any = lambda board: 5  # noqa: E731
    with pytest.raises(TypeError, match="an opponent answers with a str, got int"):
        play(TicTacToeEnv(opponent=broken, seat="first"), ["1"])
    broken = lambda board: 1 / 0  # noqa: E731
    with pytest.raises(ZeroDivisionError):
        play(TicTacToeEnv(opponent=broken, seat="first"), ["1"])


class Lowest:
    """A player that plays the first free cell and remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def reset(self, observation, info) -> None:
        self.told.append((observation, info))

    def act(self, observation) -> str:
        self.told.append(observation)
        return lowest(observation.rpartition("cell.")[2])


def test_what_a_player_is_told():
    player = Lowest()
    opening = "Tic-tac-toe. You are X. Say the number of a free cell.\n1 2 3\n4 5 6\n7 8 9"
    play(TicTacToeEnv(opponent=player, seat="second"), ["9", "8"])
    told = (opening, {"messages": [{"role": "user", "content": opening}]})
    assert player.told == [told, opening, "X 2 3\n4 5 6\n7 8 O", "X X 3\n4 5 6\n7 O O"]
    player.told.clear()
    play(TicTacToeEnv(opponent=player, seat="first"), ["5", "3", "7"])
    opening = "Tic-tac-toe. You are O. Say the number of a free cell.\n1 2 3\n4 X 6\n7 8 9"
    assert player.told[1:] == [opening, "O 2 X\n4 X 6\n7 8 9"]
    assert player.told[0][0] == opening


def test_contracts_with_a_player():
    check_text_env(lambda: TicTacToeEnv(opponent=Lowest()), vector=False)
    env = TicTacToeEnv(opponent=Lowest())
    assert (env.opponent_name, env.optimal_return) == (None, None)
    assert "O made no legal move." in env.vocabulary()


def test_a_solver_is_a_player_and_its_act_a_callable():
    env = TicTacToeEnv(opponent=TicTacToeEnv().solver("minimax"))
    assert {episode(env, "minimax", seed=seed)[0] for seed in range(20)} == {0.0}
    env = TicTacToeEnv(opponent=TicTacToeEnv().solver("minimax").act)
    assert {episode(env, "minimax", seed=seed)[0] for seed in range(20)} == {0.0}
    assert env.solver_return("random") is env.optimal_return is None


def test_the_seed_decides_who_begins():
    env = TicTacToeEnv()
    marks = ["X" if env.reset(seed=seed)[0] == OPENING else "O" for seed in range(200)]
    assert 70 < marks.count("X") < 130
    assert marks == ["X" if env.reset(seed=seed)[0] == OPENING else "O" for seed in range(200)]
    replies = {env.reset(seed=seed)[0] for seed in range(200)}
    assert len(replies) == 10  # the empty board, and nine with one X


@pytest.mark.parametrize(
    ("kwargs", "error"),
    [
        ({"opponent": "best"}, ValueError),
        ({"opponent": None}, TypeError),
        ({"opponent": 5}, TypeError),
        ({"seat": "X"}, ValueError),
        ({"seat": 1}, ValueError),
        ({"illegal_penalty": "-1"}, TypeError),
        ({"illegal_penalty": True}, TypeError),
        ({"illegal_penalty": float("nan")}, ValueError),
        ({"render_mode": "human"}, ValueError),
    ],
)
def test_bad_arguments(kwargs, error):
    with pytest.raises(error, match=next(iter(kwargs))):
        TicTacToeEnv(**kwargs)


def test_states_that_are_refused():
    env = TicTacToeEnv(seat="first")
    env.reset(seed=0)
    state = env.get_state()
    for other in ({"seat": "second"}, {"opponent": "optimal"}, {"illegal_penalty": 0.0}, {"opponent": lowest}):
        arguments: dict[str, Any] = {"seat": "first", **other}
        with pytest.raises(ValueError, match=r"\[opponent, seat, illegal_penalty\]"):
            TicTacToeEnv(**arguments).set_state(state)
    for forged in ({"cells": "XX......."}, {"cells": "X........"}, {"mark": "O"}, {"mark": "Y"}, {"is_forfeited": 1}):
        with pytest.raises(ValueError, match="broken state"):
            env.set_state({**state, "task": {**state["task"], **forged}})


def test_a_copy_goes_its_own_way():
    env = TicTacToeEnv(opponent="mixed")
    env.reset(seed=1)
    twin = copy.deepcopy(env)
    first = episode_on(env, "best_response", read_start(env))
    assert first == episode_on(twin, "best_response", read_start(twin))


def read_start(env) -> Any:
    return "\n" + position_of(env.get_state()["task"]["cells"]).text


def test_vocabulary():
    words = TicTacToeEnv().vocabulary()
    assert len(words) == len(set(words)) == 6_439
    assert {OPENING, "1", "9", "Cell 9 is taken: you lose.", "A draw.\nX X O\nO O X\nX O X"} <= set(words)
    assert "O made no legal move." not in words
    assert set(TicTacToeEnv(opponent=lowest).vocabulary()) - set(words) == {
        "O made no legal move.",
        "X made no legal move.",
    }


def test_what_actions_give_away():
    assert TicTacToeEnv.gave_away(OPENING, "1") == 0
    assert TicTacToeEnv.gave_away(OPENING, "?") == 1
    assert TicTacToeEnv.gave_away("X 2 3\n4 5 6\n7 8 9", "I play 2.") == 1
    assert TicTacToeEnv.gave_away("X X 3\nO O 6\n7 8 9", "9") == 2
    assert TicTacToeEnv.gave_away("X made no legal move.", "9") == 0
    assert TicTacToeEnv.gave_away("You win.\nX X X\nO O 6\n7 8 9", "9") == 0


# --- What the solvers earn ---


def episode_on(env, name, observation, seed=0) -> Any:
    solver = env.solver(name, seed)
    solver.reset(observation, {})
    total, given_away, terminated = 0.0, 0, False
    while not terminated:
        action = solver.act(observation)
        given_away += env.gave_away(observation, action)
        observation, reward, terminated, _, info = env.step(action)
        assert info["verdict"] not in {"illegal", "unparsed"}
        total += reward
    return total, given_away


def episode(env, name, seed) -> Any:
    return episode_on(env, name, env.reset(seed=seed)[0], seed)


def by_hand(choices, mark) -> Any:
    """The return over all games. A mark's choices are lists of moves: all lists and all moves in one equally likely."""

    @cache
    def worth(position):
        if position.is_over:
            return 0.0 if position.winner is None else 1.0 if position.winner == mark else -1.0
        lists = choices[position.mark](position)
        return float(np.mean([np.mean([worth(position.after[move]) for move in moves]) for moves in lists]))

    return worth(start())


PLAYERS = {
    "random": lambda p: [p.moves],
    "optimal": lambda p: [p.best_moves],
    "minimax": lambda p: [p.best_moves],
    "mixed": lambda p: [p.moves, p.best_moves],
}


@pytest.mark.parametrize("opponent", ["random", "optimal", "mixed"])
@pytest.mark.parametrize("name", ["random", "minimax"])
def test_returns_against_the_tree(name, opponent):
    both = []
    for mark, other, seat in (("X", "O", "first"), ("O", "X", "second")):
        expected = by_hand({mark: PLAYERS[name], other: PLAYERS[opponent]}, mark)
        seated: Any = gym.make("TicTacToe-v0", opponent=opponent, seat=seat).unwrapped
        assert seated.solver_return(name) == pytest.approx(expected, abs=1e-12)
        both.append(seated.solver_return(name))
    assert TicTacToeEnv(opponent=opponent).solver_return(name) == pytest.approx(sum(both) / 2, abs=1e-12)


@pytest.mark.parametrize("opponent", ["random", "optimal", "mixed"])
def test_no_policy_beats_the_best_response(opponent):
    """Value iteration over all positions, in floats, from the end."""
    for mark in "XO":
        worth: dict[Any, float] = {}
        for position in sorted(positions().values(), key=lambda p: -(9 - p.cells.count("."))):
            if position.is_over:
                worth[position] = 0.0 if position.winner is None else 1.0 if position.winner == mark else -1.0
            elif position.mark == mark:
                worth[position] = max(worth[position.after[move]] for move in position.moves)
            else:
                lists = PLAYERS[opponent](position)
                worth[position] = np.mean([np.mean([worth[position.after[m]] for m in moves]) for moves in lists])
        assert float(expected_return("best_response", opponent, mark)) == pytest.approx(worth[start()], abs=1e-12)


def test_the_known_returns():
    assert expected_return("best_response", "random", "X") == Fraction(191, 192)
    env = TicTacToeEnv()
    assert env.optimal_return == pytest.approx(0.9598296957672)
    assert env.solver_return("minimax") == pytest.approx(0.8726475235156)
    assert env.solver_return("random") == 0.0
    assert TicTacToeEnv(seat="first").solver_return("random") == pytest.approx(0.2968253968254)
    assert TicTacToeEnv(opponent="optimal").optimal_return == 0.0
    assert TicTacToeEnv(illegal_penalty=-2).optimal_return == env.optimal_return
    lenient = TicTacToeEnv(illegal_penalty=-0.5)
    assert lenient.optimal_return is None
    assert lenient.solver_return("minimax") == env.solver_return("minimax")


@pytest.mark.parametrize(
    ("name", "opponent"), [*itertools.product(["random", "minimax", "best_response"], ["random", "optimal", "mixed"])]
)
def test_returns_against_play(name, opponent):
    env = TicTacToeEnv(opponent=opponent)
    returns = [episode(env, name, seed)[0] for seed in range(2_000)]
    error = np.std(returns) / len(returns) ** 0.5
    assert abs(np.mean(returns) - env.solver_return(name)) <= 5 * error


def test_minimax_never_loses_and_gives_nothing_away():
    for opponent in ("random", "optimal", "mixed"):
        env = TicTacToeEnv(opponent=opponent)
        plays = [episode(env, "minimax", seed) for seed in range(300)]
        assert min(total for total, _ in plays) >= 0.0
        assert {given_away for _, given_away in plays} == {0}
    assert np.mean([episode(TicTacToeEnv(), "random", seed)[1] > 0 for seed in range(300)]) > 0.5


def test_the_optimal_opponent_plays_every_best_move():
    env = TicTacToeEnv(opponent="optimal", seat="second")
    assert len({env.reset(seed=seed)[0] for seed in range(100)}) == 9
    env = TicTacToeEnv(opponent="optimal", seat="first")
    replies = {str(read_board(play(env, ["5"], seed=seed)[0][0])) for seed in range(100)}
    assert replies == {f"position_of('{cells}')" for cells in ("O...X....", "..O.X....", "....X.O..", "....X...O")}


# --- Without PettingZoo ---


def test_it_needs_no_pettingzoo():
    code = """
import sys
sys.modules["pettingzoo"] = None
import gymnasium as gym, llm_envs
from llm_envs.games import tic_tac_toe
print(gym.make("TicTacToe-v0", seat="first").reset(seed=0)[0])
try:
    tic_tac_toe.env
except ImportError as error:
    print("ImportError")
"""
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout == f"{OPENING}\nImportError\n"


def test_the_id():
    spec = gym.spec("TicTacToe-v0")
    assert (spec.entry_point, spec.reward_threshold) == ("llm_envs.games.tic_tac_toe:TicTacToeEnv", 0.9)
    env: Any = TicTacToeEnv()
    assert env.optimal_return > spec.reward_threshold > env.solver_return("minimax")
