"""The searches of BiLLM (2402.04291) and ARB-LLM (2410.03129) for salient columns and for magnitude groups.

Both binarize the searched matrix M (weights, or a salience map of them) for every candidate, and keep the first of least
error. Errors are found in float64 and on the CPU, wherever M is.

Differs from the published code: that decides in float32, and may keep another of two candidates that differ by rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from typing import Any

import numpy as np
import torch
from torch import Tensor

from binllm.binarization.first_order_gains import output_gains, threshold_gains
from binllm.binarization.second_order_errors import leading_errors, nested_errors
from binllm.parallel import by_parts

QUANTILES = (0.10, 0.90, 81)  # of the magnitudes, the candidates for a threshold: first, last, how many
PANEL = 96  # rows that a thread takes at once


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
    entries = _entries(searched.index_select(1, torch.cat([first, others.nonzero()[:, 0]])))
    best = _first(_over_rows(leading_errors, (entries,), most))
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
    ascending = _entries(_ascending(searched.index_select(1, (~salient).nonzero()[:, 0])))
    best = _first(-_over_rows(threshold_gains, (ascending,), _entries(thresholds)))
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
    s = metric.double()[:, ~salient]
    plain, pull = _entries(searched[:, ~salient]), _entries(left @ s)
    rows = plain, plain.argsort(1), pull
    best = _first(-_over_rows(output_gains, rows, _entries(s[~salient]), _entries(thresholds)))
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
    return _split(searched, salient, thresholds[_first(_over_rows(nested_errors, (entries, below)))])


def _split(searched: Tensor, columns: Tensor, threshold: Tensor) -> tuple[float, Tensor]:
    return threshold.item(), (searched.abs() >= threshold) & columns


def _plain_thresholds(searched: Tensor, salient: Tensor) -> Tensor:
    magnitudes = searched.abs().index_fill_(1, salient.nonzero()[:, 0], 0)
    return _quantiles(_ascending(magnitudes.flatten()))


def _quantiles(values: Tensor) -> Tensor:
    """Linearly interpolated quantiles (81,) of ascending values (n,).

    Bit for bit ``numpy.quantile`` with float32 levels, which the published code calls: positions are float32, too.
    """
    position = torch.linspace(*QUANTILES, device=values.device) * (len(values) - 1)
    share = position - position.floor()
    below = position.long()
    low, high = values[below], values[(below + 1).clamp(max=len(values) - 1)]
    return torch.where(share < 0.5, low + (high - low) * share, high - (high - low) * (1 - share))


def _ascending(values: Tensor) -> Tensor:
    """Sorted along the last dimension; on CPU by NumPy, whose vectorized sort takes a twentieth of the time of torch's."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.sort(values.detach().numpy()))
    return values.sort().values


def _entries(values: Tensor) -> np.ndarray:
    return values.detach().to("cpu", torch.float64).contiguous().numpy()


def _over_rows(errors: Callable[..., np.ndarray], rows: tuple[np.ndarray, ...], *others: Any) -> np.ndarray:
    """Errors or gains (candidates,), summed over the rows; idle threads take panels of them."""
    panels = [slice(start, start + PANEL) for start in range(0, len(rows[0]), PANEL)]
    found = by_parts(lambda panel: errors(*(array[panel] for array in rows), *others), panels, compiled=True)
    return np.sum(found, axis=0)


def _first(errors: np.ndarray) -> int:
    """The first least error; the first of all where none is below infinity (published)."""
    return int(np.nan_to_num(errors, nan=np.inf).argmin())
