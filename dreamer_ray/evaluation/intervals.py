"""How sure a figure is: intervals of success rates, of means and of differences between two players of the same worlds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

Values = Sequence[float] | np.ndarray


@dataclass(frozen=True)
class Interval:
    """An estimate from ``n`` observations and the bounds of its confidence interval (NaN where n is too small for any)."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def success_rate(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a chance of which ``successes`` of ``n`` trials are known; sensible also at 0 and at n of n."""
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} successes of {n} trials: expected 0 <= successes <= trials and at least one trial")
    bounds = stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return Interval(successes / n, float(bounds.low), float(bounds.high), n)


def mean(values: Values, confidence: float = 0.95) -> Interval:
    """Student's t interval of the mean of independent ``values``; its bounds are NaN below two values."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"values of shape {values.shape}: expected a list of at least one number")
    centre, n = float(values.mean()), len(values)
    if n == 1:
        return Interval(centre, math.nan, math.nan, 1)
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1) * values.std(ddof=1) / math.sqrt(n))
    return Interval(centre, centre - half, centre + half, n)


def paired_difference(after: Values, before: Values, confidence: float = 0.95) -> Interval:
    """Student's t interval of the mean of ``after - before``, both measured in the same worlds in the same order."""
    return mean(_differences(after, before), confidence)


def paired_bootstrap(
    after: Values, before: Values, generator: np.random.Generator, *, draws: int = 10_000, confidence: float = 0.95
) -> Interval:
    """Percentile bootstrap interval of the mean of ``after - before``: no assumption about the shape, whole worlds are redrawn.

    Its bounds are NaN for one world, of which every redraw is the same.
    """
    differences = _differences(after, before)
    n = len(differences)
    if n == 1:
        return Interval(float(differences[0]), math.nan, math.nan, 1)
    means = differences[generator.integers(n, size=(draws, n))].mean(1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(differences.mean()), float(low), float(high), n)


def ratio_bootstrap(
    above: Values, below: Values, generator: np.random.Generator, *, draws: int = 10_000, confidence: float = 0.95
) -> Interval:
    """Percentile bootstrap interval of ``sum(above) / sum(below)``, both measured in the same worlds, which are redrawn as wholes.

    Infinite where nothing is below; NaN where nothing is above either.
    """
    _differences(above, below)
    sums = np.stack([above, below], 1).astype(np.float64)
    counts = generator.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=draws)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.divide(*(counts @ sums).T)
        value = float(np.divide(*sums.sum(0)))
    low, high = np.quantile(ratios, [(1 - confidence) / 2, (1 + confidence) / 2], method="inverted_cdf")
    return Interval(value, float(low), float(high), len(sums))


def _differences(after: Values, before: Values) -> np.ndarray:
    after, before = np.asarray(after, dtype=np.float64), np.asarray(before, dtype=np.float64)
    if after.shape != before.shape or after.ndim != 1 or not len(after):
        raise ValueError(f"pairs of shapes {after.shape} and {before.shape}: expected two lists of the same worlds, at least one")
    return after - before
