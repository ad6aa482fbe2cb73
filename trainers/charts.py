"""Pictures of a run: in the terminal and as PNG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
    """Mean return against updates, and a labelled line for each reference, in `width` x `height + 2` characters."""
    values = [value for _, value in [*returns, *evaluations] if math.isfinite(value)] + list(references.values())
    low, high = min(values, default=0.0), max(values, default=0.0)
    margin = 0.05 * (high - low) or 0.5
    low, high = low - margin, high + margin
    labels = {name: f" {name} {value:.2f}" for name, value in references.items()}
    columns = max(10, width - 8 - max(map(len, labels.values()), default=0))

    def row_of(value: float) -> int:
        return round((high - value) / (high - low) * (height - 1))

    cells: list[list[tuple[str, str]]] = [[(" ", "")] * columns for _ in range(height)]
    ends = [""] * height
    for name, value in references.items():
        cells[row_of(value)] = [("─", "dim")] * columns
        ends[row_of(value)] = labels[name]
    for points, mark in ((returns, ("•", "blue")), (evaluations, ("◆", "bold red"))):
        for update, value in points:
            if math.isfinite(value):
                cells[row_of(value)][round(update / max(1, updates) * (columns - 1))] = mark
    drawing = Text()
    for i, row in enumerate(cells):
        drawing.append(f"{high - (high - low) * i / (height - 1):6.2f} ", "dim")
        for character, style in row:
            drawing.append(character, style)
        drawing.append(ends[i] + "\n", "dim")
    drawing.append(" " * 7 + f"update 0{updates:>{columns - 8}}\n", "dim")
    drawing.append(" " * 7 + "mean return: ", "dim").append("• sampled", "blue").append("  ◆ greedy", "bold red")
    return drawing


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
