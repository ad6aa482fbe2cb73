"""The step benchmark without its peer: what is counted, who is chosen, what is written."""

import csv
import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro

from benchmarks import train_step
from benchmarks.contest import bare
from benchmarks.contest.machine_limits import (
    Limits,
    Minimum,
    measure_limits,
    minimum,
    sampling_bytes,
    sampling_flops,
    training_flops,
)
from benchmarks.contest.models import SHAPES, Shape, build, find_or_build, model_name, tokens_that_fit
from benchmarks.contest.process import ROOT, Peer, PeerError, Step, Steps, StepSpec
from benchmarks.contest.step_ours import measure
from benchmarks.contest.task import TimedStepEnv, extra, opening_messages, word_problem
from benchmarks.results import append_row
from benchmarks.train_step import Config, Settings, by_memory, check_alike, figures, row, settled, trials
from trainers.config import ConfigError
from trainers.policy import Policy

# peft asks transformers by the old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

CPU = torch.device("cpu")
# Hidden states of 2, 2 heads of 2, 1 of keys, 6 inside: 60 frozen parameters, 44 of the adapter, 20 of the head.
LINEARS = ((2, 4), (2, 2), (2, 2), (4, 2), (2, 6), (2, 6), (6, 2))
SHAPE = Shape(layers=1, linears=LINEARS, hidden=2, vocabulary=10, heads=2, key_heads=1, head_size=2, rank=1)
GROUPS = [(3, [2, 1])]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("tiny")
    build("tiny", folder, device=CPU)
    return folder


def spec(**options) -> StepSpec:
    given = {"model": "", "env_id": "", "device": "cpu", "groups": 2, "group_size": 4, "max_tokens": 5, "steps": 2,
             "lora_rank": 2, **options}  # fmt: skip
    return StepSpec(**given)


def step(seconds: float, **options) -> Step:
    given = {"sampling": 1.0, "grading": 0.5, "training": 2.0, "rows": 2, "prompt_tokens": 6, "sampled_tokens": 3,
             "trained_tokens": 3, "groups": GROUPS, **options}  # fmt: skip
    return Step(seconds=seconds, **given)


def steps(*seconds: float, **options) -> Steps:
    return Steps([step(s, **options) for s in seconds], 44, 2**30, {"torch": "1"})


# --- What a step needs ---


def test_parameters_are_counted():
    assert (SHAPE.frozen, SHAPE.adapter, SHAPE.head, SHAPE.cache_bytes) == (60, 44, 20, 8)
    assert SHAPE.products == ((2, 8), (4, 2), (2, 12), (6, 2))


def test_operations_of_sampling():
    # The prompt: 3 tokens of 208, and 6 pairs of 16. Answers: 2 of 248 with 9 pairs, 1 of 248 with 4.
    assert sampling_flops(SHAPE, GROUPS) == (3 * 208 + 6 * 16, 3 * 248 + 13 * 16)


def test_operations_of_training():
    # A token is 4 * 60 + 6 * 44 = 504, a sampled one 80 more; a pair 48.
    assert training_flops(SHAPE, GROUPS) == 6 * 504 + 3 * 80 + 19 * 48
    assert training_flops(SHAPE, GROUPS, shared=False) == 9 * 504 + 3 * 80 + 25 * 48


def test_traffic_of_sampling():
    # Weights twice; of the longer answer one token is read again; of the prompt 3 tokens, twice.
    assert sampling_bytes(SHAPE, GROUPS) == 2 * 248 + (1 + 6) * 8


@pytest.mark.parametrize(("copy", "sampling"), [(55.2, 10 + 10), (552.0, 10 + 2)])
def test_the_least_time_is_that_of_what_takes_longest(copy, sampling):
    limits = Limits(matmul=72, rows_matmul=476, copy=copy, peak=72)
    found = minimum(SHAPE, GROUPS, limits)
    assert found.sampling == pytest.approx(sampling)
    assert found.training == pytest.approx(58)
    assert Minimum(20, 58).total == 78


def test_rates_are_measured():
    found = measure_limits(SHAPE, rows=4, device=CPU, seconds=0.02)
    assert 1e9 < found.matmul < 1e14, "2048^3 products a few times"
    assert found.peak == found.matmul
    assert 1e8 < found.copy < 1e13
    assert 0 < found.rows_matmul < found.matmul, "products of two rows are mostly waiting"


def test_the_shape_is_that_of_the_model(model):
    shape = Shape.read(str(model), rank=2)
    policy = Policy.load(model, lora_rank=2, device="cpu", dtype="float32")
    assert shape.adapter == sum(p.numel() for p in policy.trainable.values())
    layers = [p for name, p in policy.model.named_parameters() if "base_layer" in name]
    assert shape.frozen == sum(p.numel() for p in layers)
    assert shape.head == policy.lm_head.weight.numel() == 1_024 * 64


def test_memory_decides_how_much_is_computed_at_once():
    settings = dataclasses.replace(train_step.PRESETS["cuda"])
    shape = Shape(28, ((1536, 1536), (1536, 256), (1536, 256), (1536, 1536), (1536, 8960), (1536, 8960), (8960, 1536)),
                  1536, 151_936, 12, 2, 128, 32)  # fmt: skip
    tokens = tokens_that_fit(shape, free=76e9, rows=512, longest=762)
    found, ours = by_memory(settings, spec(max_tokens=512, groups=32, group_size=16), shape, free=76e9)
    # 76 GB less 3.1 of weights and 11.2 of keys and values; 0.7 of that at 3.8 MB a token.
    assert ours.tokens_per_microbatch == tokens == pytest.approx(11_400, rel=0.02)
    assert found.peer_batches == (8, 4, 2), "14 rows of 762 tokens"
    kept, ours = by_memory(
        dataclasses.replace(settings, peer_batches=(3,)), spec(tokens_per_microbatch=7), shape, free=1
    )
    assert (kept.peer_batches, ours.tokens_per_microbatch) == ((3,), 7)


# --- The task and the models ---


def test_every_answer_earns_something_of_its_own():
    env = TimedStepEnv()
    text, info = env.reset(seed=3)
    assert env.reset(seed=3) == (text, info)
    question, answer = word_problem(3)
    assert text == question
    assert info["messages"][-1]["content"].startswith(question)
    right, wrong = f"so \\boxed{{{answer}}}", f"\\boxed{{{answer + 1}}}"
    _, reward, terminated, truncated, told = env.step(right)
    assert (terminated, truncated, told["verdict"]) == (True, False, "correct")
    assert reward == 1 + extra(right)
    for action in (wrong, "", "\ud800", "\\boxed{" + "9" * 50 + "}"):
        assert env.step(action)[1] == extra(action) < 0.01
    assert extra("a") != extra("b")


def test_numbers_of_a_problem_are_what_is_asked():
    text, answer = word_problem(0)
    a, b, c, d = [int(word) for word in text.split() if word.isdigit()]
    assert answer == a * b + 2 * c + d
    lengths = [len(messages[-1]["content"].split()) for messages in opening_messages("", range(20))]
    assert np.ptp(lengths) < 5


def test_models_are_found_or_made(model, tmp_path):
    assert find_or_build(str(model), tmp_path, device=CPU) == str(model)
    with pytest.raises(ConfigError, match=r"no model at nowhere; random ones: smollm2-135m, qwen2.5-1.5b, tiny"):
        find_or_build("nowhere", tmp_path, device=CPU)
    assert find_or_build("nowhere", tmp_path, device=CPU, default="tiny") == str(tmp_path / "tiny")
    assert model_name(f"{tmp_path}/tiny/") == "tiny"
    assert SHAPES["smollm2-135m"]["hidden_size"] == 576


def test_a_step_of_ours(model):
    found = measure(spec(model=str(model), steps=1))
    [only] = found.steps
    prompts = {prompt for prompt, _ in only.groups}
    assert [answers for _, answers in only.groups] == [[5] * 4] * 2
    assert (only.rows, only.sampled_tokens, only.trained_tokens) == (8, 40, 40), "every group, no early end"
    assert only.prompt_tokens == 4 * sum(prompt for prompt, _ in only.groups)
    assert min(prompts) > 50
    assert found.trained_parameters == Shape.read(str(model), rank=2).adapter
    assert 0 < only.sampling + only.grading + only.training <= only.seconds


# --- Who is asked, and what is said ---


def test_the_preset_fills_what_is_left_open():
    assert settled(Config(), "cpu") == Settings(
        "models/SmolLM2-135M-Instruct", 3, 2, 4, 8, 128, (8, 16, 32), ("sdpa", "eager"), 60.0
    )
    found = settled(Config(groups=7, peer_batches=(1,)), "cuda")
    assert (found.groups, found.group_size, found.peer_batches) == (7, 16, (1,))


def test_trl_is_given_what_it_is_fastest_with(monkeypatch, capsys):
    seconds = {(2, "sdpa"): 9.0, (8, "sdpa"): 3.0, (2, "eager"): 1.0, (8, "eager"): 2.0}
    asked = []

    def time_steps(module, trial, *, python, limit_seconds):
        asked.append((trial.batch, trial.attention, trial.steps))
        if trial.batch == 4:
            raise PeerError("out of memory")
        return steps(seconds[trial.batch, trial.attention])

    monkeypatch.setattr(train_step, "time_steps", time_steps)
    settings = settled(Config(peer_batches=(2, 3, 4, 8, 16), peer_attention=("sdpa", "eager")), "cpu")
    found = list(trials(spec(), settings, python="", until=time.monotonic() + 60))
    # 3 do not divide the 8 rows, 16 are more; eager is tried with the best of sdpa alone.
    assert asked == [(2, "sdpa", 1), (4, "sdpa", 1), (8, "sdpa", 1), (8, "eager", 1)]
    assert [(s.batch, s.attention, s.steps) for s, _ in found] == [(2, "sdpa", 2), (8, "sdpa", 2), (8, "eager", 2)]
    assert "TRL with 4 rows a pass and sdpa: out of memory" in capsys.readouterr().out
    asked.clear()
    assert len(list(trials(spec(), settings, python="", until=0.0))) == 1, "one is tried, come what may"


def test_differences_are_named():
    mine = steps(1.0, 2.0)
    assert check_alike(mine, steps(9.0, 9.0)) == []
    other = dataclasses.replace(steps(9.0, 9.0, trained_tokens=2), trained_parameters=45)
    assert check_alike(mine, other) == [
        "44 parameters are trained by us, 45 by TRL",
        "trained_tokens of the steps are [3, 3] here, and [2, 2] with TRL",
    ]


def test_a_row_of_the_table(tmp_path):
    limits = Limits(matmul=72, rows_matmul=476, copy=552, peak=144)
    found = steps(8.0, 10.0, 30.0)
    line = row("ours", figures(found, SHAPE, limits), found, spec(), limits, model="m", faster=4.25)
    append_row("train_step", line, folder=tmp_path)
    with (tmp_path / "train_step.csv").open(newline="") as file:
        [written] = csv.DictReader(file)
    assert (written["step_seconds"], written["fastest_seconds"], written["slowest_seconds"]) == ("10.0", "8.0", "30.0")
    # 70 seconds at the least, 4176 operations of training in 2 s at 144 a second.
    assert (written["least_sampling_seconds"], written["least_training_seconds"]) == ("12.0", "58.0")
    assert (written["share_of_limit"], written["model_flop_utilisation"]) == ("7.0", "14.5")
    assert (written["sampled_tokens_per_second"], written["times_faster_than_trl"]) == ("3.0", "4.25")
    assert (written["peak_gib"], written["attention"], written["env"]) == ("1.0", "", "made-up problems")


@pytest.mark.parametrize(
    ("script", "problem"), [("echo mine >&2; exit 3", "failed: mine"), ("exec sleep 30", r"took over 0 s")]
)
def test_a_peer_that_does_not_answer(tmp_path, script, problem):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    with Peer("x", python=str(python)) as peer, pytest.raises(PeerError, match=problem):
        peer.ask({}, limit_seconds=0.3 if "sleep" in script else 20)


def test_a_peer_that_answers(tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nwhile read line; do echo "{\\"said\\": $line, \\"module\\": \\"$2\\"}"; done\n')
    python.chmod(0o755)
    with Peer("some.module", python=str(python)) as peer:
        for number in (1, 2):
            found = peer.ask({"n": number}, limit_seconds=20)
            assert found == {"said": {"n": number}, "module": "some.module"}


# --- A machine without the rest ---


def test_options_are_read_without_tyro():
    words = ["--steps", "3", "--peer-batches", "4", "8", "--no-record", "--device", "cpu", "--out", "a.csv"]
    assert bare.read_options(Config, args=words) == tyro.cli(Config, args=words)
    assert bare.read_options(Config, args=[]) == Config()


@pytest.mark.slow
def test_a_step_of_ours_where_nothing_else_is_installed(model):
    code = """
import json, sys
for name in ("gymnasium", "tyro", "rich", "matplotlib", "pettingzoo", "llm_envs"):
    sys.modules[name] = None
from benchmarks.contest.bare import stand_in
print(stand_in())
from benchmarks.contest.step_ours import measure
from benchmarks.contest.process import StepSpec
print(measure(StepSpec(**json.loads(sys.argv[1]))).steps[0].trained_tokens)
"""
    asked = json.dumps(dataclasses.asdict(spec(model=str(model), steps=1)))
    done = subprocess.run([sys.executable, "-c", code, asked], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["['gymnasium', 'tyro', 'rich']", "40"], done.stderr
