"""The benchmark of the sandboxes counts rightly, notices a leak, and says so where a bar is missed."""

import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import pytest

import sandboxes
from benchmarks import sandbox_jobs, sandbox_latency
from benchmarks.sandbox_jobs import Footprint, footprint, measure, soak_job, time_calls
from benchmarks.sandbox_latency import (
    BARS,
    Cases,
    Config,
    Contender,
    Report,
    Times,
    User,
    ask,
    contenders,
    count_cases,
    judge_times,
    main,
    measure_attacks,
    measure_soak,
    time_all,
    users,
)
from sandboxes import Job, RunResult, SandboxUnavailableError, Status
from sandboxes.fake import FakeSandbox, ended

ROOT_USER, ORDINARY = User("root", ("root-python",)), User("ordinary", ("python",))


def timed(seconds: list[float], wall: float | None = None) -> dict[str, Any]:
    wall = sum(seconds) if wall is None else wall
    return {"seconds": seconds, "wall": wall, "describe": "what it is", "python": "3.11.0"}


def times(seconds: float, count: int = 10, *, speedup: float = 1.0) -> Times:
    found = Times()
    found.add(timed([seconds] * count, seconds * count / speedup))
    return found


# --- Figures ---


def test_figures_by_hand():
    found = Times()
    found.add(timed([i / 1000 for i in range(1, 101)], wall=2.0))
    found.add(timed([i / 1000 for i in range(101, 201)], wall=3.0))
    assert found.median == pytest.approx(0.1005)
    assert found.p99 == 0.198  # 198 of 200 took no longer
    assert found.rate == 40.0
    single = Times()
    single.add(timed([0.5]))
    assert (single.median, single.p99, single.rate) == (0.5, 0.5, 2.0)


@pytest.mark.parametrize("concurrency", [1, 2])
def test_calls_are_timed_and_numbered(concurrency: int):
    seen: list[int] = []

    def call(i: int) -> None:
        seen.append(i)
        time.sleep(0.02)

    found = time_calls(call, 6, concurrency)
    assert sorted(seen) == list(range(6))
    assert len(found["seconds"]) == 6
    assert min(found["seconds"]) >= 0.02
    assert found["wall"] >= 0.12 / concurrency
    assert found["wall"] == pytest.approx(sum(found["seconds"]) / concurrency, rel=0.5)


@pytest.mark.parametrize("concurrency", [1, 2])
def test_a_failing_call_ends_the_measurement(concurrency: int):
    def call(i: int) -> None:
        raise RuntimeError("wrong")

    with pytest.raises(RuntimeError, match="wrong"):
        time_calls(call, 3, concurrency)


def adds(job: Job) -> RunResult:
    return ended(stdout=f"{sum(map(int, job.stdin.split()))}\n")


def test_jobs_that_come_out_wrong_are_not_timed(monkeypatch):
    made = FakeSandbox(adds)
    monkeypatch.setattr(sandboxes, "make", lambda **options: made)
    found = measure("jobs", options={"name": "fake"}, jobs=7, concurrency=1)
    assert len(found["seconds"]) == 7
    assert (made.calls, made.closed) == (7 + sandbox_jobs.WARM_UP, True)
    monkeypatch.setattr(sandboxes, "make", lambda **options: FakeSandbox(lambda job: ended(stdout="3\n")))
    with pytest.raises(RuntimeError, match="a plain job came out wrong"):
        measure("jobs", options={"name": "fake"}, jobs=7, concurrency=1)


def test_a_session_is_twenty_runs(monkeypatch):
    made = FakeSandbox(adds)
    monkeypatch.setattr(sandboxes, "make", lambda **options: made)
    found = measure("session", options={}, solutions=3)
    assert len(found["seconds"]) == 3
    assert made.calls == (3 + 2) * 20


def test_what_cannot_be_had_is_said(monkeypatch):
    def refuse(**options: Any) -> None:
        raise SandboxUnavailableError("not on this kernel")

    monkeypatch.setattr(sandboxes, "make", refuse)
    assert measure("jobs", options={}, jobs=1, concurrency=1) == {"unavailable": "not on this kernel"}


def test_forks_are_timed_in_a_process_of_their_own():
    found = ask(User("me", (sys.executable,)), {"measure": "fork", "jobs": 20})
    assert len(found["seconds"]) == 20
    assert 0 < max(found["seconds"]) < 5
    assert found["python"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")


def test_a_failing_measurement_is_named():
    with pytest.raises(RuntimeError, match=r"failed as me:\n(.|\n)*KeyError: 'nothing'"):
        ask(User("me", (sys.executable,)), {"measure": "nothing"})


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_started_as_root_an_ordinary_user_measures_as_well():
    found = users()
    assert found[0] == User("root", (sys.executable,))
    if len(found) == 1:
        pytest.skip("no setpriv, or no Python that nobody may use")
    command = [*found[1].command, "-c", "import os, benchmarks.sandbox_jobs; print(os.geteuid(), os.getgroups())"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout == "65534 []\n"


# --- The soak ---


def obeys(job: Job) -> RunResult:
    """What a sandbox that works gives for the jobs of the soak."""
    for i in range(7):
        _, known, wanted = soak_job(i)
        if job.code == known.code:
            return ended(wanted)
    raise AssertionError(job)


def test_the_soak_has_bad_jobs_of_every_kind():
    jobs = [soak_job(i) for i in range(100)]
    assert [kind for kind, _, _ in jobs[:7]] == [
        "raises", "memory", "output", "endless", "files", "kills itself", "plain",
    ]  # fmt: skip
    assert {status for _, _, status in jobs} == set(Status) - {Status.INFRA_ERROR}
    assert {kind for kind, _, _ in jobs[6:]} == {"plain"}
    assert soak_job(100)[0] == "raises"


@pytest.fixture
def quick_soak(monkeypatch):
    monkeypatch.setattr(sandbox_jobs, "_SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(sandbox_jobs, "_adopt_orphans", lambda: None)


def test_a_soak_without_leaks(monkeypatch, quick_soak):
    monkeypatch.setattr(sandboxes, "make", lambda **options: FakeSandbox(obeys))
    found = measure("soak", options={}, jobs=300, concurrency=2)
    assert found["unexpected"] == {}
    for name in ("descriptors", "processes", "mounts"):
        assert len({found[when][name] for when in ("bare", "before", "after", "closed")}) == 1, name
    assert found["before"]["processes"] == footprint().processes
    assert found["before"]["memory_kb"] > 1000


def test_a_soak_sees_leaks_and_wrong_statuses(monkeypatch, quick_soak):
    leaked: list[int] = []
    children: list[subprocess.Popen[bytes]] = []

    def leaks(job: Job) -> RunResult:
        if job.files:
            leaked.append(os.open("/dev/null", os.O_RDONLY))
            children.append(subprocess.Popen(["sleep", "60"]))
        return ended(Status.OK if "raise" in job.code else obeys(job).status)

    monkeypatch.setattr(sandboxes, "make", lambda **options: FakeSandbox(leaks))
    try:
        found = measure("soak", options={}, jobs=300, concurrency=1)
    finally:
        for fd in leaked:
            os.close(fd)
        for child in children:
            child.kill()
            child.wait()
    assert found["unexpected"] == {"raises: ok": 5 + 3}  # of the warm-up and of the soak
    assert found["after"]["processes"] - found["before"]["processes"] == 3
    # A child's own three, and the one in here.
    assert found["after"]["descriptors"] - found["before"]["descriptors"] == 3 * (3 + 1)
    assert found["closed"]["processes"] - found["bare"]["processes"] == 8


def test_a_footprint_counts_descendants():
    code = "import subprocess, sys; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); sys.stdin.read()"
    before = footprint()
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        sleeper = int(parent.stdout.readline())
        try:
            during, of_parent = footprint(), footprint(parent.pid)
        finally:
            os.kill(sleeper, 9)
    assert (during.processes - before.processes, of_parent.processes) == (2, 2)
    assert during.memory_kb > of_parent.memory_kb > 1000
    assert during.mounts == before.mounts > 0
    assert footprint().processes == before.processes


def soak_found(**growth: int) -> dict[str, Any]:
    bare = Footprint(memory_kb=9000, descriptors=4, processes=1, mounts=20)
    before = {"memory_kb": 30_000, "descriptors": 8, "processes": 2, "mounts": 20}
    return {
        **timed([0.005] * 4), "unexpected": {}, "bare": vars(bare), "closed": vars(bare), "before": before,
        "after": {name: value + growth.get(name, 0) for name, value in before.items()},
    }  # fmt: skip


GROWTH, OTHERWISE = [name for name in BARS if name.startswith("soak")]


@pytest.mark.parametrize(
    ("change", "jobs", "met"),
    [
        ({}, 10_000, True), ({"after": {"memory_kb": 32_048}}, 10_000, True),
        ({"after": {"memory_kb": 32_049}}, 10_000, False), ({"after": {"descriptors": 9}}, 10_000, False),
        ({"after": {"processes": 3}}, 10_000, False), ({"after": {"mounts": 21}}, 10_000, False),
        ({"closed": {"processes": 2}}, 10_000, False), ({"closed": {"mounts": 18}}, 10_000, True), ({}, 9_999, False),
    ],
)  # fmt: skip
def test_growth_misses_the_bar(monkeypatch, change: dict[str, dict[str, int]], jobs: int, met: bool):
    found = soak_found()
    for when, values in change.items():
        found[when] = found[when] | values
    monkeypatch.setattr(sandbox_latency, "ask", lambda user, request: found)
    report = Report(record=False)
    measure_soak(Config(soak=jobs), report, ORDINARY)
    assert report.bars[GROWTH][1] is met
    assert report.bars[OTHERWISE] == ("0 (ordinary)", True)


def test_jobs_that_ended_otherwise_miss_their_bar(monkeypatch):
    monkeypatch.setattr(sandbox_latency, "ask", lambda *_: {**soak_found(), "unexpected": {"memory: error": 7}})
    report = Report(record=False)
    measure_soak(Config(), report, ORDINARY)
    assert report.bars[OTHERWISE] == ("memory: error 7", False)


# --- Bars ---


def test_a_bar_that_one_user_misses_stays_missed():
    report = Report(record=False)
    report.bar(GROWTH, "1 (root)", is_met=False)
    report.bar(GROWTH, "0 (ordinary)", is_met=True)
    assert report.bars == {GROWTH: ("1 (root); 0 (ordinary)", False)}
    with pytest.raises(ValueError, match="no bar is called"):
        report.bar("speed", "1", is_met=True)


def test_the_bars_of_local_by_hand():
    report = Report(record=False)
    judge_times(
        report,
        [
            (Contender("local, namespaces", {}, ORDINARY, 1), times(0.005)),
            (Contender("local, namespaces", {}, ORDINARY, 2), times(0.006, speedup=1.8)),
            # Quicker, but weaker: no bar is met by it where there is a stronger tier.
            (Contender("local, landlock", {}, ORDINARY, 1), times(0.001)),
            (Contender("bubblewrap", {}, ORDINARY, 1), times(0.02)),
            (Contender("bubblewrap", {}, ORDINARY, 2), times(0.02, speedup=2)),
            (Contender("docker", {}, ORDINARY, 1), times(0.0101)),
            (Contender("20 tests judged", {}, ORDINARY), times(0.0499)),
        ],
    )
    assert [report.bars[name] for name in BARS if name in report.bars] == [
        ("5.00 ms (ordinary)", True), ("300 (ordinary)", True), ("3.0 (ordinary)", True), ("2.3 (ordinary)", True),
        ("10.10 ms (ordinary)", False), ("49.9 ms (ordinary)", True),
    ]  # fmt: skip


def test_local_is_compared_with_the_peers_of_the_same_user():
    report = Report(record=False)
    judge_times(
        report,
        [
            (Contender("local, landlock", {}, ROOT_USER, 1), times(0.004)),
            (Contender("bubblewrap", {}, ROOT_USER, 1), times(0.007)),
            (Contender("local, namespaces", {}, ORDINARY, 1), times(0.004)),
            (Contender("bubblewrap", {}, ORDINARY, 1), times(0.02)),
        ],
    )
    assert report.bars["local: times bubblewrap"] == ("1.8 (root); 5.0 (ordinary)", False)
    assert report.bars["local: jobs a second"] == ("250 (root); 250 (ordinary)", True)
    assert report.bars["local: times SandboxFusion's 133/s (quoted)"] == ("1.9 (root); 1.9 (ordinary)", False)


def test_rounds_take_turns_and_what_is_missing_is_left_out(monkeypatch):
    asked: list[str] = []

    def answer(user: User, request: dict[str, Any]) -> dict[str, Any]:
        asked.append(request["measure"])
        return {"unavailable": "no engine"} if request["measure"] == "gone" else timed([0.25, 0.75])

    monkeypatch.setattr(sandbox_latency, "ask", answer)
    wanted = [Contender(name, {"measure": name}, ORDINARY) for name in ("a", "gone", "b")]
    report = Report(record=False)
    [(first, found), (second, _)] = time_all(Config(rounds=2), report, wanted)
    assert asked == ["a", "gone", "b", "a", "b"]
    assert (first.name, second.name) == ("a", "b")
    assert found.seconds == [0.25, 0.75, 0.25, 0.75]
    assert report.left_out == ["gone as ordinary: no engine"]
    [(name, row), _] = report.rows
    assert (name, row["jobs"], row["median_ms"], row["p99_ms"], row["jobs_per_second"]) == (
        "a", 4, "500.00", "750.00", "2.0",
    )  # fmt: skip


def test_the_contenders_of_each_part():
    everybody = [ROOT_USER, ORDINARY]
    names = {
        part: [(c.name, c.user.name, c.concurrency) for c in contenders(Config(parts=(part,)), everybody)]
        for part in ("fork", "docker", "soak")
    }  # fmt: skip
    assert names == {
        "fork": [("bare fork", "root", 1), ("bare fork", "ordinary", 1)],
        "docker": [("docker", "root", 1), ("docker", "root", 2)],
        "soak": [],
    }
    local = contenders(Config(parts=("local",), jobs=9), [ORDINARY])
    assert [c.request["options"]["tier"] for c in local] == ["namespaces", "namespaces", "landlock", "landlock"]
    assert [c.request["concurrency"] for c in local] == [1, 2, 1, 2]


def test_attacks_are_counted():
    said = {"fork bomb": [], "shadow": ["read it", "wrote it"], "vsock": ["skipped: no vsock"], "kill": []}
    assert count_cases(said) == Cases(2, 1, {"shadow": ["read it", "wrote it"]}, ("no vsock",))


@pytest.mark.parametrize(
    ("bad", "bar"),
    [
        (None, "0 (namespaces, root); 0 (namespaces, ordinary); 0 (landlock, ordinary)"),
        ("root", "1 (namespaces, root); 0 (namespaces, ordinary); 0 (landlock, ordinary)"),
    ],
)  # fmt: skip
def test_the_bar_of_the_attacks(monkeypatch, capsys, bad: str | None, bar: str):
    from tests.sandboxes import contained

    def attacked(backend: str, user: str) -> dict[str, list[str]]:
        if backend == "local:landlock" and user == "root":
            return {"a": ["skipped: no landlock"], "b": ["skipped: no landlock"]}
        return {"a": ["escaped"] if user == bad else [], "b": []}

    monkeypatch.setattr(contained, "why_not", lambda: "")
    monkeypatch.setattr(contained, "attack_report", attacked)
    report = Report(record=False)
    measure_attacks(report)
    assert report.bars["attacks: cases that are not clean"] == (bar, bad is None)
    assert report.left_out == ["attacks on local, landlock, as root: no landlock"]
    assert len(report.rows) == 3
    assert ("Not clean on namespaces as root: a: escaped" in capsys.readouterr().out) is (bad is not None)


@pytest.mark.parametrize(("seconds", "code"), [(0.004, 0), (0.02, 1)])
def test_the_whole_prints_records_and_ends_with_the_bars(monkeypatch, capsys, seconds: float, code: int):
    recorded: list[tuple[str, dict[str, object]]] = []
    monkeypatch.setattr(sandbox_latency, "append_row", lambda name, row: recorded.append((name, row)))
    monkeypatch.setattr(sandbox_latency, "users", lambda: [ORDINARY])

    def answer(user: User, request: dict[str, Any]) -> dict[str, Any]:
        many = request["jobs"] * request["concurrency"]
        slow = 0.05 if request["measure"] == "bubblewrap" else seconds
        return timed([slow] * many, slow * many / request["concurrency"])

    monkeypatch.setattr(sandbox_latency, "ask", answer)
    assert main(Config(parts=("local", "bubblewrap"), jobs=6, rounds=1)) == code
    assert [(name, row["measure"], row["concurrency"]) for name, row in recorded] == [
        ("sandbox_latency", name, n)
        for name in ("local, namespaces", "local, landlock", "bubblewrap")
        for n in (1, 2)
    ]  # fmt: skip
    assert all(list(a[1]) == list(b[1]) for a, b in pairwise(recorded)), "rows of other columns"
    json.dumps([row for _, row in recorded])
    said = capsys.readouterr().out
    assert "quoted" in said
    assert "not measured" in said
    assert ("NO" in said) is bool(code)


# --- For real ---


@pytest.mark.skipif(find_spec("sandboxes.local") is None, reason="there is no local backend")
def test_a_real_sandbox_is_measured():
    try:
        sandboxes.make("local").close()
    except SandboxUnavailableError as error:
        pytest.skip(str(error))
    me = User("me", (sys.executable,))
    found = ask(me, {"measure": "jobs", "options": {"name": "local"}, "jobs": 5, "concurrency": 2})
    assert len(found["seconds"]) == 5
    soaked = ask(me, {"measure": "soak", "options": {"name": "local"}, "jobs": 20, "concurrency": 2})
    assert soaked["unexpected"] == {}
    assert soaked["closed"]["processes"] == 1
