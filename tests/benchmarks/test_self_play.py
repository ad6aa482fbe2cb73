"""What the benchmark of self-play writes and draws, from made-up runs."""

import csv
import json
from typing import Any

import pytest

from benchmarks import self_play
from trainers.recipes.tic_tac_toe import Config


def metrics(path, *, illegal: float):
    rows: list[dict[str, Any]] = [{"kind": "evaluation", "update": 0, "return_mean": 0.1}]
    for update in (1, 2):
        row: dict[str, Any] = {
            "kind": "update",
            "update": update,
            "return_mean": -0.3,
            "entropy": 0.5,
            "verdict_wrong": 0.5,
        }
        rows += [{**row, "verdict_illegal": illegal, "verdict_unparsed": 0.125}] if update == 1 else [row]
    rows += [{"kind": "evaluation", "update": 2, "return_mean": 0.75}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_curves_are_written_down_and_drawn(tmp_path):
    for way, illegal in (("pure", 0.5), ("recipe", 0.25)):
        self_play.record(way, 3, metrics(tmp_path / way, illegal=illegal), folder=tmp_path)
    with (tmp_path / "self_play.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = ("way", "seed", "update", "illegal_share", "greedy_return_against_random")
    assert [tuple(row[column] for column in columns) for row in rows] == [
        ("pure", "3", "1", "0.625", ""), ("pure", "3", "2", "0.0", "0.75"),
        ("recipe", "3", "1", "0.375", ""), ("recipe", "3", "2", "0.0", "0.75"),
    ]  # fmt: skip
    self_play.draw(tmp_path / "self_play.csv", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("way", self_play.WAYS)
def test_the_ways_are_options_of_the_recipe(way):
    import tyro

    config = tyro.cli(Config, args=list(self_play.WAYS[way]))
    if way == "pure":
        assert (config.read_steps, config.opponents) == (0, '{"self": 1}')
        assert (config.credit, config.kl_coef) == ("trajectory", 0)
        assert config.opening_moves == (0, 0)
    else:
        assert config == Config()
