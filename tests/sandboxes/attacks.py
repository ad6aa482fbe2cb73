"""The attack suite: what each program tries, and how it may end.

A program prints ``BREACH`` and a word for everything that it could do and should not. `run_attack` looks from outside,
too: at secrets, listeners, files, and at what is left behind. To see a new backend through it:

    with World() as world, make("mine") as sandbox:
        for attack in ATTACKS:
            assert run_attack(sandbox, attack, world, contained=False) == []

An attack with ``dangerous=True`` can take this machine down where the sandbox does not hold: see `contained`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from textwrap import dedent
from typing import Any

from sandboxes import MAX_OUTPUT_BYTES, Job, RunResult, Sandbox, Status
from tests.sandboxes.outside import World, growth, settled_snapshot, snapshot

__all__ = ["Attack", "add_attack", "run_attack"]

BREACH = "BREACH"
_ENDED = frozenset({Status.OK, Status.ERROR})
_SLACK_SECONDS = 2.0
_SETTLE_SECONDS = 3.0
"""A killed process takes its time to disappear."""
_UNHARMED = "import json, sys\nprint(json.dumps(['unharmed', sys.stdin.read(), 6 * 7]))"


@dataclass(frozen=True, slots=True)
class Attack:
    """One hostile program.

    Attributes:
        name: Of the case.
        code: The program; ``@NAME@`` stands for a place of the `World`.
        allowed: How it may end.
        before: A program that runs first, as a job of its own.
        before_stdin: The input of that one.
        files: Of the attack's job.
        timeout_seconds: Of the attack's job.
        memory_mb: Of the attack's job.
        exit_code: What it must be; None for any.
        stdout: What it must be; None for any.
        dangerous: Never to be run but in a container of its own.
        bomb: Not to be tried on a sandbox that is known to hold nothing: not even a container would do.
        plain: No isolation is needed: a careful harness alone withstands it.
    """

    name: str
    code: str
    allowed: frozenset[Status] = _ENDED
    before: str = ""
    before_stdin: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    timeout_seconds: float = 1.0
    memory_mb: int = 256
    exit_code: int | None = None
    stdout: str | None = None
    dangerous: bool = False
    bomb: bool = False
    plain: bool = False

    def __post_init__(self) -> None:
        assert Status.INFRA_ERROR not in self.allowed, "nothing that a program does is the sandbox's failure"


def add_attack(attacks: list[Attack], name: str, code: str, *allowed: Status, **options: Any) -> None:
    """Add a case to a list; without ``allowed`` it may end well or with an error."""
    options["before"] = dedent(options.get("before", ""))
    attacks.append(Attack(name, dedent(code), frozenset(allowed or _ENDED), **options))


def run_attack(
    sandbox: Sandbox, attack: Attack, world: World, *, contained: bool, ignored: Collection[str] = ()
) -> list[str]:
    """Run an attack and say what is wrong afterwards; an empty list if nothing is.

    Args:
        sandbox: To attack.
        attack: What to run.
        world: What must not be found or harmed.
        contained: As `outside.snapshot` has it.
        ignored: Kinds of things in a snapshot that may grow.
    """
    problems = _next_job(sandbox, "the job before")
    before = settled_snapshot(contained=contained)
    if attack.before:
        sandbox.run(world.fill_in(attack.before), stdin=world.fill_in(attack.before_stdin), timeout_seconds=5.0)
    files = {name: world.fill_in(content) for name, content in attack.files.items()}
    job = Job(world.fill_in(attack.code), "", files, attack.timeout_seconds, attack.memory_mb)
    started = time.monotonic()
    result = sandbox.run_job(job)
    seconds = time.monotonic() - started
    problems += _ending(attack, result, seconds)
    for number in (1, 2):
        problems += _next_job(sandbox, f"next job {number}")
    problems += world.harm(result.stdout + result.stderr)
    return problems + _left_behind(before, contained=contained, ignored=ignored)


def _ending(attack: Attack, result: RunResult, seconds: float) -> list[str]:
    problems = []
    tail = f" (stdout {result.stdout[-200:]!r}, stderr {result.stderr[-300:]!r})"
    if result.status not in attack.allowed:
        problems.append(f"status {result.status}, not {' or '.join(sorted(attack.allowed))}{tail}")
    if attack.exit_code is not None and result.exit_code != attack.exit_code:
        problems.append(f"exit code {result.exit_code}, not {attack.exit_code}{tail}")
    if attack.stdout is not None and result.stdout != attack.stdout:
        problems.append(f"stdout is not {attack.stdout!r}{tail}")
    problems += [line for line in result.stdout.splitlines() if line.startswith(BREACH)]
    if max(len(result.stdout), len(result.stderr)) > MAX_OUTPUT_BYTES:
        problems.append("more output than the limit")
    if max(seconds, result.seconds) > attack.timeout_seconds + _SLACK_SECONDS:
        problems.append(f"it took {seconds:.1f} s, with a limit of {attack.timeout_seconds} s")
    return problems


def _next_job(sandbox: Sandbox, which: str) -> list[str]:
    result = sandbox.run(_UNHARMED, stdin=which, timeout_seconds=5.0)
    right = (Status.OK, f'["unharmed", "{which}", 42]\n', "", 0)
    if (result.status, result.stdout, result.stderr, result.exit_code) != right:
        return [f"{which} was harmed: {result}"]
    return []


def _left_behind(before: Counter[str], *, contained: bool, ignored: Collection[str]) -> list[str]:
    def more() -> list[str]:
        after = snapshot(contained=contained)
        return growth(before, Counter({kind: count for kind, count in after.items() if kind not in ignored}))

    until = time.monotonic() + _SETTLE_SECONDS
    while (found := more()) and time.monotonic() < until:
        time.sleep(0.02)
    return found
