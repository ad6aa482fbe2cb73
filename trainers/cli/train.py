"""Train an adapter by LoRA policy gradient on environments of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trainers.cli import EXIT_CANNOT, TRAIN, lacks

if TYPE_CHECKING:
    from trainers.config import TrainConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `llm-envs train`; without arguments, the recipe `rl_basic`: the words of this process.

    Returns:
        The exit code.
    """
    if lacks(TRAIN, command="llm-envs train"):
        return EXIT_CANNOT
    from trainers.cli.running import run_command
    from trainers.config import TrainConfig

    return run_command(
        TrainConfig,
        run,
        description=str(__doc__),
        arguments=arguments,
        prog=None if arguments is None else "llm-envs train",
        takes_file=True,
    )


def run(config: TrainConfig) -> None:
    """Train, and say where the adapter is."""
    from trainers.train import train  # here, so that --help does not load torch

    train(config)
    print(f"The adapter is in {config.run_dir / 'adapter'}")
