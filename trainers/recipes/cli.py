"""What every recipe's command line does alike."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from trainers.cli.running import python_command, quiet_libraries, resume_command, run_command
from trainers.config import ConfigError

__all__ = ["make_run_dir", "python_command", "quiet_libraries", "resume_command", "run_recipe"]

Config = TypeVar("Config")


def run_recipe(config_type: type[Config], main: Callable[[Config], None], *, description: str) -> None:
    """Read the options, run the recipe, and end with one line for what the user did wrong or stopped."""
    code = run_command(config_type, main, description=description)
    if code:
        sys.exit(code)


def make_run_dir(run_dir: Path) -> None:
    """Make the folder that a recipe writes into, before it computes anything.

    Raises:
        ConfigError: when that is no place to write to.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"run_dir {run_dir} cannot be made: {error.strerror}") from error
    if not os.access(run_dir, os.W_OK | os.X_OK):
        raise ConfigError(f"run_dir {run_dir} cannot be written to")
