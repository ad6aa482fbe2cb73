import json
from typing import Any

import pytest

from llm_envs.cli import main

OPENING = "Guess my number from 1 to 8. You have 10 guesses."
GOOD = {
    "env": "llm_envs:GuessNumber-v0",
    "env_args": {"high": 8},
    "seed": 0,
    "options": {"index": 4},
    "observations": [OPENING, "Higher!", "Correct!"],
    "actions": ["4", "5"],
    "rewards": [0.0, 9.0],
    "verdicts": ["wrong", "correct"],
}
BAD = {**GOOD, "rewards": [0.0, 8.0]}


@pytest.fixture
def replay(tmp_path, capsys) -> Any:
    def run(lines, *arguments) -> Any:
        path = tmp_path / "episodes.jsonl"
        path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
        code = main(["replay", str(path), *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err.replace(str(path), "FILE")

    return run


def test_episodes_are_printed(replay):
    code, out, err = replay([GOOD])
    assert (code, err) == (0, "")
    assert out == (
        'episode 1\nllm_envs:GuessNumber-v0 {"high": 8}, seed 0, {"index": 4}\n'
        "Guess my number from 1 to 8. You have 10 guesses.\n> 4\nHigher!\n[wrong, 0]\n> 5\nCorrect!\n[correct, 9]\n"
        "return: 9\n\n"
    )
    assert replay([BAD])[:2] == (0, out)  # it prints what happens, not what was recorded


def test_episodes_are_checked(replay):
    assert replay([GOOD, GOOD], "--check") == (0, "2 episodes: 2 agree, 0 differ\n", "")
    assert replay([GOOD, BAD, GOOD, "", BAD], "--check") == (
        1,
        "line 2, episode 2 (llm_envs:GuessNumber-v0, seed 0): step 2, reward: recorded 8.0, found 9.0\n"
        "line 5, episode 4 (llm_envs:GuessNumber-v0, seed 0): step 2, reward: recorded 8.0, found 9.0\n"
        "4 episodes: 2 agree, 2 differ\n",
        "",
    )
    assert replay([GOOD, BAD], "--check", "--limit", "1") == (0, "1 episodes: 1 agree, 0 differ\n", "")
    down = {**BAD, "verdicts": ["wrong", "unscorable"]}
    assert replay([down, GOOD], "--check")[:2] == (
        0,
        "2 episodes: 1 agree, 0 differ, 1 unscorable ones were left out\n",
    )


def test_json(replay):
    code, out, _ = replay([GOOD, BAD])
    code, out, _ = replay([GOOD, BAD], "--json")
    assert (code, [json.loads(line) for line in out.splitlines()]) == (0, [GOOD, GOOD])
    code, out, _ = replay([GOOD, BAD], "--check", "--json")
    assert (code, json.loads(out)) == (
        1,
        {
            "episodes": 2,
            "agree": 1,
            "unscorable": 0,
            "differing": [
                {"line": 2, "episode": 2, "step": 2, "what": "reward", "recorded": 8.0, "found": 9.0},
            ],
        },
    )


def test_games(replay):
    pytest.importorskip("pettingzoo", minversion="1.27")
    opening = "Tic-tac-toe. You are X. Say the number of a free cell.\n1 2 3\n4 5 6\n7 8 9"
    game: dict[str, Any] = {
        "env": "llm_envs:TicTacToe-v0", "seed": 3, "players": {"player_1": "self"}, "agents": ["player_1"],
        "observations": [opening], "actions": ["?"], "returns": {"player_1": -1.0, "player_2": 0.0},
        "endings": {"player_1": "Your answer names no cell: you lose.", "player_2": "X made no legal move."},
    }  # fmt: skip
    code, out, _ = replay([game])
    assert code == 0
    assert out.endswith(
        " 7 | 8 | 9\nplayer_1> ?\nYour answer names no cell: you lose.\nreturn of player_1: -1\n"
        "X made no legal move.\nreturn of player_2: 0\n\n"
    )
    assert replay([game, game, GOOD], "--check")[:2] == (0, "3 episodes: 3 agree, 0 differ\n")
    game["returns"]["player_2"] = 1.0
    assert replay([game], "--check")[0] == 1


def test_what_a_trainer_recorded(replay):
    """Its lines hold more than an episode: tokens, advantages, the opening messages."""
    trained = {
        "update": 3, "group": 0, **GOOD, "return": 9.0, "stop_reasons": ["stop", "stop"], "reward_parts": [{}, {}],
        "prompt": [{"role": "user", "content": OPENING}], "action_tokens": 2, "advantages": [0.5, 0.5],
        "token_texts": [["4"], ["5"]], "token_logprobs": [[-0.1], [-0.2]], "token_advantages": [[0.5], [0.5]],
    }  # fmt: skip
    assert replay([trained], "--check") == (0, "1 episodes: 1 agree, 0 differ\n", "")
    assert replay([trained]) == replay([GOOD])
    assert replay([{**trained, "rewards": [0.0, 8.0]}], "--check")[0] == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "FILE: line 2: not JSON"),
        ({**GOOD, "rewards": []}, "FILE: line 2: 'rewards' must be"),
        ({**GOOD, "env": "NoSuch-v0"}, "FILE: line 2: cannot make NoSuch-v0: "),
        ({**GOOD, "options": {"index": 8}}, "FILE: line 2: cannot reset llm_envs:GuessNumber-v0: "),
        ({**GOOD, "seed": -1}, "FILE: line 2: cannot reset llm_envs:GuessNumber-v0: Seed must be"),
    ],
)
@pytest.mark.parametrize("check", [[], ["--check"]])
def test_lines_that_cannot_be_replayed(replay, line, message, check):
    code, _, err = replay([GOOD, line], *check)
    assert code == 2
    assert err.startswith("llm-envs: " + message)
    assert err.count("\n") == 1


def test_a_file_that_is_not_there(capsys):
    assert main(["replay", "missing.jsonl"]) == 2
    assert capsys.readouterr().err.startswith("llm-envs: missing.jsonl: [Errno 2]")


def test_progress_is_for_terminals(replay, monkeypatch):
    monkeypatch.setattr("llm_envs.cli.shared._REPORT_EVERY", 2)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert replay([GOOD] * 5, "--check")[2] == "\r2 episodes\r4 episodes\n"
