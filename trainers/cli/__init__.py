"""The commands `llm-envs train`, `eval` and `report`, and what every command line of the trainers does alike.

A command is a module with a `main` that takes the words after the command and returns an exit code. `llm-envs` finds it
by the entry point group `llm_envs.commands` and shows the first line of the module's docstring.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence

EXIT_CANNOT = 2

TRAIN = ("torch", "transformers", "peft", "safetensors", "tokenizers", "jinja2", "tyro", "rich")
"""What `pip install 'llm-envs[train]'` brings, and nothing can be trained or evaluated without."""


def lacks(needed: Sequence[str], *, command: str) -> bool:
    """Whether one of these modules is not installed, which is then said in one line. None of them is imported."""
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        sys.stderr.write(f"error: {command} needs {', '.join(missing)}: pip install 'llm-envs[train]'\n")
    return bool(missing)
