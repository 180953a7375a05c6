"""The published fits that ask nothing of other output rows, BiLLM's and ARB's; compiled.

Rows lie next to each other in memory (tensors are transposed, columns first), so the loops over a few of them are the inner
ones. Sums over columns are added up sixteen at a time, as torch does.
"""

from __future__ import annotations

import numpy as np

from binllm.compiled import compiled

EMPTY = 1e-8  # added to denominators that are zero where a row has no signs, as in the published code
RUN = 16  # entries that are added up on their own, so that sums of many lose less to rounding


@compiled()
def columns_of_cells(cell: np.ndarray, cells: int) -> np.ndarray:
    """Which columns have entries of a cell, (cells, width) bool, for the cells (width, n_out) of a block's entries."""
    present = np.zeros((cells, len(cell)), np.bool_)
    for j in range(len(cell)):
        for r in range(cell.shape[1]):
            present[cell[j, r], j] = True
    return present


@compiled()
def fit_rows(
    target: np.ndarray,
    cell: np.ndarray,
    present: np.ndarray,
    orders: np.ndarray,
    iterations: int,
    rows: tuple[int, int],
    signs: np.ndarray,
    mean: np.ndarray,
    scale: np.ndarray,
) -> None:
    """Fit mean, scales and signs of every cell in some output rows: BiLLM's, then rounds of ARB's.

    Args:
        target: Wᵀ (width, n_out), float32 or float64.
        cell: (width, n_out) uint8.
        present: (cells, width) bool, the columns with entries of a cell.
        orders: (cells,) int64, sign planes of each cell, 1 or 2.
        iterations: ARB's rounds; none leaves BiLLM's fit.
        rows: The first row, and the one after the last.
        signs: B (2, width, n_out) int8, zeros; written where a plane has an entry.
        mean: μ (cells, n_out) of the target's dtype, written.
        scale: a (2, cells, n_out), zeros, written.
    """
    start, stop = rows
    for c in range(len(orders)):
        columns, order, n = np.nonzero(present[c])[0], orders[c], stop - start
        x, inside = np.empty((len(columns), n), target.dtype), np.empty((len(columns), n), target.dtype)
        for k in range(len(columns)):
            own, values = cell[columns[k], start:stop], target[columns[k], start:stop]
            for r in range(n):
                inside[k, r] = 1 if own[r] == c else 0
                x[k, r] = values[r] * inside[k, r]
        planes, rest = np.zeros((2, len(columns), n), target.dtype), x.copy()
        count, held = np.maximum(_sum(inside), target.dtype.type(1)), np.zeros(n, target.dtype)
        m, s = np.zeros(n, target.dtype), np.zeros((2, n), target.dtype)
        for p in range(order):
            _moments(rest, inside, count, m, s[p], planes[p])
        total = _sum(x)
        for _ in range(iterations):
            held[:] = 0
            for p in range(order):
                held += s[p] * _sum(planes[p])
            m = (total - held) / count
            for k in range(len(columns)):
                for r in range(n):
                    rest[k, r] = (x[k, r] - m[r]) * inside[k, r]
            for p in range(order):
                _least_squares(rest, planes, p, order, s)
            _nearest(rest, inside, order, s, planes)
        mean[c, start:stop] = m
        for p in range(order):
            scale[p, c, start:stop] = s[p]
            for k in range(len(columns)):
                written = signs[p, columns[k], start:stop]
                for r in range(n):
                    written[r] += np.int8(planes[p, k, r])


@compiled()
def _sum(x: np.ndarray) -> np.ndarray:
    """Sums (n,) over the first dimension of x (k, n)."""
    total, part = np.zeros(x.shape[1], x.dtype), np.empty(x.shape[1], x.dtype)
    for first in range(0, len(x), RUN):
        part[:] = 0
        for k in range(first, min(first + RUN, len(x))):
            for r in range(x.shape[1]):
                part[r] += x[k, r]
        total += part
    return total


@compiled()
def _moments(
    rest: np.ndarray, inside: np.ndarray, count: np.ndarray, mean: np.ndarray, scale: np.ndarray, plane: np.ndarray
) -> None:
    """One plane of BiLLM's fit; the rest is brought up to date, without and with the plane."""
    shift = _sum(rest) / count
    mean += shift
    magnitude = np.empty_like(rest)
    for k in range(len(rest)):
        for r in range(rest.shape[1]):
            left = (rest[k, r] - shift[r]) * inside[k, r]
            rest[k, r] = left
            magnitude[k, r] = abs(left)
        _sign(rest[k], plane[k])
    scale[:] = _sum(magnitude) / count
    for k in range(len(rest)):
        for r in range(rest.shape[1]):
            rest[k, r] -= plane[k, r] * scale[r]


@compiled()
def _least_squares(rest: np.ndarray, planes: np.ndarray, p: int, order: int, scale: np.ndarray) -> None:
    """The scale of plane p that fits best what the other one leaves."""
    product, square = np.empty_like(rest), np.empty_like(rest)
    for k in range(len(rest)):
        for r in range(rest.shape[1]):
            left = rest[k, r]
            if order == 2:
                left -= scale[1 - p, r] * planes[1 - p, k, r]
            product[k, r] = planes[p, k, r] * left
            square[k, r] = planes[p, k, r] * planes[p, k, r]
    scale[p] = _sum(product) / (_sum(square) + rest.dtype.type(EMPTY))


@compiled()
def _nearest(rest: np.ndarray, inside: np.ndarray, order: int, scale: np.ndarray, planes: np.ndarray) -> None:
    """The signs nearest to the rest; with two planes as in `binllm.binarization.cell_fits.nearest_signs`."""
    for k in range(len(rest)):
        if order == 1:
            _sign(rest[k], planes[0, k])
            continue
        for r in range(rest.shape[1]):
            x, a, b, one = rest[k, r], scale[0, r], scale[1, r], inside[k, r]
            same = (abs(x) > max(abs(a), abs(b))) == (a * b > 0)
            first = one if x * (a + (b if same else -b)) > 0 else -one
            planes[0, k, r] = first
            planes[1, k, r] = first if same else -first


@compiled()
def _sign(x: np.ndarray, sign: np.ndarray) -> None:
    """-1, 0 or 1 in floating point (n,)."""
    one, zero = x.dtype.type(1), x.dtype.type(0)
    for r in range(len(x)):
        sign[r] = (one if x[r] > 0 else zero) - (one if x[r] < 0 else zero)
