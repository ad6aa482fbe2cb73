"""Does a small model learn to box its answers? SmolLM2-135M-Instruct on GSM8K, 8 groups of 8, 128 tokens.

python -m benchmarks.gsm8k_format --model models/SmolLM2-135M-Instruct --run-dir runs/gsm8k_format

Runs `rl_basic` (going on with what the folder holds), and writes the share of answers in a box, update by update, to
`results/gsm8k_format.csv` and a picture of it to the run's folder. The rows come from where `GSM8K-v0` finds them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.results import append_row

FORMAT_COEF = 0.1  # of GSM8K-v0: an answer without a box has this as a negative reward


@dataclass(frozen=True)
class Config:
    """Options of the benchmark."""

    model: str = "HuggingFaceTB/SmolLM2-135M-Instruct"
    """Hub id or transformers folder."""
    run_dir: Path = Path("runs/gsm8k_format")
    """Of the training run."""
    updates: int = 40
    learning_rate: float = 3e-4
    seed: int = 0
    device: str = "auto"


def main(config: Config) -> None:
    """Train, and write what came of it."""
    options = {
        "model": config.model,
        "env": "llm_envs:GSM8K-v0",
        "eval-env-args": '{"split": "test"}',
        "groups-per-batch": 8,
        "group-size": 8,
        "max-tokens": 128,
        "learning-rate": config.learning_rate,
        "warmup-updates": 3,
        "updates": config.updates,
        "eval-every": 20,
        "eval-size": 64,
        "save-every": 2,
        "attention": "eager",
        "tokens-per-microbatch": 4096,
        "seed": config.seed,
        "device": config.device,
        "run-dir": config.run_dir,
    }
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    subprocess.run([sys.executable, "-m", "trainers.recipes.rl_basic", *arguments, "--resume"], check=True)
    write_results(config)


def write_results(config: Config) -> None:
    """A row an update, and the curve."""
    from trainers.logs.charts import save_curve

    rows = [json.loads(line) for line in (config.run_dir / "metrics.jsonl").read_text().splitlines()]
    points: dict[str, list[tuple[int, float]]] = {"update": [], "evaluation": []}
    for row in rows:
        rate = 1.0 + row["part_format"] / FORMAT_COEF
        points[row["kind"]].append((row["update"], rate))
        append_row(
            "gsm8k_format",
            {
                "seed": config.seed,
                "kind": row["kind"],
                "update": row["update"],
                "format_rate": round(rate, 4),
                "return_mean": round(row["return_mean"], 4),
                "correct_share": round(row.get("verdict_correct", 0.0), 4),
                "truncated_share": round(row["truncated_share"], 4),
                "seconds": round(row.get("seconds", 0.0), 1),
            },
        )
    save_curve(
        config.run_dir / "format_rate.png",
        points["update"],
        points["evaluation"],
        {},
        title="SmolLM2-135M-Instruct on GSM8K: answers in a box",
        ylabel="share of answers in a box",
    )


if __name__ == "__main__":
    main(tyro.cli(Config, description="Does a small model learn to box its answers?"))
