"""What can be said of a rate from a number of samples: estimates with 95 % intervals, as pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_Z95 = 1.959963984540054  # the normal distribution holds 95 % within so many deviations
_RESAMPLES = 10_000
_RESAMPLES_AT_A_TIME = 1_000


@dataclass(frozen=True)
class Estimate:
    """A share and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.1%} ({self.low:.1%} to {self.high:.1%})"


@dataclass(frozen=True)
class Mean:
    """The mean of any numbers and its 95 % interval, whose ends are None where nothing can be said of it."""

    value: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.3f} (no interval)"
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"

    def below(self, best: float) -> Mean:
        """How far this lies below `best`."""
        low, high = (None if end is None else best - end for end in (self.high, self.low))
        return Mean(best - self.value, low, high)


def wilson(successes: int, n: int) -> Estimate:
    """A share of n independent trials with Wilson's score interval, which holds near 0 and 1 as well."""
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} successes of {n}")
    return _wilson(successes / n, n)


def _wilson(share: float, n: int) -> Estimate:
    z2 = _Z95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n**2))
    # Rounding may miss the ends of the scale, where the interval touches them exactly.
    return Estimate(share, 0.0 if share == 0.0 else centre - half, 1.0 if share == 1.0 else centre + half)


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Probability that one of k answers is right, from n answers of which `correct` are: 1 - C(n-c, k) / C(n, k).

    The estimator without bias of Chen et al. (2021), arXiv:2107.03374; computed in whole numbers.
    """
    if not 0 <= correct <= n or not 1 <= k <= n:
        raise ValueError(f"pass@{k} of {n} answers, {correct} of them right")
    total = math.comb(n, k)
    return (total - math.comb(n - correct, k)) / total


def ratio_over_problems(counts: Sequence[float], sizes: Sequence[int], *, seed: int = 0) -> Estimate:
    """`sum(counts) / sum(sizes)` with a bootstrap interval over problems.

    Answers to one problem are alike, so whole problems are drawn again, not single answers (percentiles of 10,000
    draws). Where all problems agree, or there is but one, every draw is the same and says nothing of chance; then
    Wilson's interval stands in, with as many trials as problems.

    Args:
        counts: by problem, how many of its answers have the property (or its estimate, with size 1): `[P]`.
        sizes: by problem, how many answers it has: `[P]`.
        seed: of the draws.
    """
    if not sizes or len(counts) != len(sizes) or min(sizes) < 1:
        raise ValueError("every problem needs a count and at least one answer")
    share = sum(counts) / sum(sizes)
    if _agree(counts, sizes):
        return _wilson(share, len(sizes))
    return Estimate(share, *_bootstrap(counts, sizes, seed=seed))


def mean_over_problems(values: Sequence[Sequence[float]], *, seed: int = 0) -> Mean:
    """The mean of all values with a bootstrap interval over problems, as in `ratio_over_problems`.

    Where all problems agree, or there is but one, there is no interval: nothing is known of what values there could be
    besides.

    Args:
        values: by problem, the values of its answers: `[P][answers]`, none of them empty.
        seed: of the draws.
    """
    if not values or not all(values):
        raise ValueError("every problem needs at least one value")
    sums, sizes = [math.fsum(some) for some in values], [len(some) for some in values]
    mean = math.fsum(sums) / sum(sizes)
    return Mean(mean, None, None) if _agree(sums, sizes) else Mean(mean, *_bootstrap(sums, sizes, seed=seed))


def _agree(sums: Sequence[float], sizes: Sequence[int]) -> bool:
    """Whether all problems have the same mean, but for rounding."""
    means = [part / size for part, size in zip(sums, sizes, strict=True)]
    return math.isclose(min(means), max(means), rel_tol=1e-9, abs_tol=1e-12)


def _bootstrap(sums: Sequence[float], sizes: Sequence[int], *, seed: int) -> tuple[float, float]:
    """The ends of the interval."""
    rng = np.random.default_rng(seed)
    a, b = np.asarray(sums, dtype=np.float64), np.asarray(sizes, dtype=np.float64)
    drawn = []
    for _ in range(_RESAMPLES // _RESAMPLES_AT_A_TIME):
        rows = rng.integers(len(a), size=(_RESAMPLES_AT_A_TIME, len(a)))
        drawn.append(a[rows].sum(1) / b[rows].sum(1))
    low, high = np.percentile(np.concatenate(drawn), [2.5, 97.5])
    return float(low), float(high)


def ks_up_to(n: int) -> list[int]:
    """1, 2, 4, ... up to n, and n itself."""
    found = [2**i for i in range(n.bit_length())]
    return found if found[-1] == n else [*found, n]
