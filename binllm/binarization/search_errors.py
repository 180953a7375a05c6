"""Binarization errors of many candidate groupings at once, for the searches in `binllm.binarization.search`.

With x the entries of a group in one output row, n of them, m their mean, and z of them equal to m,

    first order:   x̂ = m + s sign(x - m),  s = Σ|x - m| / n,   Σ(x - x̂)² = Σx² - n m² - (n + z) s²
    second order:  the same again for x - x̂

and sign(0) = 0, as in the published code. Deviations from a mean cancel, so that n s is twice the sum of those above it.

Where z is 0 throughout (`has_ties` says no), sums over the entries above a level are all that is needed, by half the passes.
Of x - x̂ = x - m ∓ s with p entries above m, the mean is m' = s - 2 p s / n, and with ``e(t) = Σ max(x - t, 0)``

    s = 2 e(m) / n,   Σ|x - x̂ - m'| = Σ|x - (m + m' - s)| - 2 e(m) + 2 e(m + m' + s) + 2 p m'.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

TOGETHER = 4  # candidates of a pass over columns: with fewer, calls cost time; more leave the second-level cache


def ascending(values: Tensor) -> Tensor:
    """Sorted along the last dimension; on CPU by NumPy, whose vectorized sort takes a twentieth of the time of torch's."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.sort(values.detach().numpy()))
    return values.sort().values


@torch.inference_mode()  # many small calls, which are a tenth faster without autograd's bookkeeping
def column_errors(x: Tensor, counts: Sequence[int]) -> Tensor:
    """Second-order errors of two groups of columns, the first ones and the others.

    Args:
        x: (width, rows); its dtype is the one computed in.
        counts: Numbers of first columns, from 1 to width - 1.

    Returns:
        (counts,) float64, the sums over all rows.
    """
    count = torch.tensor(counts, device=x.device)
    first = torch.arange(len(x), device=x.device) < count[:, None]
    members = torch.stack([first, ~first], 1).to(x.dtype)
    sizes = members.sum(2, keepdim=True)
    sums = x.cumsum(0, dtype=torch.float64)
    means = torch.stack([sums[count - 1], sums[-1] - sums[count - 1]], 1).div_(sizes).to(x.dtype)
    left, scratch, level, errors = torch.empty_like(x), torch.empty_like(x), torch.empty_like(means[0]), []
    flat, (level_1, level_2) = left.view(-1), level
    for number, member, size, mean in zip(counts, members, sizes, means, strict=True):
        groups = [number, len(x) - number]
        (left_1, left_2), (scratch_1, scratch_2) = left.split(groups), scratch.split(groups)
        for part, source, value in zip((left_1, left_2), x.split(groups), mean, strict=True):
            torch.sub(source, value, out=part)
        for order in (1, 2):
            torch.mm(member, torch.abs(left, out=scratch), out=level).div_(size)
            torch.sign(left, out=scratch)
            left_1.addcmul_(scratch_1, level_1, value=-1)
            left_2.addcmul_(scratch_2, level_2, value=-1)
            if order == 1:
                torch.mm(member, left, out=level).div_(size)
                left_1.sub_(level_1)
                left_2.sub_(level_2)
        errors.append(torch.dot(flat, flat))
    return torch.stack(errors).double()


def has_ties(x: Tensor) -> bool:
    """Whether an entry of x (rows, columns) in float32 may well equal a mean or a level of its row.

    By chance that is rare; it is not where entries are multiples of a coarse unit, zeros among them.
    """
    coarse = (x.view(torch.int32) & 0xFF).eq_(0).sum(1)  # one in 256 by chance
    return bool((coarse * x.any(1) > x.shape[1] / 8).any())


@torch.inference_mode()
def generic_column_errors(x: Tensor, counts: Sequence[int]) -> Tensor:
    """`column_errors` where z = 0: in float32 equal to 1e-6 of ``Σ(x - mean)²``, for rows (of the layer) of mean about 0.

    Args:
        x: (width, rows); its dtype is the one computed in.
        counts: Numbers of first columns, from 1 to width - 1, ascending within each ``TOGETHER`` of them.

    Returns:
        (counts,) float64, the sums over all rows.
    """
    count, place = torch.tensor(counts, device=x.device), torch.arange(len(x), device=x.device)[:, None]
    explained = torch.zeros(len(counts), dtype=torch.float64, device=x.device)
    scratch = x.new_empty(TOGETHER * x.numel())
    for first in (True, False):
        groups = []
        for some in count.split(TOGETHER):
            columns = x[: some[-1]] if first else x[some[0] :]
            member = ((place[: len(columns)] < some) if first else (place[some[0] :] >= some)).to(x.dtype)
            work = scratch[: len(some) * columns.numel()].view(len(some), *columns.shape)
            groups.append((columns, member.T[:, None].contiguous(), work))
        size = (count if first else len(x) - count).to(x.dtype)
        explained += _explained(groups, size[:, None, None])
    return torch.linalg.vector_norm(x, dtype=torch.float64).square() - explained


def _explained(groups: list[tuple[Tensor, Tensor, Tensor]], size: Tensor) -> Tensor:
    """Second-order ``Σx² - Σ(x - x̂)²`` (candidates,) in float64.

    Args:
        groups: For some candidates at a time x (columns, rows), 1 for the members of each (some, 1, columns), and scratch
            memory (some, columns, rows).
        size: Members (candidates, 1, 1).
    """

    def sums(of: Callable[..., Tensor], levels: Tensor) -> Tensor:
        shares = zip(groups, levels.split(TOGETHER), strict=True)
        return torch.cat([torch.bmm(member, of(x, level, out=work)) for (x, member, work), level in shares])

    def above(level: Tensor) -> Tensor:
        return sums(torch.maximum, level).sub_(level * size)

    total = torch.cat([member @ x for x, member, _ in groups])
    mean = total / size
    excess, more = above(mean), sums(torch.gt, mean)
    scale = 2 * excess / size
    shift = scale - 2 * scale * more / size
    low, high = mean + shift - scale, mean + shift + scale
    second = (2 * (above(low) - excess + above(high) + shift * more) - total) / size + low
    squares = mean.square() + scale.square() + shift.square() + second.square()
    return (squares.sum(2, dtype=torch.float64) * size[:, 0])[:, 0]


@torch.inference_mode()
def first_order_gains(x: Tensor, thresholds: Tensor) -> Tensor:
    """How much less than ``Σx²`` the first-order error of two groups is, the entries below a threshold and the others.

    In a sorted row the entries with ``|x| < t`` are an interval, of the ranks from low to high - 1 here, and their mean cuts
    it in two, so that prefix sums and binary searches give every threshold's error.

    Args:
        x: (rows, columns).
        thresholds: t (candidates,), not negative.

    Returns:
        (candidates,) float64, the sums over all rows; what the errors lack is the same for all candidates.
    """
    values, width = ascending(x).double(), x.shape[1]
    prefix = torch.nn.functional.pad(values.cumsum(1), (1, 0))
    limits = thresholds.double().expand(len(x), -1).contiguous()
    high = torch.searchsorted(values, limits)
    signed = bool((values < 0).any())
    low = torch.searchsorted(values, -limits, right=True) if signed else high.new_zeros(1).expand_as(high)
    del limits
    high = high.maximum(low)  # a threshold of 0 has no small entries
    total, up_to_high = prefix[:, -1:], prefix.gather(1, high)
    small, inner = (high - low).double(), up_to_high - prefix.gather(1, low)

    def excess(mean: Tensor, rank: Tensor, stop: Tensor | int, up_to_stop: Tensor) -> Tensor:
        """Σ (x - mean) over the entries of ranks from rank to stop - 1."""
        return (up_to_stop - prefix.gather(1, rank)).addcmul_(mean, (rank - stop).double())

    gains = torch.zeros_like(thresholds, dtype=torch.float64)
    for is_small, size, sums in ((False, width - small, total - inner), (True, small, inner)):
        mean = sums / size.clamp_(min=1)
        rank = torch.searchsorted(values, mean)
        above = excess(mean, rank.clamp(low, high), high, up_to_high)
        if not is_small:
            above = excess(mean, rank, width, total).sub_(above)
        scale = above.mul_(2).div_(size)
        ties = _ties(values, mean, rank, scale)
        if ties is not None:
            size = size + ties * (((low <= rank) & (rank < high)) == is_small)
        gains += scale.square_().mul_(size).addcmul_(sums, mean).sum(0)
    return gains


def _ties(values: Tensor, mean: Tensor, rank: Tensor, scale: Tensor) -> Tensor | None:
    """How many of a row's ascending values equal a mean of this rank. None if there are none where the scale is not 0."""
    tied = values.gather(1, rank.clamp(max=values.shape[1] - 1))
    torch.eq(tied, mean, out=tied)  # a mask of numbers: on CPU several times as fast as one of bool
    if torch.dot(tied.view(-1), scale.view(-1)) > 0:
        return (torch.searchsorted(values, mean, right=True) - rank) * tied
    return None


@torch.inference_mode()
def output_errors(x: Tensor, cross: Tensor, thresholds: Tensor, metric: Tensor) -> Tensor:
    """First-order errors ``tr(R S Rᵀ)`` of two groups, the entries below a threshold and the others.

    Args:
        x: (columns, rows).
        cross: (columns, rows), what S makes of the error of the block's other columns.
        thresholds: (candidates,), of |x|.
        metric: S (columns, columns).

    Returns:
        (candidates,) float64, without what is due to the other columns alone.
    """
    magnitudes, large, errors = x.abs(), torch.empty_like(x), []
    for threshold in thresholds:
        left = residual(x, torch.ge(magnitudes, threshold, out=large), order=1)
        errors.append(torch.dot(left.view(-1), torch.addmm(cross, metric, left, beta=2, out=large).view(-1)))
    return torch.stack(errors).double()


def residual(x: Tensor, large: Tensor, order: int) -> Tensor:
    """What binarizing two groups leaves of x (..., columns, rows); large is 1 in one of them and 0 in the other."""
    ones = x.new_ones(1, x.shape[-2])  # sums as products: half the time
    size = ones @ large
    other_size = (x.shape[-2] - size).clamp_(min=1)
    size.clamp_(min=1)
    work, magnitude = torch.empty_like(large), torch.empty_like(large)

    def mean(values: Tensor) -> Tensor:
        """Of each entry's group; lerp gives either exactly."""
        part = ones @ torch.mul(values, large, out=work)
        other_part = ones @ values - part
        return torch.lerp(other_part.div_(other_size), part.div_(size), large, out=work)

    for _ in range(order):
        x = x - mean(x)
        scale = mean(torch.abs(x, out=magnitude))
        x.addcmul_(torch.sign(x, out=magnitude), scale, value=-1)
    return x
