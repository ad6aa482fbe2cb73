"""What a run says: files that survive a stop, one line an update for a pipe, a picture for a terminal."""

import dataclasses
import io
import json
from typing import Any

import pytest
from rich.console import Console

from trainers.config import TrainConfig
from trainers.run_log import RunLog
from trainers.trajectories import Group, Trajectory

METRICS = {
    "unscorable_share": 0.0, "return_mean": 0.625, "part_found": 0.5, "truncated_share": 0.25,
    "constant_groups_share": 0.125, "entropy": 1.25, "grad_norm": 0.0123, "seconds": 3.0, "sampling_seconds": 2.0,
    "env_seconds": 0.5, "training_seconds": 0.5,
}  # fmt: skip
KNOWN = {"random": 1.0, "careless": 4.5, "optimal": 5.2}


@pytest.fixture
def config(tmp_path):
    return TrainConfig(model="m", env="e", run_dir=tmp_path, updates=9)


def group(seed: int) -> Group:
    return Group(seed, [Trajectory(seed=seed, observations=[f"try {i}"]) for i in range(2)])


def make(config: TrainConfig, *, terminal: bool = False, **options: Any) -> tuple[RunLog, io.StringIO]:
    out = io.StringIO()
    return RunLog(config, console=Console(file=out, force_terminal=terminal, width=80), **options), out


def lines(config: TrainConfig, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (config.run_dir / name).read_text().splitlines()]


def test_the_files(config):
    log, _ = make(config)
    log.start(0, KNOWN)
    log.evaluation(0, {"return_mean": 0.5, "verdict_wrong": 1.0})
    log.update(1, METRICS, group(5))
    assert lines(config, "metrics.jsonl") == [
        {"kind": "evaluation", "update": 0, "return_mean": 0.5, "verdict_wrong": 1.0},
        {"kind": "update", "update": 1, **METRICS},
    ]
    assert [(e["update"], e["seed"], e["observations"]) for e in lines(config, "episodes.jsonl")] == [
        (1, 5, ["try 0"]),
        (1, 5, ["try 1"]),
    ]
    assert json.loads((config.run_dir / "config.json").read_text())["updates"] == 9
    assert log.returns == [(1, 0.625)]
    assert log.evaluations == [(0, 0.5)]


def test_a_resumed_run_forgets_what_it_will_do_again(config):
    log, _ = make(config)
    log.start(0, {})
    log.evaluation(0, {"return_mean": 0.0})
    for number in range(1, 5):
        log.update(number, METRICS | {"return_mean": float(number)}, group(number))
        log.evaluation(number, {"return_mean": number / 10})
    with (config.run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "update", "update": 1, "retu')
    with (config.run_dir / "episodes.jsonl").open("a") as file:
        file.write('{"update": ')
    again, _ = make(config)
    again.start(2, {})
    assert [(row["kind"], row["update"]) for row in lines(config, "metrics.jsonl")] == [
        ("evaluation", 0), ("update", 1), ("evaluation", 1), ("update", 2), ("evaluation", 2),
    ]  # fmt: skip
    assert [e["update"] for e in lines(config, "episodes.jsonl")] == [1, 1, 2, 2]
    assert again.returns == [(1, 1.0), (2, 2.0)]
    assert again.evaluations == [(0, 0.0), (1, 0.1), (2, 0.2)]
    again.update(3, METRICS, group(3))
    assert lines(config, "metrics.jsonl")[-1]["update"] == 3
    assert not list(config.run_dir.glob("*.partial"))


def test_a_pipe_gets_one_line_an_update(config):
    log, out = make(config, references=("careless", "optimal", "unheard of"), chart=True)
    log.start(0, KNOWN)
    said = out.getvalue().splitlines()
    assert said == [
        "A return of 4.50 is what the careless player earns on average.",
        "A return of 5.20 is what the optimal player earns on average.",
    ]
    log.progress("sampling")  # says nothing here
    log.update(1, METRICS, group(0))
    log.progress("sampling")
    log.update(2, METRICS, group(1))
    log.evaluation(2, {"return_mean": 0.75, "verdict_correct": 0.75, "verdict_wrong": 0.25})
    log.stop()
    said = out.getvalue().splitlines()[2:]
    assert len(said) == 3
    assert "\x1b" not in out.getvalue()
    for word in (
        "update 1/9", "return 0.625", "careless 4.50", "optimal 5.20", "found 0.500", "cut off 25%", "no spread 12%",
        "entropy 1.25", "grad norm 0.0123", "3.0 s (sampling 2.0, environment 0.5, training 0.5)",
    ):  # fmt: skip
        assert word in said[0]
    assert said[2] == "greedy evaluation after 2 updates: return 0.750 (correct 75%, wrong 25%)"


def test_without_a_wish_all_known_players_are_references(config):
    log, _ = make(config)
    log.start(0, KNOWN)
    assert log.references == KNOWN


def test_what_is_said_is_not_markup(config):
    log, out = make(config)
    log.say("[red]x[/red] " + "word " * 40)
    assert out.getvalue() == "[red]x[/red] " + "word " * 40 + "\n"


def test_a_batch_without_a_single_verdict(config):
    log, out = make(config)
    log.start(0, {})
    outage = {name: value for name, value in METRICS.items() if name not in ("return_mean", "grad_norm")}
    log.update(1, outage | {"unscorable_share": 1.0}, group(0))
    assert "return nan" in out.getvalue()
    assert lines(config, "metrics.jsonl")[0]["unscorable_share"] == 1.0


def test_a_terminal_gets_the_chart(config):
    log, out = make(config, terminal=True, references=("optimal",), chart=True)
    log.start(0, KNOWN)
    log.progress("sampled 1 of 4")
    log.update(1, METRICS, group(0))
    log.progress("sampled 2 of 4")
    log.stop()
    text = out.getvalue()
    assert "sampled 2 of 4" in text
    assert "optimal 5.20" in text.split("sampled 2 of 4")[-1]  # the last chart stays
    log.stop()  # twice does no harm


def test_a_game_of_several_players_is_recorded_whole(config):
    log, _ = make(dataclasses.replace(config, env_args='{"opening_moves": 2}'))
    log.start(0, {})
    games = [{"seed": 5, "agents": ["a", "b"], "returns": {"a": 1.0, "b": -1.0}, "try": i} for i in range(2)]
    log.update(1, METRICS, dataclasses.replace(group(5), agent="a", opponent="self", games=games))
    assert lines(config, "episodes.jsonl") == [
        {"update": 1, "env": "e", "env_args": {"opening_moves": 2}, **game} for game in games
    ]


def test_every_episode_says_where_it_was_played(config):
    log, _ = make(config)
    log.start(0, {})
    log.update(1, METRICS, group(5))
    for episode in lines(config, "episodes.jsonl"):
        assert (episode["env"], episode["env_args"], episode["rewards"]) == ("e", {}, [])
