"""The statistics by hand; an evaluation of a tiny model, whole, repeated, interrupted and gone on with."""

import dataclasses
import itertools
import json
import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from benchmarks import evaluate_model
from benchmarks.evaluate_model import Config, as_record, evaluate, main, summarize
from benchmarks.statistics_of_samples import Estimate, ks_up_to, pass_at_k, ratio_over_problems, wilson
from trainers import rollouts
from trainers.config import ConfigError
from trainers.tiny_model import build_tiny_model, save_model
from trainers.trajectories import Completion, Trajectory, Turn

# peft asks transformers by the old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def test_pass_at_k_by_hand():
    assert pass_at_k(4, 2, 1) == pytest.approx(1 / 2)
    assert pass_at_k(4, 2, 2) == pytest.approx(5 / 6)
    assert pass_at_k(5, 1, 3) == pytest.approx(3 / 5)
    assert pass_at_k(4, 2, 3) == 1.0
    assert pass_at_k(7, 0, 7) == 0.0
    assert pass_at_k(1000, 1, 500) == pytest.approx(0.5)


@pytest.mark.parametrize(("n", "correct"), [(6, c) for c in range(7)])
def test_pass_at_k_is_the_share_of_all_choices(n: int, correct: int):
    answers = [i < correct for i in range(n)]
    for k in range(1, n + 1):
        choices = list(itertools.combinations(answers, k))
        assert pass_at_k(n, correct, k) == pytest.approx(sum(map(any, choices)) / len(choices))


@pytest.mark.parametrize(("n", "correct", "k"), [(4, 5, 1), (4, -1, 1), (4, 2, 0), (4, 2, 5)])
def test_pass_at_k_refuses_nonsense(n: int, correct: int, k: int):
    with pytest.raises(ValueError, match="pass@"):
        pass_at_k(n, correct, k)


@pytest.mark.parametrize(
    ("successes", "n", "value", "low", "high"),
    [
        (8, 10, 0.8, 0.4902, 0.9433), (0, 10, 0.0, 0.0, 0.2775), (10, 10, 1.0, 0.7225, 1.0),
        (50, 100, 0.5, 0.4038, 0.5962),
    ],
)  # fmt: skip
def test_wilson(successes: int, n: int, value: float, low: float, high: float):
    found = wilson(successes, n)
    assert (found.value, found.low, found.high) == pytest.approx((value, low, high), abs=5e-5)


def test_wilson_refuses_nonsense():
    with pytest.raises(ValueError, match="1 successes of 0"):
        wilson(1, 0)
    with pytest.raises(ValueError, match="3 successes of 2"):
        wilson(3, 2)


def test_the_bootstrap_draws_problems():
    # Of two problems, one always solved: a quarter of the draws has it never, a quarter twice.
    assert ratio_over_problems([0, 4], [4, 4]) == Estimate(0.5, 0.0, 1.0)
    # 100 problems: the normal approximation gives 0.5 +- 0.098, however often each is answered alike.
    for size in (1, 4):
        found = ratio_over_problems([0] * 50 + [size] * 50, [size] * 100)
        assert found.value == 0.5
        assert (found.low, found.high) == pytest.approx((0.402, 0.598), abs=0.012)
    # Independent answers tell more: half of every problem's are right, so nothing varies from draw to draw.
    assert ratio_over_problems([2] * 100, [4] * 100) == Estimate(0.5, 0.5, 0.5)
    # Answers weigh alike, not problems.
    assert ratio_over_problems([1, 0], [1, 3]).value == 0.25
    assert ratio_over_problems([1, 0, 1], [2, 2, 2]) == ratio_over_problems([1, 0, 1], [2, 2, 2])


def test_the_bootstrap_of_no_variation_is_wilson_over_problems():
    assert ratio_over_problems([0] * 10, [4] * 10) == wilson(0, 10)
    assert ratio_over_problems([4] * 10, [4] * 10) == wilson(10, 10)
    with pytest.raises(ValueError, match="at least one answer"):
        ratio_over_problems([], [])


def test_ks():
    assert ks_up_to(1) == [1]
    assert ks_up_to(4) == [1, 2, 4]
    assert ks_up_to(6) == [1, 2, 4, 6]


def sample(verdict: str, *, boxed: bool = True, truncated: bool = False) -> dict[str, Any]:
    return {"verdict": verdict, "boxed": boxed, "truncated": truncated}


def test_a_summary_by_hand():
    records = [
        {"samples": [sample("correct"), sample("wrong")]},
        {"samples": [sample("unparsed", boxed=False, truncated=True), sample("wrong")]},
        {"samples": [sample("correct"), sample("unscorable")]},
        {"samples": [sample("unscorable", boxed=False), sample("unscorable", boxed=False)]},
    ]
    found = summarize(records)
    assert found is not None
    assert (found.problems, found.answers, found.unscorable) == (3, 5, 3)
    assert found.accuracy.value == pytest.approx(2 / 5)
    assert found.format_rate.value == pytest.approx(4 / 5)
    assert found.truncated.value == pytest.approx(1 / 5)
    by_k = {k: estimate.value for k, estimate in found.pass_at.items() if estimate is not None}
    assert by_k == pytest.approx({1: (1 / 2 + 0 + 1) / 3, 2: (1 + 0) / 2})
    assert summarize([records[3]]) is None
    # Nobody has two answers that could be judged.
    only_one = summarize([records[2]])
    assert only_one is not None
    assert only_one.pass_at == {1: wilson(1, 1), 2: None}


def test_one_answer_a_problem_gets_wilsons_interval():
    found = summarize([{"samples": [sample("correct" if i < 8 else "wrong")]} for i in range(10)])
    assert found is not None
    assert found.accuracy == found.pass_at[1] == wilson(8, 10)
    assert found.format_rate == wilson(10, 10)


@pytest.mark.parametrize(("action", "boxed"), [(r"so \boxed{5}", True), ("so 5", False), (r"so \boxed{5", False)])
def test_the_format_is_read_off_the_text(action: str, boxed: bool):
    trajectory = Trajectory(seed=0, observations=["What?", ""])
    trajectory.append_completion(Completion([1, 2], [-1.0, -1.0], "length"))
    trajectory.turns.append(Turn(action, 2, -1.0, "length", "wrong", {"format": 0.0}))
    assert as_record(7, [trajectory]) == {
        "problem": 7,
        "observation": "What?",
        "samples": [
            {"verdict": "wrong", "return": -1.0, "boxed": boxed, "truncated": True, "tokens": 2, "actions": [action]}
        ],
    }


ENV = "llm_envs:Arithmetic-v0"
ENV_ARGS: dict[str, Any] = {"low": 0, "high": 1}


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
        device="cpu", dtype="float32", out=tmp_path / "out", record=False,
    )  # fmt: skip


def test_an_evaluation_from_end_to_end(config: Config, monkeypatch, capsys):
    rows: list[dict[str, Any]] = []
    monkeypatch.setattr(evaluate_model, "append_row", lambda name, row: rows.append({"name": name, **row}))
    main(dataclasses.replace(config, record=True))
    records = [json.loads(line) for line in (config.out / "answers.jsonl").read_text().splitlines()]
    assert [record["problem"] for record in records] == list(range(20))
    assert {len(record["samples"]) for record in records} == {4}
    # The verdicts are those of the answers that are written there.
    samples = [(record, sample) for record in records for sample in record["samples"]]
    for record, found in samples:
        first, second = record["observation"].split("?")[0].removeprefix("What is ").split(" + ")
        said = re.findall(r"\\boxed\{(\d)\}", found["actions"][0])
        is_right = said[-1:] == [str(int(first) + int(second))]
        assert (found["verdict"] == "correct") == is_right, (record["observation"], found)
    accuracy = sum(found["verdict"] == "correct" for _, found in samples) / 80
    boxed = sum(found["boxed"] for _, found in samples) / 80
    assert 0 < accuracy < boxed < 1, "the test would show little"
    summary = json.loads((config.out / "summary.json").read_text())
    assert summary["accuracy"]["value"] == pytest.approx(accuracy)
    assert summary["format_rate"]["value"] == pytest.approx(boxed)
    assert summary["pass_at"]["1"]["value"] == pytest.approx(accuracy)
    assert summary["pass_at"]["4"]["value"] == pytest.approx(
        sum(any(found["verdict"] == "correct" for found in record["samples"]) for record in records) / 20
    )
    [row] = rows
    assert (row["name"], row["model"], row["problems"], row["samples"]) == (
        "evaluate_model", Path(config.model).name, 20, 4,
    )  # fmt: skip
    assert row["accuracy"] == round(accuracy, 4)
    assert (config.out / "pass_at_k.png").read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr().out
    assert "20/20 problems" in said
    assert "pass@4" in said


def test_a_stopped_evaluation_goes_on_to_the_same_answers(config: Config, tmp_path: Path, monkeypatch, capsys):
    records, _ = evaluate(config)
    again = dataclasses.replace(config, out=tmp_path / "again")
    played = evaluate_model._play

    def stopped(config: Config, **options: Any):
        yield from itertools.islice(played(config, **options), 8)  # one wave of six, and a third of the next
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate_model, "_play", stopped)
    with pytest.raises(KeyboardInterrupt):
        evaluate(again)
    assert "Stopped with 8 of 20 problems" in capsys.readouterr().out
    answers = again.out / "answers.jsonl"
    lines = answers.read_text().splitlines(keepends=True)
    assert len(lines) == 8
    # Killed while it wrote; and a mark on what must not be played again.
    answers.write_text(lines[0].replace('"problem"', '"mark": 1, "problem"') + "".join(lines[1:]) + lines[7][:20])
    monkeypatch.setattr(evaluate_model, "_play", played)
    found, is_new = evaluate(again)
    assert is_new
    assert found[0].pop("mark") == 1
    assert found == records
    assert len(answers.read_text().splitlines()) == 20
    monkeypatch.setattr(evaluate_model, "_play", None)  # nothing is left to play
    found, is_new = evaluate(again)
    assert (len(found), is_new) == (20, False)


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, RuntimeError])
def test_the_environments_are_closed_however_it_ends(config: Config, monkeypatch, error: type[BaseException] | None):
    closed: list[int] = []
    close = rollouts.EnvPool.close

    def noted_close(pool: rollouts.EnvPool[Any]):
        closed.append(len(pool._envs))
        close(pool)

    def failing(*arguments: Any):
        raise error or AssertionError

    monkeypatch.setattr(rollouts.EnvPool, "close", noted_close)
    if error is None:
        evaluate(config)
    else:
        monkeypatch.setattr(evaluate_model, "_append", failing)
        with pytest.raises(error):
            evaluate(config)
    assert closed == [24]  # the six problems of a wave, four answers each


def test_the_seed_decides_and_other_settings_are_refused(config: Config, tmp_path: Path):
    first, _ = evaluate(config)
    other, _ = evaluate(dataclasses.replace(config, seed=1, out=tmp_path / "seed1"))
    assert [r["observation"] for r in first] == [r["observation"] for r in other]
    assert first != other
    with pytest.raises(ConfigError, match="other settings"):
        evaluate(dataclasses.replace(config, seed=1))


def test_greedy_takes_one_answer_a_problem(config: Config):
    found, _ = evaluate(dataclasses.replace(config, temperature=0.0))
    assert [len(record["samples"]) for record in found] == [1] * 20
    summary = summarize(found)
    assert summary is not None
    assert list(summary.pass_at) == [1]


def test_a_finite_environment_is_played_by_index_and_no_further_than_it_goes(
    config: Config, tmp_path: Path, monkeypatch
):
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps({"question": f"q{i} What is", "answer": f"#### {i}"}) + "\n" for i in range(3)))
    arguments = {"data": str(data), "few_shot": False}
    config = dataclasses.replace(config, env="llm_envs:GSM8K-v0", env_args=json.dumps(arguments), record=True)
    rows: list[dict[str, Any]] = []
    monkeypatch.setattr(evaluate_model, "append_row", lambda name, row: rows.append(row))
    main(config)
    records = [json.loads(line) for line in (config.out / "answers.jsonl").read_text().splitlines()]
    assert [record["observation"].split()[0] for record in records] == ["q0", "q1", "q2"]
    [row] = rows
    assert json.loads(row["env_args"]) == {"data": "rows.jsonl", "few_shot": False}
    assert not [value for value in row.values() if str(tmp_path) in str(value)]
    main(config)
    assert len(rows) == 1, "nothing was played, so there is nothing to record"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": 0}, "samples must be at least 1"), ({"temperature": -1.0}, "temperature must not be negative"),
        ({"env": "Nothing-v0"}, "not registered"), ({"env_args": "[]"}, "must be a JSON object"),
        ({"model": "no/such/folder/at/all"}, "cannot be read"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_named(config: Config, change: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        evaluate(dataclasses.replace(config, **change))
