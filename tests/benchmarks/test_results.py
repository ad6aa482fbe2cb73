"""Measurements are written with where they come from."""

import csv
from pathlib import Path

import pytest

from benchmarks.results import append_row


def test_rows_are_appended_with_commit_and_device(tmp_path: Path) -> None:
    append_row("speed", {"seed": 0, "value": 1.5}, folder=tmp_path)
    append_row("speed", {"seed": 1, "value": 2.5}, folder=tmp_path)
    with (tmp_path / "speed.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["value"] for row in rows] == ["1.5", "2.5"]
    assert all(row["commit"] and row["device"] and row["date"].startswith("20") for row in rows)


def test_other_columns_are_refused(tmp_path: Path) -> None:
    append_row("speed", {"seed": 0, "value": 1.5}, folder=tmp_path)
    with pytest.raises(ValueError, match="has the columns"):
        append_row("speed", {"seed": 0, "rate": 1.5}, folder=tmp_path)
    assert len((tmp_path / "speed.csv").read_text().splitlines()) == 2
