"""``llm-envs list``: what environments there are."""

import argparse
import sys
from typing import Any

from llm_envs.registration import REGISTRY, Registration

__all__ = ["add_parser"]

_UNKNOWN = "-"


def add_parser(commands: Any) -> None:
    """The arguments of ``llm-envs list``."""
    listing = commands.add_parser(
        "list",
        help="list the environments",
        description="Lists the environments: the most actions of an episode, the folder of the rows, the mean return "
        "from which on it counts as solved, and the expected returns of a random player and of the best player that "
        "is known (of the default arguments; - where nobody knows it, or where it depends on the rows).",
    )
    listing.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:  # noqa: ARG001 (it has none)
    rows = [["id", "turns", "data", "threshold", "random", "best known"]]
    for env_id, entry in REGISTRY.items():
        threshold, chance = f"{entry.reward_threshold:g}", _number(entry.random_return)
        rows.append([env_id, str(entry.turns), entry.data or "none", threshold, chance, _best(entry)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write(line.rstrip() + "\n")
    return 0


def _number(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:.4g}"


def _best(entry: Registration) -> str:
    return _UNKNOWN if entry.best_return is None else f"{_number(entry.best_return)} ({entry.best_solver})"
