"""Write a run's report: one page with its curves and its episodes."""

from __future__ import annotations

import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trainers.cli import EXIT_CANNOT, lacks


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """What `llm-envs report` takes."""

    run_dir: Path = field(metadata={"positional": True})
    """The folder of a run, finished or still under way, or of an evaluation."""
    out: Path | None = None
    """Where the page goes. Default: report.html in that folder."""
    open: bool = False
    """Show it in a browser."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `llm-envs report`.

    Returns:
        The exit code.
    """
    if lacks(("tyro",), command="llm-envs report"):
        return EXIT_CANNOT
    from trainers.cli.running import run_command

    return run_command(
        ReportOptions, run, description=str(__doc__), arguments=arguments, prog="llm-envs report", needs_models=False
    )


def run(options: ReportOptions) -> None:
    """Write the page, and say where it is.

    Raises:
        ConfigError: where the folder holds no run, or the page cannot be written.
    """
    from trainers.report import write_report

    page = write_report(options.run_dir, options.out)
    print(page)
    if options.open:
        webbrowser.open(page.resolve().as_uri())
