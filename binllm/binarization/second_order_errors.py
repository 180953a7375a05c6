"""Second-order binarization errors of all candidate groupings of a block, for `binllm.binarization.search`; compiled.

With x the entries of a group in one output row, n of them, m their mean, and z of them equal to m,

    first order:   x̂ = m + s sign(x - m),  s = Σ|x - m| / n,   Σ(x - x̂)² = Σx² - n m² - (n + z) s²
    second order:  the same again for x - x̂

and sign(0) = 0, as in the published code. Errors are computed anew for every candidate, by `leading_errors` in all rows at
once, where the inner loops are those over the rows. Rows are independent, and no function holds Python's lock, so that
threads can share the rows. Sums of a row are in the dtype of x.
"""

from __future__ import annotations

import math

import numpy as np

from binllm.compiled import compiled

STEP = 8  # entries of a row that are added up before its sums go back to memory
SUMS_IN_ANY_ORDER = {"reassoc", "contract", "nsz"}  # what a compiler needs to know to add up with vector instructions


@compiled(fastmath=SUMS_IN_ANY_ORDER)
def _second_order_error(x: np.ndarray, total: float) -> float:
    """``Σ(x - x̂)²`` of one group (n,) with this sum; itself, and no difference, since one entry can outweigh all others."""
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
    mean_left, spread, square, ties = scale * (n - 2 * more - ties) / n, 0.0, 0.0, 0
    for j in range(n):
        deviation = x[j] - mean
        left = (deviation - scale if deviation > 0 else (deviation + scale if deviation < 0 else 0.0)) - mean_left
        spread += abs(left)
        square += left * left
        ties += left == 0
    scale = spread / n
    return square - (n + ties) * scale * scale


@compiled()
def leading_errors(x: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Second-order errors of two groups of columns, the first few and the others.

    Args:
        x: (width, rows) float64, or float32 for a rough answer.
        counts: (candidates,) int64, sizes of the first group, ascending, at most the width.

    Returns:
        (candidates,) float64, the sums over all rows.
    """
    errors, total, size = np.zeros(len(counts)), x.sum(0), 0
    first = np.zeros_like(total)
    for k in range(len(counts)):
        while size < counts[k]:
            first += x[size]
            size += 1
        errors[k] = _columns_error(x, 0, size, first) + _columns_error(x, size, len(x), total - first)
    return errors


@compiled()
def _columns_error(x: np.ndarray, start: int, stop: int, total: np.ndarray) -> float:
    """What `_second_order_error` gives for the columns from start to stop of x (width, rows), summed over the rows."""
    if stop - start <= 2:
        return 0.0  # two entries are their mean plus and minus one scale
    n = x.dtype.type(stop - start)
    mean, spread, other, least = total / n, np.zeros_like(total), np.zeros_like(total), np.full_like(total, np.inf)
    _first_pass(x, start, stop, mean, spread, other, least)
    scale = spread / n
    shift, spread[:], other[:] = -scale * other / n, 0, 0
    _second_pass(x, start, stop, mean, scale, shift, spread, other, least)
    error = 0.0
    for r in range(len(total)):
        if least[r] > 0:
            error += other[r] - spread[r] * spread[r] / n
        else:  # an entry equals a mean, and its sign is 0 where -1 or 1 was taken
            error += _second_order_error(x[start:stop, r].copy(), total[r])
    return error


@compiled(fastmath={"contract"})
def _first_pass(
    x: np.ndarray, start: int, stop: int, mean: np.ndarray, spread: np.ndarray, signs: np.ndarray, least: np.ndarray
) -> None:
    """Add up magnitudes and signs of the deviations from the mean, and find the least magnitude."""
    whole, one = start + (stop - start) // STEP * STEP, x.dtype.type(1)
    for j in range(start, whole, STEP):
        for r in range(len(mean)):
            sums = spread[r], signs[r], least[r]
            for step in range(STEP):
                sums = _with_deviation(x[j + step, r] - mean[r], one, sums)
            spread[r], signs[r], least[r] = sums
    for j in range(whole, stop):
        for r in range(len(mean)):
            spread[r], signs[r], least[r] = _with_deviation(x[j, r] - mean[r], one, (spread[r], signs[r], least[r]))


@compiled(fastmath={"contract"})
def _with_deviation(deviation: float, one: float, sums: tuple[float, float, float]) -> tuple[float, float, float]:
    spread, signs, least = sums
    magnitude = abs(deviation)
    return spread + magnitude, signs + math.copysign(one, deviation), magnitude if magnitude < least else least


@compiled(fastmath={"contract"})
def _second_pass(
    x: np.ndarray,
    start: int,
    stop: int,
    mean: np.ndarray,
    scale: np.ndarray,
    shift: np.ndarray,
    spread: np.ndarray,
    square: np.ndarray,
    least: np.ndarray,
) -> None:
    """Add up magnitudes and squares of what the first order leaves, less its mean, the shift; and go on with the least."""
    whole = start + (stop - start) // STEP * STEP
    for j in range(start, whole, STEP):
        for r in range(len(mean)):
            sums = spread[r], square[r], least[r]
            for step in range(STEP):
                sums = _with_rest(x[j + step, r] - mean[r], scale[r], shift[r], sums)
            spread[r], square[r], least[r] = sums
    for j in range(whole, stop):
        for r in range(len(mean)):
            sums = spread[r], square[r], least[r]
            spread[r], square[r], least[r] = _with_rest(x[j, r] - mean[r], scale[r], shift[r], sums)


@compiled(fastmath={"contract"})
def _with_rest(
    deviation: float, scale: float, shift: float, sums: tuple[float, float, float]
) -> tuple[float, float, float]:
    spread, square, least = sums
    left = deviation - math.copysign(scale, deviation) - shift
    magnitude = abs(left)
    return spread + magnitude, square + left * left, magnitude if magnitude < least else least


@compiled()
def nested_errors(x: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """Second-order errors of two groups, the first entries of each row and the others; rows are cut at places of their own.

    Args:
        x: (rows, width) float64.
        cuts: (rows, candidates) int64, the size of the first group, ascending in each row.

    Returns:
        (candidates,) float64, the sums over all rows.
    """
    errors = np.zeros(cuts.shape[1])
    for i in range(len(x)):
        row, total = x[i], x[i].sum()
        first, size, error = 0.0, -1, 0.0
        for k in range(cuts.shape[1]):
            cut = cuts[i, k]
            if cut != size:
                first += row[max(size, 0) : cut].sum()
                error = _second_order_error(row[:cut], first) + _second_order_error(row[cut:], total - first)
                size = cut
            errors[k] += error
    return errors
