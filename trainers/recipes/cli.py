"""What every recipe's command line does alike."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

from trainers.cli.running import python_command, quiet_libraries, resume_command, run_command

__all__ = ["python_command", "quiet_libraries", "resume_command", "run_recipe"]

Config = TypeVar("Config")


def run_recipe(config_type: type[Config], main: Callable[[Config], None], *, description: str) -> None:
    """Read the options, run the recipe, and end with one line for what the user did wrong or stopped."""
    code = run_command(config_type, main, description=description)
    if code:
        sys.exit(code)
