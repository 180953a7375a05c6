"""The searches of BiLLM (2402.04291) and ARB-LLM (2410.03129) for salient columns and for magnitude groups.

Both binarize the searched matrix M (weights, or a salience map of them) for every candidate, and keep the first of least
error. All rows of a candidate are done at once, and most candidates in float32 only: float64 decides among those whose
errors are equal up to the rounding of float32. The errors are in `binllm.binarization.search_errors`.

Differs from the published code: that decides in float32, and may keep another of two candidates that differ by rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from itertools import product
from math import isfinite
from operator import add
from typing import Any

import torch
from torch import Tensor

from binllm.binarization.search_errors import (
    ascending,
    column_errors,
    first_order_gains,
    generic_column_errors,
    has_ties,
    output_errors,
    residual,
)
from binllm.parallel import by_parts

QUANTILES = (0.10, 0.90, 81)  # of the magnitudes, the candidates for a threshold: first, last, how many
PANEL = 576 * 128  # float32 entries that a pass takes at once on CPU: it then stays in the second-level cache
SORTED_PANEL = PANEL // 4  # the same where there is a table entry for every row and threshold
NEAR = 1e-4  # relative difference of errors in float32 that float64 may reverse: rounding is 1e-6, and a few 1e-5 where
# rounding makes an entry equal to its mean

Errors = Callable[[Sequence[int], torch.dtype], Tensor]  # of these candidates, computed in this dtype; float64


def salient_columns(searched: Tensor, most: int, ranking: Tensor | None = None) -> Tensor:
    """The columns that get a second plane: the best of the first 1, 2, ..., ``most - 1`` of a ranking.

    Scored is the second-order error of two groups, these columns and all others (published; the others get one plane).

    Args:
        searched: M (n_out, width), float32 or float64.
        most: 50 in the published code.
        ranking: (width,), largest first; ``Σ_i |M_ij|`` if None. Ties fall as in `torch.topk`.

    Returns:
        Ascending indices, int64.

    Raises:
        ValueError: ``most`` is not from 2 to width, or M has NaN or infinite entries.
    """
    width = searched.shape[1]
    if not 2 <= most <= width:
        raise ValueError(f"most = {most}: allowed is 2 to {width}, the columns of the block")
    if not isfinite(float(searched.sum(dtype=torch.float64))):
        raise ValueError("the searched matrix has NaN or infinite entries")
    searched = _about_1(searched)
    energy = float(torch.linalg.vector_norm(searched, dtype=torch.float64)) ** 2
    ranking = searched.abs().sum(0) if ranking is None else ranking
    first = ranking.topk(most).indices
    others = torch.ones(width, dtype=torch.bool, device=searched.device)
    others[first] = False
    order, mean = torch.cat([first, others.nonzero()[:, 0]]), searched.mean(1, keepdim=True)
    generic = searched.dtype == torch.float32 and not has_ties(searched)
    spread = max(energy - width * float(mean.double().square().sum()), 0.0) if generic else 0.0

    def errors(candidates: Sequence[int], dtype: torch.dtype) -> Tensor:
        counts = [1 + candidate for candidate in candidates]
        rough = generic and dtype == torch.float32
        rows = _panels((searched - mean if rough else searched).index_select(1, order), PANEL * 4 // dtype.itemsize)
        compute = generic_column_errors if rough else column_errors
        return reduce(add, (compute(_transposed(panel, dtype), counts) for panel in rows))

    best = _first_least(errors, most - 1, searched, floor=1e-12 * energy + 4e-6 * spread)
    return ranking.topk(1 + best).indices.sort().values


def _about_1(searched: Tensor) -> Tensor:
    """The same entries times the power of two that makes the largest about 1, exactly: squares of tiny ones would be 0."""
    exponent = int(torch.frexp(searched.abs().max()).exponent)
    return searched * 2.0 ** min(max(-exponent, -120), 120)


def split_plain(searched: Tensor, salient: Tensor) -> tuple[float, Tensor]:
    """The threshold between small and large plain entries that leaves the least first-order error.

    Args:
        searched: M (n_out, width), float32 or float64.
        salient: (width,) bool; these columns count as zeros in the quantiles and are no part of the error.

    Returns:
        The threshold, and where a plain entry is large, ``|M| >= threshold``: (n_out, width) bool.
    """
    thresholds = _plain_thresholds(searched, salient)
    panels = _panels(searched.index_select(1, (~salient).nonzero()[:, 0]), SORTED_PANEL)
    gains = reduce(add, by_parts(partial(first_order_gains, thresholds=thresholds), panels))
    return _split(searched, ~salient, thresholds[_first(-gains)])


def split_plain_by_inputs(
    searched: Tensor, salient: Tensor, salient_fit: Tensor, metric: Tensor
) -> tuple[float, Tensor]:
    """As `split_plain`, but the error is ``tr(R S Rᵀ)`` of the whole block, R = M - M̂ (ARB-X).

    Args:
        searched: M (n_out, width), float32 or float64.
        salient: (width,) bool.
        salient_fit: M̂ (n_out, width) of the salient columns; the others are not read.
        metric: S (width, width), symmetric and positive semi-definite: second moments of the inputs, in any scale.
    """
    thresholds = _plain_thresholds(searched, salient)
    plain, rest, s = searched[:, ~salient], (searched - salient_fit)[:, salient].double(), metric.double()
    fixed = ((rest @ s[salient][:, salient]) * rest).sum()

    def errors(candidates: Sequence[int], dtype: torch.dtype) -> Tensor:
        plain_metric, entries = s[~salient][:, ~salient].to(dtype), PANEL * 4 // dtype.itemsize
        panels = zip(_panels(plain, entries), _panels((rest @ s[salient][:, ~salient]).to(dtype), entries), strict=True)
        rows = [(_transposed(x, dtype), _transposed(cross, dtype)) for x, cross in panels]

        def of(pair: tuple[Tensor, Tensor], some: Sequence[int]) -> Tensor:
            return output_errors(*pair, thresholds[list(some)].to(dtype), plain_metric)

        return fixed + _over_panels(of, rows, candidates)

    bound = (searched.abs().double() @ s.diagonal().clamp(min=0).sqrt()).square().sum()  # at least tr(|M| |S| |M|ᵀ)
    best = _first_least(errors, len(thresholds), searched, floor=1e-7 * float(bound))
    return _split(searched, ~salient, thresholds[best])


def split_salient(searched: Tensor, salient: Tensor) -> tuple[float, Tensor]:
    """The threshold between small and large salient entries that leaves the least second-order error (CGB).

    The candidates are quantiles of the magnitudes that are not zero. Where there is none the threshold is 0, so that every
    salient entry is large; the published code fails.

    Args:
        searched: M (n_out, width), float32 or float64.
        salient: (width,) bool.

    Returns:
        The threshold, and where a salient entry is large: (n_out, width) bool.
    """
    entries = searched[:, salient]
    present = entries[entries != 0].abs()
    if not present.numel():
        return _split(searched, salient, entries.new_zeros(()))
    thresholds = _quantiles(ascending(present))

    def errors(candidates: Sequence[int], dtype: torch.dtype) -> Tensor:
        x, chosen = _transposed(entries, dtype), thresholds[list(candidates)].to(dtype)[:, None, None]

        def of(some: Tensor) -> Tensor:
            return residual(x, torch.ge(x.abs(), some).to(dtype), 2).square().sum((1, 2), dtype=torch.float64)

        return torch.cat(by_parts(of, chosen.split(max(1, PANEL // x.numel()))))

    energy = float(torch.linalg.vector_norm(entries, dtype=torch.float64)) ** 2
    return _split(searched, salient, thresholds[_first_least(errors, len(thresholds), searched, floor=1e-12 * energy)])


def _split(searched: Tensor, columns: Tensor, threshold: Tensor) -> tuple[float, Tensor]:
    return threshold.item(), (searched.abs() >= threshold) & columns


def _plain_thresholds(searched: Tensor, salient: Tensor) -> Tensor:
    magnitudes = searched.abs().index_fill_(1, salient.nonzero()[:, 0], 0)
    return _quantiles(ascending(magnitudes.flatten()))


def _quantiles(values: Tensor) -> Tensor:
    """Linearly interpolated quantiles (81,) of ascending values (n,).

    Bit for bit ``numpy.quantile`` with float32 levels, which the published code calls: positions are float32, too.
    """
    position = torch.linspace(*QUANTILES, device=values.device) * (len(values) - 1)
    share = position - position.floor()
    below = position.long()
    low, high = values[below], values[(below + 1).clamp(max=len(values) - 1)]
    return torch.where(share < 0.5, low + (high - low) * share, high - (high - low) * (1 - share))


def _panels(matrix: Tensor, entries: int = PANEL) -> Sequence[Tensor]:
    """The rows in panels of about so many entries on CPU, all at once elsewhere."""
    return matrix.chunk(max(1, round(matrix.numel() / entries))) if matrix.device.type == "cpu" else [matrix]


def _transposed(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """A contiguous row for every column."""
    return rows.T.to(dtype).contiguous()


def _over_panels(
    errors: Callable[[Any, Sequence[int]], Tensor], panels: Sequence[Any], candidates: Sequence[int]
) -> Tensor:
    """Errors of these candidates, summed over the panels in their order; idle threads take panels and candidates."""
    middle = len(candidates) // 2
    shares = [some for some in (candidates[:middle], candidates[middle:]) if len(some)]
    found = by_parts(lambda task: errors(*task), list(product(panels, shares)))
    return reduce(add, (torch.cat(found[k : k + len(shares)]) for k in range(0, len(found), len(shares))))


def _first(errors: Tensor) -> int:
    """The first least error; the first of all where none is below infinity (published)."""
    return int(errors.nan_to_num(nan=torch.inf, posinf=torch.inf).argmin())


def _first_least(errors: Errors, count: int, searched: Tensor, floor: float) -> int:
    """The first of ``count`` candidates of least error, as float64 has it.

    Where M is float32 and on CPU, a pass in float32 comes first and leaves those that may be the best.

    Args:
        errors: Computes errors.
        count: Candidates.
        searched: M; says device and dtype.
        floor: What rounding in float32 can make of errors besides `NEAR`.
    """
    candidates: Sequence[int] = range(count)
    exact_products = torch.get_float32_matmul_precision() == "highest"
    if exact_products and searched.dtype == torch.float32 and searched.device.type == "cpu":
        rough = errors(candidates, torch.float32)
        candidates = (~(rough > rough.min() * (1 + NEAR) + floor)).nonzero()[:, 0].tolist()
        if len(candidates) == 1:
            return candidates[0]
    return candidates[_first(errors(candidates, torch.float64))]
