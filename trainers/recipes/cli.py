"""What every recipe's command line does alike."""

from __future__ import annotations

import logging
import os
import shlex
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import tyro

from trainers.config import ConfigError, Interrupted

Config = TypeVar("Config")

EXIT_BAD_CONFIG = 2
EXIT_INTERRUPTED = 130


def run_recipe(config_type: type[Config], main: Callable[[Config], None], *, description: str) -> None:
    """Read the options, run the recipe, and end with one line for what the user did wrong or stopped."""
    config = tyro.cli(config_type, description=description)
    quiet_libraries()
    try:
        main(config)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_BAD_CONFIG)
    except Interrupted as interrupted:
        print(f"Go on with:\n  {resume_command(interrupted.run_dir)}", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)


def resume_command(run_dir: Path) -> str:
    """This command again, to go on with the run in `run_dir`."""
    options: list[str] = []
    given = iter(sys.argv[1:])
    for option in given:
        name = option.partition("=")[0].replace("_", "-")
        if name == "--run-dir":
            if "=" not in option:
                next(given, None)
        elif name not in ("--resume", "--overwrite"):
            options.append(option)
    spec = sys.modules["__main__"].__spec__
    module = sys.argv[0] if spec is None else f"-m {spec.name}"
    return f"{python_command()} {module} {shlex.join([*options, '--run-dir', str(run_dir), '--resume'])}"


def python_command() -> str:
    """How to call this interpreter from here."""
    python = Path(sys.executable)
    return str(python.relative_to(Path.cwd()) if python.is_relative_to(Path.cwd()) else python)


def quiet_libraries() -> None:
    """Keep progress bars and advice of the libraries below out of the recipe's output; errors stay."""
    from transformers.utils import logging as transformers_logging

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
