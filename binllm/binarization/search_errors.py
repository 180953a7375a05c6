"""Binarization errors of all candidate groupings of a block, for the searches in `binllm.binarization.search`; compiled.

With x the entries of a group in one output row, n of them, m their mean, and z of them equal to m,

    first order:   x̂ = m + s sign(x - m),  s = Σ|x - m| / n,   Σ(x - x̂)² = Σx² - n m² - (n + z) s²
    second order:  the same again for x - x̂

and sign(0) = 0, as in the published code. Deviations from a mean cancel, so that n s is twice the sum of those above it.

From one candidate to the next few entries change: every function goes through a row's candidates in order and brings sums up
to date. Rows are independent, and no function holds Python's lock, so that threads can share the rows. All is float64.
"""

from __future__ import annotations

import numpy as np
from numba import njit

SUMS_IN_ANY_ORDER = {"reassoc", "contract", "nsz"}  # what a compiler needs to know to add up with vector instructions


@njit(nogil=True, cache=True, fastmath=SUMS_IN_ANY_ORDER)
def group_gain(x: np.ndarray, total: float, order: int) -> float:
    """``Σx² - Σ(x - x̂)²`` of one group.

    Args:
        x: (n,) float64.
        total: Its sum.
        order: Planes, 1 or 2.
    """
    n = len(x)
    if n == 0:
        return 0.0
    mean = total / n
    above, more, ties = 0.0, 0, 0
    for j in range(n):
        deviation = x[j] - mean
        above += deviation if deviation > 0 else 0.0
        more += deviation > 0
        ties += deviation == 0
    scale = 2 * above / n
    gain = n * mean * mean + (n + ties) * scale * scale
    if order == 2:
        mean_left, spread, ties = scale * (n - 2 * more - ties) / n, 0.0, 0
        for j in range(n):
            deviation = x[j] - mean
            left = (deviation - scale if deviation > 0 else (deviation + scale if deviation < 0 else 0.0)) - mean_left
            spread += abs(left)
            ties += left == 0
        scale = spread / n
        gain += n * mean_left * mean_left + (n + ties) * scale * scale
    return gain


@njit(nogil=True, cache=True)
def nested_gains(x: np.ndarray, cuts: np.ndarray, order: int) -> np.ndarray:
    """How much less than ``Σx²`` the error of two groups is, the first entries of each row and the others.

    Args:
        x: (rows, width) float64.
        cuts: (rows, candidates) int64, the size of the first group, ascending in each row.
        order: Planes of either group, 1 or 2.

    Returns:
        (candidates,) float64, the sums over all rows; what the errors lack is the same for all candidates.
    """
    gains = np.zeros(cuts.shape[1])
    for i in range(len(x)):
        row, total = x[i], x[i].sum()
        first, size, gain = 0.0, -1, 0.0
        for k in range(cuts.shape[1]):
            cut = cuts[i, k]
            if cut != size:
                first += row[max(size, 0) : cut].sum()
                gain = group_gain(row[:cut], first, order) + group_gain(row[cut:], total - first, order)
                size = cut
            gains[k] += gain
    return gains


@njit(nogil=True, cache=True)
def threshold_ranks(magnitudes: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """How many magnitudes of each row are below each threshold.

    Args:
        magnitudes: (rows, width) float64, ascending in each row.
        thresholds: (candidates,) float64, ascending.

    Returns:
        (rows, candidates) int64.
    """
    ranks = np.empty((len(magnitudes), len(thresholds)), np.int64)
    for i in range(len(magnitudes)):
        rank = 0
        for k in range(len(thresholds)):
            while rank < magnitudes.shape[1] and magnitudes[i, rank] < thresholds[k]:
                rank += 1
            ranks[i, k] = rank
    return ranks


@njit(nogil=True, cache=True)
def _rank(row: np.ndarray, value: float, start: int) -> int:
    """How many of the ascending entries are below a value, looked for from ``start``."""
    while start < len(row) and row[start] < value:
        start += 1
    while start > 0 and row[start - 1] >= value:
        start -= 1
    return start


@njit(nogil=True, cache=True)
def _tied(row: np.ndarray, value: float, rank: int) -> int:
    """The rank after the ascending entries that equal a value of this rank."""
    while rank < len(row) and row[rank] == value:
        rank += 1
    return rank


@njit(nogil=True, cache=True)
def _clip(rank: int, low: int, high: int) -> int:
    return min(max(rank, low), high)


@njit(nogil=True, cache=True)
def prefix_sums(row: np.ndarray) -> np.ndarray:
    """(width + 1,) for a row (width,): the sums of its first 0, 1, ..., width entries."""
    prefix = np.zeros(len(row) + 1)
    prefix[1:] = np.cumsum(row)
    return prefix


@njit(nogil=True, cache=True)
def advance(row: np.ndarray, threshold: float, small: np.ndarray) -> bool:
    """Move on to the next threshold; returns whether that changes the groups.

    Args:
        row: (width,) float64, ascending.
        threshold: Not negative, not below the last one.
        small: (2,) int64, the first rank of a small entry and the one after the last; brought up to date. At first
            (width, 0). A threshold of 0 has no small entries, and may leave the first rank above the last.
    """
    low, high = small[0], small[1]
    while high < len(row) and row[high] < threshold:
        high += 1
    while low > 0 and row[low - 1] > -threshold:
        low -= 1
    changes = low != small[0] or high != small[1]
    small[0], small[1] = low, high
    return changes


@njit(nogil=True, cache=True)
def fit_row(row: np.ndarray, prefix: np.ndarray, small: np.ndarray, tied: np.ndarray, levels: np.ndarray) -> float:
    """Mean and scale of small and large entries of an ascending row: an interval and the rest, each cut in two by its mean.

    Args:
        row: (width,) float64, ascending.
        prefix: Its prefix sums (width + 1,).
        small: (2,) int64, see `advance`.
        tied: (2, 2) int64, for small and large the first rank of an entry not below the mean and the first of one above it;
            brought up to date.
        levels: (2, 2) float64, overwritten: mean and scale of small, and of large; zeros where there is no entry.

    Returns:
        How much less than ``Σx²`` the first-order error of both is.
    """
    width, high = len(row), small[1]
    low = min(small[0], high)
    gain = 0.0
    for group in range(2):
        size, total = high - low, prefix[high] - prefix[low]
        if group == 1:
            size, total = width - size, prefix[width] - total
        if size == 0:
            levels[group, 0], levels[group, 1], tied[group, 1] = 0, 0, tied[group, 0]
            continue
        mean = total / size
        rank = _rank(row, mean, tied[group, 0])
        end = _tied(row, mean, rank)
        inside = _clip(rank, low, high)
        above, ties = prefix[high] - prefix[inside] - mean * (high - inside), _clip(end, low, high) - inside
        if group == 1:
            above, ties = prefix[width] - prefix[rank] - mean * (width - rank) - above, end - rank - ties
        scale = 2 * above / size
        gain += total * mean + (size + ties) * scale * scale
        levels[group, 0], levels[group, 1], tied[group, 0], tied[group, 1] = mean, scale, rank, end
    return gain


@njit(nogil=True, cache=True)
def threshold_gains(ascending: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """How much less than ``Σx²`` the first-order error is of the entries with ``|x| < t`` and the others.

    Args:
        ascending: x (rows, width) float64, ascending in each row.
        thresholds: t (candidates,) float64, not negative and ascending.

    Returns:
        (candidates,) float64, the sums over all rows; what the errors lack is the same for all candidates.
    """
    rows, width = ascending.shape
    gains = np.zeros(len(thresholds))
    small, tied, levels = np.empty(2, np.int64), np.empty((2, 2), np.int64), np.empty((2, 2))
    for i in range(rows):
        row, prefix = ascending[i], prefix_sums(ascending[i])
        small[0], small[1], tied[:] = width, 0, 0
        gain = 0.0
        for k in range(len(thresholds)):
            if advance(row, thresholds[k], small) or k == 0:
                gain = fit_row(row, prefix, small, tied, levels)
            gains[k] += gain
    return gains
