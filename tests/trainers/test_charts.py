"""The pictures are drawn, and drawn right."""

from typing import Any

import pytest

from trainers.charts import save_curve, terminal_chart

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


@pytest.mark.parametrize("evaluations", [[], EVALUATIONS])
@pytest.mark.parametrize("references", [{}, REFERENCES])
def test_the_curve_is_a_png(tmp_path, evaluations, references):
    path = tmp_path / "curve.png"
    save_curve(path, RETURNS, evaluations, references, title="GuessNumber-v0")
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(data[16:20]) == 8 * 140
    assert len(data) > 5_000
