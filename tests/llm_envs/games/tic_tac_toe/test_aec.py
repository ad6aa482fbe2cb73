import json
import pickle
import warnings
from typing import Any

import numpy as np
import pytest
from gymnasium.error import ResetNeeded

import llm_envs
from llm_envs.games.tic_tac_toe import TicTacToeEnv
from llm_envs.games.tic_tac_toe.rules import start
from llm_envs.registration import register_all
from llm_envs.testing import JUNK_ACTIONS

pettingzoo = pytest.importorskip("pettingzoo", minversion="1.27")

from pettingzoo.test import api_test, render_test, seed_test  # noqa: E402

from llm_envs.games.tic_tac_toe import env, raw_env  # noqa: E402
from llm_envs.games.tic_tac_toe.aec import MoveText  # noqa: E402

X, O = "player_1", "player_2"  # noqa: E741 (the marks)

# Every warning is an error here, but for three pieces of advice that PettingZoo gives to each environment that is not
# one of its own, which it knows by name, and does not observe and act in arrays and numbers alone. To silence them we
# would have to call ourselves `tictactoe_v3` and pass a space of texts off as `Discrete`, and whoever believed either
# would send numbers.
ADVICE = (
    "ignore:Observation is not a NumPy array$:UserWarning:pettingzoo.test.api_test",
    "ignore:Observation space for each agent probably should be gymnasium:UserWarning:pettingzoo.test.api_test",
    "ignore:Action space for each agent probably should be gymnasium:UserWarning:pettingzoo.test.api_test",
)


def allow_advice(test) -> Any:
    for advice in ADVICE:
        test = pytest.mark.filterwarnings(advice)(test)
    return test


def make_registered(**kwargs) -> Any:
    return pettingzoo.make("aec", "TicTacToe-v0", **kwargs)


@allow_advice
@pytest.mark.parametrize("make", [env, raw_env, make_registered])
@pytest.mark.parametrize("repeat", range(5))  # the test plays a random game, each time another
def test_pettingzoos_api_test(make, repeat):
    api_test(make(), num_cycles=50)
    api_test(make(illegal_penalty=-2.0, illegal_other=0.5))
    api_test(make(opening_moves=3))


@pytest.mark.parametrize("make", [env, raw_env, make_registered])
def test_pettingzoos_seed_test(make):
    seed_test(make)
    seed_test(lambda: make(opening_moves=3))


@pytest.mark.parametrize("make", [env, raw_env, make_registered])
def test_pettingzoos_render_test(make, capsys):
    render_test(make)
    render_test(make, custom_tests={"ansi": lambda text: text.count("\n") == 2})
    assert capsys.readouterr().out.startswith("1 2 3\n4 5 6\n7 8 9\n\n")


def test_the_advice_is_all_that_pettingzoo_says():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        api_test(env())
    assert {str(warning.message).split(" probably")[0] for warning in caught} == {
        "Observation is not a NumPy array",
        "Observation space for each agent",
        "Action space for each agent",
    }


def test_it_is_registered_once():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register_all()
    assert pettingzoo.spec("aec", "TicTacToe-v0").entry_point == "llm_envs.games.tic_tac_toe:env"
    assert isinstance(make_registered().unwrapped, raw_env)


def play(game, actions) -> Any:
    """What is seen before each action, and then by both at the end."""
    game.reset(seed=0)
    seen = []
    for action in actions:
        seen.append((game.agent_selection, *game.last()))
        game.step(action)
    while game.agents:
        seen.append((game.agent_selection, *game.last()))
        game.step(None)
    return seen


def texts(seen) -> Any:
    return [(agent, observation["text"]) for agent, observation, *_ in seen]


@pytest.mark.parametrize("make", [env, raw_env])
def test_a_game(make):
    seen = play(make(), ["5", "I play 1.", "3", "2", "7"])
    assert texts(seen) == [
        (X, "Tic-tac-toe. You are X. Say the number of a free cell.\n1 2 3\n4 5 6\n7 8 9"),
        (O, "Tic-tac-toe. You are O. Say the number of a free cell.\n1 2 3\n4 X 6\n7 8 9"),
        (X, "O 2 3\n4 X 6\n7 8 9"),
        (O, "O 2 X\n4 X 6\n7 8 9"),
        (X, "O O X\n4 X 6\n7 8 9"),
        (O, "You lose.\nO O X\n4 X 6\nX 8 9"),
        (X, "You win.\nO O X\n4 X 6\nX 8 9"),
    ]
    assert [(reward, terminated) for _, _, reward, terminated, _, _ in seen] == [
        *[(0.0, False)] * 5,
        (-1.0, True),
        (1.0, True),
    ]
    assert [info.get("verdict") for *_, info in seen] == [None, None, "wrong", "wrong", "wrong", "wrong", "correct"]
    for _, observation, *_, info in seen:
        assert info["messages"] == [{"role": "user", "content": observation["text"]}]
    masks = ["".join(map(str, observation["action_mask"])) for _, observation, *_ in seen]
    assert masks == ["1" * 9, "111101111", "011101111", "010101111", "000101111", "1" * 9, "1" * 9]


def test_a_draw():
    seen = play(env(), "152374689")
    said = "A draw.\nX X O\nO O X\nX O X"
    assert texts(seen)[-2:] == [(O, said), (X, said)]
    assert [event[2] for event in seen[-2:]] == [0.0, 0.0]
    assert [event[5]["verdict"] for event in seen[-2:]] == ["wrong", "wrong"]


@pytest.mark.parametrize(
    ("action", "said", "verdict"),
    [
        ("5", "Cell 5 is taken: you lose.", "illegal"),
        ("", "Your answer names no cell: you lose.", "unparsed"),
        ("1 or 2", "Your answer names no cell: you lose.", "unparsed"),
    ],
)
@pytest.mark.parametrize("rewards", [(), (-0.5, 0.25)])
def test_no_legal_move(action, said, verdict, rewards):
    game = raw_env(*rewards)
    seen = play(game, ["5", action])
    assert texts(seen)[2:] == [(X, "O made no legal move."), (O, said)]
    mover, other = rewards or (-1.0, 0.0)
    assert [event[2:4] for event in seen[2:]] == [(other, True), (mover, True)]
    assert [event[5]["verdict"] for event in seen[2:]] == ["wrong", verdict]
    assert all(event[1]["action_mask"].all() for event in seen[2:])


def test_no_legal_move_at_once():
    seen = play(env(), ["no"])
    assert texts(seen)[1:] == [(O, "X made no legal move."), (X, "Your answer names no cell: you lose.")]
    assert "verdict" not in seen[1][5]  # it never acted


@pytest.mark.parametrize("junk", JUNK_ACTIONS, ids=lambda junk: repr(junk)[:20])
def test_any_text_is_an_action(junk):
    game = env()
    assert junk in game.action_space(X)
    assert play(game, [junk])[-1][2] == -1.0


def test_who_waits():
    game = env()
    game.reset()
    assert game.observe(O)["text"] == "1 2 3\n4 5 6\n7 8 9"
    assert not game.observe(O)["action_mask"].any()
    with pytest.raises(ValueError, match="not all of them 0"):
        game.action_space(O).sample(game.observe(O)["action_mask"])


def answering(moves) -> Any:
    answers = iter(moves)
    return lambda board: next(answers)


def test_it_says_what_the_game_for_one_agent_says():
    """Both seats of one game and the game against a callable, move for move."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        moves = [str(cell) for cell in rng.permutation(9) + 1]
        game = env()
        game.reset()
        seen = []
        for move in moves:
            seen.append((game.agent_selection, game.last()[0]["text"]))
            game.step(move)
            if game.terminations[game.agent_selection]:
                break
        ends = {agent: (game.observe(agent)["text"], game.rewards[agent]) for agent in (X, O)}
        for agent, seat, mine, theirs in ((X, "first", 0, 1), (O, "second", 1, 0)):
            arguments: dict[str, Any] = {"opponent": answering(moves[theirs::2]), "seat": seat}
            single = TicTacToeEnv(**arguments)
            said, over, actions = [single.reset()[0]], False, iter(moves[mine::2])
            while not over:
                text, reward, over, *_ = single.step(next(actions))
                said.append(text)
            assert said[:-1] == [text for who, text in seen if who == agent]
            assert (said[-1], reward) == ends[agent]


def test_misuse():
    game = raw_env()
    with pytest.raises(ResetNeeded):
        game.step("5")
    game.reset()
    wrong: Any
    for wrong in (5, None, b"5"):
        with pytest.raises(TypeError, match="an action is a str"):
            game.step(wrong)
    play(game, ["x"])
    with pytest.raises(ResetNeeded):
        game.step("5")
    game.reset()
    game.step("x")
    with pytest.raises(ValueError, match="dead"):
        game.step("5")
    assert len(play(game, ["1", "2", "2"])) == 5  # after a reset in the middle of the farewells
    with pytest.raises(AttributeError, match="before reset"):
        env().agents  # noqa: B018
    for wrong in (
        {"illegal_penalty": float("nan")}, {"illegal_other": float("inf")}, {"render_mode": "rgb_array"},
        {"opening_moves": 9}, {"opening_moves": -1},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(wrong))):
            raw_env(**wrong)
    for wrong in (1.0, True, "1"):
        with pytest.raises(TypeError, match="opening_moves must be an int or two"):
            raw_env(opening_moves=wrong)
    with pytest.raises(ValueError, match=r"unknown solver 'best_response'.*\['minimax', 'random'\]"):
        raw_env().solver("best_response")


@pytest.mark.parametrize("actions", [[], ["5"], ["5", "1", "\ud83d\ude00"], ["5", "1", "3", "2", "7"], ["x", None]])
def test_states(actions):
    game = raw_env()
    game.reset()
    for action in actions:
        game.step(action)
    state = json.loads(json.dumps(game.get_state()))
    others = [raw_env(), pickle.loads(pickle.dumps(game))]
    others[0].set_state(state)
    for other in others:
        assert other.get_state() == state
        assert finish(other) == finish(pickle.loads(pickle.dumps(game)))


def finish(game) -> Any:
    seen = []
    while game.agents:
        agent = game.agent_selection
        observation, *rest = game.last()
        seen.append((agent, observation["text"], observation["action_mask"].tolist(), *rest))
        mask = observation["action_mask"]
        game.step(None if rest[1] else str(1 + int(np.flatnonzero(mask)[-1])))
    return seen


def test_the_state_holds_the_opening_and_what_comes_next():
    game = raw_env(opening_moves=3)
    game.reset(seed=5)
    game.step(str(1 + int(np.flatnonzero(game.last()[0]["action_mask"])[0])))
    state = json.loads(json.dumps(game.get_state()))
    other = raw_env(opening_moves=3)
    other.set_state(state)
    assert other.get_state() == state
    assert finish(other) == finish(game)
    for _ in range(5):
        game.reset()
        other.reset()
        assert game.observe(X)["text"] == other.observe(X)["text"]
    with pytest.raises(ValueError, match="opening_moves"):
        raw_env().set_state(state)
    for opening in ([], [1, 1, 2], [1, 2], [1, 2, 10], ["1", "2", "3"]):
        with pytest.raises(ValueError, match="broken state"):
            other.set_state({**state, "opening": opening})


@pytest.mark.parametrize("opening_moves", [0, 1, 4, 8])
def test_the_vocabulary_holds_all_that_is_said(opening_moves):
    game = raw_env(opening_moves=opening_moves)
    words = game.vocabulary()
    assert len(words) == len(set(words))
    assert set(words) >= set(TicTacToeEnv(opponent=answering([])).vocabulary())
    rng = np.random.default_rng(0)
    said = set()
    for seed in range(300):
        game.reset(seed=seed)
        while game.agents:
            said |= {game.observe(agent)["text"] for agent in (X, O)}
            is_over = game.terminations[game.agent_selection]
            game.step(None if is_over else str(rng.integers(0, 10)))
    assert said <= set(words)
    if not opening_moves:
        assert len(words) == 6_439 + 2 + 10  # who forfeits, and the boards that only a player who waits sees


def test_states_that_are_refused():
    game = raw_env()
    assert game.get_state()["actions"] is None
    game.set_state(game.get_state())
    assert game.agents == []
    game.reset()
    game.step("5")
    state = game.get_state()
    broken: list[Any] = [
        {}, None, {**state, "env": "x"}, {**state, "rules": [0, 0, 0]}, {"env": state["env"]}, {**state, "actions": 5},
        {**state, "opening": [1]}, {**state, "opening": 5}, {**state, "rng": {}},
        {**state, "actions": [None]}, {**state, "actions": ["5", "5", "5"]},
        {**state, "actions": ["x", None, None, None]},
    ]  # fmt: skip
    for forged in broken:
        with pytest.raises(ValueError, match="state"):
            game.set_state(forged)
    assert game.get_state() == state
    assert raw_env.metadata["is_parallelizable"] is False


def test_the_space_of_moves():
    space = MoveText(seed=0)
    assert {space.sample() for _ in range(200)} == set("123456789")
    mask = np.array([0, 1, 0, 0, 0, 0, 0, 0, 1], np.int8)
    assert (
        {space.sample(mask) for _ in range(100)} == {space.sample(mask=mask.tolist()) for _ in range(100)} == {"2", "9"}
    )
    assert "" in space
    assert "x" * 1000 in space
    assert 5 not in space
    assert space == MoveText()
    assert space != llm_envs.AnyText()
    assert hash(space) == hash(MoveText())
    wrong: Any
    for wrong in (np.ones(8), np.zeros(9), [], 1):
        with pytest.raises(ValueError, match="a mask holds 9 numbers"):
            space.sample(wrong)
    with pytest.raises(ValueError, match="probability"):
        space.sample(probability=np.ones(9) / 9)


def test_every_position_is_observed_truly():
    game = raw_env()

    def walk(position, actions) -> None:
        game.reset()
        for action in actions:
            game.step(action)
        observation = game.last()[0]
        assert observation in game.observation_space(game.agent_selection)
        assert observation["text"].endswith(position.text)
        assert game.terminations[game.agent_selection] is position.is_over
        if not position.is_over:
            assert [1 + i for i in np.flatnonzero(observation["action_mask"])] == list(position.moves)

    seen: dict[Any, list[str]] = {}
    frontier: list[Any] = [(start(), [])]
    while frontier:
        position, actions = frontier.pop()
        if position in seen:
            continue
        seen[position] = actions
        frontier += [(position.after[move], [*actions, str(move)]) for move in position.moves]
    rng = np.random.default_rng(0)
    everything = list(seen.items())
    for index in rng.choice(len(everything), 500, replace=False):
        walk(*everything[index])
