import io
import json
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from llm_envs.cli import main
from llm_envs.cli.showing import observation_text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def play(monkeypatch, capsys) -> Any:
    def run(typed, *arguments) -> Any:
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        code = main(["play", *arguments])
        return (code, *capsys.readouterr())

    return run


def test_a_game(play, tmp_path):
    path = tmp_path / "episodes.jsonl"
    args = ["GuessNumber-v0", "--env-args", '{"high": 8}', "--index", "4", "--seed", "1", "--record", str(path)]
    code, out, err = play("4\nfive?\n 5\r\n6\n", *args)
    assert (code, err) == (0, "")
    assert out == (
        "GuessNumber-v0, seed 1\n\nGuess my number from 1 to 8. You have 10 guesses.\n"
        "> 4\nHigher!\n[wrong, 0]\n> five?\nSay one whole number.\n[unparsed, 0]\n"
        ">  5\nCorrect!\n[correct, 8]\nReturn 8 (random 0.719, optimal 8.375)\n".replace(
            "random 0.719", f"random {_random_of_eight()}"
        )
    )
    record = json.loads(path.read_text())
    assert record["actions"] == ["4", "five?", " 5"]
    assert (record["env"], record["env_args"]) == ("llm_envs:GuessNumber-v0", {"high": 8})
    assert (record["seed"], record["options"]) == (1, {"index": 4})
    assert main(["replay", str(path), "--check"]) == 0


def _random_of_eight() -> str:
    return f"{sum((10 - n) * (7 / 8) ** n / 8 for n in range(10)):.4g}"


def test_the_end_of_the_input_ends_the_play(play, tmp_path):
    path = tmp_path / "episodes.jsonl"
    code, out, _ = play("50\n", "llm_envs:GuessNumber-v0", "--seed", "3", "--record", str(path))
    assert code == 0
    assert out.endswith("The episode was left. Return 0 (random 0.5338, optimal 5.2)\n")
    assert json.loads(path.read_text())["actions"] == ["50"]
    assert play("", "GuessNumber-v0", "--record", str(path))[0] == 0
    assert path.read_text().count("\n") == 1  # nothing was played, so nothing was added
    assert main(["replay", str(path), "--check"]) == 0


def test_an_interruption_keeps_the_record(monkeypatch, capsys, tmp_path):
    typed = iter(["50", KeyboardInterrupt()])

    def ask(prompt) -> str:
        said: Any = next(typed)
        if isinstance(said, BaseException):
            raise said
        return str(said)

    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("builtins.input", ask)
    path = tmp_path / "episodes.jsonl"
    assert main(["play", "GuessNumber-v0", "--seed", "3", "--record", str(path)]) == 130
    assert "The episode was left. Return 0" in capsys.readouterr().out
    assert json.loads(path.read_text())["actions"] == ["50"]
    typed = iter([EOFError()])
    assert main(["play", "GuessNumber-v0"]) == 0


def test_answers_of_many_lines(play, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "1 + 1?", "answer": "#### 2"}\n')
    args = ["GSM8K-v0", "--env-args", json.dumps({"data": str(rows), "few_shot": False}), "--seed", "0"]
    for typed in ("It is\n\\boxed{2}\n.\nmore\n", "It is\n\\boxed{2}"):
        code, out, _ = play(typed, *args)
        assert code == 0
        assert "An answer ends with a line that holds a single '.'.\n" in out
        assert "1 + 1?" in out
        assert out.endswith("[correct, 1]\nReturn 1\n")


def test_without_a_seed_each_play_is_another(play):
    seeds = {play("", "TicTacToe-v0")[1].split("\n")[0] for _ in range(5)}
    assert len(seeds) > 1


def test_a_named_opponent(play, tmp_path):
    path = tmp_path / "episodes.jsonl"
    args = ["TicTacToe-v0", "--env-args", '{"seat": "first"}', "--opponent", "optimal", "--seed", "0"]
    code, out, _ = play("5\n5\n", *args, "--record", str(path))
    assert code == 0
    assert " 1 | 2 | 3\n---+---+---\n 4 | 5 | 6\n---+---+---\n 7 | 8 | 9\n> 5\n" in out
    assert out.endswith("Cell 5 is taken: you lose.\n[illegal, -1]\nReturn -1 (random -0.7775, best_response 0)\n")
    assert json.loads(path.read_text())["env_args"] == {"seat": "first", "opponent": "optimal"}
    assert main(["replay", str(path), "--check"]) == 0


class Lowest:
    """A player that is made from a path; it says the lowest free cell."""

    told: tuple[Any, ...] = ()

    def __init__(self, path) -> None:
        type(self).told = (path,)

    def reset(self, observation, info) -> None:
        type(self).told += (observation,)

    def act(self, observation) -> str:
        return str(min(char for char in observation[-17:] if char.isdigit()))


def install(monkeypatch, *points) -> None:
    monkeypatch.setattr("llm_envs.cli.play.entry_points", lambda **_: points)


@pytest.mark.parametrize(("seat", "agent"), [("first", "player_1"), ("second", "player_2")])
def test_a_player_from_a_folder(play, monkeypatch, tmp_path, seat, agent):
    pytest.importorskip("pettingzoo", minversion="1.27")
    install(monkeypatch, EntryPoint("adapter", f"{__name__}:Lowest", "llm_envs.players"))
    monkeypatch.setattr(EntryPoint, "load", lambda self: Lowest)
    path = tmp_path / "episodes.jsonl"
    args = ["--env-args", json.dumps({"seat": seat, "illegal_penalty": -2}), "--opponent", str(tmp_path), "--seed", "0"]
    code, out, err = play("9\n8\n7\n", "TicTacToe-v0", *args, "--record", str(path))
    assert (code, err) == (0, "")
    record = json.loads(path.read_text())
    assert record["env_args"] == {"illegal_penalty": -2, "illegal_other": 1.0}
    if seat == "first":
        assert out.endswith(
            "You win.\n O | O | 3\n---+---+---\n 4 | 5 | 6\n---+---+---\n X | X | X\n[correct, 1]\nReturn 1\n"
        )
        assert record["actions"] == ["9", "1", "8", "2", "7"]
    else:
        assert out.endswith(
            "You lose.\n X | X | X\n---+---+---\n 4 | 5 | 6\n---+---+---\n 7 | O | O\n[wrong, -1]\nReturn -1\n"
        )
        assert record["returns"] == {"player_1": 1.0, "player_2": -1.0}
    assert record["agents"].count(agent) >= 2
    assert Lowest.told[0] == str(tmp_path)
    assert Lowest.told[1].startswith("Tic-tac-toe. You are ")
    assert len(Lowest.told) == 2
    assert main(["replay", str(path), "--check"]) == 0


def test_a_seat_by_the_seed(play, monkeypatch, tmp_path):
    """The same as that of the game against a named opponent."""
    pytest.importorskip("pettingzoo", minversion="1.27")
    install(monkeypatch, EntryPoint("adapter", "x:Y", "llm_envs.players"))
    monkeypatch.setattr(EntryPoint, "load", lambda self: Lowest)
    for seed in range(6):
        said = [
            play("", "TicTacToe-v0", "--opponent", opponent, "--seed", str(seed))[1].partition("You are ")[2][0]
            for opponent in ("random", str(tmp_path))
        ]
        assert said[0] == said[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["NoSuch-v0"], "NoSuch"),
        (["no_such_module:X-v0"], "no_such_module"),
        (["GuessNumber-v0", "--env-args", '{"no": 1}'], "no"),
        (["GuessNumber-v0", "--env-args", '{"high": 0}'], "low"),
        (["GuessNumber-v0", "--index", "100"], "option 'index' must lie in 0..99, got 100"),
        (["GuessNumber-v0", "--seed", "-1"], "Seed must be greater or equal to zero, actual value: -1"),
        (["TicTacToe-v0", "--index", "1"], "unknown option 'index'"),
        (["TicTacToe-v0", "--opponent", "best"], "there is no folder best"),
        (["TicTacToe-v0", "--opponent", ".", "--index", "1"], "unknown option 'index'"),
        (["TicTacToe-v0", "--opponent", ".", "--env-args", '{"seat": 1}'], "seat must be"),
        (["TicTacToe-v0", "--env-args", '{"seat": ["first"]}'], "seat must be"),
        (["TicTacToe-v0", "--opponent", ".", "--env-args", '{"seat": ["first"]}'], "seat must be"),
        (["GuessNumber-v0", "--opponent", "random"], "--opponent goes with TicTacToe-v0"),
        (["TicTacToe-v0", "--opponent", "."], "no entry point 'adapter' in the group llm_envs.players"),
        (["GSM8K-v0", "--env-args", '{"data": "missing.jsonl"}'], "missing.jsonl"),
        (["CartPole-v1"], "CartPole-v1 is no environment of texts"),
        (["GuessNumber-v0", "--record", "/no/such/folder/file"], "/no/such/folder/file"),
    ],
)
def test_errors_are_one_line(play, monkeypatch, arguments, message):
    install(monkeypatch)
    code, _, err = play("1\n", *arguments)
    assert code == 2
    assert err.startswith("llm-envs: ")
    assert message in err
    assert err.count("\n") == 1


def test_a_player_that_cannot_be_imported(play, monkeypatch, tmp_path):
    install(monkeypatch, EntryPoint("adapter", "no_such_module:X", "llm_envs.players"))
    assert play("", "TicTacToe-v0", "--opponent", str(tmp_path))[::2] == (
        2,
        "llm-envs: playing against an adapter needs llm-envs[train]: No module named 'no_such_module'\n",
    )


def test_colours_are_for_terminals(monkeypatch):
    text = "Well.\nX 2 3\n4 O 6\n7 8 9"
    plain = "Well.\n X | 2 | 3\n---+---+---\n 4 | O | 6\n---+---+---\n 7 | 8 | 9"
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert observation_text(text, is_board_game=True) == plain
    assert observation_text(text) == text
    monkeypatch.setattr("sys.stdout", Terminal())
    assert "\x1b[1;31mX\x1b[0m | \x1b[2m2\x1b[0m |" in observation_text(text, is_board_game=True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert observation_text(text, is_board_game=True) == plain
    assert observation_text("\x1b[2Jboo\0\ud800") == "\\x1b[2Jboo\\x00\\ud800"


def test_any_bytes_can_be_typed(tmp_path):
    path = tmp_path / "episodes.jsonl"
    code = "import sys; from llm_envs.cli import main; sys.exit(main(sys.argv[1:]))"
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, "play", "GuessNumber-v0", "--seed", "3", "--record", str(path)],
        input=b"\xff50\x00\x1b\n",
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    )
    assert b"\x1b" not in run.stdout
    assert b"Return 0" in run.stdout
    assert main(["replay", str(path), "--check"]) == 0
