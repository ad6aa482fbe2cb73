"""An evaluation of a tiny model, whole, repeated, interrupted and gone on with; its summary by hand."""

import dataclasses
import itertools
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from trainers import environments
from trainers.cli.evaluate import lines_of, run
from trainers.config import ConfigError
from trainers.environments import BrokenEnvironmentError
from trainers.evaluation import EvalConfig, players, playing
from trainers.evaluation.estimates import Estimate, wilson
from trainers.evaluation.playing import Wave, evaluate, plan, references
from trainers.evaluation.summary import Reference, Summary, summarize
from trainers.sampling import TorchSampler
from trainers.tiny_model import build_tiny_model, save_model

ENV = "llm_envs:Arithmetic-v0"
ENV_ARGS: dict[str, Any] = {"low": 0, "high": 1}


# --- The summary ---


def answer(
    problem: int, verdict: str, *, kind: str = "sampled", returned: float | None = None, **other: Any
) -> dict[str, Any]:
    return {
        "task": "T", "kind": kind, "problem": problem, "env": "m:T", "env_args": {}, "verdicts": [verdict],
        "return": float(verdict == "correct") if returned is None else returned, "stop_reasons": ["stop"],
        "reward_parts": [{}], **other,
    }  # fmt: skip


def summary_of(*records: dict[str, Any], best: float | None = None) -> Summary:
    return summarize(records, {"T": Reference(best=best)})["T"]


def test_a_summary_by_hand():
    found = summary_of(
        answer(0, "correct"), answer(0, "wrong"),
        answer(1, "unparsed", stop_reasons=["length"]), answer(1, "wrong"),
        answer(2, "correct"), answer(2, "unscorable", returned=9.0),
        answer(3, "unscorable"), answer(3, "unscorable"),
        best=1.0,
    )  # fmt: skip
    rates = found.sampled
    assert rates is not None
    assert (rates.problems, rates.answers, rates.unscorable, found.unscorable) == (3, 5, 3, 3)
    assert rates.accuracy is not None
    assert rates.accuracy.value == pytest.approx(2 / 5)
    assert rates.return_mean.value == pytest.approx(2 / 5)
    assert rates.regret is not None
    assert rates.regret.value == pytest.approx(3 / 5)
    assert (rates.regret.low, rates.regret.high) == pytest.approx(
        (1 - rates.return_mean.high, 1 - rates.return_mean.low)
    )
    assert rates.format.value == pytest.approx(4 / 5)
    assert rates.truncated.value == pytest.approx(1 / 5)
    by_k = {k: estimate.value for k, estimate in found.pass_at.items() if estimate is not None}
    assert by_k == pytest.approx({1: (1 / 2 + 0 + 1) / 3, 2: (1 + 0) / 2})
    assert found.greedy is None


def test_nothing_that_could_be_judged():
    found = summary_of(answer(0, "unscorable", kind="greedy"), answer(0, "unscorable"))
    assert (found.greedy, found.sampled, found.pass_at, found.unscorable) == (None, None, {}, 2)
    assert lines_of(found) == ["  no answer could be judged"]
    # Nobody has two answers that could be judged.
    assert summary_of(answer(0, "correct"), answer(0, "unscorable")).pass_at == {1: wilson(1, 1), 2: None}


def test_an_episode_that_broke_is_nobodys_mistake():
    found = summary_of(answer(0, "correct"), answer(1, "wrong", failure="ValueError: down"))
    assert found.sampled is not None
    assert (found.sampled.answers, found.unscorable) == (1, 1)


def test_one_answer_a_problem_gets_wilsons_interval():
    records = [answer(i, "correct" if i < 8 else "wrong", kind="greedy") for i in range(10)]
    found = summary_of(*records)
    assert found.greedy is not None
    assert (found.greedy.accuracy, found.greedy.format, found.pass_at) == (wilson(8, 10), wilson(10, 10), {})
    sampled = summary_of(*({**record, "kind": "sampled"} for record in records))
    assert sampled.pass_at == {1: wilson(8, 10)}


def test_without_verdicts_the_return_alone_counts():
    found = summary_of(answer(0, "", returned=2.0), answer(1, "", returned=5.0), best=4.0)
    assert found.sampled is not None
    assert (found.sampled.accuracy, found.pass_at) == (None, {})
    assert (found.sampled.return_mean.value, found.sampled.regret) == (3.5, Estimate(0.5, -1.0, 2.0))


def test_the_format_is_what_the_environment_fines():
    kept = answer(0, "wrong", reward_parts=[{"format": 0.0}, {"format": 0.1}])
    fined = answer(1, "correct", reward_parts=[{"format": 0.0}, {"format": -0.1}])
    unread = answer(2, "wrong", verdicts=["unparsed", "wrong"])
    found = summary_of(kept, fined, unread).sampled
    assert found is not None
    assert found.format.value == pytest.approx(1 / 3)


def test_what_is_printed():
    records = [answer(i, "correct" if i < 2 else "wrong", kind="greedy") for i in range(4)]
    records += [answer(0, "correct"), answer(0, "wrong"), answer(1, "unscorable"), answer(1, "wrong")]
    [summary] = summarize(records, {"T": Reference(best=1.5, solver="oracle", threshold=0.9, num_tasks=9)}).values()
    lines = lines_of(summary)
    assert [line.split("  ")[1] for line in lines[1:6]] == [
        "accuracy",
        "mean return",
        "regret",
        "format kept",
        "cut off",
    ]
    assert lines[0].split() == ["greedy,", "4", "problems", "sampled,", "3", "answers", "to", "2", "problems"]
    assert re.sub(" +", " ", lines[1]) == " accuracy 50.0% (15.0% to 85.0%) 33.3% (0.0% to 50.0%)"
    assert re.sub(" +", " ", lines[3]).startswith(" regret 1.000 (0.500 to 1.500) 1.167 (")
    assert lines[6].split()[:2] == ["pass@1", "25.0%"]
    assert lines[8:] == [
        "  best known return 1.5 (oracle), over all 9 tasks", "  counts as solved from 0.9, not reached",
        "  1 answers could not be judged and are left out",
    ]  # fmt: skip


# --- Playing ---


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """It says two words of chance, boxes among them, and is right now and then."""
    env = gym.make(ENV, **ENV_ARGS)
    questions = [env.reset(seed=seed)[0] for seed in range(20)]
    folder: Path = tmp_path_factory.mktemp("tiny")
    boxes = [rf"\boxed{{{n}}}" for n in range(3)]
    save_model(*build_tiny_model([*boxes, *questions], seed=0, hidden_size=32, num_heads=2), folder)
    return folder


@pytest.fixture
def config(model: Path, tmp_path: Path) -> EvalConfig:
    return EvalConfig(
        model=str(model), env=(ENV,), env_args=(json.dumps(ENV_ARGS),), problems=20, samples=4, max_tokens=2,
        max_rows=24, device="cpu", dtype="float32", out=tmp_path / "out",
    )  # fmt: skip


def written(config: EvalConfig) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (config.out / "episodes.jsonl").read_text().splitlines()]


def test_the_plan(config: EvalConfig):
    small = dataclasses.replace(config, max_rows=8)
    assert plan(small, [3, 9]) == [
        Wave(0, "greedy", range(3), 1), Wave(0, "sampled", range(2), 4), Wave(0, "sampled", range(2, 3), 4),
        Wave(1, "greedy", range(8), 1), Wave(1, "greedy", range(8, 9), 1),
        *(Wave(1, "sampled", range(i, min(9, i + 2)), 4) for i in range(0, 9, 2)),
    ]  # fmt: skip
    assert plan(dataclasses.replace(small, samples=0), [3]) == [Wave(0, "greedy", range(3), 1)]
    assert plan(dataclasses.replace(small, greedy=False, samples=9), [2]) == [
        Wave(0, "sampled", range(1), 9), Wave(0, "sampled", range(1, 2), 9),
    ]  # fmt: skip


def test_an_evaluation_from_end_to_end(config: EvalConfig, capsys):
    run(config)
    records = written(config)
    assert [(r["kind"], r["problem"]) for r in records] == [
        *(("greedy", i) for i in range(20)), *(("sampled", i) for i in range(20) for _ in range(4)),
    ]  # fmt: skip
    assert len({record["group"] for record in records}) == 40
    # The verdicts are those of the answers that are written there.
    for record in records:
        first, second = record["observations"][0].split("?")[0].removeprefix("What is ").split(" + ")
        said = re.findall(r"\\boxed\{(\d)\}", record["actions"][0])
        is_right = said[-1:] == [str(int(first) + int(second))]
        assert (record["verdicts"] == ["correct"]) == is_right, record
        assert record["prompt"][-1] == {"role": "user", "content": record["prompt"][-1]["content"]}
    sampled, greedy = records[20:], records[:20]
    accuracy = sum(record["verdicts"] == ["correct"] for record in sampled) / 80
    assert 0 < accuracy < 1, "the test would show little"
    summary = json.loads((config.out / "summary.json").read_text())["Arithmetic-v0"]
    assert summary["sampled"]["accuracy"]["value"] == pytest.approx(accuracy)
    assert summary["greedy"]["accuracy"]["value"] == sum(r["verdicts"] == ["correct"] for r in greedy) / 20
    assert summary["sampled"]["regret"]["value"] == pytest.approx(1 - sum(r["return"] for r in sampled) / 80)
    assert summary["pass_at"]["1"]["value"] == pytest.approx(accuracy)
    solved = {record["problem"] for record in sampled if record["verdicts"] == ["correct"]}
    assert summary["pass_at"]["4"]["value"] == pytest.approx(len(solved) / 20)
    said = capsys.readouterr()
    assert "100/100 answers  Arithmetic-v0, sampled: correct " in said.err
    assert "pass@4" in said.out
    assert "best known return 1 (oracle)" in said.out


def test_the_answers_are_episodes_that_can_be_played_again(config: EvalConfig, capsys):
    from llm_envs.cli import main

    guessing = dataclasses.replace(config, env=(ENV, "llm_envs:GuessNumber-v0"), env_args=('{"high": 9}',), problems=3)
    evaluate(guessing)
    assert main(["replay", str(config.out / "episodes.jsonl"), "--check"]) == 0
    assert capsys.readouterr().out == "30 episodes: 30 agree, 0 differ\n"


def test_several_environments(config: EvalConfig, capsys):
    run(
        dataclasses.replace(
            config, env=(ENV, "llm_envs:GuessNumber-v0"), env_args=(json.dumps(ENV_ARGS), '{"low": 1, "high": 3}'),
            samples=0,
        )
    )  # fmt: skip
    records = written(config)
    assert [record["env"] for record in records] == [ENV] * 20 + ["llm_envs:GuessNumber-v0"] * 3
    assert [record["options"] for record in records[18:]] == [None, None, {"index": 0}, {"index": 1}, {"index": 2}]
    said = capsys.readouterr().out
    assert 'GuessNumber-v0 {"low": 1, "high": 3}, ' in said
    assert "best known return 9.333 (optimal)" in said  # (10 + 9 + 9) / 3
    assert "counts as solved from 5, not reached" in said


def test_a_stopped_evaluation_goes_on_to_the_same_answers(config: EvalConfig, tmp_path: Path, monkeypatch, capsys):
    records, _ = evaluate(config)
    again = dataclasses.replace(config, out=tmp_path / "again")
    played = playing._play

    def stopped(config: EvalConfig, waves: list[Wave], *, first: int):
        yield from itertools.islice(played(config, waves, first=first), 2)  # greedy ones, and six problems four times
        raise KeyboardInterrupt

    monkeypatch.setattr(playing, "_play", stopped)
    with pytest.raises(KeyboardInterrupt):
        evaluate(again)
    assert "Stopped with 44 of 100 answers" in capsys.readouterr().err
    episodes = again.out / "episodes.jsonl"
    lines = episodes.read_text().splitlines(keepends=True)
    assert len(lines) == 44
    # Killed while it wrote the next wave; and a mark on what must not be played again.
    lines[0] = lines[0].replace('"update"', '"mark": 1, "update"')
    episodes.write_text("".join(lines) + lines[7] + lines[7][:20])
    monkeypatch.setattr(playing, "_play", played)
    found, is_new = evaluate(again)
    assert is_new
    assert found[0].pop("mark") == 1
    assert found == records
    assert len(episodes.read_text().splitlines()) == 100
    monkeypatch.setattr(playing, "_play", None)  # nothing is left to play
    found, is_new = evaluate(again)
    assert (len(found), is_new) == (100, False)


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, RuntimeError])
def test_the_environments_are_closed_however_it_ends(config, monkeypatch, error: type[BaseException] | None):
    closed: list[int] = []
    close = environments.EnvPool.close

    def noted_close(pool: environments.EnvPool[Any]):
        closed.append(len(pool._envs))
        close(pool)

    def failing(*arguments: Any):
        raise error or AssertionError

    monkeypatch.setattr(environments.EnvPool, "close", noted_close)
    if error is None:
        evaluate(config)
    else:
        monkeypatch.setattr(playing, "_append", failing)
        with pytest.raises(error):
            evaluate(config)
    assert closed == [24 if error is None else 20]


def test_the_seed_decides_and_other_settings_are_refused(config: EvalConfig, tmp_path: Path):
    first, _ = evaluate(config)
    other, _ = evaluate(dataclasses.replace(config, seed=1, out=tmp_path / "seed1"))
    assert [r["observations"][0] for r in first] == [r["observations"][0] for r in other]
    assert first[:20] == other[:20]  # greedy
    assert first != other
    with pytest.raises(ConfigError, match=r"other settings \(top_k, seed\): name another folder"):
        evaluate(dataclasses.replace(config, seed=1, top_k=2))


def test_greedy_ones_are_the_most_probable(config: EvalConfig):
    greedy, _ = evaluate(dataclasses.replace(config, samples=0))
    cut, _ = evaluate(dataclasses.replace(config, greedy=False, samples=1, top_k=1, out=config.out / "cut"))
    assert [r["kind"] for r in cut] == ["sampled"] * 20
    assert [r["actions"] for r in cut] == [r["actions"] for r in greedy]


def test_a_finite_environment_is_played_by_index_and_no_further_than_it_goes(config: EvalConfig, tmp_path: Path):
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps({"question": f"q{i} What is", "answer": f"#### {i}"}) + "\n" for i in range(3)))
    arguments = json.dumps({"data": str(data), "few_shot": False})
    records, _ = evaluate(dataclasses.replace(config, env=("llm_envs:GSM8K-v0",), env_args=(arguments,), samples=0))
    assert [record["observations"][0].split()[0] for record in records] == ["q0", "q1", "q2"]


class Fragile(gym.Env[str, str]):
    """Problem 1 of three never begins; its solvers are known."""

    num_tasks = 3
    solvers = ("random", "best", "unknown")

    def solver_return(self, name: str) -> float | None:
        return {"random": 0.25, "best": 3.0}.get(name)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        assert options is not None
        if options["index"] == 1:
            raise ValueError("no such row")
        return "What is 1 + 0?", {}

    def step(self, action: str):
        return "", 2.0, True, False, {}


@pytest.fixture
def fragile(monkeypatch):
    make: Any = Fragile
    gym.register("Fragile-v0", entry_point=make, disable_env_checker=True, order_enforce=False, reward_threshold=1.5)
    yield "Fragile-v0"
    del gym.registry["Fragile-v0"]


def test_a_problem_that_cannot_be_played_is_counted_and_left_out(config: EvalConfig, fragile, capsys):
    config = dataclasses.replace(config, env=(fragile,), env_args=(), samples=2)
    run(config)
    assert [record["verdicts"] for record in written(config)] == [
        [""], ["unscorable"], [""], [""], [""], ["unscorable"], ["unscorable"], [""], [""],
    ]  # fmt: skip
    said = capsys.readouterr()
    assert "ValueError: no such row" in said.err
    assert "3 answers could not be judged and are left out" in said.out
    assert "accuracy" not in said.out
    assert references(config) == {fragile: Reference(best=3.0, solver="best", threshold=1.5, num_tasks=3)}
    assert re.search(r"regret +1.000 \(1.000 to 1.000\)", said.out)
    assert "counts as solved from 1.5, reached" in said.out


def test_of_very_many_rows_the_best_return_is_not_asked(config: EvalConfig, fragile, monkeypatch):
    monkeypatch.setattr(Fragile, "num_tasks", 10_001)
    found = references(dataclasses.replace(config, env=(fragile,), env_args=()))
    assert found == {fragile: Reference(threshold=1.5, num_tasks=10_001)}


def test_an_outage_is_one_line(config: EvalConfig, monkeypatch):
    def broken(*arguments: Any):
        raise BrokenEnvironmentError("10 problems in a row could not be played")

    monkeypatch.setattr(playing, "evaluate", broken)
    with pytest.raises(ConfigError, match="10 problems in a row"):
        run(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"problems": 0}, "problems must be at least 1"), ({"samples": -1}, "samples must not be negative"),
        ({"temperature": 0.0}, "temperature must be positive"), ({"top_p": 0.0}, "top_p must lie above 0"),
        ({"greedy": False, "samples": 0}, "there is nothing to play"), ({"sampler": "hf"}, "one of torch, vllm"),
        ({"env": ("Nothing-v0",)}, "not registered"), ({"env_args": ("[]",)}, "must be a JSON object"),
        ({"adapter": Path("no/such")}, "no/such is no adapter folder"),
        ({"base_url": "http://x/v1"}, "that of sampler=openai"), ({"sampler_args": '{"a": 1}'}, "those of sampler"),
        ({"sampler": "openai", "base_url": "ftp://x"}, "base_url must look like"),
        ({"sampler": "openai", "base_url": "http://x/v1", "adapter": Path("a")}, "an endpoint has its own"),
        ({"model": "no/such/folder/at/all"}, "cannot be read"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_named(config: EvalConfig, change: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message) as caught:
        evaluate(dataclasses.replace(config, **change))
    assert "\n" not in str(caught.value)


def test_a_game_of_several_is_not_evaluated(config: EvalConfig, monkeypatch):
    import pettingzoo

    monkeypatch.setitem(pettingzoo.aec_registry, "Duel-v0", None)
    with pytest.raises(ConfigError, match=r"'m?.*Duel-v0' is a game of several players, and these are not evaluated"):
        evaluate(dataclasses.replace(config, env=("llm_envs:Duel-v0",), env_args=()))


class Calculator(BaseHTTPRequestHandler):
    """An endpoint that adds up, and at a temperature above 0 says 0."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        numbers = map(int, re.findall(r"\d+", asked["messages"][-1]["content"].split("?")[0]))
        said = rf"\boxed{{{0 if asked['temperature'] else sum(numbers)}}}"
        body = json.dumps({"choices": [{"message": {"content": said}, "finish_reason": "stop"}]}).encode()
        self.send_response(200 if asked["model"] == "calculator" else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any):
        pass


@pytest.fixture
def endpoint():
    with ThreadingHTTPServer(("127.0.0.1", 0), Calculator) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


def test_an_endpoint_is_evaluated(config: EvalConfig, endpoint: str):
    config = dataclasses.replace(config, model="calculator", sampler="openai", base_url=endpoint, samples=1)
    records, _ = evaluate(config)
    assert [record["verdicts"] for record in records[:20]] == [["correct"]] * 20
    zeros = ["0 + 0" in record["observations"][0] for record in records[20:]]
    assert [record["verdicts"] == ["correct"] for record in records[20:]] == zeros
    assert 0 < sum(zeros) < 20, "the test would show little"
    # What was begun at one address can be gone on with at another.
    assert evaluate(dataclasses.replace(config, base_url="http://127.0.0.1:9/v1")) == (records, False)


def test_a_model_that_the_endpoint_does_not_know(config: EvalConfig, endpoint: str):
    config = dataclasses.replace(config, model="m", sampler="openai", base_url=endpoint)
    with pytest.raises(ConfigError, match="404") as caught:
        evaluate(config)
    assert "\n" not in str(caught.value)


def test_vllm_gets_its_arguments(config: EvalConfig, monkeypatch):
    """The engine itself is tested where it is installed."""
    made = []

    def make(name: str, policy: Any, **options: Any):
        made.append((name, options["arguments"]))
        return TorchSampler(policy, stop_tokens=options["stop_tokens"])

    monkeypatch.setattr(players, "make_sampler", make)
    evaluate(dataclasses.replace(config, sampler="vllm", sampler_args='{"seed": 1}', samples=0))
    assert made == [("vllm", {"seed": 1})]
