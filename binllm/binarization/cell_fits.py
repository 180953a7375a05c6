"""The published fits of a block that is partitioned into cells: BiLLM, ARB, ARB-X and ARB-RC (2402.04291, 2410.03129).

Every fit treats the cells one by one, each on the columns where it has entries, so that a few salient columns cost little.
Tensors are transposed: a target is Wᵀ (width, n_out). The fits of BiLLM and ARB are compiled and run on the CPU, see
`binllm.binarization.row_fits`; the others fit all rows of a cell at once, where the tensors are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from binllm.binarization.cells import Cells
from binllm.binarization.row_fits import EMPTY, columns_of_cells, fit_rows
from binllm.parallel import by_parts

Result = TypeVar("Result")

PANEL = 192  # output rows that a thread takes at once; their tensors stay in the second-level cache


def fit_moments(cells: Cells, target: Tensor) -> None:
    """BiLLM: the row's mean in the cell, the sign and the mean magnitude of what is left; once more for a second plane.

    The means of both planes add up to one. An entry equal to its mean gets the sign 0.

    Args:
        cells: Signs, means and row scales are set.
        target: Wᵀ (width, n_out) in the dtype of the cells' parameters.

    Raises:
        ValueError: The cells have column scales.
    """
    _fit_means(cells, target, iterations=0)


def fit_alternating(cells: Cells, target: Tensor, iterations: int) -> None:
    """ARB: from BiLLM's fit, mean, scales and signs in turn, each the minimiser of the weight error with the rest held.

    The last update is that of the signs. With one plane ``sign(0)`` is 0; with two, the nearest of the four values is taken.

    Args:
        cells: Signs, means and row scales are set.
        target: Wᵀ (width, n_out) in the dtype of the cells' parameters.
        iterations: Rounds; there is no stopping rule.

    Raises:
        ValueError: The cells have column scales.
    """
    _fit_means(cells, target, iterations)


def fit_row_column(cells: Cells, target: Tensor, iterations: int) -> None:
    """ARB-RC: a scale for every row and every column of a cell and plane, no mean.

    Every round fits the row scales and the column scales of each plane in turn by least squares. Signs are those of the
    target with one plane, whatever the scales become; with two they are updated to the nearest of the four values.

    Args:
        cells: Signs, row scales and column scales are set.
        target: Wᵀ (width, n_out) in the dtype of the cells' parameters.
        iterations: Rounds; there is no stopping rule.

    Raises:
        ValueError: The cells have means, or no column scales.
    """
    if cells.column_scale is None or cells.mean is not None:
        raise ValueError("row and column scales are fitted to cells with column scales and without means")
    cells.signs = torch.zeros_like(cells.signs)
    for cell, own, (planes, rows, columns) in _of_all(cells, target, partial(_row_column, iterations=iterations)):
        cells.signs[: len(planes)].index_add_(1, own, planes)
        cells.row_scale[: len(planes), cell] = rows
        cells.column_scale[: len(planes), cell, own] = columns


def refit_to_inputs(cells: Cells, target: Tensor, gram: Tensor, iterations: int) -> None:
    """ARB-X, second stage: means and row scales refitted to the output error, the signs held.

    Each cell minimises ``tr(E S Eᵀ)`` with E its own error and zero elsewhere: as in the published code, what its error
    has in common with that of the other cells is ignored. With P_0 the cell's mask, P_1 and P_2 its planes, and θ the mean
    and the scales, ``θ_k ← (P_k S w - Σ_{l≠k} (P_k S P_l) θ_l) / (P_k S P_k)`` in turn; all products are computed once.

    Differs from the published code in numerics only: the step is taken from the old value, damped by rounding error in
    place of a fixed 1e-10. A denominator of zero keeps the old value, and no step raises the error.

    Args:
        cells: Means and row scales are updated.
        target: Wᵀ (width, n_out) in the dtype of the cells' parameters.
        gram: S (width, width), positive semi-definite, of the same dtype.
        iterations: Rounds over the mean and the scales.

    Raises:
        ValueError: The cells have column scales.
    """
    mean, limits = _means(cells), torch.finfo(gram.dtype)

    def refit(part: _Part) -> None:
        planes = [part.mask, *(cells.signs[: part.order].index_select(1, part.columns) * part.mask)]
        own = gram.index_select(0, part.columns).index_select(1, part.columns)
        floor = len(gram) * limits.eps * (own.diagonal() @ part.mask) + limits.tiny**0.5
        system, force = _equations(planes, [own @ plane for plane in planes], part.target, floor)
        theta = [mean[part.cell], *cells.row_scale[: part.order, part.cell]]
        for _ in range(iterations):
            for row, pull, value in zip(system, force, theta, strict=True):
                step = pull
                for entry, other in zip(row, theta, strict=True):
                    step = torch.addcmul(step, entry, other, value=-1)
                value += step

    _of_all(cells, target, refit)


@dataclass(frozen=True)
class _Part:
    """One cell on its own columns.

    Attributes:
        cell: Its index.
        order: Its planes.
        columns: (k,) indices of the columns where it has entries.
        mask: (k, n_out), 1 in the cell.
        target: (k, n_out), zero outside the cell.
        count: (n_out,) entries in each row, at least 1.
    """

    cell: int
    order: int
    columns: Tensor
    mask: Tensor
    target: Tensor
    count: Tensor


def _part(cells: Cells, target: Tensor, cell: int) -> _Part:
    mask = cells.mask(cell)
    columns = mask.sum(1).nonzero()[:, 0]
    mask = mask.index_select(0, columns)
    own = target.index_select(0, columns) * mask
    return _Part(cell, cells.orders[cell], columns, mask, own, count=mask.sum(0).clamp_min(1))


def _of_all(cells: Cells, target: Tensor, rule: Callable[[_Part], Result]) -> list[tuple[int, Tensor, Result]]:
    """Every cell, its columns, and what a rule makes of it; cells do not touch each other."""

    def of(cell: int) -> tuple[int, Tensor, Result]:
        part = _part(cells, target, cell)
        return cell, part.columns, rule(part)

    return by_parts(of, range(len(cells.orders)))


def _means(cells: Cells) -> Tensor:
    if cells.mean is None or cells.column_scale is not None:
        raise ValueError("means are fitted to cells with means and without column scales")
    return cells.mean


def _fit_means(cells: Cells, target: Tensor, iterations: int) -> None:
    """BiLLM's fit of every cell, then rounds of ARB's; idle threads take panels of rows."""
    _means(cells)
    cell, own = cells.cell.cpu().numpy(), target.detach().cpu().contiguous().numpy()
    signs, mean = np.zeros((2, *cell.shape), np.int8), np.zeros((len(cells.orders), cell.shape[1]), own.dtype)
    scale, orders = np.zeros((2, *mean.shape), own.dtype), np.array(cells.orders)
    present = columns_of_cells(cell, len(orders))
    rows = [(start, min(start + PANEL, cell.shape[1])) for start in range(0, cell.shape[1], PANEL)]
    fitted = signs, mean, scale
    by_parts(lambda own_rows: fit_rows(own, cell, present, orders, iterations, own_rows, *fitted), rows, compiled=True)
    cells.signs, cells.mean, cells.row_scale = (torch.from_numpy(array).to(target.device) for array in fitted)


def _equations(
    planes: list[Tensor], images: list[Tensor], target: Tensor, floor: Tensor
) -> tuple[list[list[Tensor]], list[Tensor]]:
    """``P_k S P_l`` and ``P_k S w`` (n_out,), both over ``P_k S P_k + floor``; the images are S P_k."""
    system, force = [], []
    for k, image in enumerate(images):
        row = [_dot(plane, image) for plane in planes]
        pivot = row[k] + floor
        system.append([entry / pivot for entry in row])
        force.append(_dot(image, target) / pivot)
    return system, force


def _row_column(part: _Part, iterations: int) -> tuple[Tensor, Tensor, Tensor]:
    """Planes (order, k, n_out) int8, row scales (order, n_out) and column scales (order, k) of ARB-RC."""
    planes, rows, columns = _row_column_start(part)
    double = part.order == 2
    pulls, squares, crossed = planes * part.target, planes.square(), planes.prod(0)
    for _ in range(iterations):
        for p in range(part.order):
            pull, square, q = pulls[p], squares[p], -1 - p
            force = columns[p] @ pull
            if double:
                force -= rows[q] * ((columns[p] * columns[q]) @ crossed)
            rows[p] = force / (columns[p].square() @ square + EMPTY)
            force = pull @ rows[p]
            if double:
                force -= columns[q] * (crossed @ (rows[p] * rows[q]))
            columns[p] = force / (square @ rows[p].square() + EMPTY)
        if double:
            planes = torch.stack(nearest_signs(part.target, *(columns[:, :, None] * rows[:, None]))).mul_(part.mask)
            pulls, squares, crossed = planes * part.target, planes.square(), planes.prod(0)
    return planes.to(torch.int8), rows, columns


def _row_column_start(part: _Part) -> tuple[Tensor, Tensor, Tensor]:
    """Mean magnitudes of the rows, then of the columns of what the rows leave; once more for a second plane."""
    planes = part.mask.new_empty(part.order, *part.mask.shape)
    rows, columns = part.mask.new_empty(part.order, len(part.count)), part.mask.new_empty(part.order, len(part.mask))
    rest = part.target
    for p in range(part.order):
        magnitude = rest.abs()
        rows[p] = magnitude.sum(0) / part.count
        lives = (rows[p] > 0).to(rest.dtype)  # a row of zeros says nothing about the columns
        columns[p] = (magnitude @ (lives / (rows[p] + (1 - lives)))) / (part.mask @ lives).clamp_min(1)
        rest = rest - torch.sign(rest, out=planes[p]) * torch.outer(columns[p], rows[p])
    return planes, rows, columns


def nearest_signs(x: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """The signs (s, t) whose ``s a + t b`` is nearest to x, scales of either sign; an exact zero gets s = -1.

    The values are ``±|a + b|`` and ``±|a - b|``; the middle between the two magnitudes is ``max(|a|, |b|)``. Beyond it the
    larger one is nearer: s t = sign(a b), before it s t = -sign(a b). Then s is the sign of x (a + s t b).

    Args:
        x: (k, n_out).
        first: a, broadcastable to x.
        second: b, broadcastable to x.

    Returns:
        s and t (k, n_out), -1 or +1 in the dtype of x.
    """
    product = _plus_or_minus(x.abs() - torch.maximum(first.abs(), second.abs())) * _plus_or_minus(first * second)
    s = _plus_or_minus(x * (first + product * second))
    return s, product.mul_(s)


def _plus_or_minus(x: Tensor) -> Tensor:
    """+1 where x > 0 and -1 elsewhere, in place and in floating point (see `Cells.mask`)."""
    return x.gt_(0).mul_(2).sub_(1)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Row-wise products (n_out,) of (k, n_out) with (k, n_out)."""
    return torch.linalg.vecdot(a, b, dim=0)
