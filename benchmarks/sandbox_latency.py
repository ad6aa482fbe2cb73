r"""How fast are the sandboxes, beside bubblewrap and a bare fork, and does `local` hold over many jobs?

python -m benchmarks.sandbox_latency
python -m benchmarks.sandbox_latency --parts local bubblewrap fork --jobs 1000
python -m benchmarks.sandbox_latency --parts soak --soak 10000

In one run, and started as root also as an ordinary user (nobody):

- local: warm jobs one after the other and two at a time, for each tier that works here;
- bubblewrap, fork: the same job in a fresh Python under `bwrap`, and the floor, a fork that ends at once;
- docker: warm jobs, where an engine is running ($DOCKER_HOST) or can be started (as the tests do);
- judge: solutions of 20 tests judged by `llm_envs.coding`, and the 20 runs alone;
- soak: many jobs, some that misbehave; memory, descriptors, processes and mounts before and after;
- attacks: the attack suite of the tests against `local` (as root; each in a container of namespaces).

SandboxFusion's weakest mode is quoted, not measured: it cannot be installed here. Rows go to
`results/sandbox_latency.csv`. Run it on a quiet machine: the load is in every row. It exits with 1 when a bar is
missed; a bar whose part was left out is shown as not measured.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import site
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.results import append_row

ROOT = Path(__file__).parents[1]
Part = Literal["local", "bubblewrap", "fork", "docker", "judge", "soak", "attacks"]
TIERS = ("namespaces", "landlock")
CONCURRENCIES = (1, 2)
FUSION_JOBS_PER_SECOND = 133.0
"""SandboxFusion without isolation on two cores: a figure that we were given, not one that we measured."""
MAX_LOCAL_SECONDS, MIN_LOCAL_JOBS_PER_SECOND, MIN_TIMES_PEER = 0.005, 200.0, 2.0
MAX_DOCKER_SECONDS, MAX_JUDGED_SECONDS = 0.010, 0.050
MAX_GROWTH_KB = 2048  # what the allocators of two interpreters breathe; a leak of a page a job would be 40,000
MIN_SOAK_JOBS = 10_000
BARS = {
    "local: median of a warm job": f"at most {MAX_LOCAL_SECONDS * 1e3:g} ms",
    "local: jobs a second": f"at least {MIN_LOCAL_JOBS_PER_SECOND:g}",
    "local: times bubblewrap": f"at least {MIN_TIMES_PEER:g}",
    f"local: times SandboxFusion's {FUSION_JOBS_PER_SECOND:g}/s (quoted)": f"at least {MIN_TIMES_PEER:g}",
    "docker: median of a warm job": f"at most {MAX_DOCKER_SECONDS * 1e3:g} ms",
    "judge: a solution of 20 tests": f"under {MAX_JUDGED_SECONDS * 1e3:g} ms",
    "soak: growth": f"none in {MIN_SOAK_JOBS:,} jobs",
    "soak: jobs that ended otherwise than they must": "0",
    "attacks: cases that are not clean": "0",
}
"""What is wanted, by bar."""
_MEDIAN, _RATE, _WRAP, _FUSION, _DOCKER, _JUDGE, _GROWTH, _OTHERWISE, _ATTACKS = BARS
_COLUMNS = ("user", "python", "concurrency", "jobs", "median_ms", "p99_ms", "jobs_per_second", "load", "note")

console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)


@dataclass(frozen=True)
class Config:
    """Options of the benchmark."""

    parts: tuple[Part, ...] = get_args(Part)
    """What is measured."""
    jobs: int = 300
    """Jobs a timing; bubblewrap gets a third."""
    rounds: int = 3
    """Timings of each, in turns; figures are over the jobs of all."""
    soak: int = MIN_SOAK_JOBS
    """Jobs of the soak."""
    record: bool = True
    """Append to results/."""


@dataclass(frozen=True)
class User:
    """Who runs a measurement, and how it is started as them."""

    name: str
    command: tuple[str, ...]


@dataclass(frozen=True)
class Contender:
    """One thing that is timed: its name in the table, and what `sandbox_jobs.measure` is asked."""

    name: str
    request: dict[str, Any]
    user: User
    concurrency: int = 1


@dataclass
class Times:
    """What came of a contender's rounds: seconds a job, and seconds of all (`wall`)."""

    seconds: list[float] = field(default_factory=list)
    wall: float = 0.0
    describe: str = ""
    python: str = ""

    def add(self, found: dict[str, Any]) -> None:
        """Add a round."""
        self.seconds += found["seconds"]
        self.wall += found["wall"]
        self.describe, self.python = found["describe"], found["python"]

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)

    @property
    def p99(self) -> float:
        """Seconds: the least that 99 of 100 jobs did not exceed."""
        return sorted(self.seconds)[math.ceil(0.99 * len(self.seconds)) - 1]

    @property
    def rate(self) -> float:
        """Jobs a second."""
        return len(self.seconds) / self.wall


@dataclass
class Report:
    """The bars, the table of times, and where rows go."""

    record: bool
    bars: dict[str, tuple[str, bool]] = field(default_factory=dict)
    """What was measured, and whether it will do."""
    rows: list[tuple[str, dict[str, object]]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def bar(self, name: str, measured: str, *, is_met: bool) -> None:
        """Note what was measured of one of `BARS`; each of several measurements of one must meet it."""
        if name not in BARS:
            raise ValueError(f"no bar is called {name!r}")
        before, was_met = self.bars.get(name, ("", True))
        self.bars[name] = f"{before}; {measured}" if before else measured, was_met and is_met

    def row(self, name: str, **values: object) -> None:
        """Append a row to the table and the file."""
        row = {column: values.get(column, "") for column in _COLUMNS} | {"load": f"{os.getloadavg()[0]:.1f}"}
        self.rows.append((name, row))
        if self.record:
            append_row("sandbox_latency", {"measure": name, **row})

    def times(self, contender: Contender, times: Times, note: str = "") -> None:
        """Append the row of a timing."""
        self.row(
            contender.name,
            user=contender.user.name,
            python=times.python,
            concurrency=contender.concurrency,
            jobs=len(times.seconds),
            median_ms=f"{times.median * 1e3:.2f}",
            p99_ms=f"{times.p99 * 1e3:.2f}",
            jobs_per_second=f"{times.rate:.1f}",
            note=note or times.describe,
        )

    def show(self) -> bool:
        """Print everything; whether no bar that was measured is missed."""
        table = Table(title="Times: a job's from the call to its result", title_justify="left")
        for column in ("measure", *_COLUMNS):
            is_text = column in ("measure", "user", "python", "note")
            table.add_column(column.replace("_", " "), justify="left" if is_text else "right")
        for name, row in self.rows:
            table.add_row(escape(name), *(escape(str(row[column])) for column in _COLUMNS))
        table.add_section()
        table.add_row("SandboxFusion, weakest mode", *[""] * 6, f"{FUSION_JOBS_PER_SECOND:g}", "", "quoted")
        console.print(table)
        for reason in dict.fromkeys(self.left_out):
            console.print(f"Left out: {reason}", markup=False)
        bars = Table(title="Bars", title_justify="left")
        for column in ("bar", "measured", "wanted", "met"):
            bars.add_column(column)
        for name, wanted in BARS.items():
            measured, is_met = self.bars.get(name, ("not measured", None))
            bars.add_row(escape(name), escape(measured), wanted, {True: "yes", False: "NO", None: ""}[is_met])
        console.print(bars)
        return all(is_met for _, is_met in self.bars.values())


# --- Who measures ---


def users() -> list[User]:
    """This user; started as root, an ordinary one as well, where a Python that they may use is found."""
    if os.geteuid():
        return [User("ordinary", (sys.executable,))]
    nobody = _nobody()
    return [User("root", (sys.executable,)), *([nobody] if nobody else [])]


@cache
def _nobody() -> User | None:
    become = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "env", "HOME=/tmp")
    if not shutil.which("setpriv"):
        return None
    for python in (sys.executable, "/usr/bin/python3"):
        # A Python below /root is out of their reach; then the system's, with our packages where they fit.
        tried = [*become, python, "-c", "import sys; print(sys.version_info[:2], sys.prefix)"]
        done = subprocess.run(tried, capture_output=True, text=True, check=False)
        version, _, _ = done.stdout.partition(") ")
        if done.returncode == 0 and version == str(sys.version_info[:2])[:-1]:
            return User("ordinary", (*become, f"PYTHONPATH={':'.join([str(ROOT), *site.getsitepackages()])}", python))
    return None


def ask(user: User, request: dict[str, Any], *, timeout_seconds: float = 3600.0) -> dict[str, Any]:
    """What `sandbox_jobs.measure` finds, in a process of the user's.

    Raises:
        RuntimeError: If the measurement fails.
    """
    command = [*user.command, "-m", "benchmarks.sandbox_jobs", json.dumps(request)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_seconds, check=False)
    if done.returncode:
        said = "\n".join(done.stderr.strip().splitlines()[-10:])
        raise RuntimeError(f"the measurement {request} failed as {user.name}:\n{said}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


# --- Times ---


def contenders(config: Config, everybody: Sequence[User]) -> list[Contender]:
    """Whatever is timed, by the parts that are wanted."""
    found: list[Contender] = []
    if "docker" in config.parts:
        found += [_jobs("docker", config, everybody[0], n, name="docker") for n in CONCURRENCIES]
    for user in everybody:
        if "local" in config.parts:
            for tier in TIERS:
                found += [_jobs(f"local, {tier}", config, user, n, name="local", tier=tier) for n in CONCURRENCIES]
        if "bubblewrap" in config.parts:
            for n in CONCURRENCIES:
                request = {"measure": "bubblewrap", "jobs": max(1, config.jobs // 3), "concurrency": n}
                found.append(Contender("bubblewrap", request, user, n))
        if "fork" in config.parts:
            found.append(Contender("bare fork", {"measure": "fork", "jobs": config.jobs}, user))
        if "judge" in config.parts:
            for name, what in (("20 runs in a session", "session"), ("20 tests judged", "judge")):
                request = {"measure": what, "options": {"name": "local"}, "solutions": max(1, config.jobs // 20)}
                found.append(Contender(name, request, user))
    return found


def _jobs(label: str, config: Config, user: User, concurrency: int, **options: str) -> Contender:
    request = {"measure": "jobs", "options": options, "jobs": config.jobs, "concurrency": concurrency}
    return Contender(label, request, user, concurrency)


def time_all(config: Config, report: Report, wanted: Sequence[Contender]) -> list[tuple[Contender, Times]]:
    """Time the contenders round by round, so that what else the machine does slows none more than the others."""
    times: dict[int, Times] = {i: Times() for i in range(len(wanted))}
    for _ in range(config.rounds):
        for i in list(times):
            found = ask(wanted[i].user, wanted[i].request)
            if "unavailable" in found:
                del times[i]
                report.left_out.append(f"{wanted[i].name} as {wanted[i].user.name}: {found['unavailable']}")
            else:
                times[i].add(found)
    measured = [(wanted[i], found) for i, found in times.items()]
    for contender, whole in measured:
        report.times(contender, whole)
    return measured


def judge_times(report: Report, measured: Sequence[tuple[Contender, Times]]) -> None:
    """Compare the times with the bars, user by user."""
    for user in dict.fromkeys(contender.user.name for contender, _ in measured):
        of_user: dict[str, list[Times]] = {}
        for contender, found in measured:
            if contender.user.name == user:
                of_user.setdefault(contender.name, []).append(found)
        # The strongest tier that this user can have: a weaker one must not meet the bars for it.
        local = next((of_user[f"local, {tier}"] for tier in TIERS if f"local, {tier}" in of_user), None)
        best = {name: max(found.rate for found in timings) for name, timings in of_user.items()}
        if local:
            _judge_local(report, user, local, best)
        if "docker" in of_user:
            median = of_user["docker"][0].median
            report.bar(_DOCKER, f"{median * 1e3:.2f} ms ({user})", is_met=median <= MAX_DOCKER_SECONDS)
        if "20 tests judged" in of_user:
            median = of_user["20 tests judged"][0].median
            report.bar(_JUDGE, f"{median * 1e3:.1f} ms ({user})", is_met=median < MAX_JUDGED_SECONDS)


def _judge_local(report: Report, user: str, local: Sequence[Times], best: dict[str, float]) -> None:
    alone, rate = local[0].median, max(found.rate for found in local)
    report.bar(_MEDIAN, f"{alone * 1e3:.2f} ms ({user})", is_met=alone <= MAX_LOCAL_SECONDS)
    report.bar(_RATE, f"{rate:.0f} ({user})", is_met=rate >= MIN_LOCAL_JOBS_PER_SECOND)
    ratio = rate / FUSION_JOBS_PER_SECOND
    report.bar(_FUSION, f"{ratio:.1f} ({user})", is_met=ratio >= MIN_TIMES_PEER)
    if "bubblewrap" in best:
        ratio = rate / best["bubblewrap"]
        report.bar(_WRAP, f"{ratio:.1f} ({user})", is_met=ratio >= MIN_TIMES_PEER)
    if "bare fork" in best:
        share = local[0].rate / best["bare fork"]
        console.print(f"local as {user}: one after the other {share:.0%} of the rate of a bare fork")


# --- The other parts ---


@contextmanager
def docker_engine(report: Report) -> Iterator[None]:
    """Name an engine in $DOCKER_HOST: one that is there, or for as long as this lasts one of our own."""
    if os.environ.get("DOCKER_HOST") or Path("/var/run/docker.sock").exists():
        yield
        return
    from tests.sandboxes.engine import NoEngineError, engine

    with ExitStack() as stack:
        try:
            os.environ["DOCKER_HOST"] = stack.enter_context(engine())
        except NoEngineError as error:
            report.left_out.append(f"docker: {error}")
        try:
            yield
        finally:
            os.environ.pop("DOCKER_HOST", None)


def measure_soak(config: Config, report: Report, user: User) -> None:
    """Many jobs through `local`, two at a time."""
    request = {"measure": "soak", "options": {"name": "local"}, "jobs": config.soak, "concurrency": 2}
    # Where that can be had, away from what others mount meanwhile, which would look like growth.
    apart = ("unshare", "--mount", "--propagation=private") if os.geteuid() == 0 and shutil.which("unshare") else ()
    found = ask(User(user.name, (*apart, *user.command)), request)
    if "unavailable" in found:
        report.left_out.append(f"soak as {user.name}: {found['unavailable']}")
        return
    growth = {name: found["after"][name] - found["before"][name] for name in found["before"]}
    remains = {name: found["closed"][name] - found["bare"][name] for name in ("descriptors", "processes", "mounts")}
    said = ", ".join(f"{name.replace('_kb', '')} {value:+,}{' kB' * ('_kb' in name)}" for name, value in growth.items())
    held = f"{found['before']['memory_kb'] // 1024} MiB before"
    left = ", ".join(f"{value:+} {name}" for name, value in remains.items() if value > 0) or "nothing"
    times = Times()
    times.add(found)
    report.times(Contender("soak", request, user, 2), times, f"{said} ({held}); left after close: {left}")
    is_flat = growth.pop("memory_kb") <= MAX_GROWTH_KB and all(value <= 0 for value in growth.values())
    is_whole = config.soak >= MIN_SOAK_JOBS and left == "nothing"
    report.bar(_GROWTH, f"{said} in {config.soak:,} ({user.name})", is_met=is_flat and is_whole)
    unexpected = found["unexpected"]
    report.bar(
        _OTHERWISE,
        ", ".join(f"{name} {count}" for name, count in unexpected.items()) or f"0 ({user.name})",
        is_met=not unexpected,
    )


def measure_attacks(report: Report) -> None:
    """The attack suite against each tier, as root and as an ordinary user; each in a container of its own."""
    from tests.sandboxes.contained import attack_report, why_not

    if reason := why_not():
        report.left_out.append(f"attacks: {reason}")
        return
    for tier in TIERS:
        for user, name in (("root", "root"), ("nobody", "ordinary")):
            cases = count_cases(attack_report(f"local:{tier}", user))
            if not cases.clean and not cases.unclean:
                report.left_out.append(f"attacks on local, {tier}, as {name}: {'; '.join(cases.reasons)}")
                continue
            for case, problems in cases.unclean.items():
                console.print(f"Not clean on {tier} as {name}: {case}: {'; '.join(problems)}", markup=False)
            note = f"{cases.clean} clean, {len(cases.unclean)} not, {cases.skipped} skipped"
            report.row(f"attacks, {tier}", user=name, jobs=cases.clean + len(cases.unclean), note=note)
            report.bar(_ATTACKS, f"{len(cases.unclean)} ({tier}, {name})", is_met=not cases.unclean)


@dataclass(frozen=True)
class Cases:
    """How the attacks ended, and the reasons why some were not run."""

    clean: int
    skipped: int
    unclean: dict[str, list[str]]
    reasons: tuple[str, ...]


def count_cases(problems: Mapping[str, Sequence[str]]) -> Cases:
    """Count what `attack_report` says: problems by case, or `skipped: REASON`."""
    skips = {name: said[0] for name, said in problems.items() if said and said[0].startswith("skipped: ")}
    unclean = {name: list(said) for name, said in problems.items() if said and name not in skips}
    reasons = tuple(dict.fromkeys(reason.removeprefix("skipped: ") for reason in skips.values()))
    return Cases(len(problems) - len(skips) - len(unclean), len(skips), unclean, reasons)


def main(config: Config) -> int:
    """Measure, print, record; returns 1 when a bar is missed, else 0."""
    report = Report(config.record)
    busy, cores = os.getloadavg()[0], os.cpu_count() or 1
    if busy > cores / 4:
        console.print(f"This machine is busy (load {busy:.1f} on {cores} cores): times will be too long.")
    everybody = users()
    if os.geteuid() == 0 and len(everybody) == 1:
        report.left_out.append("an ordinary user: no setpriv, or no Python of this version that nobody may use")
    with docker_engine(report) if "docker" in config.parts else nullcontext():
        judge_times(report, time_all(config, report, contenders(config, everybody)))
    if "soak" in config.parts:
        for user in everybody:
            measure_soak(config, report, user)
    if "attacks" in config.parts:
        measure_attacks(report)
    return 0 if report.show() else 1


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config, description="How fast are the sandboxes, and does `local` hold over many jobs?")))
