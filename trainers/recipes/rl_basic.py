"""The plain recipe: environments of text, LoRA policy gradient, evaluation, checkpoints and logging.

python -m trainers.recipes.rl_basic --model HuggingFaceTB/SmolLM2-135M-Instruct --env llm_envs:GSM8K-v0

The same as `llm-envs train`.
"""

from __future__ import annotations

import sys

from trainers.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
