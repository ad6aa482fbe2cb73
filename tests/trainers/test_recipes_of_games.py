"""What the games' recipes share: presets, the order of things, and what they leave behind."""

import json
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trainers.config import ConfigError, TrainConfig
from trainers.recipes.games import (
    GameOptions,
    choose_run_dir,
    in_words,
    list_files,
    read_and_train,
    save_result,
    shared_settings,
    show_games,
    time_taken,
)

ENV = "llm_envs:GuessNumber-v0"
UPDATES = {"cpu": 150, "gpu": 60}


def test_what_the_presets_share(tmp_path):
    common = TrainConfig(
        model=str(tmp_path / "base"), env=(ENV,), run_dir=tmp_path, updates=150, group_size=16, eval_every=10,
        save_every=10, warmup_updates=8, schedule="linear", attention="eager",
    )  # fmt: skip
    assert shared_settings(GameOptions(), tmp_path, env=ENV, updates=UPDATES) == common
    given = GameOptions(preset="gpu", model="some/model", updates=7, seed=3, device="cpu", resume=True)
    assert shared_settings(given, tmp_path, env=ENV, updates=UPDATES) == replace(
        common, model="some/model", updates=7, seed=3, device="cpu", resume=True, groups_per_batch=32,
        learning_rate=4e-5, warmup_updates=3, schedule="constant", attention="auto",
    )  # fmt: skip
    assert shared_settings(GameOptions(preset="gpu"), tmp_path, env=ENV, updates=UPDATES).updates == 60
    assert in_words(UPDATES) == "150 updates with the preset cpu, 60 with gpu"
    assert (GameOptions().learner, given.learner) == ("a tiny model", "some/model")


def test_folders(tmp_path):
    used, empty = tmp_path / "used", tmp_path / "empty"
    for folder in (used, empty):
        folder.mkdir()
    (used / "thesis.txt").write_text("precious")
    assert choose_run_dir("chess", GameOptions(run_dir=empty)) == empty
    assert choose_run_dir("chess", GameOptions(run_dir=tmp_path / "new")) == tmp_path / "new"
    assert choose_run_dir("chess", GameOptions(run_dir=used, resume=True)) == used
    with pytest.raises(ConfigError, match="used is not empty: add --resume"):
        choose_run_dir("chess", GameOptions(run_dir=used))
    assert choose_run_dir("chess", GameOptions()).parent == Path("runs")
    assert choose_run_dir("chess", GameOptions()).name.startswith("chess-20")


@pytest.mark.parametrize("preset", ["cpu", "gpu"])
def test_first_it_reads_and_then_it_trains(preset, tmp_path, monkeypatch):
    from trainers import train as train_module

    done: list[Any] = []

    def train(settings: TrainConfig, *, log: Any) -> str:
        done.append(settings)
        return "run"

    monkeypatch.setattr(train_module, "train", train)
    options = GameOptions(preset=preset)
    settings = shared_settings(options, tmp_path / "out", env=ENV, updates=UPDATES)
    run: Any
    run, seconds = read_and_train(options, settings, lambda: done.append("read"), references=("optimal",))
    assert run == "run"
    assert done == (["read", settings] if preset == "cpu" else [settings])
    assert 0 <= seconds["reading_seconds"] <= seconds["seconds"]
    with pytest.raises(ConfigError, match="group_size is 1"):
        read_and_train(options, replace(settings, group_size=1), lambda: done.append("read"), references=())
    assert len(done) == 2 - (preset == "gpu")  # it was refused before anything was read


def test_folders_that_are_none(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match=r"thesis\.txt cannot be used: Not a directory"):
        choose_run_dir("chess", GameOptions(run_dir=tmp_path / "thesis.txt"))
    settings = shared_settings(GameOptions(), tmp_path / "thesis.txt" / "x", env=ENV, updates=UPDATES)
    done: list[str] = []
    with pytest.raises(ConfigError, match=r"thesis\.txt/x cannot be made: Not a directory"):
        read_and_train(GameOptions(), settings, lambda: done.append("read"), references=())
    assert done == []


def test_a_game_before_and_one_after(scripted, renderer, tokenizer, settings, capsys):
    """The base model says 50 and then 70, the trained one says 68 at once."""
    said = {True: ["50", "70"] * 5, False: ["68"]}
    is_base = False

    @contextmanager
    def playing_as(snapshot: Any) -> Any:
        nonlocal is_base
        assert snapshot is None
        is_base = True
        yield
        is_base = False

    def say(row: int, call: int) -> list[int]:
        word = said[is_base].pop(0)
        return [*tokenizer.encode(word, add_special_tokens=False), tokenizer.eos_token_id]

    sampler = scripted(say)
    run: Any = SimpleNamespace(
        config=TrainConfig(model="m", env=(ENV,), env_args=('{"max_guesses": 2}',)),
        policy=SimpleNamespace(playing_as=playing_as), sampler=sampler, renderer=renderer, settings=settings,
    )  # fmt: skip
    show_games(run, 67, title="A game {when}:", line="  {action:>4} {reply}")
    assert capsys.readouterr().out == (
        "\nA game before:\n    50 Higher!\n    70 No guesses left.\n  return 0\n"
        "\nA game after:\n    68 Correct!\n  return 2\n"
    )
    assert {temperature for _, _, temperature in sampler.calls} == {0.0}


def test_what_is_left_behind(tmp_path, capsys):
    log = SimpleNamespace(returns=[(1, 0.5)], evaluations=[(0, 0.25), (1, 1.0)], references={"optimal": 5.2})
    run: Any = SimpleNamespace(config=SimpleNamespace(run_dir=tmp_path, seed=3), log=log)
    save_result(run, {"greedy_return": 1.0, "optimal": 5.2}, title="Chess")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary == {"seed": 3, "greedy_return": 1.0, "optimal": 5.2}
    assert (tmp_path / "curve.png").read_bytes()[:4] == b"\x89PNG"
    assert time_taken({"reading_seconds": 1.4, "seconds": 12.6}) == ("It took 13 s, 1 of them for reading transcripts.")
    (tmp_path / "base").mkdir()
    list_files(tmp_path)
    assert capsys.readouterr().out == f"  curve      {tmp_path / 'curve.png'}\n  base model {tmp_path / 'base'}\n"
