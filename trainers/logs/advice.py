"""What looks wrong about a run, in plain sentences, read off the figures of its updates."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from trainers.logs.shares import filled

History = Sequence[Mapping[str, float]]

WINDOW = 5
"""Figures are means over so many updates: one batch of a few groups proves little."""
NO_SPREAD = 0.8
"""Share of groups whose returns are all equal. Above it an update learns from less than a fifth of what was sampled."""
TRUNCATED = 0.3
"""Share of episodes that ran out of tokens. Above it the reward measures length as much as anything else."""
UNPARSED = 0.5
"""Share of answers that could not be read. Above it most of the reward is about the format."""
UNJUDGED = 0.05
"""Share of episodes that the environment failed at. Some time out on any busy machine; one in twenty is no accident."""
ENTROPY_LEFT = 0.1
"""Share of the first entropy that is left when the policy is called settled: it seldom finds anything new then."""
ENTROPY_FLOOR = 0.01
"""Nats a token: an answer of a hundred tokens is then the same one in a third of all tries."""
ENTROPY_GROWTH = 3.0
"""An entropy of so many times the first one, and at least `ENTROPY_GAIN` above it, means that text falls apart."""
ENTROPY_GAIN = 1.0
"""Nats a token. A policy that begins nearly sure may triple its entropy and still be fine."""
GRAD_SPIKE = 10.0
"""Times the usual gradient norm. Between batches it varies by a factor of two or three."""
GRAD_WINDOW = 20
"""Updates whose median is the usual gradient norm."""
GRAD_LEAST = 5
"""Fewer updates than this have no usual norm."""
KL_LARGE = 0.5
"""Nats a token from the base model: at a hundred tokens the answer is e^50 times as probable as it was."""
LOGPROB_GAP = 0.1
"""Nats a token between sampler and trainer. bfloat16 alone makes about 0.01 to 0.03."""
CLIPPED = 0.3
"""Share of tokens that a clipped ratio takes out: a batch is then thrown away by a third."""
CORRECTED = 0.1
"""Share of tokens whose weight between sampler and trainer was cut: such a correction is a bias."""
GRADING = 0.5
"""Share of an update's time that goes to the environment: the model waits for it more than it works."""
GRADING_SECONDS = 1.0
"""An update's. Below it nobody waits."""
STILL = 50
"""Updates within which a return ought to move."""
STILL_ERRORS = 2.0
"""How many standard errors apart the halves of these updates must be to count as different."""

WORSE = 1.5
"""Times what it was when it was said: then it is said again."""
PATIENCE = 20
"""Updates after which it is said again in any case."""


@dataclass(frozen=True)
class Finding:
    """Something that is off.

    Args:
        kind: which rule found it; with `NAME/` before it where it is about one of several environments.
        severity: how bad it is, on the rule's own scale, above 0; infinite where there is no worse.
        text: the sentence.
    """

    kind: str
    severity: float
    text: str


def advice(history: History) -> list[str]:
    """What is off after the last update of `history`, one sentence a trouble; empty while all is well.

    Args:
        history: the figures of a run's updates, oldest first, as in `metrics.jsonl`. Any may be missing; a figure that
            was written as null is NaN.
    """
    return [finding.text for finding in findings(history)]


def findings(history: History) -> list[Finding]:
    """The same with what is needed to tell whether it was said before."""
    if not history:
        return []
    found = [finding for rule in (*_TASK_RULES, *_RUN_RULES) if (finding := rule(history))]
    said = {finding.kind for finding in found}
    tasks = sorted({name.partition("/")[0] for row in history[-WINDOW:] for name in row if "/" in name})
    for task in tasks:
        own = [_of_task(row, task) for row in history[-WINDOW:]]
        for rule in _TASK_RULES:
            finding = rule(own)
            if finding and finding.kind not in said:
                found.append(Finding(f"{task}/{finding.kind}", finding.severity, f"{task}: {finding.text}"))
    return found


class Adviser:
    """Says each thing once, and again only when it has become `WORSE` or after `PATIENCE` updates."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[int, float]] = {}

    def news(self, history: History, update: int) -> list[str]:
        """The sentences that are worth saying after update number `update`, the last one of `history`."""
        news = []
        for finding in findings(history):
            when, how_bad = self._said.get(finding.kind, (-PATIENCE, 0.0))
            # Infinitely bad does not get worse.
            worse = finding.severity >= WORSE * how_bad and math.isfinite(how_bad)
            if worse or update - when >= PATIENCE:
                self._said[finding.kind] = (update, finding.severity)
                news.append(finding.text)
        return news


# --- Rules about an environment: they hold of each of several, too ---


def _no_spread(history: History) -> Finding | None:
    share = _recent(history, "constant_groups_share")
    if share is None or share < NO_SPREAD:
        return None
    right, mean = _recent(history, "verdict_correct"), _recent(history, "return_mean")
    why = ""
    if right is not None and right >= NO_SPREAD:
        why = f" (nearly all answers are right, {right:.0%}: it needs harder problems)"
    elif right is not None and right <= 1 - NO_SPREAD:
        why = f" (nearly all answers are wrong, {right:.0%} are right: it needs easier problems or larger groups)"
    elif right is not None:
        why = f" (a problem is solved always or never, {right:.0%} are: it needs other problems or larger groups)"
    elif mean is not None:
        why = f" (the mean return is {mean:.3g}: it needs other problems or larger groups)"
    return Finding("no_spread", share, f"reward has no spread in {share:.0%} of groups: nothing to learn from{why}")


def _truncated(history: History) -> Finding | None:
    share = _recent(history, "token_limit_share")  # those that the environment cuts off need no more tokens
    if share is None or share < TRUNCATED:
        return None
    return Finding("truncated", share, f"{share:.0%} of the episodes were cut off before their end: raise max_tokens")


def _unparsed(history: History) -> Finding | None:
    share = _recent(history, "verdict_unparsed")
    if share is None or share <= UNPARSED:
        return None
    text = (
        f"{share:.0%} of the answers could not be read: the model does not keep the format that is asked for; "
        "an example in the prompt helps"
    )
    return Finding("unparsed", share, text)


def _unscorable(history: History) -> Finding | None:
    share = _recent(history, "unscorable_share")
    if share is None or share <= UNJUDGED:
        return None
    text = (
        f"the environment could not judge {share:.0%} of the episodes, which are left out: "
        "its grader or sandbox fails or is overloaded"
    )
    return Finding("unscorable", share, text)


def _broken(history: History) -> Finding | None:
    share = _recent(history, "broken_share")
    if share is None or share <= UNJUDGED:
        return None
    text = f"{share:.0%} of the episodes broke off because the environment raised an error; they are left out"
    return Finding("broken", share, text)


# --- Rules about the run ---


def _not_finite(history: History) -> Finding | None:
    for name, what in (("grad_norm", "the gradient"), ("loss", "the loss")):
        if not math.isfinite(history[-1].get(name, 0.0)):
            text = f"{what} is not a finite number: this update was left out; if it happens again, "
            return Finding("not_finite", math.inf, text + "lower learning_rate or look for a reward that is far off")
    return None


def _grad_spike(history: History) -> Finding | None:
    norm = history[-1].get("grad_norm", math.nan)
    before = _finite(history[-1 - GRAD_WINDOW : -1], "grad_norm")
    if not math.isfinite(norm) or len(before) < GRAD_LEAST:
        return None
    usual = statistics.median(before)
    if usual <= 0 or norm <= GRAD_SPIKE * usual:
        return None
    text = f"the gradient's norm jumped to {norm:.3g}, {norm / usual:.0f} times what is usual ({usual:.3g})"
    return Finding("grad_spike", norm / usual, text + "; max_grad_norm limits what one batch can do")


def _entropy(history: History) -> Finding | None:
    first, now = _recent(history[:WINDOW], "entropy"), _recent(history, "entropy")
    if first is None or now is None:
        return None
    if now <= ENTROPY_FLOOR or now < ENTROPY_LEFT * first:
        text = (
            f"entropy is down to {now:.2g} nats a token (it was {first:.2g}): the answers to a problem are nearly all "
            "the same; a lower learning_rate or some kl_coef keeps them apart"
        )
        # In halvings: an entropy that dies does so exponentially.
        halvings = math.log2(max(first, 2 * ENTROPY_FLOOR) / now) if now > 0 else math.inf
        return Finding("entropy_low", max(halvings, 1.0), text)
    if now > ENTROPY_GROWTH * first and now > first + ENTROPY_GAIN:
        text = f"entropy rose from {first:.2g} to {now:.2g} nats a token: the text falls apart; lower learning_rate"
        return Finding("entropy_high", now, text)
    return None


def _kl(history: History) -> Finding | None:
    kl = _recent(history, "kl")
    if kl is None or kl < KL_LARGE:
        return None
    text = f"the policy is {kl:.2g} nats a token away from the base model: raise kl_coef or lower learning_rate"
    return Finding("kl", kl, text)


def _logprob_gap(history: History) -> Finding | None:
    gap = _recent(history, "logprob_gap")
    if gap is None or gap <= LOGPROB_GAP or history[-1].get("staleness"):  # of an older policy it says nothing
        return None
    text = (
        f"sampler and trainer disagree by {gap:.2g} nats a token: what is trained is not quite what was sampled "
        "(correction=mask leaves out the worst, dtype=float32 shows whether it is rounding)"
    )
    return Finding("logprob_gap", gap, text)


def _clipped(history: History) -> Finding | None:
    share = _recent(history, "clipped_share")
    if share is None or share <= CLIPPED:
        return None
    text = f"{share:.0%} of the tokens are clipped: take fewer minibatches or epochs, or a lower learning_rate"
    return Finding("clipped", share, text)


def _corrected(history: History) -> Finding | None:
    share = _recent(history, "correction_share")
    if share is None or share <= CORRECTED:
        return None
    text = f"the correction between sampler and trainer cuts {share:.0%} of the tokens: the two are too far apart"
    return Finding("corrected", share, text)


def _grading(history: History) -> Finding | None:
    grading, all_of_it = _recent(history, "env_seconds"), _recent(history, "seconds")
    if grading is None or not all_of_it or grading < GRADING_SECONDS or grading <= GRADING * all_of_it:
        return None
    share = grading / all_of_it
    text = (
        f"grading takes {share:.0%} of the time ({grading:.1f} of {all_of_it:.1f} s an update): the model waits for "
        "the environment; give it more workers or shorter timeouts"
    )
    return Finding("grading", share, text)


def _still(history: History) -> Finding | None:
    returns = _finite(history[-STILL:], "return_mean")
    if len(history) < STILL or len(returns) < STILL // 2:
        return None
    if (right := _recent(history, "verdict_correct")) is not None and right >= 1 - UNJUDGED:
        return None  # nowhere to go
    older, newer = returns[: len(returns) // 2], returns[len(returns) // 2 :]
    before, now = statistics.fmean(older), statistics.fmean(newer)
    error = math.sqrt(sum(statistics.variance(half) / len(half) for half in (older, newer)))
    if now - before > STILL_ERRORS * error:
        return None
    if before - now > STILL_ERRORS * error:
        return Finding("falling", 1.0, f"the return fell within {STILL} updates, from {before:.3g} to {now:.3g}")
    text = f"the return has not moved within {STILL} updates, {before:.3g} and {now:.3g} in their halves"
    return Finding("still", 1.0, text + ": either this is as good as it gets, or learning_rate is too low")


Rule = Callable[[History], Finding | None]
_TASK_RULES: tuple[Rule, ...] = (_no_spread, _truncated, _unparsed, _unscorable, _broken)
_RUN_RULES: tuple[Rule, ...] = (
    _not_finite, _grad_spike, _entropy, _kl, _logprob_gap, _clipped, _corrected, _grading, _still,
)  # fmt: skip


def _finite(history: History, name: str) -> list[float]:
    return [row[name] for row in history if name in row and math.isfinite(row[name])]


def _recent(history: History, name: str) -> float | None:
    """The mean of a figure over the last updates that have it; None where none has."""
    values = _finite(filled(history[-WINDOW:]), name)
    return statistics.fmean(values) if values else None


def _of_task(row: Mapping[str, float], task: str) -> dict[str, float]:
    prefix = f"{task}/"
    return {name.removeprefix(prefix): value for name, value in row.items() if name.startswith(prefix)}
