"""The searches of BiLLM (2402.04291) and ARB-LLM (2410.03129) for salient columns and for magnitude groups.

Both binarize the searched matrix M (weights, or a salience map of them) for every candidate and keep the first of least
error. With the entries x of a group in one output row, of which n in all and z equal to their mean m,

    first order:   x̂ = m + s sign(x - m),  s = Σ|x - m| / n,   Σ(x - x̂)² = Σx² - n m² - (n + z) s²
    second order:  the same again for x - x̂

Candidates differ in which group an entry belongs to, so that little has to be computed for each:

    salient columns  The definition, all rows at once and in place. A rough pass in float32 leaves the candidates whose
                     errors are equal up to rounding, and float64 decides among them.
    plain entries    In a sorted row the small group ``|x| < t`` is an interval and a mean splits it in two: prefix sums and
                     binary searches give every threshold's error, in float64. Where the inputs weigh the error it is a
                     matrix product for each threshold, rough and then exact as above.

Differs from the published code: that one decides in float32 throughout, so that it may keep another of two candidates
whose errors differ by its rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

QUANTILES = (0.10, 0.90, 81)  # of the magnitudes, the candidates for a threshold: first, last, how many
PANEL = 576 * 128  # entries that a pass takes at once on CPU: what it works on then stays in the second-level cache
NEAR = 3e-4  # relative; rough errors nearer to the least than this are computed again. Rounding moves them by 1e-6, and
# by a few 1e-5 where an entry within rounding of its mean changes sides.
ENTRIES = 1 << 16  # of the candidates that one batch of `split_salient` holds

Errors = Callable[[Sequence[int], torch.dtype], Tensor]  # of these candidates, computed in this dtype


def salient_columns(searched: Tensor, most: int, ranking: Tensor | None = None) -> Tensor:
    """The columns that get a second plane: the best of the 1, 2, ... ``most - 1`` first in the ranking.

    The error of a count is that of two groups, the columns and all others, both binarized to second order (the others, too,
    although they will get a plane only; published).

    Args:
        searched: M (n_out, width), float32 or float64.
        most: 50 in the published code.
        ranking: (width,), the largest first; ``Σ_i |M_ij|`` if None. Ties fall as `torch.topk` lets them.

    Returns:
        Ascending indices, int64.

    Raises:
        ValueError: ``most`` is not from 2 to width, or M has NaN or infinite entries.
    """
    width = searched.shape[1]
    if not 2 <= most <= width:
        raise ValueError(f"most = {most}: allowed is 2 to {width}, the columns of the block")
    ranking = searched.abs().sum(0) if ranking is None else ranking
    first = ranking.topk(most).indices
    others = torch.ones(width, dtype=torch.bool, device=searched.device)
    others[first] = False
    ordered = searched[:, torch.cat([first, others.nonzero()[:, 0]])]

    def errors(candidates: Sequence[int], dtype: torch.dtype) -> Tensor:
        counts = [candidate + 1 for candidate in candidates]
        return sum_over(_column_errors(rows.T.to(dtype).contiguous(), counts) for rows in _chunks(ordered))

    energy = float(searched.double().square().sum())
    if not np.isfinite(energy):
        raise ValueError("the searched matrix has NaN or infinite entries")
    count = 1 + _first_least(errors, most - 1, searched, floor=1e-12 * energy)
    return ranking.topk(count).indices.sort().values


def split_plain(searched: Tensor, salient: Tensor) -> tuple[float, Tensor]:
    """The threshold between small and large plain entries of least first-order error.

    Args:
        searched: M (n_out, width), float32 or float64.
        salient: (width,) bool; these columns count as zeros in the quantiles and not in the error.

    Returns:
        The threshold, and where a plain entry is large, ``|M| >= threshold``: (n_out, width) bool.
    """
    thresholds = _plain_thresholds(searched, salient)
    plain = searched[:, ~salient]
    gains = sum_over(_first_order_gains(rows, thresholds) for rows in _chunks(plain))
    return _split(searched, ~salient, thresholds[_argmin(-gains)])


def split_plain_by_inputs(
    searched: Tensor, salient: Tensor, salient_fit: Tensor, metric: Tensor
) -> tuple[float, Tensor]:
    """As `split_plain`, with the error ``tr(R S Rᵀ)`` of the whole block, R = M - M̂ (ARB-X).

    Args:
        searched: M (n_out, width), float32 or float64.
        salient: (width,) bool.
        salient_fit: M̂ (n_out, width) in the salient columns; the others are not read.
        metric: S (width, width), symmetric: the second moment of the inputs, in any scale.
    """
    thresholds = _plain_thresholds(searched, salient)
    columns = torch.cat([(~salient).nonzero()[:, 0], salient.nonzero()[:, 0]])
    count = int((~salient).sum())
    ordered, fixed = searched[:, columns], (searched - salient_fit)[:, columns[count:]]
    ordered_metric = metric[columns][:, columns]

    def errors(candidates: Sequence[int], dtype: torch.dtype) -> Tensor:
        chosen, s = thresholds[torch.as_tensor(candidates, device=thresholds.device)], ordered_metric.to(dtype)
        parts = zip(_chunks(ordered[:, :count]), _chunks(fixed), strict=True)
        return sum_over(_output_errors(x.T.to(dtype), rest.T.to(dtype), chosen.to(dtype), s) for x, rest in parts)

    spread = metric.diagonal().clamp_min(0).sqrt().to(searched.dtype)
    energy = float((searched.abs() @ spread).double().square().sum())  # at least tr(|M| |S| |M|ᵀ) for S ⪰ 0
    best = _first_least(errors, len(thresholds), searched, floor=1e-7 * energy)
    return _split(searched, ~salient, thresholds[best])


def split_salient(searched: Tensor, salient: Tensor) -> tuple[float, Tensor]:
    """The threshold between small and large salient entries of least second-order error (CGB).

    Candidates are quantiles of the magnitudes that are not zero. If all are zero the threshold is 0 and every salient
    entry large; the published code fails there.

    Args:
        searched: M (n_out, width), float32 or float64.
        salient: (width,) bool.

    Returns:
        The threshold, and where a salient entry is large: (n_out, width) bool.
    """
    x = searched[:, salient].T.contiguous()
    magnitudes = x.abs()
    present = magnitudes[magnitudes != 0]
    if not present.numel():
        return _split(searched, salient, x.new_zeros(()))
    thresholds = _quantiles(_sorted(present))
    errors = []
    for some in thresholds.split(max(1, ENTRIES // x.numel())):
        large = (magnitudes >= some[:, None, None]).double()
        errors.append(_residual(x.double(), large, order=2).square().sum((1, 2)))
    return _split(searched, salient, thresholds[_argmin(torch.cat(errors))])


def _split(searched: Tensor, columns: Tensor, threshold: Tensor) -> tuple[float, Tensor]:
    return threshold.item(), (searched.abs() >= threshold) & columns


def _plain_thresholds(searched: Tensor, salient: Tensor) -> Tensor:
    magnitudes = searched.abs()
    magnitudes[:, salient] = 0
    return _quantiles(_sorted(magnitudes.flatten()))


def _quantiles(values: Tensor) -> Tensor:
    """Linearly interpolated quantiles (81,) of sorted values (n,).

    Bit for bit ``numpy.quantile`` with float32 levels, which the published code calls: the position, too, is float32.
    """
    position = torch.linspace(*QUANTILES, device=values.device) * (len(values) - 1)
    below = position.floor()
    share = position - below
    low = values[below.long()]
    high = values[(below.long() + 1).clamp_max(len(values) - 1)]
    return torch.where(share < 0.5, low + (high - low) * share, high - (high - low) * (1 - share))


def _sorted(values: Tensor) -> Tensor:
    """Sorted along the last dimension. On CPU NumPy, whose vectorized sort takes a twentieth of the time of torch's."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.sort(values.detach().numpy()))
    return values.sort().values


def _chunks(matrix: Tensor) -> Sequence[Tensor]:
    """The matrix in panels of rows, of about `PANEL` entries on CPU and whole elsewhere."""
    return matrix.chunk(max(1, round(matrix.numel() / PANEL))) if matrix.device.type == "cpu" else [matrix]


def sum_over(parts):
    total = None
    for part in parts:
        total = part if total is None else total + part
    return total


def _argmin(errors: Tensor) -> int:
    """The first least error; the first of all where none is below infinity (published)."""
    return int(errors.nan_to_num(nan=torch.inf, posinf=torch.inf).argmin())


def _first_least(errors: Errors, count: int, like: Tensor, floor: float) -> int:
    """The first of ``count`` candidates of least error, as float64 has it.

    Args:
        errors: Computes errors.
        count: Candidates.
        like: Says device and dtype of the searched matrix; the rough pass is for float32 on CPU, where it is twice as fast and
            where products are what they should be.
        floor: What rounding in float32 can move an error by besides `NEAR`.
    """
    candidates: Sequence[int] = range(count)
    if like.dtype == torch.float32 and like.device.type == "cpu" and torch.get_float32_matmul_precision() == "highest":
        rough = errors(candidates, torch.float32)
        candidates = (~(rough > rough.min() * (1 + NEAR) + floor)).nonzero()[:, 0].tolist()
        if len(candidates) == 1:
            return candidates[0]
    return candidates[_argmin(errors(candidates, torch.float64))]


@torch.inference_mode()  # the loops are many small calls, a tenth faster without autograd's bookkeeping
def _column_errors(x: Tensor, counts: Sequence[int]) -> Tensor:
    """Second-order errors (counts,) of the first columns and the others, two groups, for x (width, rows)."""
    first = torch.arange(len(x), device=x.device) < torch.tensor(counts, device=x.device)[:, None]
    members = torch.stack([first, ~first], 1).to(x.dtype)
    numbers = members.sum(2, keepdim=True)
    residual, scratch, level = torch.empty_like(x), torch.empty_like(x), x.new_empty(2, x.shape[1])
    errors = x.new_empty(len(counts))
    for count, member, number, error in zip(counts, members, numbers, errors, strict=True):
        sizes = [count, len(x) - count]
        parts, signs = residual.split(sizes), scratch.split(sizes)
        for source in (x, residual):
            torch.mm(member, source, out=level).div_(number)
            for values, part, mean in zip(source.split(sizes), parts, level, strict=True):
                torch.sub(values, mean, out=part)
            torch.mm(member, torch.abs(residual, out=scratch), out=level).div_(number)
            torch.sign(residual, out=scratch)
            for part, sign, scale in zip(parts, signs, level, strict=True):
                part.addcmul_(sign, scale, value=-1)
        torch.dot(residual.view(-1), residual.view(-1), out=error)
    return errors.double()


def _first_order_gains(x: Tensor, thresholds: Tensor) -> Tensor:
    """What binarizing the small and the large entries takes off ``Σx²``: (thresholds,) float64, for x (rows, columns).

    Ranks in a sorted row: small entries have those from low to high - 1.
    """
    values, width = _sorted(x).double(), x.shape[1]
    prefix = torch.nn.functional.pad(values.cumsum(1), (1, 0))
    limits = thresholds.double().expand(len(x), -1).contiguous()
    low = torch.searchsorted(values, -limits, right=True)
    high = torch.searchsorted(values, limits).maximum(low)  # a threshold of 0 has no small entries
    total, up_to_high = prefix[:, -1:], prefix.gather(1, high)
    small, inner = (high - low).double(), up_to_high - prefix.gather(1, low)

    def excess(mean: Tensor, rank: Tensor, stop: Tensor | int, up_to_stop: Tensor) -> Tensor:
        """Σ (x - mean) over the entries of ranks from rank to stop - 1."""
        return (up_to_stop - prefix.gather(1, rank)).addcmul_(mean, (rank - stop).double())

    gains = torch.zeros_like(thresholds, dtype=torch.float64)
    for is_small, size, sums in ((True, small, inner), (False, width - small, total - inner)):
        mean = sums / size.clamp_min_(1)
        rank = torch.searchsorted(values, mean)
        cut = rank.clamp(low, high)
        above = excess(mean, cut, high, up_to_high)
        if not is_small:
            above = excess(mean, rank, width, total).sub_(above)
        scale = above.mul_(2).div_(size)  # the deviations above the mean are half of all
        ties = _ties(values, mean, rank, scale)
        if ties is not None:
            size += ties * (((low <= rank) & (rank < high)) == is_small)
        gains += (size * scale.square_() + sums * mean).sum(0)
    return gains


def _ties(values: Tensor, mean: Tensor, rank: Tensor, scale: Tensor) -> Tensor | None:
    """How many of a row's sorted values equal a mean of this rank, where it matters: the scale is not 0. None if none."""
    distance = values.gather(1, rank.clamp(max=values.shape[1] - 1)).sub_(mean).abs_()
    tied = torch.lt(distance, scale * 1e-30, out=distance)  # a float mask: several times as fast as a bool one on CPU
    return (torch.searchsorted(values, mean, right=True) - rank) * tied if bool(tied.any()) else None


@torch.inference_mode()
def _output_errors(x: Tensor, salient: Tensor, thresholds: Tensor, metric: Tensor) -> Tensor:
    """``tr(R S Rᵀ)`` (thresholds,) of plain entries x (plain, rows) in two groups and a fixed R in the salient columns."""
    magnitudes, large = x.abs(), torch.empty_like(x)
    residual = torch.cat([x, salient])
    errors = x.new_empty(len(thresholds))
    for threshold, error in zip(thresholds, errors, strict=True):
        torch.ge(magnitudes, threshold, out=large)
        residual[: len(x)] = _residual(x, large, order=1)
        torch.dot((residual @ residual.T).view(-1), metric.view(-1), out=error)
    return errors.double()


def _residual(x: Tensor, large: Tensor, order: int) -> Tensor:
    """What binarizing two groups leaves of x (..., columns, rows); large is 1 in one group and 0 in the other."""
    small = 1 - large
    count = large.sum(-2, keepdim=True)
    counts = (x.shape[-2] - count).clamp_min_(1), count.clamp_min(1)

    def mean(values: Tensor) -> Tensor:
        """Of the group of every entry."""
        part = (values * large).sum(-2, keepdim=True)
        return small * ((values.sum(-2, keepdim=True) - part) / counts[0]) + large * (part / counts[1])

    for _ in range(order):
        x = x - mean(x)
        x = x - x.sign() * mean(x.abs())
    return x
