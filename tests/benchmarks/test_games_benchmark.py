"""What the games' recipes reached is judged by the bars, written down once, and drawn: the newest run of each seed."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import games
from benchmarks.games import BAR_SECONDS, draw, judge, last_run, record

UPDATES = [
    {"kind": "evaluation", "update": 0, "return_mean": 2.81239},
    {"kind": "update", "update": 1, "return_mean": 2.5},
    {"kind": "update", "update": 2, "return_mean": 3.5},
    {"kind": "evaluation", "update": 2, "return_mean": 5.11},
]


def score(opponent: str, seat: str, **changed: int) -> dict[str, Any]:
    return {"opponent": opponent, "seat": seat, "games": 100, "won": 0, "drawn": 100, "lost": 0, "illegal": 0} | changed


def scores(**changed: dict[str, int]) -> list[dict[str, Any]]:
    """A table that just meets every bar; `random_first={"won": 1}` changes that row."""
    usual = {"random_first": {"won": 88}, "random_second": {"won": 82}, "optimal_second": {"lost": 100}} | changed
    pairs = [(opponent, seat) for opponent in ("random", "optimal", "untrained") for seat in ("first", "second")]
    return [score(opponent, seat, **usual.get(f"{opponent}_{seat}", {})) for opponent, seat in pairs]


@pytest.fixture
def make_run(tmp_path: Path) -> Any:
    def make(summary: dict[str, Any], metrics: Any = UPDATES) -> Path:
        (tmp_path / "summary.json").write_text(json.dumps({"seed": 2, "seconds": BAR_SECONDS, **summary}))
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
        return tmp_path

    return make


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in {"date", "commit", "device"}} for row in csv.DictReader(file)]


def test_a_run_is_written_down(make_run: Any, tmp_path: Path) -> None:
    run_dir = make_run({"greedy_return": 5.11, "optimal": 5.2, "careless": 3.65})
    row = record("guess_number", run_dir, cores=1, folder=tmp_path / "results")
    assert row == {
        "recipe": "guess_number", "seed": 2, "cores": 1, "untrained": 2.812, "greedy_return": 5.11,
        "reached": "98.3% of optimal", "seconds": 900.0, "within_bar": True,
    }  # fmt: skip
    assert rows(tmp_path / "results" / "games.csv") == [{name: str(value) for name, value in row.items()}]
    assert rows(tmp_path / "results" / "games_curves.csv") == [
        {"recipe": "guess_number", "seed": "2", "update": "1", "sampled": "2.5", "greedy": ""},
        {"recipe": "guess_number", "seed": "2", "update": "2", "sampled": "3.5", "greedy": "5.11"},
    ]
    assert not (tmp_path / "results" / "tic_tac_toe.csv").exists()


def test_a_table_is_written_down(make_run: Any, tmp_path: Path) -> None:
    row = record("tic_tac_toe", make_run({"scores": scores()}), cores=2, folder=tmp_path)
    assert (row["within_bar"], row["cores"]) == (True, 2)
    table = rows(tmp_path / "tic_tac_toe.csv")
    assert len(table) == 6
    assert table[0] == {
        "seed": "2", "opponent": "random", "seat": "first", "games": "100", "won": "88", "drawn": "100", "lost": "0",
        "illegal": "0",
    }  # fmt: skip


def test_too_slow_is_not_within_the_bar(make_run: Any, tmp_path: Path) -> None:
    for seconds, is_within in ((900.0, True), (900.1, False)):
        run_dir = make_run({"greedy_return": 5.2, "optimal": 5.2, "seconds": seconds})
        assert record("guess_number", run_dir, cores=1, folder=tmp_path / "results")["within_bar"] is is_within


@pytest.mark.parametrize(
    ("summary", "expected"),
    [
        ({"greedy_return": 98.0, "optimal": 100.0, "careless": 1.0}, ("98.0% of optimal", True)),
        ({"greedy_return": 97.9, "optimal": 100.0, "careless": 1.0}, ("97.9% of optimal", False)),
        ({"greedy_return": 60.0, "greedy": 100.0, "random": 1.0}, ("60.0% of greedy", True)),
        ({"greedy_return": 59.9, "greedy": 100.0, "random": 1.0}, ("59.9% of greedy", False)),
    ],
)
def test_a_share_of_the_best_return(summary: dict[str, float], expected: tuple[str, bool]) -> None:
    assert judge(summary, []) == expected


@pytest.mark.parametrize(
    ("changed", "text", "is_met"),
    [
        ({}, "0 of 600 illegal, 0 lost to optimal as first, 85.0% won against random", True),
        (
            {"random_second": {"won": 81}},
            "0 of 600 illegal, 0 lost to optimal as first, 84.5% won against random",
            False,
        ),
        (
            {"optimal_first": {"lost": 1}},
            "0 of 600 illegal, 1 lost to optimal as first, 85.0% won against random",
            False,
        ),
        (
            {"untrained_second": {"illegal": 1}},
            "1 of 600 illegal, 0 lost to optimal as first, 85.0% won against random",
            False,
        ),
    ],
)
def test_tic_tac_toe(changed: dict[str, dict[str, int]], text: str, is_met: bool) -> None:
    assert judge({}, scores(**changed)) == (text, is_met)


def test_the_newest_run_counts() -> None:
    def run(*updates: int) -> list[dict[str, str]]:
        return [{"update": str(update)} for update in updates]

    assert last_run([]) == []
    assert last_run(run(1, 2, 10)) == run(1, 2, 10)
    assert last_run(run(1, 2, 10, 1, 2, 1, 2, 3)) == run(1, 2, 3)
    assert last_run(run(1, 1)) == run(1)


def test_what_is_drawn(make_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest run of each seed, whichever seeds there are, and the evaluations from the untrained model on."""
    folder, drawn = tmp_path / "results", []
    old = [{"kind": "evaluation", "update": 0, "return_mean": 9.0}, {"kind": "update", "update": 1, "return_mean": 9.0}]
    for seed, metrics in ((7, old), (7, UPDATES), (11, UPDATES)):
        run_dir = make_run({"seed": seed, "greedy_return": 5.1, "optimal": 5.2}, metrics)
        record("guess_number", run_dir, cores=1, folder=folder)
    record("tic_tac_toe", make_run({"scores": scores()}), cores=1, folder=folder)
    inner = games._draw_run

    def watch(axes: Any, points: Any, untrained: float, *, color: str) -> None:
        inner(axes, points, untrained, color=color)
        pale, greedy = axes.lines[-2:]
        drawn.append((color, pale.get_xydata().tolist(), greedy.get_xydata().tolist()))

    monkeypatch.setattr(games, "_draw_run", watch)
    picture = tmp_path / "games.png"
    draw(folder / "games_curves.csv", folder / "games.csv", picture)
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    curves = [[1.0, 2.5], [2.0, 3.0]], [[0.0, 2.812], [2.0, 5.11]]
    assert drawn == [("C1", *curves), ("C2", *curves), ("C0", *curves)]  # seeds 7 and 11, and 2 of tic-tac-toe


def test_nothing_to_draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(games, "FOLDER", tmp_path)
    with pytest.raises(SystemExit, match=r"nothing was measured yet: there is no .*games_curves\.csv"):
        games.main(games.Config(draw_only=True))


def test_a_run_that_fails_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "false")
    with pytest.raises(RuntimeError, match=r"false -m trainers\.recipes\.guess_number --seed 3 .*failed"):
        games._run("guess_number", 3, tmp_path, None)
