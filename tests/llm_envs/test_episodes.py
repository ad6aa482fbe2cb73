import json
import math
from typing import Any

import gymnasium as gym
import pytest

from llm_envs.episodes import (
    append_episode,
    differences,
    is_unscorable,
    make_recorded,
    new_record,
    play,
    read_episodes,
    replay,
    to_jsonable,
)

OPENING = "Guess my number from 1 to 8. You have 3 guesses."
GUESSES: dict[str, Any] = {
    "env": "llm_envs:GuessNumber-v0",
    "env_args": {"high": 8, "max_guesses": 3},
    "seed": None,
    "options": {"index": 4},
    "observations": [
        OPENING,
        "Higher!",
        "Say one whole number.",
        "Correct!",
    ],
    "actions": ["4", "dunno", "5"],
    "rewards": [0.0, 0.0, 1.0],
    "verdicts": ["wrong", "unparsed", "correct"],
}
BOARDS = [
    "Tic-tac-toe. You are X. Say the number of a free cell.\n1 2 3\n4 5 6\n7 8 9",
    "Tic-tac-toe. You are O. Say the number of a free cell.\n1 2 3\n4 X 6\n7 8 9",
]
GAME: dict[str, Any] = {
    "env": "llm_envs:TicTacToe-v0",
    "env_args": {"illegal_other": 0.5},
    "seed": 0,
    "options": None,
    "agents": ["player_1", "player_2"],
    "observations": BOARDS,
    "actions": ["5", "5"],
    "returns": {"player_1": 0.5, "player_2": -1.0},
    "endings": {"player_1": "O made no legal move.", "player_2": "Cell 5 is taken: you lose."},
}


def saying(*actions) -> Any:
    rest = iter(actions)
    return lambda heard: None if heard.is_over else next(rest, None)


def test_an_episode_is_recorded():
    record = new_record("llm_envs:GuessNumber-v0", {"high": 8, "max_guesses": 3}, seed=None, options={"index": 4})
    play(gym.make("llm_envs:GuessNumber-v0", high=8, max_guesses=3), record, saying("4", "dunno", "5"))
    assert record == GUESSES


def test_a_game_is_recorded():
    pytest.importorskip("pettingzoo", minversion="1.27")
    record = new_record("llm_envs:TicTacToe-v0", {"illegal_other": 0.5}, seed=0)
    heard = []

    def policy(what) -> Any:
        heard.append((what.agent, what.reward, what.verdict, what.is_over))
        return None if what.is_over else "5"

    play(make_recorded(GAME), record, policy)
    assert record == GAME
    assert heard == [
        ("player_1", None, None, False),
        ("player_2", None, None, False),
        ("player_1", 0.5, "wrong", True),
        ("player_2", -1.0, "illegal", True),
    ]


def test_whoever_leaves_early_leaves_a_true_record():
    record = new_record("GuessNumber-v0", {}, seed=3)
    play(gym.make("llm_envs:GuessNumber-v0"), record, saying("0"))
    assert (record["actions"], record["rewards"], len(record["observations"])) == (["0"], [0.0], 2)
    assert list(differences(record, replay(make_recorded(record), record))) == []

    def interrupt(heard) -> Any:
        if heard.reward is not None:
            raise KeyboardInterrupt
        return "0"

    with pytest.raises(KeyboardInterrupt):
        play(gym.make("llm_envs:GuessNumber-v0"), record, interrupt)
    assert record["actions"] == ["0"]


@pytest.mark.parametrize("record", [GUESSES, GAME], ids=["single", "game"])
def test_what_is_replayed_is_the_same(record):
    if "agents" in record:
        pytest.importorskip("pettingzoo", minversion="1.27")
    env = make_recorded(record)
    for _ in range(2):
        again = replay(env, record)
        assert again == record
        assert list(differences(record, again)) == []


@pytest.mark.parametrize(
    ("forged", "step", "what", "recorded", "found"),
    [
        ({"observations": ["?", "Higher!", "?", "Correct!"]}, 0, "observation", "?", OPENING),
        ({"observations": [OPENING, "Higher!", "?", "Correct!"]}, 2, "observation", "?", "Say one whole number."),
        ({"rewards": [0.0, 0.0, 1.0000000000000002]}, 3, "reward", 1.0000000000000002, 1.0),
        ({"verdicts": ["wrong", "wrong", "correct"]}, 2, "verdict", "wrong", "unparsed"),
        ({"options": {"index": 3}}, 1, "observation", "Higher!", "Correct!"),
        ({"rewards": [0.0, math.nan, 1.0]}, 2, "reward", None, 0.0),
    ],
)  # fmt: skip
def test_the_first_difference(forged, step, what, recorded, found):
    record = {**GUESSES, **forged}
    first = next(differences(record, replay(make_recorded(record), record)))
    assert (first.step, first.what, first.found) == (step, what, found)
    assert first.recorded == recorded or recorded is None
    assert str(first).startswith(f"step {step}, {what}: recorded ")


def test_an_episode_that_ends_earlier_than_recorded():
    record = {**GUESSES, "actions": ["5", "4", "5"], "rewards": [3.0, 0.0, 0.0], "verdicts": ["correct", "", ""]}
    record["observations"] = [GUESSES["observations"][0], "Correct!", "", ""]
    found = list(differences(record, replay(make_recorded(record), record)))
    assert [str(one) for one in found] == ["step 1, length: recorded '3 actions', found 'over after 1'"]


@pytest.mark.parametrize(
    ("forged", "whats"),
    [
        ({"agents": ["player_2", "player_2"]}, ["agent"]),
        ({"observations": [BOARDS[0], BOARDS[0]]}, ["observation"]),
        ({"returns": {"player_1": 0.0, "player_2": -1.0}}, ["return of player_1"]),
        ({"endings": {"player_2": "You lose."}}, ["ending of player_2"]),
        ({"actions": ["5", "1"]}, [f"{what} of player_{n}" for what in ("return", "ending") for n in (1, 2)]),
        ({"env_args": {}}, ["return of player_1"]),
    ],
)  # fmt: skip
def test_differences_of_games(forged, whats):
    pytest.importorskip("pettingzoo", minversion="1.27")
    record = {**GAME, **forged}
    assert [one.what for one in differences(record, replay(make_recorded(record), record))] == whats


def test_files(tmp_path):
    path = tmp_path / "episodes.jsonl"
    odd = {**GUESSES, "actions": ["\ud83d\ude00", "\ud800", "5\0"]}
    append_episode(path, odd)
    append_episode(path, GAME)
    assert list(read_episodes(path)) == [(1, odd), (2, GAME)]
    assert to_jsonable(odd)["actions"] == [[0xD83D, 0xDE00], "\ud800", "5\0"]


# What the trainer writes beside the keys of an episode.
TRAINED: dict[str, Any] = {
    "update": 3, "group": 0, "return": 1.0, "prompt": [{"role": "user", "content": OPENING}],
    "stop_reasons": ["stop", "length", "stop"], "reward_parts": [{}, {"format": -0.1}, {"found": 1.0}],
    "action_tokens": 3, "token_texts": [["4"], ["dunno"], ["5"]], "token_logprobs": [[-0.1], [-2.0], [-0.5]],
    "token_advantages": [[0.5], [0.5], [0.5]], "advantages": [0.5, 0.5, 0.5],
}  # fmt: skip


def test_what_a_trainer_adds_is_overlooked(tmp_path):
    path = tmp_path / "episodes.jsonl"
    single = {key: value for key, value in GUESSES.items() if key not in {"env_args", "options"}}
    player = {"players": {"player_1": "self", "player_2": "random"}, "token_texts": [["5"], []], "verdicts": None}
    lines = [{**TRAINED, **GUESSES}, {**TRAINED, **single, "seed": 9}, {**TRAINED, **GAME, **player}]
    path.write_text("\n" + "\n\n".join(map(json.dumps, lines)))
    found = list(read_episodes(path))
    assert found == [(2, GUESSES), (4, {**GUESSES, "seed": 9, "env_args": {}, "options": None}), (6, GAME)]
    record = found[0][1]
    assert list(differences(record, replay(make_recorded(record), record))) == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "an episode is a JSON object"),
        (b"{}", "'env' must be the id"),
        ({"env": 5}, "'env' must be the id"),
        ({"env_args": [1]}, "'env_args' must be a JSON object"),
        ({"seed": "1"}, "'seed' must be a whole number"),
        ({"seed": True}, "'seed' must be a whole number"),
        ({"options": 5}, "'options' must be a JSON object"),
        ({"actions": "abc"}, "'actions' must be a list of texts"),
        ({"actions": [5, 5, 5]}, "'actions' must be a list of texts"),
        ({"actions": [[-1], "", ""]}, "'actions' must be a list of texts"),
        ({"actions": []}, "4 observations do not go with 0 actions"),
        ({"rewards": [1.0]}, r"'rewards' must be a list, an entry an action \(3\)"),
        ({"rewards": ["1", "1", "1"]}, "'rewards' must be a list"),
        ({"verdicts": [1, 2, 3]}, "'verdicts' must be a list"),
        ({"agents": ["player_1"] * 3}, "4 observations do not go with 3 actions"),
    ],
)
def test_lines_that_hold_no_episode(line, message, tmp_path):
    path = tmp_path / "episodes.jsonl"
    bad = line if isinstance(line, bytes) else json.dumps({**GUESSES, **line}).encode()
    path.write_bytes(json.dumps(GUESSES).encode() + b"\n" + bad + b"\n")
    episodes = read_episodes(path)
    assert next(episodes) == (1, GUESSES)
    with pytest.raises(ValueError, match=f"line 2: {message}"):
        next(episodes)


@pytest.mark.parametrize(
    "forged",
    [
        {"env": "NoSuch-v0"}, {"env": "no_such_module:X-v0"}, {"env_args": {"no_such": 1}}, {"env_args": {"high": 0}},
    ],
)  # fmt: skip
def test_environments_that_cannot_be_made(forged):
    for record in (GUESSES, GAME):
        with pytest.raises(ValueError, match="cannot make"):
            make_recorded({**record, **forged, "env_args": {"no_such": 1}} if record is GAME else {**record, **forged})


def test_a_reset_that_is_refused():
    record = {**GUESSES, "options": {"index": 99}}
    with pytest.raises(ValueError, match=r"cannot reset llm_envs:GuessNumber-v0: option 'index' must lie in 0\.\.7"):
        replay(make_recorded(record), record)


def test_what_need_not_come_again():
    assert is_unscorable({**GUESSES, "verdicts": ["wrong", "unscorable"]})
    assert not is_unscorable(GUESSES)
    assert not is_unscorable(GAME)
