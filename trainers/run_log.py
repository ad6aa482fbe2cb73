"""What a run says of itself: `metrics.jsonl` always, and the terminal while it goes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from trainers.charts import terminal_chart
from trainers.config import TrainConfig
from trainers.trajectories import Group as TrajectoryGroup


class RunLog:
    """Writes a run's files and shows it in the terminal.

    A terminal gets a live picture: the chart (if wanted), and what is being done right now. Anything else (a pipe, a
    file) gets one line an update.

    Args:
        config: of the run.
        references: which of the environment's solvers are shown as lines to compare with; None: all with a known
            return.
        chart: draw mean return against updates, live.
        console: where to show it.
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
        self._chart = chart
        self._console = console or Console()
        self._metrics = config.run_dir / "metrics.jsonl"
        self._episodes = config.run_dir / "episodes.jsonl"
        self._live: Live | None = None
        self._doing = ""
        self.references: dict[str, float] = {}
        self.returns: list[tuple[int, float]] = []
        self.evaluations: list[tuple[int, float]] = []

    def start(self, updates_done: int, known_returns: Mapping[str, float]) -> None:
        """Open the files (dropping lines of updates that a resumed run will make again) and the display."""
        self._stop_live()
        wanted = known_returns if self._wanted is None else self._wanted
        self.references = {name: known_returns[name] for name in wanted if name in known_returns}
        for row in _keep_rows(self._metrics, updates_done):
            target = self.returns if row["kind"] == "update" else self.evaluations
            target.append((row["update"], row.get("return_mean", float("nan"))))
        _keep_rows(self._episodes, updates_done)
        (self._config.run_dir / "config.json").write_text(json.dumps(self._config.as_json(), indent=2) + "\n")
        for name, value in self.references.items():
            self.say(f"A return of {value:.2f} is what the {name} player earns on average.")

    def progress(self, doing: str) -> None:
        """Say what is being done now. Shown in a terminal only."""
        self._doing = doing
        if not self._console.is_terminal:
            return
        if self._live is None:
            self._live = Live(self._picture(), console=self._console, refresh_per_second=8, transient=True)
            self._live.start()
        self._live.update(self._picture())

    def update(self, number: int, metrics: Mapping[str, float], group: TrajectoryGroup) -> None:
        """Record an update, with one of its groups as text."""
        _append(self._metrics, {"kind": "update", "update": number, **metrics})
        played = {"update": number, "env": self._config.env, "env_args": self._config.parsed_env_args()}
        for record in group.as_records():
            _append(self._episodes, {**played, **record})
        self.returns.append((number, metrics.get("return_mean", float("nan"))))
        if not (self._chart and self._console.is_terminal):
            self.say(self._line(number, metrics))

    def evaluation(self, updates_done: int, metrics: Mapping[str, float]) -> None:
        """Record a greedy evaluation."""
        _append(self._metrics, {"kind": "evaluation", "update": updates_done, **metrics})
        self.evaluations.append((updates_done, metrics.get("return_mean", float("nan"))))
        shares = ", ".join(f"{k.removeprefix('verdict_')} {v:.0%}" for k, v in metrics.items() if "verdict_" in k)
        self.say(f"greedy evaluation after {updates_done} updates: return {self.evaluations[-1][1]:.3f} ({shares})")

    def say(self, text: str) -> None:
        """Print a line above the live picture."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def stop(self) -> None:
        """End the live picture; in a terminal the last chart stays."""
        if self._live is not None:
            self._stop_live()
            if self._chart and self.returns:
                self._console.print(self._drawing())

    def _stop_live(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _picture(self) -> RenderableType:
        spinner = Spinner("dots", text=Text(self._doing))
        if not (self._chart and self.returns):
            return spinner
        return Group(self._drawing(), spinner)

    def _drawing(self) -> Text:
        width = min(100, self._console.width)
        return terminal_chart(
            self.returns, self.evaluations, self.references, updates=self._config.updates, width=width
        )

    def _line(self, number: int, metrics: Mapping[str, float]) -> str:
        parts = [
            f"update {number}/{self._config.updates}",
            f"return {metrics.get('return_mean', float('nan')):.3f}",
            *(f"{name} {value:.2f}" for name, value in self.references.items()),
            *(f"{name.removeprefix('part_')} {value:.3f}" for name, value in metrics.items() if "part_" in name),
            f"cut off {metrics.get('truncated_share', 0.0):.0%}",
            f"no spread {metrics['constant_groups_share']:.0%}",
            f"entropy {metrics['entropy']:.2f}",
            f"grad norm {metrics.get('grad_norm', 0.0):.3g}",
            f"{metrics['seconds']:.1f} s (sampling {metrics['sampling_seconds']:.1f}, "
            f"environment {metrics['env_seconds']:.1f}, training {metrics['training_seconds']:.1f})",
        ]
        return "  ".join(parts)


def _append(path: Path, row: Mapping[str, Any]) -> None:
    # Rewritten by nobody and flushed line by line: what was logged survives whatever stops the run.
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def _keep_rows(path: Path, updates_done: int) -> list[dict[str, Any]]:
    """Drop the rows of later updates and a half-written last line; what is left."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if row["update"] <= updates_done:
            rows.append(row)
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    partial.replace(path)
    return rows
