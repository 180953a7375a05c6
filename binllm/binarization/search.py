"""The searches of BiLLM (2402.04291) and ARB-LLM (2410.03129) for salient columns and for magnitude groups.

Both binarize the searched matrix M (weights, or a salience map of them) for every candidate, and keep the first of least
error. Errors are found in float64 and on the CPU, wherever M is. Fastest where M lies column by column in memory.

Differs from the published code: that decides in float32, and may keep another of two candidates that differ by rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from math import frexp, isfinite

import numpy as np
import torch
from torch import Tensor

from binllm.binarization.elimination import Rows, Scores, first_least
from binllm.binarization.first_order_gains import split_fit, threshold_gains
from binllm.binarization.output_gains import output_gain, output_gains
from binllm.binarization.second_order_errors import leading_errors, nested_errors

FEW = 6  # candidates for which output errors are found sooner by a product with the metric for each
LONG = 1024  # terms whose rounding in float32 is within what `first_least` allows for
QUANTILES = (0.10, 0.90, 81)  # of the magnitudes, the candidates for a threshold: first, last, how many


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
    ranking = searched.abs().sum(0) if ranking is None else ranking
    first = ranking.topk(most).indices
    others = torch.ones(width, dtype=torch.bool, device=searched.device)
    others[first] = False
    x = _entries(searched.T)[torch.cat([first, others.nonzero()[:, 0]]).cpu()]
    x *= _unit(x)

    def scores(x: np.ndarray) -> Scores:
        return lambda rows, some: leading_errors(_of(rows, x), 1 + some)

    best = first_least(scores(x), most - 1, _energy(x), rough=_rough(scores, searched, x))
    return ranking.topk(1 + best).indices.sort().values


def split_plain(searched: Tensor, salient: Tensor) -> tuple[float, Tensor]:
    """The threshold between small and large plain entries that leaves the least first-order error.

    Args:
        searched: M (n_out, width), float32 or float64.
        salient: (width,) bool; these columns count as zeros in the quantiles and are no part of the error.

    Returns:
        The threshold, and where a plain entry is large, ``|M| >= threshold``: (n_out, width) bool.
    """
    thresholds = _plain_thresholds(searched, salient)
    x, limits = _entries(searched.T)[~salient.cpu()], _entries(thresholds)
    unit = _unit(x)
    x, limits = x * unit, limits * unit
    energy = _energy(x)

    def scores(x: np.ndarray) -> Scores:
        return lambda rows, some: -threshold_gains(_of(rows, x), limits[some].astype(x.dtype))

    best = first_least(scores(x), len(limits), energy, floor=-energy, rough=_rough(scores, searched, x))
    return _split(searched, ~salient, thresholds[best])


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
    left = searched.double().clone()
    left[:, salient] -= salient_fit[:, salient].double()
    s, limits = metric.double(), _entries(thresholds)
    image = left @ s
    x, pull, s_plain = (_entries(each)[~salient.cpu()] for each in (searched.T, image.T, s[:, ~salient]))
    x_rows, order, pull_rows = map(np.ascontiguousarray, (x.T, x.argsort(0).T, pull.T))

    def scores(rows: Rows, some: np.ndarray) -> np.ndarray:
        if len(some) > FEW:
            return -output_gains(x_rows[rows], order[rows], pull_rows[rows], s_plain, limits[some])
        return -np.array(
            [output_gain(split_fit(_of(rows, x), float(limits[k])), _of(rows, pull), s_plain) for k in some]
        )

    # S may be positive semi-definite only up to the rounding of its entries.
    energy = (image * left).sum(1) + torch.finfo(metric.dtype).eps * s.trace() * left.square().sum(1)
    best = first_least(scores, len(limits), _entries(energy), floor=-_entries(energy))
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
    chosen = searched[:, salient]
    present = chosen[chosen != 0].abs()
    if not present.numel():
        return _split(searched, salient, chosen.new_zeros(()))
    thresholds = _quantiles(_ascending(present))
    entries = _entries(chosen)
    entries = np.take_along_axis(entries, np.abs(entries).argsort(1), 1)
    limits = torch.from_numpy(_entries(thresholds)).expand(len(entries), -1).contiguous()
    below = torch.searchsorted(torch.from_numpy(np.abs(entries)), limits).numpy()
    energy = _energy(entries.T)
    best = first_least(lambda rows, some: nested_errors(entries[rows], below[rows][:, some]), len(thresholds), energy)
    return _split(searched, salient, thresholds[best])


def _split(searched: Tensor, columns: Tensor, threshold: Tensor) -> tuple[float, Tensor]:
    return threshold.item(), ((searched.T.abs() >= threshold) & columns[:, None]).T


def _plain_thresholds(searched: Tensor, salient: Tensor) -> Tensor:
    magnitudes = searched.T.abs().index_fill_(0, salient.nonzero()[:, 0], 0)
    return _quantiles(_ascending(magnitudes.flatten()))


def _quantiles(values: Tensor) -> Tensor:
    """Linearly interpolated quantiles (81,) of ascending values (n,).

    Bit for bit ``numpy.quantile`` with float32 levels, which the published code calls: positions are float32, too.
    """
    below, above, share = _positions(len(values), values.device)
    low, high = values[below], values[above]
    return torch.where(share < 0.5, low + (high - low) * share, high - (high - low) * (1 - share))


@lru_cache
def _positions(count: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Ranks of the values below and above each quantile of ``count`` ascending ones, and its share of the way."""
    position = torch.linspace(*QUANTILES, device=device) * (count - 1)
    below = position.long()
    return below, (below + 1).clamp(max=count - 1), position - position.floor()


def _ascending(values: Tensor) -> Tensor:
    """Sorted along the last dimension; on CPU by NumPy, whose vectorized sort takes a twentieth of the time of torch's."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.sort(values.detach().numpy()))
    return values.sort().values


def _entries(values: Tensor) -> np.ndarray:
    return values.detach().to("cpu", torch.float64).contiguous().numpy()


def _energy(x: np.ndarray) -> np.ndarray:
    """Σx² (rows,) of every row, for x (width, rows)."""
    return np.einsum("ij,ij->j", x, x)


def _unit(x: np.ndarray) -> float:
    """The power of two that brings the largest magnitude to about 1, so that no square is lost in float32."""
    return 2.0 ** -frexp(max(x.max(initial=0.0), -x.min(initial=0.0)))[1]


def _rough(scores: Callable[[np.ndarray], Scores], searched: Tensor, x: np.ndarray) -> Scores | None:
    """Scores in float32, if M is and rows are not too long: then sums are rounded, and hardly more is lost."""
    made = cache(lambda: scores(x.astype(np.float32)))  # most searches do not ask
    usable = searched.dtype == torch.float32 and len(x) <= LONG
    return (lambda rows, some: made()(rows, some)) if usable else None


def _of(rows: Rows, x: np.ndarray) -> np.ndarray:
    """Some rows of x (width, rows), next to each other in memory."""
    return np.ascontiguousarray(x[:, rows]) if isinstance(rows, slice) else x.take(rows, axis=1)
