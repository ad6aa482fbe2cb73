"""What the benchmark adds to an evaluation: the share of boxes, the row and the picture."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from benchmarks import evaluate_model
from benchmarks.evaluate_model import Config, boxed_share, main
from trainers.evaluation.estimates import wilson
from trainers.tiny_model import build_tiny_model, save_model

# peft asks transformers by the old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

ENV = "llm_envs:Arithmetic-v0"
ENV_ARGS: dict[str, Any] = {"low": 0, "high": 1}


def said(problem: int, *actions: str, verdict: str = "wrong") -> dict[str, Any]:
    return {"problem": problem, "actions": list(actions), "verdicts": [verdict] * len(actions)}


def test_the_box_is_read_off_the_last_text():
    boxed, plain, open_box = r"so \boxed{5}", "so 5", r"so \boxed{5"
    assert boxed_share([said(0, plain, boxed), said(1, boxed, plain), said(2, open_box)]) == wilson(1, 3)
    assert boxed_share([said(0, boxed), said(0, plain), said(1, plain), said(1, plain)]).value == 0.25
    assert boxed_share([said(0, boxed), said(1, boxed, verdict="unscorable")]) == wilson(1, 1)


def test_the_same_in_the_words_of_the_command():
    sampled = Config(adapter=Path("a"), rows=7, seed=3).evaluation()
    assert (sampled.env, sampled.env_args) == (("llm_envs:GSM8K-v0",), ('{"split": "test"}',))
    assert (sampled.greedy, sampled.samples, sampled.temperature, sampled.max_rows) == (False, 4, 1.0, 7)
    assert (sampled.adapter, sampled.seed, sampled.out) == (Path("a"), 3, Path("runs/evaluate_model"))
    greedy = Config(temperature=0.0).evaluation()
    assert (greedy.greedy, greedy.samples) == (True, 0)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """It says two words of chance, boxes among them, and is right now and then."""
    env = gym.make(ENV, **ENV_ARGS)
    questions = [env.reset(seed=seed)[0] for seed in range(20)]
    folder: Path = tmp_path_factory.mktemp("tiny")
    boxes = [rf"\boxed{{{n}}}" for n in range(3)]
    save_model(*build_tiny_model([*boxes, *questions], seed=0, hidden_size=32, num_heads=2), folder)
    return folder


@pytest.fixture
def config(model: Path, tmp_path: Path) -> Config:
    return Config(
        model=str(model), env=ENV, env_args=json.dumps(ENV_ARGS), problems=20, samples=4, max_tokens=2, rows=24,
        device="cpu", dtype="float32", out=tmp_path / "out",
    )  # fmt: skip


@pytest.fixture
def rows(monkeypatch) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(evaluate_model, "append_row", lambda name, row: found.append({"name": name, **row}))
    return found


def test_the_row_and_the_picture(config: Config, rows, capsys):
    main(config)
    records = [json.loads(line) for line in (config.out / "episodes.jsonl").read_text().splitlines()]
    accuracy = sum(record["verdicts"] == ["correct"] for record in records) / 80
    boxed = sum("boxed{" in record["actions"][0] for record in records) / 80
    assert 0 < accuracy < boxed < 1, "the test would show little"
    [row] = rows
    assert (row["name"], row["model"], row["problems"], row["samples"], row["answers"]) == (
        "evaluate_model", Path(config.model).name, 20, 4, 80,
    )  # fmt: skip
    assert (row["accuracy"], row["boxed"]) == (round(accuracy, 4), round(boxed, 4))
    assert list(json.loads(row["pass_at_k"])) == ["1", "2", "4"]
    header = (
        Path(evaluate_model.__file__).with_name("results").joinpath("evaluate_model.csv").read_text().split("\n")[0]
    )
    assert ["date", "commit", "device", *list(row)[1:]] == header.split(",")
    assert (config.out / "pass_at_k.png").read_bytes().startswith(b"\x89PNG")
    assert "  in a box " in capsys.readouterr().out
    main(config)
    assert len(rows) == 1, "nothing was played, so there is nothing to record"


def test_greedy_takes_one_answer_a_problem(config: Config, rows):
    main(dataclasses.replace(config, temperature=0.0))
    [row] = rows
    assert (row["samples"], row["answers"], list(json.loads(row["pass_at_k"]))) == (1, 20, ["1"])


def test_a_row_names_no_folder(config: Config, rows, tmp_path: Path):
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps({"question": f"q{i} What is", "answer": f"#### {i}"}) + "\n" for i in range(3)))
    arguments = {"data": str(data), "few_shot": False}
    main(dataclasses.replace(config, env="llm_envs:GSM8K-v0", env_args=json.dumps(arguments)))
    [row] = rows
    assert json.loads(row["env_args"]) == {"data": "rows.jsonl", "few_shot": False}
    assert not [value for value in row.values() if str(tmp_path) in str(value)]
    main(dataclasses.replace(config, record=False, seed=1, out=tmp_path / "other"))
    assert len(rows) == 1
