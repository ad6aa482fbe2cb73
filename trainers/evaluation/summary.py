"""What an evaluation found: from the records of episodes to estimates, as pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainers.evaluation.estimates import (
    Estimate,
    Mean,
    ks_up_to,
    mean_over_problems,
    pass_at_k,
    ratio_over_problems,
    wilson,
)

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Reference:
    """What is known of an environment's returns; None: nothing.

    Args:
        best: the greatest expected return of a solver of the environment's.
        solver: whose.
        threshold: the mean return from which on the environment counts as solved.
        num_tasks: how many tasks there are, over all of which `best` is a mean; None: endlessly many.
    """

    best: float | None = None
    solver: str = ""
    threshold: float | None = None
    num_tasks: int | None = None


@dataclass(frozen=True)
class Rates:
    """Estimates from all answers of one kind that could be judged: greedy ones, or sampled ones.

    Args:
        problems: of which an answer could be judged.
        answers: that could be judged.
        unscorable: that could not be, and are left out.
        accuracy: share of the verdict `correct`; None where the environment gives no verdicts.
        return_mean: of the episodes' returns.
        regret: by how much that lies below the best known return; None where none is known.
        format: share of the episodes in which every answer could be read.
        truncated: share of those that were cut off.
    """

    problems: int
    answers: int
    unscorable: int
    accuracy: Estimate | None
    return_mean: Mean
    regret: Mean | None
    format: Estimate
    truncated: Estimate


@dataclass(frozen=True)
class Summary:
    """What was found on one environment.

    Args:
        env: its id.
        env_args: its arguments.
        reference: what is known of it.
        greedy: of the greedy answers; None where there are none, or none could be judged.
        sampled: the same of the sampled ones.
        pass_at: by k, the share of problems solved by one of k sampled answers; None where no problem has k answers
            that could be judged.
        unscorable: how many answers were left out, of either kind.
    """

    env: str
    env_args: Mapping[str, Any]
    reference: Reference
    greedy: Rates | None
    sampled: Rates | None
    pass_at: dict[int, Estimate | None]
    unscorable: int


def summarize(records: Iterable[Record], references: Mapping[str, Reference]) -> dict[str, Summary]:
    """Estimate everything, environment by environment.

    Args:
        records: of an evaluation, as `playing` writes them.
        references: what is known of each environment, by the name of the task; their order is the result's.
    """
    by_kind: dict[tuple[str, str], dict[int, list[Record]]] = {}
    for record in records:
        problems = by_kind.setdefault((record["task"], record["kind"]), {})
        problems.setdefault(record["problem"], []).append(record)
    found = {}
    for name, reference in references.items():
        kinds = {kind: list(by_kind.get((name, kind), {}).values()) for kind in ("greedy", "sampled")}
        everything = [record for problems in kinds.values() for answers in problems for record in answers]
        if everything:
            found[name] = Summary(
                env=everything[0]["env"],
                env_args=everything[0]["env_args"],
                reference=reference,
                greedy=estimate_rates(kinds["greedy"], reference.best),
                sampled=estimate_rates(kinds["sampled"], reference.best),
                pass_at=estimate_pass_at(kinds["sampled"]),
                unscorable=sum(not is_scorable(record) for record in everything),
            )
    return found


def is_scorable(record: Record) -> bool:
    """False when the environment failed to judge."""
    return "unscorable" not in record["verdicts"] and not has_failed(record)


def has_failed(record: Record) -> bool:
    """Whether the environment or the endpoint broke, which need not happen again."""
    return bool(record.get("failure"))


def is_correct(record: Record) -> bool:
    """Whether the last verdict is that it was right."""
    return bool(record["verdicts"]) and record["verdicts"][-1] == "correct"


def is_truncated(record: Record) -> bool:
    """Whether an answer ran into a limit."""
    return any(reason != "stop" for reason in record["stop_reasons"])


def keeps_format(record: Record) -> bool:
    """Whether every answer of an episode could be read, and none was fined for its format."""
    fined = any(parts.get("format", 0.0) < 0 for parts in record["reward_parts"])
    return not fined and "unparsed" not in record["verdicts"]


def estimate_rates(problems: Sequence[Sequence[Record]], best: float | None) -> Rates | None:
    """Rates of the answers to each problem, `[P][answers]`; None if none could be judged."""
    judged = _judged(problems)
    if not judged:
        return None
    sizes = [len(answers) for answers in judged]

    def share(has: Any) -> Estimate:
        counts = [sum(map(has, answers)) for answers in judged]
        # One answer a problem: independent trials, for which Wilson's interval is better than a bootstrap.
        return wilson(sum(counts), len(counts)) if max(sizes) == 1 else ratio_over_problems(counts, sizes)

    return_mean = mean_over_problems([[record["return"] for record in answers] for answers in judged])
    return Rates(
        problems=len(judged),
        answers=sum(sizes),
        unscorable=sum(map(len, problems)) - sum(sizes),
        accuracy=share(is_correct) if _has_verdicts(judged) else None,
        return_mean=return_mean,
        regret=None if best is None else return_mean.below(best),
        format=share(keeps_format),
        truncated=share(is_truncated),
    )


def estimate_pass_at(problems: Sequence[Sequence[Record]]) -> dict[int, Estimate | None]:
    """pass@k for k = 1, 2, 4, ... up to the number of answers; empty where nothing is right or wrong."""
    judged = _judged(problems)
    if not judged or not _has_verdicts(judged):
        return {}
    counts = [(len(answers), sum(map(is_correct, answers))) for answers in judged]
    found: dict[int, Estimate | None] = {}
    for k in ks_up_to(max(map(len, problems))):
        chances = [pass_at_k(n, c, k) for n, c in counts if n >= k]
        found[k] = ratio_over_problems(chances, [1] * len(chances)) if chances else None
    if max(n for n, _ in counts) == 1:
        found[1] = wilson(sum(c for _, c in counts), len(counts))
    return found


def _judged(problems: Sequence[Sequence[Record]]) -> list[list[Record]]:
    judged = [[record for record in answers if is_scorable(record)] for answers in problems]
    return [answers for answers in judged if answers]


def _has_verdicts(problems: Sequence[Sequence[Record]]) -> bool:
    return any(verdict for answers in problems for record in answers for verdict in record["verdicts"])
