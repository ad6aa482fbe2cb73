"""The recipe for tic-tac-toe: from nothing to a table of results, in a process of its own, and its parts."""

import csv
import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trainers.config import ConfigError
from trainers.opponents import OpponentPool
from trainers.recipes import guess_number, tic_tac_toe
from trainers.rendering import Renderer
from trainers.rollouts import RolloutSettings
from trainers.sampling import TorchSampler
from trainers.trajectories import Completion, Trajectory, Turn

SMALL = ("--updates", "1", "--read-steps", "3", "--eval-games", "4")
EMPTY = "1 2 3\n4 5 6\n7 8 9"


def test_from_nothing_to_a_table(run_python, tmp_path):
    done = run_python("-m", "trainers.recipes.tic_tac_toe", "--run-dir", "out", *SMALL, cwd=tmp_path, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    out = tmp_path / "out"
    assert {"base", "adapter", "checkpoints", "config.json", "metrics.jsonl", "episodes.jsonl", "scores.csv",
            "summary.json", "curve.png", "report.html"} == {p.name for p in out.glob("[!.]*")}  # fmt: skip
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["kind"] != "start"]
    assert [(row["kind"], row["update"]) for row in rows] == [("evaluation", 0), ("update", 1), ("evaluation", 1)]
    with (out / "scores.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [(row["opponent"], row["seat"]) for row in table] == [
        (opponent, seat) for opponent in ("random", "optimal", "untrained") for seat in ("first", "second")
    ]  # fmt: skip
    for row in table:
        won, drawn, lost = (int(row[name]) for name in ("won", "drawn", "lost"))
        assert won + drawn + lost == int(row["games"]) == 4
        assert int(row["illegal"]) <= lost
        assert 0.0 <= float(row["gave_away"]) <= 1.0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["seed"] == 0
    assert [{name: str(value) for name, value in score.items()} for score in summary["scores"]] == table
    shown = done.stdout.splitlines()
    header = shown.index("The policy plays greedily:") + 1
    assert shown[header].split() == ["against", "moves", "won", "drawn", "lost", "illegal", "gave", "value", "away"]
    for line, row in zip(shown[header + 1 : header + 7], table, strict=True):
        names = ("opponent", "seat", "won", "drawn", "lost", "illegal")
        assert line.split()[:6] == [row[name] for name in names]
        assert line.split()[6] == f"{float(row['gave_away']):.1%}"
    assert shown[-1] == f"  llm-envs play TicTacToe-v0 --opponent {Path('out/adapter')}"
    episodes = [json.loads(line) for line in (out / "episodes.jsonl").read_text().splitlines()]
    assert len(episodes) == 16
    assert {episode["env"] for episode in episodes} == {tic_tac_toe.ENV}

    again = run_python("-m", "trainers.recipes.tic_tac_toe", "--run-dir", "out", *SMALL, cwd=tmp_path)
    assert again.returncode == 2
    assert again.stderr == "error: out is not empty: add --resume to go on with it, or name another\n"


@pytest.mark.parametrize("recipe", [tic_tac_toe, guess_number])
@pytest.mark.parametrize("preset", ["cpu", "gpu"])
def test_presets_are_settings_that_can_work(recipe, preset, tmp_path):
    config = recipe.Config(preset=preset, seed=3, device="cpu", model="some/model")
    settings = recipe._settings(config, tmp_path)
    settings.validate()
    assert settings.model == (str(tmp_path / "base") if preset == "cpu" else "some/model")
    assert (settings.seed, settings.device, settings.run_dir) == (3, "cpu", tmp_path)
    assert settings.updates == recipe.UPDATES[preset]
    assert dataclasses.replace(config, updates=7).updates == 7


def test_the_gpu_preset_reads_nothing(tmp_path, monkeypatch):
    """A real model plays as it is; nothing is made in its place."""
    from trainers import train as train_module

    class EnoughError(Exception):
        pass

    def enough(config: Any, **_: Any) -> None:
        assert config.model == "some/model"
        raise EnoughError

    monkeypatch.setattr(train_module, "train", enough)
    with pytest.raises(EnoughError):
        tic_tac_toe.main(tic_tac_toe.Config(preset="gpu", model="some/model", run_dir=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"opponents": '{"self": 0.5, "nobody": 0.5}'}, "opponents: 'nobody' is unknown; llm_envs:TicTacToe-v0 has "),
        ({"opponents": '{"self": 0}'}, "opponents: the share of 'self' must be a positive number, not 0"),
        ({"updates": 0}, "updates must be at least 1, not 0"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_read(options, message, tmp_path):
    with pytest.raises(ConfigError) as caught:
        tic_tac_toe.main(tic_tac_toe.Config(run_dir=tmp_path / "out", read_steps=1, **options))
    assert str(caught.value).startswith(message)
    assert not (tmp_path / "out").exists()


def game(*turns: tuple[str, str, float], verdict: str = "wrong") -> Trajectory:
    found = Trajectory(seed=0, observations=[*(seen for seen, _, _ in turns), "over"])
    for _, action, reward in turns:
        found.append_completion(Completion([1], [-1.0], "stop"))
        found.turns.append(Turn(action, 1, reward, "stop", verdict, {}))
    return found


def test_a_score_by_hand():
    corner = "X 2 3\n4 5 6\n7 8 9"
    played = [
        game((EMPTY, "5", 0.0), ("X 2 3\nO X 6\n7 8 9", "9", 1.0), verdict="correct"),
        game((corner, "5", 0.0)),
        game((corner, "2", -1.0)),  # only the centre holds
        game((EMPTY, "x", -1.0), verdict="unparsed"),
        game((EMPTY, "1", 0.0), (corner, "1", -1.0), verdict="illegal"),
        game(),  # won before it was asked
    ]
    returns = [1.0, 0.0, -1.0, -1.0, -1.0, 1.0]
    assert tic_tac_toe._score("random", "first", played, returns) == tic_tac_toe.Score(
        opponent="random", seat="first", games=6, won=2, drawn=1, lost=3, illegal=2, gave_away=3 / 7
    )


def test_the_untrained_loses_by_an_illegal_move(ttt_folder, load_policy):
    """A base model of random weights names hardly a cell: that is a win for whoever sits opposite, asked or not."""
    policy = load_policy(ttt_folder)
    renderer = Renderer.from_pretrained(str(ttt_folder))
    run: Any = SimpleNamespace(
        sampler=TorchSampler(policy, stop_tokens=renderer.stop_tokens),
        renderer=renderer,
        opponents=OpponentPool(policy, {"self": 1.0}, kept=1),
        settings=RolloutSettings(group_size=9, max_tokens=1, temperature=0.5, context_length=128),
        config=SimpleNamespace(seed=0),
    )
    played, returns = tic_tac_toe._against_base(run, 1, 30)
    assert len(played) == len(returns) == 30
    never_asked = [earned for trajectory, earned in zip(played, returns, strict=True) if not trajectory.turns]
    assert len(never_asked) > 10
    assert set(never_asked) == {1.0}
    for trajectory, earned in zip(played, returns, strict=True):
        assert trajectory.total_reward == (earned if trajectory.turns else 0.0)
    assert (played, returns) == tic_tac_toe._against_base(run, 1, 30)
