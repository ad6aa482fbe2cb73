"""The recipe for Twenty Questions: from nothing to a curve, in a process of its own, and its parts."""

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from trainers.config import ConfigError
from trainers.recipes import twenty_questions
from trainers.recipes.twenty_questions import CarelessPlayer, Config, Table, ask_everything, choose_questions

THINGS = ["elephant", "mouse", "piano", "apple", "hammer", "teacher"]
ENV_ARGS = json.dumps({"things": THINGS})
SMALL = ("--env-args", ENV_ARGS, "--read-games", "40", "--read-steps", "40", "--read-batch", "8", "--updates", "1")


@pytest.fixture(scope="module")
def env() -> Any:
    return gym.make(twenty_questions.ENV, things=THINGS).unwrapped


@pytest.fixture(scope="module")
def table(env) -> Table:
    return ask_everything(env)


def test_from_nothing_to_a_curve(run_python, tmp_path):
    module = "trainers.recipes.twenty_questions"
    done = run_python("-m", module, "--run-dir", "out", *SMALL, cwd=tmp_path, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    out = tmp_path / "out"
    assert {"base", "adapter", "checkpoints", "config.json", "metrics.jsonl", "episodes.jsonl", "summary.json",
            "curve.png", "report.html"} == {path.name for path in out.glob("[!.]*")}  # fmt: skip
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["kind"] != "start"]
    assert [(row["kind"], row["update"]) for row in rows] == [("evaluation", 0), ("update", 1), ("evaluation", 1)]
    assert rows[0]["truncated_share"] == 0.0  # two tokens are enough for a turn
    summary = json.loads((out / "summary.json").read_text())
    assert summary["greedy_return_before"] == rows[0]["return_mean"]
    assert summary["greedy_return"] == rows[2]["return_mean"]
    assert summary["greedy"] == pytest.approx((10 * 6) / 6)  # six things are told apart within five questions
    assert 0 < summary["reading_seconds"] < summary["seconds"]
    assert "random weights reads games of a careless player of 40 questions." in done.stdout
    assert done.stdout.count("policy gradient:") == 2  # a game before and a game after
    assert f"before policy gradient, {summary['greedy_return']:.2f} after it" in done.stdout
    assert done.stdout.splitlines()[-1] == f"  base model {Path('out/base')}"

    again = run_python("-m", module, "--run-dir", "out", *SMALL, cwd=tmp_path)
    assert again.returncode == 2
    assert again.stderr == "error: out is not empty: add --resume to go on with it, or name another\n"


@pytest.mark.parametrize("preset", ["cpu", "gpu"])
def test_presets_are_settings_that_can_work(preset, tmp_path):
    config = Config(preset=preset, env_args=ENV_ARGS, seed=3, device="cpu", model="some/model")
    settings = twenty_questions._settings(config, tmp_path)
    settings.validate()
    assert settings.model == (str(tmp_path / "base") if preset == "cpu" else "some/model")
    assert (settings.seed, settings.device, settings.run_dir) == (3, "cpu", tmp_path)
    [task] = settings.tasks()
    assert task.args == task.eval_args == {"things": THINGS}
    assert settings.updates == twenty_questions.UPDATES[preset]


def test_the_gpu_preset_reads_nothing(tmp_path, monkeypatch):
    """A real model plays as it is; nothing is made in its place."""
    from trainers import train as train_module

    class EnoughError(Exception):
        pass

    def enough(settings: Any, **options: Any) -> None:
        assert settings.model == "some/model"
        raise EnoughError

    monkeypatch.setattr(train_module, "train", enough)
    with pytest.raises(EnoughError):
        twenty_questions.main(Config(preset="gpu", model="some/model", run_dir=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_what_cannot_work_is_said_before_anything_is_read(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="nothing is known of 'unicorn'"):
        twenty_questions.main(Config(run_dir=out, env_args='{"things": ["unicorn"]}'))
    with pytest.raises(ConfigError, match="needs the answerer 'knowledge'"):
        twenty_questions.main(
            Config(run_dir=out, env_args='{"answerer": "llm", "answerer_args": {"backend": "m:B", "model": "x"}}')
        )
    assert not out.exists()


def test_everything_is_asked(env, table):
    """The table is the environment's, and holds no guess among the questions."""
    assert table.guesses == [
        "Is it an elephant?", "Is it a mouse?", "Is it a piano?", "Is it an apple?", "Is it a hammer?",
        "Is it a teacher?",
    ]  # fmt: skip
    assert not set(table.guesses) & set(table.questions)
    answers = dict(zip(table.questions, table.is_true.T.tolist(), strict=True))
    assert answers["Is it an animal?"] == [True, True, False, False, False, False]
    assert answers["Is it bigger than a cat?"] == [True, False, True, False, False, True]
    assert answers["Is it made of metal?"] == [False, False, False, False, True, False]
    assert table.is_true.shape == (6, len(table.questions))
    assert len(table.questions) >= 400
    for question in table.questions[::40]:  # each has the answer of its own column
        for thing in range(6):
            env.reset(seed=0, options={"index": thing})
            assert (env.step(question)[0] == "Yes.") == answers[question][thing]


def test_questions_are_chosen_for_what_they_tell_apart():
    is_true = np.array(
        [
            # of all, even, the same as even, another even, of one
            [1, 1, 1, 1, 1],
            [1, 1, 1, 0, 0],
            [1, 0, 0, 1, 0],
            [1, 0, 0, 0, 0],
        ],
        dtype=np.bool_,
    )
    # Once even and its like each told the same four pairs apart, only the two others tell apart what is left.
    assert choose_questions(is_true, 1) == [1]
    assert choose_questions(is_true, 2) == [1, 2]
    assert choose_questions(is_true, 3) == [1, 2, 3]
    assert choose_questions(is_true, 5) == choose_questions(is_true, 9) == [1, 2, 3, 4, 0]


def test_the_careless_player_asks_what_splits_and_guesses_when_two_are_left():
    # Ten things. Question 0 splits 5:5, question 1 splits 8:2 (too uneven while there is a better one), 2 is of all.
    is_true = np.zeros((10, 3), dtype=np.bool_)
    is_true[:5, 0] = is_true[:8, 1] = is_true[:, 2] = True
    table = Table(["even?", "uneven?", "all?"], [f"thing {i}?" for i in range(10)], is_true)
    for seed in range(20):
        player = CarelessPlayer(table, [0, 1, 2], seed)
        player.reset("", {})
        assert player.act("opening") == "even?"
        assert player.act("No.") == "uneven?"  # things 5 to 9: 3 against 2
        guesses = {player.act("No."), player.act("No.")}  # things 8 and 9
        assert guesses == {"thing 8?", "thing 9?"}
        player.reset("", {})
        assert player.act("opening") == "even?"
        left = [player.act("Yes.")] + [player.act("No.") for _ in range(4)]  # things 0 to 4, told apart by nothing
        assert sorted(left) == [f"thing {i}?" for i in range(5)]


def test_the_careless_player_finds_everything(env, table):
    columns = choose_questions(table.is_true, 8)
    for thing in range(6):
        observation, info = env.reset(seed=thing, options={"index": thing})
        player = CarelessPlayer(table, columns, thing)
        player.reset(observation, info)
        for _ in range(6):
            observation, _, over, _, info = env.step(player.act(observation))
            if over:
                break
        assert info["verdict"] == "correct"


def test_a_question_tells_nothing_of_the_secret():
    """The secret and the player are drawn with one seed; were it one stream, the model could read it off."""
    env: Any = gym.make(twenty_questions.ENV, things=THINGS[:4]).unwrapped
    pairs = np.array([[1, 1, 1, 0], [1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 0]], dtype=np.bool_)
    table = Table(["0", "1", "2", "3"], ["a", "b", "c", "d"], pairs)
    same = 0
    for seed in range(400):
        env.reset(seed=seed)
        player = CarelessPlayer(table, [0, 1, 2, 3], seed)
        same += THINGS[int(player.act("opening"))] == env.get_state()["task"]["secret"]
    assert 60 <= same <= 140  # 100 expected, deviation 9
