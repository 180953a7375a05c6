"""Two settings over the seeds that both have: the paired t-test and its interval."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

LEVEL = 0.95


@dataclass(frozen=True)
class Paired:
    """First minus second, seed by seed.

    Attributes:
        seeds: How many they have in common.
        difference: Mean of the differences.
        standard_error: Of the mean; None for a single seed or differences without spread.
        p_value: Of Student's paired test, two-sided; None likewise.
        low: Lower end of the 95 % interval of the mean difference; None for a single seed.
        high: Upper end.
    """

    seeds: int
    difference: float
    standard_error: float | None = None
    p_value: float | None = None
    low: float | None = None
    high: float | None = None


def paired_over_seeds(first: Mapping[int, float], second: Mapping[int, float]) -> Paired | None:
    """Compare two settings over their common seeds.

    Args:
        first: A value a seed.
        second: Those of the other setting.

    Returns:
        The comparison; None without a common seed, or where a value is not finite.
    """
    from scipy import stats

    differences = [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]
    if not differences or not all(map(math.isfinite, differences)):
        return None
    count, mean = len(differences), statistics.fmean(differences)
    if count == 1:
        return Paired(count, mean)
    spread = statistics.stdev(differences)
    if spread == 0:
        return Paired(count, mean, low=mean, high=mean)
    error = spread / math.sqrt(count)
    half = error * float(stats.t.ppf((1 + LEVEL) / 2, count - 1))
    p_value = 2 * float(stats.t.sf(abs(mean) / error, count - 1))
    return Paired(count, mean, error, p_value, mean - half, mean + half)
