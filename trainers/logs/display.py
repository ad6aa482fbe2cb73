"""How a run looks: the figures of an update as words, and in a terminal a live panel of them."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from trainers.logs.shares import filled

Rows = Sequence[Mapping[str, float]]
Draw = Callable[[int, int], Text]
"""The chart, in so many columns and lines."""

COMPARED = 10
"""Updates before the last one whose mean it is compared with."""
_LABEL, _CELL = 13, 29  # columns of a figure's name; of that, its value, and its change
_REFRESHES = 2  # a second. One costs up to 10 ms of a core that the run could use.
_CHART_LINES = (8, 18)  # least, most: below the least it is no picture
_LEAST_BAR, _LONGEST_BAR = 6, 40


# --- The figures of an update ---


@dataclass(frozen=True)
class Figure:
    """A figure as it is shown.

    Args:
        label: what it is called.
        style: how it is written: a format of Python's, or "%" for a share.
        better: 1 where more is better, -1 where less is, 0 where neither is.
        if_any: shown only where it is not 0.
    """

    label: str
    style: str
    better: int = 0
    if_any: bool = False

    def value(self, number: float, *, sign: str = "") -> str:
        """The number as words; `sign="+"` for a change."""
        if not math.isfinite(number):
            return "nan"
        if self.style == "%":
            return f"{number:{sign}.0%}"
        return f"{number:{sign}{self.style}}"


_FIGURES = {
    "return_mean": Figure("return", ".3f", 1),
    "verdict_correct": Figure("correct", "%", 1),
    "verdict_unparsed": Figure("unparsed", "%", -1),
    "truncated_share": Figure("cut off", "%", -1),
    "constant_groups_share": Figure("no spread", "%", -1),
    "unscorable_share": Figure("unscorable", "%", -1, if_any=True),
    "broken_share": Figure("broken", "%", -1, if_any=True),
    "kl": Figure("kl", ".4f"),
    "entropy": Figure("entropy", ".2f"),
    "grad_norm": Figure("grad norm", ".3g"),
    "loss": Figure("loss", ".3g"),
    "clipped_share": Figure("clipped", "%"),
    "logprob_gap": Figure("logprob gap", ".4f", -1),
    "correction_share": Figure("corrected", "%", -1, if_any=True),
    "learning_rate": Figure("learning rate", ".2g"),
    "action_tokens_mean": Figure("answer tokens", ",.0f"),
    "turns_mean": Figure("turns", ".1f"),
    "tokens_per_second": Figure("tokens/s", ",.0f", 1),
    "seconds": Figure("seconds", ".1f", -1),
}
# A line has no room for all.
_NOT_IN_LINE = {
    "loss", "logprob_gap", "learning_rate", "action_tokens_mean", "turns_mean", "tokens_per_second", "seconds",
}  # fmt: skip


def figures(metrics: Mapping[str, float]) -> dict[str, Figure]:
    """Which of the metrics are shown, in their order, and how."""
    parts = {n: Figure(n.replace("part_", "part ", 1), ".3f", 1) for n in metrics if n.startswith("part_")}
    # Against a kind of opponent, or in one of several environments.
    returns = {
        name: Figure(f"return {name.removesuffix('/return_mean').removeprefix('return_')}", ".3f", 1)
        for name in metrics
        if name.endswith("/return_mean") or (name.startswith("return_") and name != "return_mean")
    }
    wanted = {}
    for name, figure in _FIGURES.items():
        wanted[name] = figure
        wanted |= {"return_mean": returns, "constant_groups_share": parts}.get(name, {})
    return {n: f for n, f in wanted.items() if n in metrics and not (f.if_any and metrics[n] == 0)}


def update_line(
    number: int, updates: int, metrics: Mapping[str, float], references: Mapping[str, float], seconds_left: float | None
) -> str:
    """An update in one line: only what there is."""
    [metrics] = filled([metrics])
    shown = {name: f for name, f in figures(metrics).items() if name not in _NOT_IN_LINE}
    parts = [f"{figure.label} {figure.value(metrics[name])}" for name, figure in shown.items()]
    if "return_mean" not in metrics:
        parts.insert(0, "return nan")
    parts[1:1] = [f"{name} {value:.2f}" for name, value in references.items()]
    if "tokens_per_second" in metrics:
        parts.append(f"{metrics['tokens_per_second']:,.0f} tokens/s")
    if "seconds" in metrics:
        names = {"sampling": "sampling_seconds", "grading": "env_seconds", "training": "training_seconds"}
        spent = [f"{what} {metrics[name]:.1f}" for what, name in names.items() if name in metrics]
        parts.append(f"{metrics['seconds']:.1f} s" + (f" ({', '.join(spent)})" if spent else ""))
    if seconds_left and seconds_left >= 1:
        parts.append(f"{duration(seconds_left)} left")
    return "  ".join([f"update {number}/{updates}", *parts])


def duration(seconds: float) -> str:
    """0:07, 12:04, 3:05:10."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def figure_lines(rows: Rows, width: int, height: int) -> list[Text]:
    """The figures of the last row, each with its change against the mean of those before, in at most `height` lines."""
    columns = max(1, (width + 1) // (_CELL + 1))
    cells = list(_cells(rows))[: columns * max(0, height)]
    count = -(-len(cells) // columns)
    # Read downwards. (A Table of rich looks the same and takes twenty times as long.)
    lines = [Text(" ").join(cells[i::count]) for i in range(count)]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines


def _cells(rows: Rows) -> Iterator[Text]:
    rows = filled(rows[-1 - COMPARED :])
    metrics = rows[-1]
    for name, figure in figures(metrics).items():
        before = [row[name] for row in rows[:-1] if math.isfinite(row.get(name, math.nan))]
        change, style = "", ""
        if before and math.isfinite(metrics[name]):
            difference = metrics[name] - statistics.fmean(before)
            change = figure.value(difference, sign="+")
            is_rounding = math.isclose(metrics[name] - difference, metrics[name], rel_tol=1e-9)
            if is_rounding or float(change.rstrip("%").replace(",", "")) == 0:
                change = "="
            elif figure.better:
                style = "green" if difference * figure.better > 0 else "red"
        # What belongs to the return stands below it.
        label = Text().append(figure.label.replace("return ", "  ", 1), "dim")
        label.truncate(_LABEL, overflow="ellipsis", pad=True)
        yield label.append(f" {figure.value(metrics[name]):>7}", "bold").append(f" {change:>7}", style or "dim")


# --- Progress ---


@dataclass(frozen=True)
class Stage:
    """Something that is done in an update, `total` of `unit`; began and ended are in seconds."""

    name: str
    total: int
    unit: str
    began: float
    ended: float | None = None
    done: int = 0


def stage_lines(stages: Sequence[Stage], now: float, width: int) -> list[Text]:
    """For each a bar, how much is done, how fast, how long it took, and how long it will, in `width` columns."""
    names = [f"{stage.name:<10} " for stage in stages]
    words = [_in_words(stage, now, width - len(name) - _LEAST_BAR) for stage, name in zip(stages, names, strict=True)]
    size = min((width - len(n) - len(w) for n, w in zip(names, words, strict=True)), default=0)
    lines = []
    for stage, name, said in zip(stages, names, words, strict=True):
        quiet, colour = ("dim", "green") if stage.ended is not None else ("", "cyan")
        line = Text().append(name, quiet)
        if size >= _LEAST_BAR:
            bar = min(_LONGEST_BAR, size)
            full = round(bar * min(1.0, stage.done / stage.total)) if stage.total > 0 else bar
            line.append("━" * full, colour).append("━" * (bar - full), "bright_black")
        line.append(said, quiet)
        line.truncate(width, overflow="ellipsis")
        lines.append(line)
    return lines


def _in_words(stage: Stage, now: float, room: int) -> str:
    """How far a stage is. What does not fit is left out, the least needed first."""
    seconds = max(1e-9, (now if stage.ended is None else stage.ended) - stage.began)
    rate = stage.done / seconds
    counted = f" {stage.done:,}/{stage.total:,}"
    unit = f" {stage.unit}"
    speed = "" if not stage.done else f" {rate:,.0f}/s" if rate >= 100 else f" {rate:.2g}/s"
    times = f" {duration(seconds)}"
    if stage.ended is None and 0 < stage.done < stage.total:
        times += f" {duration((stage.total - stage.done) / rate)} left"
    for said in (counted + unit + speed + times, counted + unit + times):
        if len(said) <= room:
            return said
    return counted + times


class Display:
    """A live panel at the bottom of a terminal; where there is no terminal, only what it knows of time.

    Args:
        console: where.
        updates: of the run.
        draw: draws the chart; None: no chart.
        clock: seconds.
    """

    def __init__(
        self, console: Console, *, updates: int, draw: Draw | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.is_live = console.is_terminal and not console.is_dumb_terminal
        self._console, self._updates, self._draw, self._clock = console, updates, draw, clock
        self._live: Live | None = None
        self._stages: tuple[Stage, ...] = ()
        self._done = 0
        self._rows: Rows = ()
        self._updates_done = 0
        self._began = self._marked = clock()
        self._durations: deque[float] = deque(maxlen=COMPARED)

    def begin(self, updates_done: int, rows: Rows) -> None:
        """Know the updates that were made before, and count the time from now."""
        self._updates_done, self._rows = updates_done, rows
        self._durations.extend(row["seconds"] for row in rows if math.isfinite(row.get("seconds", math.nan)))
        self._began = self._marked = self._clock()

    def stage(self, name: str, total: int, unit: str) -> None:
        """Begin something of the present update; what was being done before has ended."""
        now = self._clock()
        others = tuple(stage for stage in self._ended(now) if stage.name != name)
        self._done = 0
        self._stages = (*others, Stage(name, total, unit, began=now))
        if self.is_live and self._live is None:
            # A thread draws it; the run itself only counts.
            self._live = Live(self, console=self._console, refresh_per_second=_REFRESHES, transient=True)
            self._live.start()

    def advance(self, done: int) -> None:
        """So much of the stage is done."""
        self._done = done

    def update(self, updates_done: int, rows: Rows) -> None:
        """Show a new row; the stages of its update are over."""
        now = self._clock()
        self._durations.append(now - self._marked)
        self._marked = now
        self._updates_done, self._rows, self._stages = updates_done, rows, ()

    def seconds_left(self) -> float | None:
        """Of the whole run, by the last updates; None while none was made."""
        if not self._durations:
            return None
        one = statistics.fmean(self._durations)
        return max(0.0, one * (self._updates - self._updates_done) - (self._clock() - self._marked))

    def stop(self) -> None:
        """End the panel; its chart and figures stay."""
        if self._live is None:
            return
        self._live.stop()
        self._live, self._stages = None, ()
        if self._rows:
            self._console.print(self)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The panel, as large as the terminal allows: the chart gives way first."""
        width, room = options.max_width, console.height - 2
        bars = stage_lines(self._current(), self._clock(), width)
        room -= len(bars)
        yield self._heading(width)
        if self._rows:
            table = figure_lines(self._rows, width, room)
            least, most = _CHART_LINES
            height = min(most, room - len(table))
            if self._draw is not None and height >= least:
                yield self._draw(min(100, width), height)
            yield from table
        yield from bars

    def _heading(self, width: int) -> Text:
        text = Text().append(f"update {self._updates_done}/{self._updates}", "bold")
        text.append(f"  {duration(self._clock() - self._began)} so far", "dim")
        if left := self.seconds_left():
            text.append(f"  about {duration(left)} left", "dim")
        compared = f"  (changes: against the mean of the {min(COMPARED, len(self._rows) - 1)} before)"
        if len(self._rows) > 2 and len(text) + len(compared) <= width:
            text.append(compared, "dim")
        text.truncate(width, overflow="ellipsis")
        return text

    def _current(self) -> tuple[Stage, ...]:
        stages = self._stages
        return (*stages[:-1], replace(stages[-1], done=self._done)) if stages else ()

    def _ended(self, now: float) -> tuple[Stage, ...]:
        current = self._current()
        return (*current[:-1], replace(current[-1], ended=now)) if current else ()
