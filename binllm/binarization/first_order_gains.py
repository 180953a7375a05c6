"""First-order binarization of a block split at a threshold, and what it gains, for `binllm.binarization.search`; compiled.

With x the entries of a group in one output row, n of them, m their mean, and z of them equal to m,

    x̂ = m + s sign(x - m),  s = Σ|x - m| / n,   Σ(x - x̂)² = Σx² - n m² - (n + z) s²

and sign(0) = 0, as in the published code. Gains are computed anew for every candidate, in all rows at once: the inner loops
are those over the rows. Rows are independent, and no function holds Python's lock, so that threads can share the rows. Sums
of a row are in the dtype of x.
"""

from __future__ import annotations

import numpy as np

from binllm.compiled import compiled

STEP = 8  # entries of a row that are added up before its sums go back to memory


@compiled()
def threshold_gains(x: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """How much less than ``Σx²`` the first-order error is of the entries with ``|x| < t`` and the others.

    Args:
        x: (width, rows) float64, or float32 for a rough answer.
        thresholds: t (candidates,) of the same dtype.

    Returns:
        (candidates,) float64, the sums over all rows; what the errors lack is the same for all candidates.
    """
    gains, total = np.zeros(len(thresholds)), x.sum(0)
    for k in range(len(thresholds)):
        t = thresholds[k]
        size, small, means, scales, least = _levels(x, t, total)
        for r in range(len(total)):
            ties = _ties(x[:, r], t, means[0][r], means[1][r]) if least[r] == 0 else (0, 0)
            gains[k] += small[r] * means[0][r] + (size[r] + ties[0]) * scales[0][r] ** 2
            gains[k] += (total[r] - small[r]) * means[1][r] + (len(x) - size[r] + ties[1]) * scales[1][r] ** 2
    return gains


@compiled()
def split_fit(x: np.ndarray, t: float) -> np.ndarray:
    """x̂ (width, rows) of the entries with ``|x| < t`` and the others, for x (width, rows) float64."""
    means, scales = _levels(x, t, x.sum(0))[2:4]
    fit = np.empty_like(x)
    for j in range(len(x)):
        for r in range(x.shape[1]):
            large = int(abs(x[j, r]) >= t)
            deviation = x[j, r] - means[large, r]
            fit[j, r] = means[large, r] + (np.sign(deviation) * scales[large, r])
    return fit


@compiled()
def _levels(
    x: np.ndarray, t: float, total: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Fit all rows: how many entries are small, their sum; means and scales (2, rows), small first; the least |x - m|."""
    size, small, least = np.zeros_like(total), np.zeros_like(total), np.full_like(total, np.inf)
    means, scales = np.zeros((2, len(total)), x.dtype), np.zeros((2, len(total)), x.dtype)
    _first_pass(x, t, size, small)
    for r in range(len(total)):
        means[0, r], means[1, r] = small[r] / max(size[r], 1), (total[r] - small[r]) / max(len(x) - size[r], 1)
    _second_pass(x, t, means, scales, least)
    for r in range(len(total)):
        scales[0, r] /= max(size[r], 1)
        scales[1, r] /= max(len(x) - size[r], 1)
    return size, small, means, scales, least


@compiled(fastmath={"contract"})
def _first_pass(x: np.ndarray, t: float, size: np.ndarray, small: np.ndarray) -> None:
    """Count the small entries and add them up."""
    whole, none, one = len(x) // STEP * STEP, x.dtype.type(0), x.dtype.type(1)
    for j in range(0, whole, STEP):
        for r in range(len(size)):
            sums = size[r], small[r]
            for step in range(STEP):
                below = abs(x[j + step, r]) < t
                sums = sums[0] + (one if below else none), sums[1] + (x[j + step, r] if below else none)
            size[r], small[r] = sums
    for j in range(whole, len(x)):
        for r in range(len(size)):
            below = abs(x[j, r]) < t
            size[r] += one if below else none
            small[r] += x[j, r] if below else none


@compiled(fastmath={"contract"})
def _second_pass(x: np.ndarray, t: float, means: np.ndarray, spread: np.ndarray, least: np.ndarray) -> None:
    """Add up magnitudes of the deviations from the means of small and large entries, and find the least magnitude."""
    whole, none = len(x) // STEP * STEP, x.dtype.type(0)
    for j in range(0, whole, STEP):
        for r in range(len(least)):
            sums = spread[0, r], spread[1, r], least[r]
            for step in range(STEP):
                sums = _with_deviation(x[j + step, r], t, (means[0, r], means[1, r], none), sums)
            spread[0, r], spread[1, r], least[r] = sums
    for j in range(whole, len(x)):
        for r in range(len(least)):
            sums = spread[0, r], spread[1, r], least[r]
            spread[0, r], spread[1, r], least[r] = _with_deviation(x[j, r], t, (means[0, r], means[1, r], none), sums)


@compiled(fastmath={"contract"})
def _with_deviation(
    x: float, t: float, means: tuple[float, float, float], sums: tuple[float, float, float]
) -> tuple[float, float, float]:
    (small, large, least), none = sums, means[2]
    below = abs(x) < t
    magnitude = abs(x - (means[0] if below else means[1]))
    return (
        small + (magnitude if below else none),
        large + (none if below else magnitude),
        magnitude if magnitude < least else least,
    )


@compiled()
def _ties(x: np.ndarray, t: float, small: float, large: float) -> tuple[int, int]:
    """How many of a row's entries (width,) equal the mean of their group."""
    of_small, of_large = 0, 0
    for j in range(len(x)):
        below = abs(x[j]) < t
        of_small += below and x[j] == small
        of_large += not below and x[j] == large
    return of_small, of_large
