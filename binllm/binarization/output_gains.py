"""What first-order binarization gains in output error at every threshold, for `binllm.binarization.search`; compiled.

With x the entries of a group in one output row, n of them, m their mean, and z of them equal to m,

    x̂ = m + s sign(x - m),  s = Σ|x - m| / n,   Σ(x - x̂)² = Σx² - n m² - (n + z) s²

and sign(0) = 0, as in the published code. Deviations from a mean cancel, so that n s is twice the sum of those above it.

From one threshold to the next few entries change: a row's thresholds are gone through in order, and sums brought up to date.
Rows are independent, and no function holds Python's lock, so that threads can share the rows. All is float64.
"""

from __future__ import annotations

import numpy as np

from binllm.compiled import compiled

STEP = 4  # columns that are added up before a sum goes back to memory
PLANES = 4  # whose sum is a row split in two groups, see `output_gains`


@compiled()
def _rank(row: np.ndarray, value: float, start: int) -> int:
    """How many of the ascending entries are below a value, looked for from ``start``."""
    while start < len(row) and row[start] < value:
        start += 1
    while start > 0 and row[start - 1] >= value:
        start -= 1
    return start


@compiled()
def _tied(row: np.ndarray, value: float, rank: int) -> int:
    """The rank after the ascending entries that equal a value of this rank."""
    while rank < len(row) and row[rank] == value:
        rank += 1
    return rank


@compiled()
def _clip(rank: int, low: int, high: int) -> int:
    return min(max(rank, low), high)


@compiled()
def _prefix_sums(row: np.ndarray) -> np.ndarray:
    """(width + 1,) for a row (width,): the sums of its first 0, 1, ..., width entries."""
    prefix = np.zeros(len(row) + 1)
    prefix[1:] = np.cumsum(row)
    return prefix


@compiled()
def _advance(row: np.ndarray, threshold: float, small: np.ndarray) -> bool:
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


@compiled()
def _fit_row(row: np.ndarray, prefix: np.ndarray, small: np.ndarray, tied: np.ndarray, levels: np.ndarray) -> None:
    """Mean and scale of small and large entries of an ascending row: an interval and the rest, each cut in two by its mean.

    Args:
        row: (width,) float64, ascending.
        prefix: Its prefix sums (width + 1,).
        small: (2,) int64, see `_advance`.
        tied: (2, 2) int64, for small and large the first rank of an entry not below the mean and the first of one above it;
            brought up to date.
        levels: (2, 2) float64, overwritten: mean and scale of small, and of large; zeros where there is no entry.
    """
    width, high = len(row), small[1]
    low = min(small[0], high)
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
        above = prefix[high] - prefix[inside] - mean * (high - inside)
        if group == 1:
            above = prefix[width] - prefix[rank] - mean * (width - rank) - above
        levels[group, 0], levels[group, 1], tied[group, 0], tied[group, 1] = mean, 2 * above / size, rank, end


@compiled()
def output_gains(
    x: np.ndarray, order: np.ndarray, pull: np.ndarray, metric: np.ndarray, thresholds: np.ndarray
) -> np.ndarray:
    """How much less than ``x S xᵀ + 2 x c`` the first-order output error ``r S rᵀ + 2 r c``, r = x - x̂, is of such a split.

    x̂ has four values in a row, here in the order small below its mean, small above it, large below, large above. It is the
    sum of four planes, where plane p is 1 from the p-th of these values on (1/2 for an entry equal to its mean), times the
    steps v between the values: ``x̂ = v P``. The error is ``x S xᵀ + 2 x c - 2 v P (S x + c) + v P S Pᵀ vᵀ``, so only
    P (S x + c) and P S Pᵀ are asked for. They are kept from one threshold to the next, with the images P S: an entry that
    changes alters one image or two, by a row of S.

    Args:
        x: (rows, width) float64.
        order: (rows, width) int64, the columns of each row by ascending x.
        pull: S x + c (rows, width) float64.
        metric: S (width, width) float64, symmetric.
        thresholds: t (candidates,) float64, not negative and ascending.

    Returns:
        (candidates,) float64, the sums over all rows; what the errors lack is the same for all candidates.
    """
    rows, width = x.shape
    gains, ones_image = np.zeros(len(thresholds)), metric.sum(1)
    small, tied, levels = np.empty(2, np.int64), np.empty((2, 2), np.int64), np.empty((2, 2))
    place, images, products = np.empty(width), np.empty((PLANES, width)), np.empty((PLANES, PLANES))
    pulled, spans = np.empty(PLANES), np.empty((4, 2), np.int64)
    for i in range(rows):
        row = x[i][order[i]]
        prefix = _prefix_sums(row)
        small[0], small[1], tied[:] = width, 0, 0
        place[:], images[:], products[:], pulled[:] = 0, 0, 0, 0
        images[0], products[0, 0], pulled[0] = ones_image, ones_image.sum(), pull[i].sum()
        gain = 0.0
        for k in range(len(thresholds)):
            spans[:2, 0], spans[2:] = small, tied
            if _advance(row, thresholds[k], small) or k == 0:
                _fit_row(row, prefix, small, tied, levels)
                _widen(spans, small, tied)
                if k == 0:
                    spans[0, 0], spans[0, 1] = 0, width
                for s in range(len(spans)):
                    for rank in range(spans[s, 0], spans[s, 1]):
                        j = order[i, rank]
                        old, new = float(place[j]), _place(rank, small, tied)
                        for p in range(1, PLANES):
                            step = _from_0_to_1(new - p + 1) - _from_0_to_1(old - p + 1)
                            if step != 0:
                                pulled[p] += step * pull[i, j]
                                _add(step, j, p, images, products, metric)
                        place[j] = new
                gain = _gain(levels, products, pulled)
            gains[k] += gain
    return gains


@compiled(fastmath={"contract"})
def output_gain(fit: np.ndarray, pull: np.ndarray, metric: np.ndarray) -> float:
    """The same for one split, ``2 x̂ (S x + c) - x̂ S x̂ᵀ`` summed over all rows; S is symmetric, so half of it is read.

    Args:
        fit: x̂ (width, rows) float64.
        pull: S x + c (width, rows) float64.
        metric: S (width, width) float64.
    """
    gain, image = 0.0, np.empty(fit.shape[1])
    for i in range(len(fit)):
        for r in range(len(image)):
            image[r] = 0.5 * metric[i, i] * fit[i, r] - pull[i, r]
        whole = i // STEP * STEP
        for j in range(0, whole, STEP):
            for r in range(len(image)):
                total = image[r]
                for step in range(STEP):
                    total += metric[i, j + step] * fit[j + step, r]
                image[r] = total
        for j in range(whole, i):
            for r in range(len(image)):
                image[r] += metric[i, j] * fit[j, r]
        for r in range(len(image)):
            gain -= 2 * fit[i, r] * image[r]
    return gain


@compiled()
def _widen(spans: np.ndarray, small: np.ndarray, tied: np.ndarray) -> None:
    """Ranks (4, 2) between where bounds of groups and means were and where they are: only these entries can have changed."""
    for g in range(2):
        spans[g, 0], spans[g, 1] = min(spans[g, 0], small[g]), max(spans[g, 0], small[g])
        spans[2 + g, 0], spans[2 + g, 1] = min(spans[2 + g, 0], tied[g, 0]), max(spans[2 + g, 1], tied[g, 1])


@compiled()
def _place(rank: int, small: np.ndarray, tied: np.ndarray) -> float:
    """Which of the four values stands for the entry of a rank, counted from 0; half way between two at the mean."""
    large = 0 if small[0] <= rank < small[1] else 1
    above = 0.0 if rank < tied[large, 0] else (1.0 if rank >= tied[large, 1] else 0.5)
    return 2 * large + above


@compiled()
def _from_0_to_1(value: float) -> float:
    return min(max(value, 0.0), 1.0)


@compiled(inline="always")
def _add(step: float, j: int, p: int, images: np.ndarray, products: np.ndarray, metric: np.ndarray) -> None:
    """Add to entry j of plane p: what that makes of images P S and products P S Pᵀ."""
    products[p, p] += step * step * metric[j, j]
    for q in range(PLANES):
        products[p, q] += step * images[q, j]
        products[q, p] += step * images[q, j]
    for t in range(len(metric)):
        images[p, t] += step * metric[j, t]


@compiled()
def _gain(levels: np.ndarray, products: np.ndarray, pulled: np.ndarray) -> float:
    """``2 v P (S x + c) - v P S Pᵀ vᵀ`` for means and scales (2, 2) of small and large."""
    (mean, scale), (large_mean, large_scale) = levels
    steps = mean - scale, 2 * scale, large_mean - large_scale - mean - scale, 2 * large_scale
    gain = 0.0
    for p in range(PLANES):
        gain += 2 * steps[p] * pulled[p]
        for q in range(PLANES):
            gain -= steps[p] * steps[q] * products[p, q]
    return gain
