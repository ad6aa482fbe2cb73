"""Pass@1 and pass@8 of a tiny model, and the check of the judge, against a judge that is known."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import pytest

import llm_envs  # noqa: F401 (registers)
from benchmarks import code_eval
from benchmarks.code_eval import Config, Judged, Solution, judge, main, read_solutions, report_model
from trainers.config import ConfigError
from trainers.evaluation import EvalConfig
from trainers.evaluation.estimates import pass_at_k
from trainers.evaluation.summary import Reference, Summary, summarize
from trainers.tiny_model import build_tiny_model, save_model

# peft asks transformers by the old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

ROWS = [
    {
        "question_id": "old", "contest_date": "2024-07-31T00:00:00", "reference_solutions": ["a"],
        "wrong_solutions": [], "wrong_fails_here": None,
    },
    {
        "question_id": "first", "contest_date": "2024-08-01T23:59:00", "reference_solutions": ["b", "c"],
        "wrong_solutions": ["x"], "wrong_fails_here": True,
    },
    {
        "question_id": "last", "contest_date": "2024-08-31T12:00:00", "reference_solutions": ["d"],
        "wrong_solutions": ["y"], "wrong_fails_here": False,  # only tests that are not at hand tell
    },
    {"question_id": "none", "contest_date": "2024-08-15T00:00:00"},
]  # fmt: skip


@pytest.fixture
def config(tmp_path: Path) -> Config:
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return Config(data=data, reference=True, record=False, workers=2, out=tmp_path / "out")


# --- Settings ---


def test_the_environment_is_told_only_what_was_said():
    assert Config().env_args() == {}
    config = Config(start="2024-08-01", data=Path("rows.jsonl"), sandbox="docker", adapter=Path("a"), seed=3)
    assert config.env_args() == {"start": "2024-08-01", "data": "rows.jsonl", "sandbox": "docker"}
    of_model = config.of_model()
    assert (of_model.env, json.loads(of_model.env_args[0])) == (("llm_envs:LiveCodeBench-v0",), config.env_args())
    assert (of_model.samples, of_model.adapter, of_model.seed, of_model.out) == (8, Path("a"), 3, config.out)
    assert (of_model.greedy, of_model.temperature, of_model.max_rows) == (False, config.temperature, config.rows)
    assert of_model.max_tokens == config.max_tokens != EvalConfig(model="", env=()).max_tokens
    greedy = dataclasses.replace(config, temperature=0.0).of_model()
    assert (greedy.greedy, greedy.samples) == (True, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": "August"}, "start must be a date"), ({"end": "20240801"}, "end must be a date"),
        ({"problems": 0}, "problems must be at least 1"), ({"workers": 0}, "workers must be at least 1"),
        ({"data": None}, "needs --data"), ({"data": Path("rows.parquet")}, "needs --data"),
        ({"data": Path("no/such.jsonl")}, "there is no file"), ({"start": "2030-01-01"}, "no row of .* has a solution"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_named(config: Config, change: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        main(dataclasses.replace(config, **change))


# --- The judge ---


def solutions(config: Config) -> list[tuple[str, bool]]:
    return [(solution.code, solution.is_right) for solution in read_solutions(config)]


def test_both_ends_of_the_window_are_in_it(config: Config):
    assert solutions(config) == [("a", True), ("b", True), ("c", True), ("x", False), ("d", True)]
    august = dataclasses.replace(config, start="2024-08-01", end="2024-08-31")
    assert solutions(august) == [("b", True), ("c", True), ("x", False), ("d", True)]
    assert solutions(dataclasses.replace(august, problems=1)) == [("b", True), ("c", True), ("x", False)]
    assert solutions(dataclasses.replace(config, start="2024-08-02")) == [("d", True)]
    assert solutions(dataclasses.replace(config, end="2024-07-31")) == [("a", True)]


def test_the_judge_is_not_shown_the_solutions(config: Config):
    [first, *_] = read_solutions(config)
    assert first.row == {"question_id": "old", "contest_date": "2024-07-31T00:00:00", "wrong_fails_here": None}


@pytest.mark.parametrize(
    ("is_right", "verdict", "is_as_known"),
    [
        (True, "correct", True), (True, "wrong", False), (True, "timeout", False), (True, "unscorable", False),
        (False, "correct", False), (False, "wrong", True), (False, "timeout", True), (False, "unscorable", False),
    ],
)  # fmt: skip
def test_what_a_right_judge_says(is_right: bool, verdict: str, is_as_known: bool):
    assert Judged(Solution({}, "", is_right), verdict, 0.0).is_as_known is is_as_known


class KnownJudge(gym.Env[str, str]):
    """Says of each program what `verdicts` does."""

    verdicts: ClassVar[dict[str, str]] = {}

    def __init__(self, **options: Any) -> None:
        assert len(options["data"]) == 1
        self.sandbox = options.get("sandbox")

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        assert options == {"index": 0}
        return "Solve it.", {}

    def step(self, action: str):
        lines = action.splitlines()
        assert (lines[0], lines[-1]) == ("```python", "```")
        return "", 0.0, True, False, {"verdict": self.verdicts[lines[1]] + ("!" if self.sandbox == "local" else "")}


@pytest.fixture
def known_judge(monkeypatch):
    gym.register("KnownJudge-v0", entry_point=KnownJudge, disable_env_checker=True, order_enforce=False)
    monkeypatch.setattr(code_eval, "ENV", "KnownJudge-v0")
    monkeypatch.setattr(KnownJudge, "verdicts", dict.fromkeys("abcd", "correct") | {"x": "timeout"})
    yield KnownJudge
    del gym.registry["KnownJudge-v0"]


def test_a_judge_that_is_right(config: Config, known_judge, monkeypatch, capsys):
    rows: list[dict[str, Any]] = []
    monkeypatch.setattr(code_eval, "append_row", lambda name, row: rows.append({"name": name, **row}))
    assert main(dataclasses.replace(config, record=True)) == 0
    said = capsys.readouterr().out
    assert "4 of 4 right solutions pass, 1 of 1 wrong ones fail" in said
    [row] = rows
    assert {name: value for name, value in row.items() if name != "seconds"} == {
        "name": "code_eval_reference", "data": "rows.jsonl", "start": "", "end": "", "right": 4, "right_passed": 4,
        "wrong": 1, "wrong_failed": 1, "workers": 2,
    }  # fmt: skip


def test_mistakes_of_the_judge_are_shown(config: Config, known_judge, monkeypatch, capsys):
    known_judge.verdicts.update(a="timeout", x="correct")
    assert main(config) == 1
    said = capsys.readouterr().out
    assert "3 of 4 right solutions pass, 0 of 1 wrong ones fail" in said
    assert "  old: a right solution was judged timeout\n" in said
    assert "  first: a wrong solution was judged correct\n" in said
    monkeypatch.setattr(code_eval, "_SHOWN", 1)
    main(config)
    said = capsys.readouterr().out
    assert "first: " not in said
    assert "  and 1 more\n" in said


def test_the_sandbox_is_passed_on(config: Config, known_judge):
    [first, *_] = read_solutions(config)
    assert judge(dataclasses.replace(config, sandbox="local"), first).verdict == "correct!"


# --- A model ---


def answers(problem: int, *, kind: str = "sampled", **verdicts: int) -> list[dict[str, Any]]:
    one = {"task": "T", "kind": kind, "problem": problem, "env": "", "env_args": {}, "return": 0.0}
    return [
        {**one, "verdicts": [verdict], "stop_reasons": ["stop"], "reward_parts": [{}]}
        for verdict, n in verdicts.items()
        for _ in range(n)
    ]


def summary_of(records: list[dict[str, Any]]) -> Summary:
    return summarize(records, {"T": Reference()})["T"]


def test_the_row_of_a_model_by_hand(config: Config, monkeypatch, capsys):
    rows: list[dict[str, Any]] = []
    monkeypatch.setattr(code_eval, "append_row", lambda name, row: rows.append({"name": name, **row}))
    config = dataclasses.replace(config, reference=False, record=True, model="some/folder/Coder", start="2024-08-01")
    # The third has but seven that could be judged: it counts for pass@1 alone.
    records = [*answers(0, correct=2, wrong=6), *answers(1, wrong=8), *answers(2, correct=7, unscorable=1)]
    summary = summary_of(records)
    report_model(config, records, summary, is_new=True)
    report_model(config, records, summary, is_new=False)
    [row] = rows
    assert (row["name"], row["model"], row["data"], row["start"], row["end"], row["problems"], row["samples"]) == (
        "code_eval", "Coder", "rows.jsonl", "2024-08-01", "", 3, 8,
    )  # fmt: skip
    assert row["pass_at_1"] == round((2 / 8 + 0 + 1) / 3, 4)
    assert row["pass_at_8"] == round((pass_at_k(8, 2, 8) + 0) / 2, 4) == 0.5
    assert row["pass_at_8_low"] < 0.5 < row["pass_at_8_high"]
    assert json.loads(row["verdicts"]) == {"correct": 9, "unscorable": 1, "wrong": 14}
    said = capsys.readouterr().out
    assert "LiveCodeBench, 2024-08-01 to the last: 3 problems, 23 answers" in said
    assert "pass@8  50.0%" in said


def test_with_fewer_answers_there_is_no_pass_at_8(config: Config, monkeypatch, capsys):
    rows: list[dict[str, Any]] = []
    monkeypatch.setattr(code_eval, "append_row", lambda name, row: rows.append(row))
    config = dataclasses.replace(config, samples=4, record=True)
    records = answers(0, correct=1, wrong=3)
    report_model(config, records, summary_of(records), is_new=True)
    assert (rows[0]["pass_at_1"], rows[0]["pass_at_8"], rows[0]["pass_at_8_low"]) == (0.25, "", "")
    assert "pass@8  not estimated" in capsys.readouterr().out


def test_a_greedy_row_has_pass_at_1(config: Config, monkeypatch):
    rows: list[dict[str, Any]] = []
    monkeypatch.setattr(code_eval, "append_row", lambda name, row: rows.append(row))
    records = [*answers(0, kind="greedy", correct=1), *answers(1, kind="greedy", wrong=1)]
    config = dataclasses.replace(config, temperature=0.0, record=True)
    report_model(config, records, summary_of(records), is_new=True)
    assert (rows[0]["samples"], rows[0]["pass_at_1"], rows[0]["pass_at_8"]) == (1, 0.5, "")


def test_a_model_from_end_to_end(tmp_path: Path, monkeypatch, capsys):
    """On sums, which a model of two words can get right, in place of programs."""
    monkeypatch.setattr(code_eval, "ENV", "llm_envs:Arithmetic-v0")
    monkeypatch.setattr(Config, "env_args", lambda self: {"low": 0, "high": 1})
    env = gym.make("llm_envs:Arithmetic-v0", low=0, high=1)
    questions = [env.reset(seed=seed)[0] for seed in range(20)]
    boxes = [rf"\boxed{{{n}}}" for n in range(3)]
    save_model(*build_tiny_model([*boxes, *questions], seed=0, hidden_size=32, num_heads=2), tmp_path / "tiny")
    rows: list[dict[str, Any]] = []
    monkeypatch.setattr(code_eval, "append_row", lambda name, row: rows.append(row))
    config = Config(
        model=str(tmp_path / "tiny"), problems=6, max_tokens=2, rows=24, device="cpu", dtype="float32",
        temperature=1.0, out=tmp_path / "out",
    )  # fmt: skip
    assert main(config) == 0
    assert main(config) == 0
    records = [json.loads(line) for line in (config.out / "episodes.jsonl").read_text().splitlines()]
    assert [record["problem"] for record in records] == [i for i in range(6) for _ in range(8)]
    correct = [sum(r["verdicts"] == ["correct"] for r in records if r["problem"] == i) for i in range(6)]
    assert json.loads((config.out / "summary.json").read_text())["Arithmetic-v0"]["unscorable"] == 0
    assert 0 < sum(correct) < 48, "the test would show little"
    [row] = rows  # the second time nothing was played
    assert row["pass_at_1"] == round(sum(correct) / 48, 4)
    assert row["pass_at_8"] == round(sum(count > 0 for count in correct) / 6, 4)
    assert str(tmp_path) not in json.dumps(row)
    assert "pass@8" in capsys.readouterr().out


# --- For real ---

REAL_ROWS = Path(os.environ.get("LLM_ENVS_TEST_DATA", "none"), "code", "lcb_v5_verified.jsonl")


@pytest.mark.skipif("LiveCodeBench-v0" not in gym.registry, reason="there is no LiveCodeBench-v0")
@pytest.mark.skipif(not REAL_ROWS.is_file(), reason="LLM_ENVS_TEST_DATA does not name a folder with code/")
def test_the_reference_solutions_of_a_month_pass(capsys):
    assert main(Config(data=REAL_ROWS, start="2024-10-01", end="2024-10-31", reference=True, record=False)) == 0
    assert "0 of 0 right" not in capsys.readouterr().out
