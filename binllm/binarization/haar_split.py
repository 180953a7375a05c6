"""Two magnitude groups for every row of coefficients, and what stands in for salient columns (HBLLM, 2512.00862).

A row c of coefficients is split at a threshold t: ``{|c| < t}`` and ``{|c| >= t}``. With m the mean of all of the row, or
of the group alone, and n the entries of the group G,

    ĉ = m + s sign(c - m),    s² = Σ_G (c - m)² / n,    Σ_G (c - ĉ)² = 2 n s² - 2 s Σ_G |c - m|,

and of the candidates for t the first with the least error over both groups is taken.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

QUANTILES = (0.1, 0.9, 41)  # of |c| in the row, the candidates for t: first, last, how many
WINDOW = 7  # columns, the one to be filled in the middle


@dataclass(frozen=True)
class Split:
    """Rows of coefficients in two groups, 0 the small and 1 the large ones; leading dimensions are those of the rows.

    Attributes:
        signs: (..., n) int8 in {-1, +1}, +1 for an entry equal to its mean.
        group: (..., n) uint8.
        mean: (..., 2), the same twice where it is shared; 0 where a group of its own mean is empty.
        scale: (..., 2), not negative; 0 where the group is empty.
    """

    signs: Tensor
    group: Tensor
    mean: Tensor
    scale: Tensor


def split_magnitudes(values: Tensor, shared_mean: bool) -> Split:
    """The best of the splits of every row.

    Differs from the published code, where an entry equal to its mean stands for the mean alone: one bit cannot hold a zero.
    As in the published code the scale is the root of the mean square about m, not the mean magnitude, which would
    leave the least error for these signs.

    Args:
        values: (..., n) floating point, n at least 1.
        shared_mean: One mean for the two groups of a row, or one for each.
    """
    precise = values.double()
    large = precise.abs() >= _threshold(precise, shared_mean)
    groups = torch.stack([~large, large], -2)
    count = groups.sum(-1).clamp_min(1)
    if shared_mean:
        mean = precise.mean(-1, keepdim=True).expand(count.shape)
    else:
        mean = (precise[..., None, :] * groups).sum(-1) / count
    deviation = precise[..., None, :] - mean[..., None]
    scale = ((deviation.square() * groups).sum(-1) / count).sqrt()
    chosen = torch.where(large, deviation[..., 1, :], deviation[..., 0, :])
    return Split(
        signs=1 - 2 * (chosen < 0).to(torch.int8),
        group=large.to(torch.uint8),
        mean=mean.to(values.dtype),
        scale=scale.to(values.dtype),
    )


def _threshold(values: Tensor, shared_mean: bool) -> Tensor:
    """The first threshold (..., 1) of least error for rows (..., n) in float64.

    In a sorted row the small group is an interval, so that its sums are differences of prefix sums.
    """
    rows = _SortedRows(values.flatten(0, -2))
    threshold = _quantiles(rows.values.abs())
    start = torch.searchsorted(rows.values, -threshold, right=True)
    stop = torch.maximum(torch.searchsorted(rows.values, threshold), start)  # both groups share the zeros where t = 0
    whole = torch.zeros_like(start), torch.full_like(start, rows.values.shape[1])
    small, every = rows.moments(start, stop), rows.moments(*whole)
    large = [total - part for total, part in zip(every, small, strict=True)]
    means = [total / count.clamp_min(1) for count, total, _ in ((every, every) if shared_mean else (small, large))]
    inside = rows.magnitude(means[0], start, stop)
    outside = rows.magnitude(means[1], *whole) - rows.magnitude(means[1], start, stop)
    error = _error(small, means[0], inside) + _error(large, means[1], outside)
    return threshold.gather(1, error.argmin(1, keepdim=True)).view(*values.shape[:-1], 1)


def _quantiles(magnitudes: Tensor) -> Tensor:
    """Candidates (rows, 41) by linear interpolation; `torch.quantile` refuses more than 2^24 entries."""
    ordered = magnitudes.sort(1).values
    levels = torch.linspace(*QUANTILES, dtype=ordered.dtype, device=ordered.device)
    rank = levels * (ordered.shape[1] - 1)
    below, above = rank.floor().long(), rank.ceil().long()
    return ordered[:, below].lerp(ordered[:, above], rank.frac())


def _error(moments: list[Tensor], mean: Tensor, magnitude: Tensor) -> Tensor:
    """Σ (c - ĉ)² of a group with these moments (see `_SortedRows`) and ``Σ |c - mean|``."""
    count, total, square = moments
    power = (square - 2 * mean * total + count * mean.square()).clamp_min(0)
    return 2 * power - 2 * (power / count.clamp_min(1)).sqrt() * magnitude


class _SortedRows:
    """Rows in ascending order, and sums over intervals ``start <= k < stop`` of them."""

    def __init__(self, values: Tensor):
        self.values = values.sort(1).values
        self.total, self.square = (
            torch.nn.functional.pad(part.cumsum(1), (1, 0)) for part in (self.values, self.values.square())
        )

    def moments(self, start: Tensor, stop: Tensor) -> list[Tensor]:
        """Count, sum and sum of squares (rows, intervals)."""
        sums = [prefix.gather(1, stop) - prefix.gather(1, start) for prefix in (self.total, self.square)]
        return [(stop - start).to(self.values.dtype), *sums]

    def magnitude(self, centre: Tensor, start: Tensor, stop: Tensor) -> Tensor:
        """``Σ |c - centre|`` over the interval, (rows, intervals)."""
        middle = torch.searchsorted(self.values, centre.contiguous()).clamp(start, stop)
        ends, inner = self.total.gather(1, stop) + self.total.gather(1, start), self.total.gather(1, middle)
        return ends - 2 * inner - centre * (stop + start - 2 * middle)


def fill_salient(weight: Tensor, salient: Tensor) -> Tensor:
    """Salient columns replaced by the mean of the plain ones among their neighbours.

    Neighbours are the columns of a window of 7 around the salient one, cut off at the ends of the block. Without a plain
    column among them it is the nearest plain one on the left, and failing that on the right.

    Args:
        weight: (n_out, width).
        salient: (width,) bool; one column at least is not.

    Returns:
        (n_out, width).
    """
    place = torch.arange(len(salient), device=salient.device)
    distance = place[salient][:, None] - place[~salient]  # positive where the plain column is on the left
    near = distance.abs() <= WINDOW // 2
    alone = ~near.any(1)
    preference = distance.abs() + len(salient) * (distance < 0)
    near[alone, preference[alone].argmin(1)] = True
    share = near.to(weight.dtype) / near.sum(1, keepdim=True)
    filled = weight.clone()
    filled[:, salient] = weight[:, ~salient] @ share.T
    return filled
