"""The pictures are drawn, and drawn right."""

from typing import Any

import pytest

from trainers.logs.charts import save_curve, terminal_chart

RETURNS = [(1, 1.0), (2, 2.0), (3, float("nan")), (4, 4.0)]
EVALUATIONS = [(0, 0.5), (4, 4.5)]
REFERENCES = {"careless": 3.88, "optimal": 5.2}


def drawn(*arguments: Any, **options: Any) -> list[str]:
    return str(terminal_chart(*arguments, **options)).splitlines()


def test_the_terminal_chart():
    lines = drawn(RETURNS, EVALUATIONS, REFERENCES, updates=4, width=60, height=20)
    assert len(lines) == 22
    assert max(map(len, lines)) <= 60
    [careless] = [i for i, line in enumerate(lines) if line.rstrip().endswith("careless 3.88")]
    [optimal] = [i for i, line in enumerate(lines) if line.rstrip().endswith("optimal 5.20")]
    assert optimal < careless
    assert "update 0" in lines[-2]
    assert lines[-2].rstrip().endswith("4")
    plot = lines[:-2]
    assert sum(line.count("•") for line in plot) == 3  # nan is left out
    assert sum(line.count("◆") for line in plot) == 2
    # Higher means better, and later stands to the right.
    where = {line.index("•"): i for i, line in enumerate(plot) if "•" in line}
    columns = sorted(where)
    assert [where[c] for c in columns] == sorted(where.values(), reverse=True)
    # The scale at the left says which value a line stands for.
    scale = [float(line[:6]) for line in plot]
    assert scale == sorted(scale, reverse=True)
    step = scale[0] - scale[1]
    assert scale[optimal] == pytest.approx(5.2, abs=step)
    assert scale[careless] == pytest.approx(3.88, abs=step)
    assert scale[where[columns[0]]] == pytest.approx(1.0, abs=step)


def test_one_point_and_no_reference():
    lines = drawn([(1, 2.0)], [], {}, updates=10, width=40, height=5)
    assert sum(line.count("•") for line in lines[:-2]) == 1


@pytest.mark.parametrize("references", [{}, REFERENCES])
def test_nothing_scorable_yet(references):
    lines = drawn([(1, float("nan"))], [], references, updates=10)
    assert sum(line.count("•") for line in lines[:-2]) == 0


def test_a_narrow_terminal():
    assert max(map(len, drawn(RETURNS, EVALUATIONS, REFERENCES, updates=4, width=50))) <= 50


def test_references_on_one_line_share_it():
    known = {"minimax": 0.0, "best": 0.01, "random": -1.0, "unknown": float("nan")}
    lines = drawn([(1, 0.5)], [], known, updates=4, width=80, height=10)
    assert sum("minimax 0.00, best 0.01" in line for line in lines) == 1
    assert max(map(len, lines)) <= 80
    assert not any("unknown" in line for line in lines)


def test_long_names_leave_room_for_the_points():
    lines = drawn(RETURNS, [], {"a_player_with_a_very_long_name_indeed": 3.0}, updates=4, width=40)
    assert max(map(len, lines)) <= 40
    [label] = [line for line in lines if "a_player" in line]
    assert label.endswith("…")


def test_large_numbers_and_a_run_that_is_longer_than_planned():
    lines = drawn([(1, -12345.0), (9, 67890.0)], [], {}, updates=4, width=50)
    assert max(map(len, lines)) <= 50
    assert len({line.index("•") for line in lines[:-2] if "•" in line}) == 2
    assert len({line[:10].index(".") for line in lines[:-2]}) == 1  # the scale stands in one column


@pytest.mark.parametrize("evaluations", [[], EVALUATIONS])
@pytest.mark.parametrize("references", [{}, REFERENCES])
def test_the_curve_is_a_png(tmp_path, evaluations, references):
    path = tmp_path / "curve.png"
    save_curve(path, RETURNS, evaluations, references, title="GuessNumber-v0")
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(data[16:20]) == 8 * 140
    assert len(data) > 5_000
