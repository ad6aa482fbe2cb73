"""An evaluation of a tiny model, whole; its summary by hand."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from tests.trainers.evaluations import ENV, ENV_ARGS, config_of, save_guesser, serving, written
from trainers import environments
from trainers.cli.evaluate import lines_of, main, run
from trainers.config import ConfigError
from trainers.environments import BrokenEnvironmentError
from trainers.evaluation import EvalConfig, players, playing
from trainers.evaluation.estimates import Mean, wilson
from trainers.evaluation.folder import EvalFolder
from trainers.evaluation.playing import Wave, evaluate, plan, references
from trainers.evaluation.summary import Reference, Summary, summarize
from trainers.sampling import TorchSampler

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
    ends = rates.return_mean.low, rates.return_mean.high
    assert ends[0] is not None
    assert ends[1] is not None
    assert (rates.regret.low, rates.regret.high) == pytest.approx((1 - ends[1], 1 - ends[0]))
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
    assert (found.sampled.return_mean.value, found.sampled.regret) == (3.5, Mean(0.5, -1.0, 2.0))


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


def test_where_all_problems_agree_a_mean_has_no_interval():
    [one] = summarize(
        [answer(0, "correct" if i < 8 else "wrong") for i in range(16)], {"T": Reference(best=1.0)}
    ).values()
    assert one.sampled is not None
    assert (one.sampled.return_mean, one.sampled.regret) == (Mean(0.5, None, None), Mean(0.5, None, None))
    lines = [re.sub(" +", " ", line) for line in lines_of(one)]
    assert lines[1] == " accuracy 50.0% (5.5% to 94.5%)"  # 1/2 +- 1.96 sqrt(1/4 + 1.96^2 / 4) / (1 + 1.96^2)
    assert lines[2:4] == [" mean return 0.500 (no interval)", " regret 0.500 (no interval)"]
    assert lines[-1] == " no interval: of one problem, or of problems that agree, chance cannot be told"
    assert json.loads(json.dumps(dataclasses.asdict(one)))["sampled"]["regret"] == {
        "value": 0.5, "low": None, "high": None,
    }  # fmt: skip


# --- Playing ---


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("guesser")
    save_guesser(folder)
    return folder


@pytest.fixture
def config(model: Path, tmp_path: Path) -> EvalConfig:
    return config_of(model, tmp_path / "out")


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
    from llm_envs.cli import main as llm_envs

    guessing = dataclasses.replace(config, env=(ENV, "llm_envs:GuessNumber-v0"), env_args=('{"high": 9}',), problems=3)
    evaluate(guessing)
    assert llm_envs(["replay", str(config.out / "episodes.jsonl"), "--check"]) == 0
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
        monkeypatch.setattr(EvalFolder, "keep", failing)
        with pytest.raises(error):
            evaluate(config)
    assert closed == [24 if error is None else 20]


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
    assert re.search(r"regret +1.000 \(no interval\)", said.out)
    assert {record.get("failure") for record in written(config)} == {None, "ValueError: no such row"}
    assert "plays again what failed, as by ValueError: no such row" in said.out
    assert "counts as solved from 1.5, reached" in said.out


def test_of_very_many_rows_the_best_return_is_not_asked(config: EvalConfig, fragile, monkeypatch):
    monkeypatch.setattr(Fragile, "num_tasks", 10_001)
    found = references(dataclasses.replace(config, env=(fragile,), env_args=()))
    assert found == {fragile: Reference(threshold=1.5, num_tasks=10_001)}


def test_an_outage_is_one_line_and_no_fault_of_the_settings(config: EvalConfig, monkeypatch, capsys):
    def broken(*arguments: Any):
        raise BrokenEnvironmentError("10 problems in a row could not be played")

    monkeypatch.setattr(playing, "evaluate", broken)
    assert main([f"--model={config.model}", f"--env={ENV}"]) == 1
    assert capsys.readouterr().err == "error: 10 problems in a row could not be played\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"problems": 0}, "problems must be at least 1"), ({"samples": -1}, "samples must not be negative"),
        ({"temperature": 0.0}, "temperature must be positive"), ({"top_p": 0.0}, "top_p must lie above 0"),
        ({"greedy": False, "samples": 0}, "there is nothing to play"), ({"sampler": "hf"}, "one of torch, vllm"),
        ({"env": ("Nothing-v0",)}, "not registered"), ({"env_args": ("[]",)}, "must be a JSON object"),
        ({"adapter": Path("no/such")}, "no/such is no adapter folder"),
        ({"device": "foo"}, "^device 'foo': "),
        ({"dtype": "int8"}, "^dtype: unknown dtype 'int8'"),
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


@pytest.fixture
def endpoint():
    with serving() as address:
        yield address


def test_an_endpoint_is_evaluated(config: EvalConfig, endpoint: str):
    config = dataclasses.replace(config, model="calculator", sampler="openai", base_url=endpoint, samples=1)
    records, _ = evaluate(config)
    assert [record["verdicts"] for record in records[:20]] == [["correct"]] * 20
    zeros = ["0 + 0" in record["observations"][0] for record in records[20:]]
    assert [record["verdicts"] == ["correct"] for record in records[20:]] == zeros
    assert 0 < sum(zeros) < 20, "the test would show little"
    assert evaluate(config) == (records, False)


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
