"""What a run says: files that survive a stop, one line an update for a pipe, a picture for a terminal."""

import io
import json
import math
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import Any

import pytest
from rich.console import Console

from trainers.config import ConfigError, TrainConfig
from trainers.logs.run_log import JsonLines, RunLog

METRICS = {
    "unscorable_share": 0.0, "return_mean": 0.625, "part_found": 0.5, "truncated_share": 0.25,
    "constant_groups_share": 0.125, "entropy": 1.25, "grad_norm": 0.0123, "seconds": 3.0, "sampling_seconds": 2.0,
    "env_seconds": 0.5, "training_seconds": 0.5,
}  # fmt: skip
KNOWN = {"e": {"random": 1.0, "careless": 4.5, "optimal": 5.2}}


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    return TrainConfig(model="m", env=("e",), run_dir=tmp_path, updates=9)


def records(seed: int) -> list[dict[str, Any]]:
    return [{"env": "e", "env_args": {}, "seed": seed, "observations": [f"try {i}"]} for i in range(2)]


def make(config: TrainConfig, *, terminal: bool = False, **options: Any) -> tuple[RunLog, io.StringIO]:
    out = io.StringIO()
    return RunLog(config, console=Console(file=out, force_terminal=terminal, width=80, height=40), **options), out


def lines(config: TrainConfig, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (config.run_dir / name).read_text().splitlines()]


# --- Files ---


def test_the_files(config):
    log, _ = make(config)
    log.start(0, KNOWN, versions={"torch": "2.13"}, commit="abc1234", device="cpu")
    log.evaluation(0, {"return_mean": 0.5, "verdict_wrong": 1.0})
    log.update(1, METRICS, records(5))
    [start, *others] = lines(config, "metrics.jsonl")
    assert abs(start.pop("time") - time.time()) < 60
    assert [start, *others] == [
        {
            "kind": "start", "update": 0, "references": KNOWN, "commit": "abc1234", "device": "cpu",
            "versions": {"torch": "2.13"},
        },
        {"kind": "evaluation", "update": 0, "return_mean": 0.5, "verdict_wrong": 1.0},
        {"kind": "update", "update": 1, **METRICS},
    ]  # fmt: skip
    assert lines(config, "episodes.jsonl") == [{"update": 1, **record} for record in records(5)]
    assert json.loads((config.run_dir / "config.json").read_text())["updates"] == 9
    assert log.returns == [(1, 0.625)]
    assert log.evaluations == [(0, 0.5)]


def test_a_resumed_run_forgets_what_it_will_do_again(config):
    log, _ = make(config)
    log.start(0, {})
    log.evaluation(0, {"return_mean": 0.0})
    for number in range(1, 5):
        log.update(number, METRICS | {"return_mean": float(number)}, records(number))
        log.evaluation(number, {"return_mean": number / 10})
    with (config.run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "update", "update": 1, "retu')
    with (config.run_dir / "episodes.jsonl").open("a") as file:
        file.write('{"update": ')
    again, _ = make(config)
    again.start(2, {})
    assert [(row["kind"], row["update"]) for row in lines(config, "metrics.jsonl")] == [
        ("start", 0), ("evaluation", 0), ("update", 1), ("evaluation", 1), ("update", 2), ("evaluation", 2),
        ("start", 2),
    ]  # fmt: skip
    assert [e["update"] for e in lines(config, "episodes.jsonl")] == [1, 1, 2, 2]
    assert again.returns == [(1, 1.0), (2, 2.0)]
    assert again.evaluations == [(0, 0.0), (1, 0.1), (2, 0.2)]
    again.update(3, METRICS, records(3))
    assert lines(config, "metrics.jsonl")[-1]["update"] == 3
    assert not list(config.run_dir.glob("*.partial"))


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (b'{"update": 1}\n{"update": 2}\n', b'{"update": 1}\n{"update": 2}\n'),
        (b'{"update": 1}\n{"update": 3}\n{"update": 4}\n', b'{"update": 1}\n'),
        (b'{"update": 3}\n', b""),
        (
            b'{"update": 1}\n{"update": 2}',
            b'{"update": 1}\n',
        ),  # whole but for its end: the next row would be glued to it
        (b'{"update": 1}\n{"upd', b'{"update": 1}\n'),
        # Nothing of ours makes these, but a file system after a power cut, or an editor, does.
        (b'{"update": 1}\n\x00\x00\xff\n{"update": 2}\n', b'{"update": 1}\n{"update": 2}\n'),
        (b'{"update": 3}\n[]\n{"no": 1}\n{"update": null}\n{"update": 2}\n', b'{"update": 2}\n'),
        (b"", b""),
    ],
)
def test_what_is_kept(tmp_path, text, kept):
    file = JsonLines(tmp_path / "rows.jsonl")
    file.path.write_bytes(text)
    file.keep(2)
    assert file.path.read_bytes() == kept
    assert [row["update"] for row in file.rows(1)] == [1] * kept.count(b'"update": 1')
    assert [p.name for p in tmp_path.iterdir()] == ["rows.jsonl"]


def test_what_cannot_be_rewritten_stays(tmp_path, monkeypatch):
    file = JsonLines(tmp_path / "rows.jsonl")
    file.path.write_bytes(b'junk\n{"update": 1}\n')

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        file.keep(2)
    assert [p.name for p in tmp_path.iterdir()] == ["rows.jsonl"]
    assert file.path.read_bytes() == b'junk\n{"update": 1}\n'


def test_numbers_that_json_does_not_know(config):
    log, _ = make(config)
    log.start(0, {})
    log.update(1, {"return_mean": math.nan, "kl": math.inf}, [{"token_logprobs": [[-0.5, -math.inf]], "a": "\ud800é"}])
    assert '"return_mean": null, "kl": null' in (config.run_dir / "metrics.jsonl").read_text()
    assert lines(config, "episodes.jsonl") == [{"update": 1, "token_logprobs": [[-0.5, None]], "a": "\ud800é"}]
    again, _ = make(config)
    again.start(1, {})
    [(number, value)] = again.returns
    assert (number, math.isnan(value)) == (1, True)


@contextmanager
def no_room_beyond(size):
    """Files of this process may not grow beyond so many bytes: a write stops in the middle, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_ends_no_run(config):
    log, out = make(config)
    log.start(0, {})
    log.update(1, METRICS, records(1))
    size = (config.run_dir / "metrics.jsonl").stat().st_size
    said = len(out.getvalue())
    with no_room_beyond(size + 20):
        for number in (2, 3):
            log.update(number, METRICS, [])
            assert [row["update"] for row in lines(config, "metrics.jsonl")] == [0, 1]  # not a byte of the row
    told = out.getvalue()[said:]
    assert told.count("metrics.jsonl cannot be written (File too large); the run goes on and tries again") == 1
    log.update(4, METRICS, [])
    assert [row["update"] for row in lines(config, "metrics.jsonl")] == [0, 1, 2, 3, 4]  # nothing is lost
    assert out.getvalue().count("metrics.jsonl can be written again") == 1
    assert log.returns == [(n, 0.625) for n in (1, 2, 3, 4)]


def test_what_waits_for_room_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("trainers.logs.run_log._ROWS_KEPT", 3)
    file = JsonLines(tmp_path / "missing" / "rows.jsonl")
    for number in range(5):
        file.append([{"update": number}])
    assert file.failure == "No such file or directory"
    file.path.parent.mkdir()
    file.append([{"update": 5}])
    assert [row["update"] for row in file.rows(9)] == [2, 3, 4, 5]


WRITER = """
import io, sys
from pathlib import Path
from rich.console import Console
from trainers.config import TrainConfig
from trainers.logs.run_log import RunLog
log = RunLog(TrainConfig(model="m", env="e", run_dir=Path(), updates=10**6), console=Console(file=io.StringIO()))
log.start(0, {})
print("begun", flush=True)
for number in range(1, 10**6):
    log.update(number, {"return_mean": 0.5}, [{"text": "x" * 20_000}] * 4)
"""


def test_a_killed_run_leaves_whole_lines(config, child_env):
    child = subprocess.Popen(
        [sys.executable, "-c", WRITER], cwd=config.run_dir, env=child_env, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout
    child.stdout.readline()
    time.sleep(0.3)
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    for name in ("metrics.jsonl", "episodes.jsonl"):
        text = (config.run_dir / name).read_text()
        whole = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        assert len(whole) > 3
        assert text.count("\n") in (len(whole), len(whole) + 1)
    log, _ = make(config)
    log.start(2, {})
    assert [n for n, _ in log.returns] == [1, 2]
    assert [e["update"] for e in lines(config, "episodes.jsonl")] == [1] * 4 + [2] * 4


# --- Words ---


def test_a_pipe_gets_one_line_an_update(config):
    log, out = make(config, references=("careless", "optimal", "unheard of"), chart=True)
    log.start(0, KNOWN)
    said = out.getvalue().splitlines()
    assert said == [
        "A return of 4.50 is what the careless player earns on average.",
        "A return of 5.20 is what the optimal player earns on average.",
    ]
    log.stage("sampling", 8, "episodes")  # says nothing here
    log.update(1, METRICS, [])
    log.advance(3)
    log.update(2, METRICS, [])
    log.evaluation(2, {"return_mean": 0.75, "verdict_correct": 0.75, "verdict_wrong": 0.25})
    log.stop()
    said = out.getvalue().splitlines()[2:]
    assert "\x1b" not in out.getvalue()
    assert said == [
        f"update {number}/9  return 0.625  careless 4.50  optimal 5.20  cut off 25%  no spread 12%  part found 0.500  "
        "entropy 1.25  grad norm 0.0123  3.0 s (sampling 2.0, grading 0.5, training 0.5)"
        for number in (1, 2)
    ] + ["greedy evaluation after 2 updates: return 0.750 (correct 75%, wrong 25%)"]


def test_several_environments(tmp_path):
    config = TrainConfig(model="m", env=("x:A-v0", "B-v0"), run_dir=tmp_path, updates=9)
    log, out = make(config)
    log.start(0, {"B-v0": {"random": 0.5}, "A-v0": {"optimal": 2.0}})
    assert log.references == {"optimal": 2.0}  # of the first
    assert sorted(out.getvalue().splitlines()) == [
        "A-v0: a return of 2.00 is what the optimal player earns on average.",
        "B-v0: a return of 0.50 is what the random player earns on average.",
    ]
    assert lines(config, "metrics.jsonl")[0]["references"] == {"B-v0": {"random": 0.5}, "A-v0": {"optimal": 2.0}}
    log.update(1, {"return_mean": 0.4, "A-v0/return_mean": 0.3, "B-v0/return_mean": 0.5}, [])
    log.evaluation(1, {"return_mean": 0.4, "A-v0/return_mean": 0.3, "A-v0/verdict_correct": 0.3})
    assert out.getvalue().splitlines()[2:] == [
        "update 1/9  return 0.400  optimal 2.00  return A-v0 0.300  return B-v0 0.500",
        "greedy evaluation after 1 update: return 0.400, A-v0 0.300",
    ]


@pytest.mark.parametrize(("wanted", "shown"), [(None, KNOWN["e"]), ((), {}), (("random",), {"random": 1.0})])
def test_references(config, wanted, shown):
    log, _ = make(config, references=wanted)
    log.start(0, KNOWN)
    assert log.references == shown


def test_what_is_said_is_not_markup(config):
    log, out = make(config)
    log.say("[red]x[/red] " + "word " * 40)
    assert out.getvalue() == "[red]x[/red] " + "word " * 40 + "\n"


def test_a_batch_without_a_single_verdict(config):
    log, out = make(config)
    log.start(0, {})
    outage = {name: value for name, value in METRICS.items() if name not in ("return_mean", "grad_norm")}
    log.update(1, outage | {"unscorable_share": 1.0}, [])
    assert "update 1/9  return nan  cut off" in out.getvalue()
    assert "note: the environment could not judge 100% of the episodes" in out.getvalue()
    assert lines(config, "metrics.jsonl")[1]["unscorable_share"] == 1.0


def test_what_is_off_is_said_once(config):
    log, out = make(config)
    log.start(0, {})
    for number in range(1, 5):
        log.update(number, METRICS | {"constant_groups_share": 0.93}, [])
    notes = [line for line in out.getvalue().splitlines() if line.startswith("note: ")]
    assert notes == [
        "note: reward has no spread in 93% of groups: nothing to learn from (the mean return is 0.625: it needs other "
        "problems or larger groups)"
    ]


def test_a_resumed_run_knows_what_was_usual(config):
    log, _ = make(config)
    log.start(0, {})
    for number in range(1, 7):
        log.update(number, METRICS, [])
    again, out = make(config)
    again.start(6, {})
    again.update(7, METRICS | {"grad_norm": 1.23}, [])
    assert "note: the gradient's norm jumped to 1.23, 100 times what is usual (0.0123)" in out.getvalue()


def test_progress_costs_nothing(config):
    log, _ = make(config)
    log.stage("sampling", 20_000, "tokens")
    began = time.perf_counter()
    for done in range(20_000):
        log.advance(done)
    assert time.perf_counter() - began < 20_000 * 20e-6


# --- A terminal ---


def test_a_terminal_gets_the_chart(config):
    log, out = make(config, terminal=True, references=("optimal",), chart=True)
    log.start(0, KNOWN)
    log.stage("sampling", 8, "episodes")
    log.update(1, METRICS, [])
    log.stage("sampling", 8, "episodes")
    log.advance(5)
    log.stop()
    text = out.getvalue()
    assert "5/8 episodes" in text
    ending = text.split("5/8 episodes")[-1]  # the last chart and the last figures stay
    assert "optimal 5.20" in ending
    assert "no spread" in ending
    log.stop()  # twice does no harm
    assert out.getvalue() == text


# --- Trackers ---


class Listener:
    name = "listener"

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def log(self, metrics, step):
        if step == 3:
            raise ConnectionError("gone")
        self.heard.append((dict(metrics), step))

    def close(self):
        self.heard.append("closed")


def test_trackers_hear_what_is_finite(config, monkeypatch):
    listener, asked = Listener(), []

    def opened(*args, **options):
        asked.append((args, options))
        return [listener]

    monkeypatch.setattr("trainers.logs.run_log.open_trackers", opened)
    log, out = make(config)
    log.start(0, {})
    log.update(1, {"return_mean": 0.5, "kl": math.nan, "A-v0/return_mean": 0.25}, [])
    log.evaluation(1, {"return_mean": 0.75})
    log.update(3, {"return_mean": 0.5}, [])
    log.update(4, {"return_mean": 0.5}, [])
    log.stop()
    assert listener.heard == [
        ({"train/return_mean": 0.5, "train/A-v0/return_mean": 0.25}, 1),
        ({"evaluation/return_mean": 0.75}, 1),
    ]
    assert out.getvalue().count("note: listener failed (ConnectionError: gone): it gets no more of this run") == 1
    assert asked == [(((), config.run_dir, config.as_json()), {"updates_done": 0})]


def test_a_tracker_that_cannot_start_leaves_the_files_alone(config, monkeypatch):
    log, _ = make(config)
    log.start(0, {})
    log.update(1, METRICS, [])

    def refused(*_, **__):
        raise ConfigError("no key")

    monkeypatch.setattr("trainers.logs.run_log.open_trackers", refused)
    again, _ = make(config)
    with pytest.raises(ConfigError, match="no key"):
        again.start(0, {})
    assert len(lines(config, "metrics.jsonl")) == 2
