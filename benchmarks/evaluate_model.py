r"""How good is a model on a text environment whose answers are right or wrong? Accuracy, share of boxes and pass@k.

python -m benchmarks.evaluate_model --model models/SmolLM2-135M-Instruct --env llm_envs:GSM8K-v0 \
    --env-args '{"split": "test"}' --problems 100 --samples 4

The sampled half of `llm-envs eval`, and goes on as that does: episodes and summary go to `OUT`. What it adds is a
picture of pass@k there, and a row in `results/evaluate_model.csv`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.results import append_row
from trainers.cli.evaluate import evaluate_and_report
from trainers.evaluation import EvalConfig
from trainers.evaluation.estimates import Estimate, ratio_over_problems, wilson
from trainers.evaluation.summary import Summary, is_scorable
from trainers.recipes.cli import run_recipe


@dataclass(frozen=True)
class Config:
    """Options of the evaluation."""

    model: str = "HuggingFaceTB/SmolLM2-135M-Instruct"
    """Hub id or transformers folder."""
    adapter: Path | None = None
    """A PEFT adapter folder to put on the model."""
    env: str = "llm_envs:GSM8K-v0"
    """Gymnasium id, with the module that registers it."""
    env_args: str = '{"split": "test"}'
    """Its arguments, as a JSON object."""
    problems: int = 100
    """How many problems; no more than there are."""
    samples: int = 4
    """Answers to each; pass@k is estimated for k = 1, 2, 4, ... up to this."""
    temperature: float = 1.0
    """Of sampling; 0: greedy, with one answer a problem whatever `samples` says."""
    max_tokens: int = 512
    """Most tokens of an answer."""
    rows: int = 64
    """Answers sampled at once: bounds memory, and is what a stop loses at most. (Another number, other answers.)"""
    device: str = "auto"
    """auto, cpu, cuda, ..."""
    dtype: str = "auto"
    """auto, bfloat16 or float32."""
    seed: int = 0
    """Of sampling."""
    out: Path = Path("runs/evaluate_model")
    """Where answers, summary and picture go. One evaluation a folder."""
    record: bool = True
    """Append to results/."""

    @property
    def answers_a_problem(self) -> int:
        """1 where sampling is greedy: more would all be the same."""
        return self.samples if self.temperature else 1

    def evaluation(self) -> EvalConfig:
        """The same in the words of `llm-envs eval`."""
        return EvalConfig(
            model=self.model,
            adapter=self.adapter,
            env=(self.env,),
            env_args=(self.env_args,),
            problems=self.problems,
            greedy=not self.temperature,
            samples=self.samples if self.temperature else 0,
            temperature=self.temperature or 1.0,
            max_tokens=self.max_tokens,
            max_rows=self.rows,
            device=self.device,
            dtype=self.dtype,
            seed=self.seed,
            out=self.out,
        )


def boxed_share(records: Sequence[Mapping[str, Any]]) -> Estimate:
    """Share of the answers whose last action holds a complete box, whatever reward the environment gives for that."""
    from llm_envs.grading import extract_boxed

    problems: dict[int, list[bool]] = {}
    for record in filter(is_scorable, records):
        problems.setdefault(record["problem"], []).append(extract_boxed(record["actions"][-1]) is not None)
    counts, sizes = [sum(found) for found in problems.values()], [len(found) for found in problems.values()]
    return wilson(sum(counts), len(counts)) if max(sizes) == 1 else ratio_over_problems(counts, sizes)


def report(config: Config, records: Sequence[Mapping[str, Any]], summary: Summary, *, is_new: bool) -> None:
    """Draw the picture, and append the row of an evaluation that has none yet."""
    rates = summary.sampled or summary.greedy
    if rates is None or rates.accuracy is None:
        return
    pass_at = summary.pass_at or {1: rates.accuracy}
    boxed = boxed_share(records)
    print(f"  in a box {boxed}")
    save_picture(config.out / "pass_at_k.png", pass_at, title=f"{Path(config.model).name} on {config.env}")
    if not (config.record and is_new):
        return
    row: dict[str, object] = {
        # A folder's place on this machine is nobody's business.
        "model": Path(config.model).name,
        "adapter": "" if config.adapter is None else config.adapter.name,
        "env": config.env,
        "env_args": _without_paths(config.env_args),
        "problems": rates.problems,
        "samples": config.answers_a_problem,
        "temperature": config.temperature,
        "max_tokens": config.max_tokens,
        "dtype": config.dtype,
        "seed": config.seed,
        "answers": rates.answers,
        "unscorable": rates.unscorable,
    }
    for name, estimate in {"accuracy": rates.accuracy, "boxed": boxed, "truncated": rates.truncated}.items():
        row |= {
            name: round(estimate.value, 4),
            f"{name}_low": round(estimate.low, 4),
            f"{name}_high": round(estimate.high, 4),
        }
    # In one column, for the ks differ from evaluation to evaluation.
    row["pass_at_k"] = json.dumps(
        {k: [round(e.value, 4), round(e.low, 4), round(e.high, 4)] for k, e in pass_at.items() if e}
    )
    append_row("evaluate_model", row)


def _without_paths(env_args: str) -> str:
    """The environment's arguments with the name alone of the file that `data` names."""
    arguments: dict[str, Any] = json.loads(env_args)
    if isinstance(arguments.get("data"), str):
        arguments["data"] = Path(arguments["data"]).name
    return json.dumps(arguments)


def save_picture(path: Path, pass_at: Mapping[int, Estimate | None], *, title: str) -> None:
    """Draw pass@k against k with its interval as a band."""
    from matplotlib.figure import Figure

    points = [(k, estimate) for k, estimate in pass_at.items() if estimate is not None]
    ks = [k for k, _ in points]
    figure = Figure(figsize=(6, 4), dpi=140, layout="constrained")
    axes = figure.add_subplot()
    band = [e.low for _, e in points], [e.high for _, e in points]
    if len(ks) > 1:
        axes.fill_between(ks, *band, color="tab:blue", alpha=0.2, linewidth=0, label="95 % interval over problems")
        axes.set_xscale("log", base=2)
    else:
        axes.vlines(ks, *band, color="tab:blue", alpha=0.4, linewidth=4, label="95 % interval over problems")
    axes.plot(ks, [e.value for _, e in points], "o-", color="tab:blue", label="pass@k", clip_on=False)
    axes.set_xticks(ks, [str(k) for k in ks])
    axes.minorticks_off()
    axes.set(xlabel="k: answers a problem", ylabel="share of problems solved", title=title, ylim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    # Below the picture, where it hides nothing.
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
    figure.savefig(path)


def main(config: Config) -> None:
    """Evaluate and report."""
    found = evaluate_and_report(config.evaluation())
    for summary in found.summaries.values():
        report(config, found.records, summary, is_new=found.is_new)


if __name__ == "__main__":
    run_recipe(Config, main, description="Accuracy, share of boxes and pass@k of a model on a text environment.")
