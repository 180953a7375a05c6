"""Output errors of all candidate splits of a block, for ARB-X's search in `binllm.binarization.search`; compiled.

A row x is binarized in two groups, see `binllm.binarization.search_errors`. x̂ then has four values, here in the order small
below its mean, small above it, large below, large above. It is the sum of four planes, where plane p is 1 from the p-th of
these values on (1/2 for an entry equal to its mean), times the steps v between the values: x̂ = v P, and with r = x - x̂

    r S rᵀ + 2 r c = x S xᵀ + 2 x c - 2 v P (S x + c) + v P S Pᵀ vᵀ.

So only P (S x + c) and P S Pᵀ are asked for. They are kept from one threshold to the next, with the images P S: an entry
that changes alters one image, by a row of S, and rarely more.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from binllm.binarization.search_errors import advance, fit_row, prefix_sums

PLANES = 4


@njit(nogil=True, cache=True)
def output_gains(
    x: np.ndarray, order: np.ndarray, pull: np.ndarray, metric: np.ndarray, thresholds: np.ndarray
) -> np.ndarray:
    """How much less than ``x S xᵀ + 2 x c`` the first-order error is of the entries with ``|x| < t`` and the others.

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
        prefix = prefix_sums(row)
        small[0], small[1], tied[:] = width, 0, 0
        place[:], images[:], products[:], pulled[:] = 0, 0, 0, 0
        images[0], products[0, 0], pulled[0] = ones_image, ones_image.sum(), pull[i].sum()
        gain = 0.0
        for k in range(len(thresholds)):
            spans[:2, 0], spans[2:] = small, tied
            if advance(row, thresholds[k], small) or k == 0:
                fit_row(row, prefix, small, tied, levels)
                _widen(spans, small, tied)
                if k == 0:
                    spans[0, 0], spans[0, 1] = 0, width
                for s in range(len(spans)):
                    for rank in range(spans[s, 0], spans[s, 1]):
                        j = order[i, rank]
                        old, new = float(place[j]), _place(rank, small, tied)
                        for p in range(1, PLANES):
                            step = _clip(new - p + 1) - _clip(old - p + 1)
                            if step != 0:
                                pulled[p] += step * pull[i, j]
                                _add(step, j, p, images, products, metric)
                        place[j] = new
                gain = _gain(levels, products, pulled)
            gains[k] += gain
    return gains


@njit(nogil=True, cache=True)
def _widen(spans: np.ndarray, small: np.ndarray, tied: np.ndarray) -> None:
    """Ranks (4, 2) between where bounds of groups and means were and where they are: only these entries can have changed."""
    for g in range(2):
        spans[g, 0], spans[g, 1] = min(spans[g, 0], small[g]), max(spans[g, 0], small[g])
        spans[2 + g, 0], spans[2 + g, 1] = min(spans[2 + g, 0], tied[g, 0]), max(spans[2 + g, 1], tied[g, 1])


@njit(nogil=True, cache=True)
def _place(rank: int, small: np.ndarray, tied: np.ndarray) -> float:
    """Which of the four values stands for the entry of a rank, counted from 0; half way between two at the mean."""
    large = 0 if min(small[0], small[1]) <= rank < small[1] else 1
    above = 0.0 if rank < tied[large, 0] else (1.0 if rank >= tied[large, 1] else 0.5)
    return 2 * large + above


@njit(nogil=True, cache=True)
def _clip(value: float) -> float:
    return min(max(value, 0.0), 1.0)


@njit(nogil=True, cache=True, inline="always")
def _add(step: float, j: int, p: int, images: np.ndarray, products: np.ndarray, metric: np.ndarray) -> None:
    """Add to entry j of plane p: what that makes of images P S and products P S Pᵀ."""
    products[p, p] += step * step * metric[j, j]
    for q in range(PLANES):
        products[p, q] += step * images[q, j]
        products[q, p] += step * images[q, j]
    for t in range(len(metric)):
        images[p, t] += step * metric[j, t]


@njit(nogil=True, cache=True)
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
