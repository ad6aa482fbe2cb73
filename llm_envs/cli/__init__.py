"""The console command ``llm-envs``: what there is, playing and replaying it, and whether data can be graded.

A command is a file: `listing`, `play`, `replay`, `data`; what other packages add is found by `others`.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from llm_envs import __version__
from llm_envs.cli import data, listing, others, play, replay
from llm_envs.cli.data import DataReport, TextOnlyRow, UngradableRow, check_data

__all__ = ["DataReport", "TextOnlyRow", "UngradableRow", "check_data", "main", "make_parser"]

_INTERRUPTED = 130  # as the shell has it: 128 and the signal's number


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit code: 0; 1 if rows cannot be graded or episodes differ; 2 if nothing could be done; 130 if it was
        interrupted. A command of another package has its own.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if words and others.has(words[0]):
            return others.run(words[0], words[1:])
        options = make_parser().parse_args(words)
        return options.run(options)  # type: ignore[no-any-return]
    except BrokenPipeError:  # whoever read along, as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return _INTERRUPTED


def make_parser() -> argparse.ArgumentParser:
    """The arguments of the command. Those of other packages' commands are known to them alone."""
    parser = argparse.ArgumentParser(
        prog="llm-envs", description="Environments of text, their data and their episodes."
    )
    parser.add_argument("--version", action="version", version=f"llm-envs {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (listing, play, replay, data):
        command.add_parser(commands)
    others.add_parsers(commands)
    return parser
