"""What every command line does alike: read the options, run, and end with one line for what went wrong."""

from __future__ import annotations

import logging
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from trainers.cli import EXIT_CANNOT
from trainers.cli.options import read_options
from trainers.config import ConfigError, Interrupted

Config = TypeVar("Config")

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130  # as the shell has it: 128 and the signal's number


def run_command(
    config_type: type[Config],
    main: Callable[[Config], None],
    *,
    description: str,
    arguments: Sequence[str] | None = None,
    prog: str | None = None,
    takes_file: bool = False,
    needs_models: bool = True,
) -> int:
    """Read the options and run `main`.

    Args:
        config_type: the dataclass of the options.
        main: what is run.
        description: one line for `--help`.
        arguments: the words after the command; None: those of this process.
        prog: how the command is called: `llm-envs train`; None: as this process was.
        takes_file: whether there is `--config FILE`, the settings of an earlier run.
        needs_models: whether transformers is going to be loaded, and must be told to be quiet.

    Returns:
        The exit code: 0, 2 for what the user did wrong, 1 where something else ended a run that was well begun, as when
        its environments fail or the disk is full, 130 after Ctrl-C.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        config = read_options(
            config_type, words, description=description, prog=prog or _called(), takes_file=takes_file
        )
        if needs_models:
            quiet_libraries()
        main(config)
    except ConfigError as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_CANNOT
    except Interrupted as interrupted:
        command = resume_command(interrupted.run_dir, words=words, prog=prog)
        sys.stderr.write(f"Go on with:\n  {command}\n")
        return EXIT_INTERRUPTED
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        return EXIT_INTERRUPTED
    except Exception as error:
        if not _says_enough(error):
            raise
        sys.stderr.write(f"error: {error}\n")
        return EXIT_FAILED
    return 0


def _says_enough(error: Exception) -> bool:
    """Whether an error's message is one line for the user. Looked up where its module is loaded: some load torch."""
    return any(
        name in sys.modules and isinstance(error, getattr(sys.modules[name], of_it))
        for name, of_it in (
            ("trainers.environments", "BrokenEnvironmentError"),
            ("trainers.checkpoints", "CheckpointError"),
            ("trainers.sampling.endpoint", "EndpointError"),
        )
    )


def resume_command(run_dir: Path, *, words: Sequence[str] | None = None, prog: str | None = None) -> str:
    """This command again, to go on with the run in `run_dir`.

    Args:
        run_dir: of the run.
        words: the words after the command; None: those of this process.
        prog: how the command is called; None: as this process was.
    """
    options: list[str] = []
    given = iter(sys.argv[1:] if words is None else words)
    for option in given:
        name = option.partition("=")[0].replace("_", "-")
        if name == "--run-dir":
            if "=" not in option:
                next(given, None)
        elif name not in ("--resume", "--overwrite", "--no-resume", "--no-overwrite"):
            options.append(option)
    command = prog or f"{python_command()} {_module() or sys.argv[0]}"
    return f"{command} {shlex.join([*options, '--run-dir', str(run_dir), '--resume'])}"


def _called() -> str:
    """How this process was called, for `--help`."""
    module = _module()
    return f"python {module}" if module else Path(sys.argv[0]).name


def _module() -> str:
    spec = sys.modules["__main__"].__spec__
    return "" if spec is None else f"-m {spec.name}"


def python_command() -> str:
    """How to call this interpreter from here."""
    python = Path(sys.executable)
    return str(python.relative_to(Path.cwd()) if python.is_relative_to(Path.cwd()) else python)


def quiet_libraries() -> None:
    """Keep progress bars and advice of the libraries below out of the command's output; errors stay."""
    from transformers.utils import logging as transformers_logging

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
