"""The plain recipe: one environment, LoRA policy gradient, evaluation, checkpoints and logging.

python -m trainers.recipes.rl_basic --model HuggingFaceTB/SmolLM2-135M-Instruct --env llm_envs:GSM8K-v0
"""

from __future__ import annotations

from trainers.config import TrainConfig
from trainers.recipes.cli import run_recipe


def main(config: TrainConfig) -> None:
    """Train, and say where the adapter is."""
    from trainers.train import train  # here, so that --help does not load torch

    train(config)
    print(f"The adapter is in {config.run_dir / 'adapter'}")


if __name__ == "__main__":
    run_recipe(TrainConfig, main, description="LoRA policy gradient on a Gymnasium text environment.")
