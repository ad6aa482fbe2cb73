"""What a run says of itself: `metrics.jsonl` always, other trackers if wanted, and the terminal while it goes."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from trainers.config import TrainConfig
from trainers.logs.advice import Adviser
from trainers.logs.charts import terminal_chart
from trainers.logs.display import COMPARED, Display, update_line
from trainers.logs.trackers import Tracker, close_all, open_trackers, send

_ROWS_KEPT = 1000
"""So many lines are kept for a file that cannot be written, until it can."""


class RunLog:
    """Writes a run's files and shows it in the terminal.

    A terminal gets a live panel: the chart (if wanted), the figures of the last update, and how far the present one is.
    Anything else (a pipe, a file) gets one line an update. Either gets a sentence where something is off.

    A file that cannot be written (a full disk) is said once and tried again; it never ends a run.

    Args:
        config: of the run.
        references: which of the first environment's solvers are shown as lines to compare with; None: all with a known
            return.
        chart: draw mean return against updates, live.
        console: where to show it.

    Attributes:
        references: solver -> its mean return in the first environment, for those that are shown.
        returns: (update, mean return) of every update.
        evaluations: (updates done, mean return) of every evaluation.
    """

    def __init__(
        self,
        config: TrainConfig,
        *,
        references: Sequence[str] | None = None,
        chart: bool = False,
        console: Console | None = None,
    ) -> None:
        self._config = config
        self._wanted = references
        self._console = console or Console()
        self._metrics = JsonLines(config.run_dir / "metrics.jsonl")
        self._episodes = JsonLines(config.run_dir / "episodes.jsonl")
        self._display = Display(self._console, updates=config.updates, draw=self._drawing if chart else None)
        self._adviser = Adviser()
        self._trackers: list[Tracker] = []
        self._history: list[dict[str, float]] = []
        self.references: dict[str, float] = {}
        self.returns: list[tuple[int, float]] = []
        self.evaluations: list[tuple[int, float]] = []

    def start(
        self,
        updates_done: int,
        known_returns: Mapping[str, Mapping[str, float]],
        *,
        versions: Mapping[str, str] = {},
        commit: str = "",
        device: str = "",
    ) -> None:
        """Open the files (dropping rows of updates that a resumed run will make again) and the trackers.

        Args:
            updates_done: what a resumed run has done before.
            known_returns: environment -> solver -> the return it earns on average, where that is known.
            versions: of the libraries.
            commit: of the code.
            device: what the policy is on.

        Raises:
            ConfigError: when a tracker cannot start.
        """
        config = self._config
        config_json = config.as_json()
        self._trackers = open_trackers(config.track, config.run_dir, config_json, updates_done=updates_done)
        self._resume(updates_done)
        text = json.dumps(config_json, indent=2) + "\n"
        self._try(lambda: _write_whole(config.run_dir / "config.json", [text.encode()]))
        start = {"references": known_returns, "commit": commit, "device": device, "versions": versions}
        self._write(self._metrics, [{"kind": "start", "update": updates_done, "time": time.time(), **start}])
        first = config.tasks()[0].name
        known = known_returns.get(first, {})
        wanted = known if self._wanted is None else self._wanted
        self.references = {name: known[name] for name in wanted if name in known}
        for task, solvers in known_returns.items():
            shown = self.references if task == first else solvers
            where = f"{task}: a" if len(known_returns) > 1 else "A"
            for name, value in shown.items():
                self.say(f"{where} return of {value:.2f} is what the {name} player earns on average.")
        self._display.begin(updates_done, self._history[-1 - COMPARED :])

    def stage(self, name: str, total: int, unit: str) -> None:
        """Begin a stage of the present update: sampling, grading, training, evaluating; `total` of `unit` are to do."""
        self._display.stage(name, total, unit)

    def advance(self, done: int) -> None:
        """So much of the stage is done. Costs next to nothing."""
        self._display.advance(done)

    def update(self, number: int, metrics: Mapping[str, float], records: Sequence[Mapping[str, Any]]) -> None:
        """Record an update: its figures, and the episodes that are kept of it.

        Args:
            number: of the update, counted from 1.
            metrics: its figures.
            records: episodes as JSON values, complete but for the update's number.
        """
        self._write(self._metrics, [{"kind": "update", "update": number, **metrics}])
        self._write(self._episodes, [{"update": number, **record} for record in records])
        self.returns.append((number, metrics.get("return_mean", math.nan)))
        self._history.append(dict(metrics))
        self._display.update(number, self._history[-1 - COMPARED :])
        if not self._display.is_live:
            left = self._display.seconds_left()
            self.say(update_line(number, self._config.updates, metrics, self.references, left))
        for sentence in self._adviser.news(self._history, number):
            self._note(sentence)
        self._track("train", metrics, number)

    def evaluation(self, updates_done: int, metrics: Mapping[str, float]) -> None:
        """Record a greedy evaluation."""
        self._write(self._metrics, [{"kind": "evaluation", "update": updates_done, **metrics}])
        self.evaluations.append((updates_done, metrics.get("return_mean", math.nan)))
        told = [f"return {self.evaluations[-1][1]:.3f}"]
        told += [f"{k.removesuffix('/return_mean')} {v:.3f}" for k, v in metrics.items() if k.endswith("/return_mean")]
        shares = ", ".join(
            f"{k.removeprefix('verdict_')} {v:.0%}" for k, v in metrics.items() if k.startswith("verdict_")
        )
        after = f"{updates_done} update{'' if updates_done == 1 else 's'}"
        self.say(f"greedy evaluation after {after}: {', '.join(told)}" + (f" ({shares})" if shares else ""))
        self._track("evaluation", metrics, updates_done)

    def say(self, text: str) -> None:
        """Print a line above the live panel."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def stop(self) -> None:
        """End the live panel, whose last state stays in a terminal, and close the trackers. Twice does no harm."""
        self._display.stop()
        for sentence in close_all(self._trackers):
            self._note(sentence)

    def _note(self, sentence: str) -> None:
        self._console.print(Text(f"note: {sentence}", "yellow"), soft_wrap=True)

    def _resume(self, updates_done: int) -> None:
        for file in (self._metrics, self._episodes):
            self._try(partial(file.keep, updates_done))
        for row in self._metrics.rows(updates_done):
            kind, number = row.pop("kind"), row.pop("update")
            figures = {name: math.nan if value is None else value for name, value in row.items()}
            if kind == "update":
                self.returns.append((number, figures.get("return_mean", math.nan)))
                self._history.append(figures)
            elif kind == "evaluation":
                self.evaluations.append((number, figures.get("return_mean", math.nan)))

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        except OSError as error:
            self._note(f"{error}; the run goes on")

    def _write(self, file: JsonLines, rows: Sequence[Mapping[str, Any]]) -> None:
        failed_before = file.failure
        file.append(rows)
        if file.failure and not failed_before:
            self._note(f"{file.path} cannot be written ({file.failure}); the run goes on and tries again")
        elif failed_before and not file.failure:
            self.say(f"{file.path} can be written again")

    def _track(self, section: str, metrics: Mapping[str, float], number: int) -> None:
        finite = {f"{section}/{name}": value for name, value in metrics.items() if math.isfinite(value)}
        for sentence in send(self._trackers, finite, number):
            self._note(sentence)

    def _drawing(self, width: int, height: int) -> Text:
        return terminal_chart(
            self.returns, self.evaluations, self.references,
            updates=self._config.updates, width=width, height=height - 2,
        )  # fmt: skip


# --- Files ---


class JsonLines:
    """A file of one JSON object a line, in the order of updates. Whatever stops the run, all whole lines stay.

    Attributes:
        failure: why it cannot be written now; empty while it can.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.failure = ""
        self._waiting: list[str] = []

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows, and those that could not be added before; a number that is not finite becomes null."""
        self._waiting += [_as_line(row) for row in rows]
        try:
            _append(self.path, "".join(self._waiting).encode())
        except OSError as error:
            self.failure = error.strerror or str(error)
            del self._waiting[:-_ROWS_KEPT]
        else:
            self.failure = ""
            self._waiting.clear()

    def rows(self, updates_done: int) -> list[dict[str, Any]]:
        """What is in the file of so many updates, less lines that are not whole."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            return [row for line in file if (row := _parsed(line, updates_done)) is not None]

    def keep(self, updates_done: int) -> None:
        """Drop the rows of later updates, and lines that are not whole.

        Raises:
            OSError: when that cannot be done; the file is then as it was.
        """
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            sizes = [(len(line), _parsed(line, updates_done) is not None) for line in file]
        good = [is_good for _, is_good in sizes]
        if all(good):
            return
        if not any(good[good.index(False) :]):  # nothing after it: cutting the end off needs no space on the disk
            os.truncate(self.path, sum(size for size, is_good in sizes if is_good))
            return
        with self.path.open("rb") as file:
            _write_whole(self.path, (line for line, is_good in zip(file, good, strict=True) if is_good))


def _parsed(line: bytes, updates_done: int) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:  # bytes that are no text are, too
        return None
    is_ours = line.endswith(b"\n") and isinstance(row, dict) and isinstance(row.get("update"), int)
    return row if is_ours and row["update"] <= updates_done else None


def _as_line(row: Mapping[str, Any]) -> str:
    try:
        return json.dumps(row, allow_nan=False) + "\n"
    except ValueError:
        return json.dumps(_with_nulls(row), allow_nan=False) + "\n"


def _with_nulls(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _with_nulls(item) for name, item in value.items()}
    return [_with_nulls(item) for item in value] if isinstance(value, list | tuple) else value


def _append(path: Path, data: bytes) -> None:
    """Append all of it or, on an error, nothing."""
    with path.open("ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        try:
            left = memoryview(data)
            while left:
                left = left[file.write(left) :]
        except OSError:
            file.truncate(size)  # else the next row would stand in the same line as half of this one
            raise


def _write_whole(path: Path, lines: Iterable[bytes]) -> None:
    """Write a file that appears under its name only when it is whole."""
    part = path.with_suffix(".partial")
    try:
        with part.open("wb") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
