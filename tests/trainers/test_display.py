"""The figures in words, the bars, and a panel that fits its terminal."""

import io
import math
import time
from collections.abc import Iterable
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from trainers.logs.display import Display, Stage, duration, figure_lines, figures, stage_lines, update_line

FULL = {
    "return_mean": 0.5, "return_random": 0.75, "A-v0/return_mean": 0.25, "verdict_correct": 0.41,
    "verdict_unparsed": 0.1, "truncated_share": 0.02, "constant_groups_share": 0.444, "unscorable_share": 0.0,
    "broken_share": 0.01, "part_format": -0.012, "kl": 0.0021, "entropy": 0.512, "grad_norm": 0.1234, "loss": -0.0012,
    "clipped_share": 0.03, "logprob_gap": 0.0041, "correction_share": 0.002, "learning_rate": 4e-5,
    "action_tokens_mean": 88.4, "turns_mean": 1.0, "tokens_per_second": 1204.4, "seconds": 12.34,
    "sampling_seconds": 8.1, "env_seconds": 0.4, "training_seconds": 3.8, "action_tokens": 11315.0,
}  # fmt: skip


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def drawn(lines: Iterable[Text]) -> list[str]:
    return [line.plain for line in lines]


def console(width: int = 80, height: int = 30, **options: Any) -> Any:
    return Console(file=io.StringIO(), width=width, height=height, **options)


def test_a_line_says_all_that_there_is():
    assert update_line(12, 58, FULL, {"random": 0.1}, 560.0) == (
        "update 12/58  return 0.500  random 0.10  return random 0.750  return A-v0 0.250  correct 41%  unparsed 10%  "
        "cut off 2%  no spread 44%  part format -0.012  broken 1%  kl 0.0021  entropy 0.51  grad norm 0.123  "
        "clipped 3%  corrected 0%  1,204 tokens/s  12.3 s (sampling 8.1, grading 0.4, training 3.8)  9:20 left"
    )


def test_a_line_says_only_what_there_is():
    assert update_line(1, 2, {}, {}, None) == "update 1/2  return nan"
    assert update_line(1, 2, {"return_mean": math.nan, "seconds": 2.0}, {}, 0.2) == "update 1/2  return nan  2.0 s"


def test_the_table_compares_with_the_ten_before():
    rows = [{"return_mean": 9.0, "entropy": 1.0}, *({"return_mean": 0.4, "entropy": 1.0} for _ in range(9))]
    rows += [{"return_mean": 0.2, "entropy": 1.0}, {"return_mean": 0.5, "entropy": 1.001, "kl": 0.5}]
    # Ten before the last: nine times 0.4 and once 0.2, 0.38 in the mean.
    assert [line.split() for line in drawn(figure_lines(rows, 30, 9))] == [
        ["return", "0.500", "+0.120"],
        ["kl", "0.5000"],
        ["entropy", "1.00", "="],
    ]
    [line] = figure_lines(rows, 200, 9)
    assert [str(span.style) for span in line.spans if line.plain[span.start : span.end].strip() == "+0.120"] == [
        "green"
    ]


def test_rounding_is_no_change():
    rows = [{"learning_rate": rate} for rate in (0.003, 0.003, 0.003, 0.003)]  # their mean is off by 4e-19
    assert [line.split() for line in drawn(figure_lines(rows, 40, 9))] == [["learning", "rate", "0.003", "="]]


@pytest.mark.parametrize(
    ("name", "now", "colour"),
    [
        ("truncated_share", 0.5, "red"),
        ("truncated_share", 0.1, "green"),
        ("return_mean", 0.1, "red"),
        ("entropy", 0.1, "dim"),
        ("part_format", 0.9, "green"),
    ],
)
def test_better_is_green(name, now, colour):
    [line] = figure_lines([{name: 0.3}, {name: now}], 80, 9)
    assert str(line.spans[-1].style) == colour


def test_what_is_not_finite_is_shown_and_not_compared():
    rows = [{"loss": math.nan}, {"loss": 1.0}, {"loss": math.inf}]
    assert drawn(figure_lines(rows[:1], 30, 9))[0].split() == ["loss", "nan"]
    assert drawn(figure_lines(rows[:2], 30, 9))[0].split() == ["loss", "1"]
    assert drawn(figure_lines(rows, 30, 9))[0].split() == ["loss", "nan"]


def test_figures_are_read_downwards_and_fit():
    count = len(figures(FULL))
    assert count == 21  # all but the four that have no place, and unscorable, which is 0
    for width, columns in ((29, 1), (58, 1), (59, 2), (60, 2), (100, 3)):
        lines = drawn(figure_lines([FULL, FULL], width, 30))
        assert len(lines) == -(-count // columns)
        assert max(map(len, lines)) <= width
        assert [line.split()[0] for line in lines[:3]] == ["return", "random", "A-v0"]
    assert len(figure_lines([FULL], 30, 5)) == 5
    assert figure_lines([FULL], 30, 0) == []


def test_a_large_number_is_never_cut():
    [line] = drawn(figure_lines([{"tokens_per_second": 1234567.0}, {"tokens_per_second": 12345678.0}], 60, 1))
    assert line.split() == ["tokens/s", "12,345,678", "+11,111,111"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (7, "0:07"), (59.6, "1:00"), (724, "12:04"), (11110, "3:05:10")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_bars():
    stages = [
        Stage("sampling", 512, "episodes", began=90.0, ended=98.0, done=512),
        Stage("training", 40, "microbatches", began=98.0, done=10),
    ]
    first, second = drawn(stage_lines(stages, 100.0, 80))
    assert first.endswith(" 512/512 episodes 64/s 0:08")
    assert second.endswith(" 10/40 microbatches 5/s 0:02 0:06 left")  # a quarter in two seconds
    assert (
        first.count("━") == second.count("━") == 80 - len("training   ") - len(" 10/40 microbatches 5/s 0:02 0:06 left")
    )
    spans = stage_lines(stages, 100.0, 80)[1].spans
    assert [(span.end - span.start, str(span.style)) for span in spans if span.style == "cyan"] == [
        (8, "cyan")
    ]  # of 31


@pytest.mark.parametrize("width", [80, 60, 40, 30, 20, 8])
def test_bars_fit(width):
    stages = [
        Stage("evaluating", 1_319, "episodes", began=0.0, ended=98.0, done=1_319),
        Stage("something else", 1_000_000, "microbatches", began=98.0, done=10),
        Stage("nothing", 0, "episodes", began=98.0),
        Stage("too much", 5, "episodes", began=98.0, done=9),
    ]
    lines = drawn(stage_lines(stages, 100.0, width))
    assert len(lines) == 4
    assert max(map(len, lines)) <= width
    if width >= 60:
        assert all("━" in line for line in lines)


@pytest.mark.parametrize("size", [(120, 50), (80, 24), (60, 20), (40, 10), (20, 6)])
def test_the_panel_fits(size):
    width, height = size
    clock = Clock()
    terminal = console(width, height, force_terminal=True, color_system=None)
    asked = []

    def draw(columns, lines):
        asked.append((columns, lines))
        return Text("\n".join(["chart"] * lines))

    display = Display(terminal, updates=58, draw=draw, clock=clock)
    display.is_live = False  # only draw
    display.begin(3, [FULL] * 12)
    for name in ("sampling", "grading", "training"):
        display.stage(name, 100, "episodes")
        display.advance(50)
        clock.now += 2
    terminal.print(display)
    lines = terminal.file.getvalue().splitlines()
    assert len(lines) <= height - 1
    assert max(map(len, lines)) <= width
    assert lines[0].startswith("update 3/58")
    assert [line.split()[0] for line in lines[-3:]] == ["sampling", "grading", "training"]
    assert bool(asked) == (height >= 24)
    assert all(columns == min(100, width) and 8 <= lines <= 18 for columns, lines in asked)


def test_time_left():
    clock = Clock()
    display = Display(console(), updates=10, clock=clock)
    assert display.seconds_left() is None
    display.begin(0, [])
    for number, seconds in enumerate([10, 20], start=1):
        clock.now += seconds
        display.update(number, [])
    assert display.seconds_left() == 8 * 15.0
    clock.now += 5
    assert display.seconds_left() == 8 * 15.0 - 5
    clock.now += 1000
    assert display.seconds_left() == 0.0


def test_a_resumed_run_knows_how_long_an_update_takes():
    display = Display(console(), updates=10, clock=Clock())
    display.begin(4, [{"seconds": 3.0}, {"seconds": math.nan}, {}, {"seconds": 5.0}])
    assert display.seconds_left() == 6 * 4.0


def test_a_stage_that_comes_back_begins_anew():
    clock = Clock()
    display = Display(console(), updates=10, clock=clock)
    for name in ("sampling", "grading", "sampling"):
        display.stage(name, 4, "rows")
        display.advance(3)
        clock.now += 1
    shown = display._current()
    assert [(s.name, s.done, s.ended) for s in shown] == [("grading", 3, 102.0), ("sampling", 3, None)]
    display.update(1, [])
    assert display._current() == ()


def test_a_live_panel_draws_itself(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    terminal = console(force_terminal=True)
    display = Display(terminal, updates=10)
    display.stage("sampling", 100, "episodes")
    try:
        display.advance(42)
        deadline = time.monotonic() + 10
        while "42/100 episodes" not in terminal.file.getvalue():
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        display.stop()
    display.stop()


@pytest.mark.parametrize("term", ["dumb", "unknown"])
def test_a_terminal_that_can_nothing_gets_lines(monkeypatch, term):
    monkeypatch.setenv("TERM", term)
    assert not Display(console(force_terminal=True), updates=10).is_live
    assert not Display(console(), updates=10).is_live


def test_a_verdict_that_is_left_out_is_none_at_all():
    """Of four updates before, one had half of its answers right."""
    rows = [{"verdict_wrong": 1.0} for _ in range(3)] + [{"verdict_wrong": 0.5, "verdict_correct": 0.5}]
    assert drawn(figure_lines([*rows, {"verdict_wrong": 1.0}], 40, 9))[0].split() == ["correct", "0%", "-12%"]
    assert "  correct 0%" in update_line(1, 2, {"verdict_wrong": 1.0}, {}, None)
