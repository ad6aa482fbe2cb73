"""Pictures of a run: in the terminal and as PNG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from rich.text import Text

Points = Sequence[tuple[int, float]]


def terminal_chart(
    returns: Points,
    evaluations: Points,
    references: Mapping[str, float],
    *,
    updates: int,
    width: int = 100,
    height: int = 16,
) -> Text:
    """Mean return against updates, and a labelled line for each reference, in `width` x `height + 2` characters.

    References that fall on one line share it; labels get half of the width at most.
    """
    known = {name: value for name, value in references.items() if math.isfinite(value)}
    values = [value for _, value in [*returns, *evaluations] if math.isfinite(value)] + list(known.values())
    low, high = min(values, default=0.0), max(values, default=0.0)
    margin = 0.05 * (high - low) or 0.5
    low, high = low - margin, high + margin

    def row_of(value: float) -> int:
        return round((high - value) / (high - low) * (height - 1))

    numbers = [f"{high - (high - low) * i / (height - 1):.2f}" for i in range(height)]
    left = max(6, *map(len, numbers)) + 1
    labels = [""] * height
    for name, value in known.items():
        label = labels[row_of(value)]
        labels[row_of(value)] = f"{label}, {name} {value:.2f}" if label else f" {name} {value:.2f}"
    labels = [_cut(label, width // 2) for label in labels]
    columns = max(10, width - left - 1 - max(map(len, labels)))
    cells = [[("─", "dim") if label else (" ", "")] * columns for label in labels]
    for points, mark in ((returns, ("•", "blue")), (evaluations, ("◆", "bold red"))):
        for update, value in points:
            if math.isfinite(value):
                cells[row_of(value)][round(min(1.0, update / max(1, updates)) * (columns - 1))] = mark
    drawing = Text()
    for number, row, label in zip(numbers, cells, labels, strict=True):
        drawing.append(f"{number:>{left - 1}} ", "dim")
        for style, run in groupby(row, key=itemgetter(1)):
            drawing.append("".join(character for character, _ in run), style)
        drawing.append(label + "\n", "dim")
    drawing.append(" " * left + f"update 0{updates:>{columns - 8}}\n", "dim")
    drawing.append(" " * left + "mean return: ", "dim").append("• sampled", "blue").append("  ◆ greedy", "bold red")
    return drawing


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else text[: max(0, room - 1)] + "…"


def save_curve(
    path: Path,
    sampled: Points,
    greedy: Points,
    references: Mapping[str, float],
    *,
    title: str,
    ylabel: str = "mean return",
) -> None:
    """Write such a curve as PNG."""
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    figure = Figure(figsize=(8, 4.5), dpi=140, layout="constrained")
    axes = figure.add_subplot()
    for style, (name, value) in zip(("--", "-.", ":"), references.items(), strict=False):
        axes.axhline(value, color="0.35", linestyle=style, linewidth=1)
        axes.annotate(
            f"{name} player {value:.2f}", (0.995, value), xycoords=("axes fraction", "data"),
            ha="right", va="bottom", color="0.35", fontsize=9,
        )  # fmt: skip
    axes.plot(*_axes(sampled), color="tab:blue", linewidth=1.5, label="sampled episodes")
    if greedy:
        axes.plot(*_axes(greedy), "o", color="tab:red", markersize=5, label="greedy evaluation")
    axes.set(xlabel="update", ylabel=ylabel, title=title)
    axes.spines[["top", "right"]].set_visible(False)
    # Below the picture, where it hides neither points nor the references' names.
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
    figure.savefig(path)


def _axes(points: Points) -> tuple[list[int], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
