"""How a run ends that cannot go on, in one line for the person at the keyboard."""

from __future__ import annotations

from pathlib import Path


class ConfigError(ValueError):
    """A setting that cannot work. Its message is one line, meant for the person who typed it."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, after everything was saved; `run_dir` is where to go on from."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__(f"stopped by the user; everything is in {run_dir}")
        self.run_dir = run_dir
