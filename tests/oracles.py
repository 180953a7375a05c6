"""Slow oracles: what the published code of BiLLM and ARB-LLM computes, candidate by candidate and in its order of loops.

Written from the behaviour of that code (golden vectors, papers), not from its text. Everything is in the dtype of the
input, float32 in the published code; with float64 input it is what that code would find without rounding. Weights are
(n_out, width), masks bool, a row's parameters are those of an output feature, and an entry outside the mask stays 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import torch
from torch import Tensor

ROUNDS = 15  # of alternating updates


def row_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of each row inside the mask (n_out, 1); 0 for a row that the mask leaves empty."""
    return torch.where(mask, values, 0).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)


def moments(x: Tensor, mask: Tensor, order: int) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]]:
    """BiLLM's planes one after the other: mean, mean absolute deviation and signs of what the earlier ones leave.

    Returns:
        The reconstruction, then for each plane its means (n_out, 1), scales (n_out, 1), and signs in {-1, 0, 1}.
    """
    fit, means, scales, signs = torch.zeros_like(x), [], [], []
    for _ in range(order):
        left = x * mask - fit
        means.append(row_mean(left, mask))
        scales.append(row_mean((left - means[-1]).abs(), mask))
        signs.append((left - means[-1]).sign() * mask)
        fit = fit + (scales[-1] * signs[-1] + means[-1]) * mask
    return fit, means, scales, signs


def billm(x: Tensor, mask: Tensor, order: int) -> Tensor:
    """BiLLM's binarizer."""
    return moments(x, mask, order)[0]


def nearest(target: Tensor, scales: list[Tensor], mask: Tensor) -> list[Tensor]:
    """Signs of two planes whose sum is nearest to the target, the first of (-,-), (-,+), (+,-), (+,+) at a tie."""
    pairs = list(product((-1.0, 1.0), repeat=2))
    distance = torch.stack([(target - (a * scales[0] + b * scales[1])).abs() for a, b in pairs])
    best = torch.tensor(pairs, dtype=target.dtype)[distance.argmin(0)]
    return [best[..., 0] * mask, best[..., 1] * mask]


def alternate(x: Tensor, mask: Tensor, order: int) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """ARB: in turn the mean, the scales one after the other, and the signs; returns mean, scales and signs."""
    x = x * mask
    fit, means, scales, signs = moments(x, mask, order)
    mean = torch.stack(means).sum(0)
    for _ in range(ROUNDS):
        mean = mean + row_mean(x - fit, mask)
        for plane in range(order):
            others = [scales[p] * signs[p] for p in range(order) if p != plane]
            target = (x - mean - sum(others)) * mask
            norm = signs[plane].square().sum(1, keepdim=True) + 1e-8
            scales[plane] = (signs[plane] * target).sum(1, keepdim=True) / norm
        signs = [(x - mean).sign() * mask] if order == 1 else nearest(x - mean, scales, mask)
        fit = (mean + sum(s * b for s, b in zip(scales, signs, strict=True))) * mask
    return mean, scales, signs


def arb(x: Tensor, mask: Tensor, order: int) -> Tensor:
    """ARB's binarizer."""
    mean, scales, signs = alternate(x, mask, order)
    return (mean + sum(s * b for s, b in zip(scales, signs, strict=True))) * mask


def arb_x(x: Tensor, mask: Tensor, order: int, metric: Tensor) -> Tensor:
    """ARB-X's binarizer: ARB, then mean and scales in turn in the metric S (width, width), inside the mask only."""
    mean, scales, signs = alternate(x, mask, order)
    x, inside = x * mask, mask.to(x.dtype)

    def inner(a: Tensor, b: Tensor) -> Tensor:
        return ((a @ metric) * b).sum(1, keepdim=True)

    for _ in range(ROUNDS):
        planes = sum(s * b for s, b in zip(scales, signs, strict=True))
        mean = inner(inside, x - planes * inside) / (inner(inside, inside) + 1e-10)
        for plane in range(order):
            others = sum(scales[p] * signs[p] for p in range(order) if p != plane)
            target = (x - mean - others) * inside
            scales[plane] = inner(signs[plane], target) / (inner(signs[plane], signs[plane]) + 1e-10)
    return (mean + sum(s * b for s, b in zip(scales, signs, strict=True))) * mask


def arb_rc(x: Tensor, mask: Tensor, order: int) -> Tensor:
    """ARB-RC's binarizer: row and column scales for each plane, no means; with one plane the signs stay."""
    x = x * mask
    fit, rows, columns, signs = torch.zeros_like(x), [], [], []
    for _ in range(order):
        left = x - fit
        rows.append(row_mean(left.abs(), mask))
        ratio = (left.abs() / rows[-1]).masked_fill(~mask, torch.nan)  # 0 / 0 counts neither
        columns.append(ratio.nanmean(0, keepdim=True).nan_to_num(0.0))
        signs.append(left.sign() * mask)
        fit = fit + rows[-1] * columns[-1] * signs[-1]
    for _ in range(ROUNDS):
        for plane in range(order):
            others = sum((rows[p] * columns[p] * signs[p] for p in range(order) if p != plane), torch.zeros_like(x))
            target, seen = x - others, columns[plane] * signs[plane]
            rows[plane] = (seen * target).sum(1, keepdim=True) / (seen.square().sum(1, keepdim=True) + 1e-8)
            seen = rows[plane] * signs[plane]
            columns[plane] = (seen * target).sum(0, keepdim=True) / (seen.square().sum(0, keepdim=True) + 1e-8)
        if order == 2:
            signs = nearest(x, [r * c for r, c in zip(rows, columns, strict=True)], mask)
    return sum((r * c * b for r, c, b in zip(rows, columns, signs, strict=True)), torch.zeros_like(x))


BINARIZERS: dict[str, Callable[..., Tensor]] = {  # by the names of the golden cases; those of arbx also take the metric
    f"{name}_order{order}": partial(function, order=order)
    for name, function in (("hor", billm), ("arb", arb), ("arbx", arb_x), ("arbrc", arb_rc))
    for order in (1, 2)
}


def quantiles(magnitudes: Tensor) -> Tensor:
    """The 81 candidates for a threshold."""
    levels = torch.linspace(0.10, 0.90, 81).numpy()
    return torch.from_numpy(np.quantile(magnitudes.flatten().numpy(), levels))


def salient_columns(matrix: Tensor, most: int) -> Tensor:
    """Ascending indices of the best of the first 1, ..., most - 1 columns by Σ|M|."""
    strength = matrix.abs().sum(0)
    ranked = strength.topk(most).indices
    least, best = torch.inf, 0
    for count in range(1, most):
        mask = torch.zeros_like(matrix, dtype=torch.bool)
        mask[:, ranked[:count]] = True
        error = (matrix - (billm(matrix, mask, 2) + billm(matrix, ~mask, 2))).square().mean()
        if error < least:
            least, best = error, count
    return strength.topk(best).indices.sort().values


def split(
    matrix: Tensor, mask: Tensor, order: int, thresholds: Tensor, rest: Tensor, metric: Tensor | None = None
) -> tuple[float, Tensor]:
    """The first threshold of least error between small and large entries inside the mask, and the large ones.

    Args:
        matrix: M (n_out, width).
        mask: The entries that are split.
        order: Planes of either part.
        thresholds: The candidates.
        rest: What stands for the entries outside the mask.
        metric: S (width, width), to score ``tr(R S Rᵀ)`` in place of the mean of R².
    """
    least, best = torch.inf, thresholds[0]
    for threshold in thresholds:
        large = ((matrix * mask).abs() >= threshold) & mask
        fit = billm(matrix, mask & ~large, order) + billm(matrix, large, order) + rest
        left = matrix - fit
        error = left.square().mean() if metric is None else (left.T @ left * metric).sum()
        if error < least:
            least, best = error, threshold
    return best.item(), ((matrix * mask).abs() >= best) & mask


def split_plain(matrix: Tensor, salient: Tensor, rest: Tensor, metric: Tensor | None = None) -> tuple[float, Tensor]:
    """The split of the columns that are not salient (width,), given what stands for the salient ones."""
    mask = (~salient).expand(matrix.shape)
    return split(matrix, mask, 1, quantiles((matrix * mask).abs()), rest, metric)


def split_salient(matrix: Tensor, salient: Tensor) -> tuple[float, Tensor]:
    """The split of the salient columns (CGB)."""
    mask = salient.expand(matrix.shape)
    magnitudes = (matrix * mask).abs()
    return split(matrix, mask, 2, quantiles(magnitudes[magnitudes != 0]), torch.zeros_like(matrix))


@dataclass(frozen=True)
class PublishedLayer:
    """One of the published methods on a whole layer.

    Attributes:
        method: ``billm``, ``arb``, ``arb_x`` or ``arb_rc``.
        metric: Salience, ``hessian`` or ``magnitude``.
        grouped: CGB: the salient columns are split as well.
        width: Columns of a block.
        most: One more than the largest number of salient columns.
        damping: Of H, relative to its mean diagonal.
    """

    method: str
    metric: str = "hessian"
    grouped: bool = False
    width: int = 128
    most: int = 50
    damping: float = 0.01

    def __call__(self, weight: Tensor, hessian: Tensor) -> Tensor:
        """Ŵ (n_out, n_in) for W (n_out, n_in) and H (n_in, n_in), errors fed back between blocks."""
        damped = hessian + self.damping * hessian.diagonal().mean() * torch.eye(len(hessian), dtype=hessian.dtype)
        factor = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
        left, fit = weight.clone(), torch.zeros_like(weight)
        for start in range(0, weight.shape[1], self.width):
            span = slice(start, min(start + self.width, weight.shape[1]))
            diagonal = factor.diagonal()[span]
            fit[:, span] = self._block(left[:, span], diagonal, hessian[span, span])
            error = (left[:, span] - fit[:, span]) / diagonal
            left[:, span.stop :] -= error @ factor[span, span.stop :]
        return fit

    def _block(self, block: Tensor, diagonal: Tensor, metric: Tensor) -> Tensor:
        """The masks, searched on the salience map, and what the binarizer makes of the weights inside each."""
        scored = (block / diagonal).square() if self.metric == "hessian" else block
        salient = torch.zeros(block.shape[1], dtype=torch.bool)
        salient[salient_columns(scored, self.most)] = True
        inside = salient.expand(block.shape)
        by_inputs = self.method == "arb_x"
        rest = (billm if self.method == "billm" else arb)(scored, inside, 2)
        _, large = split_plain(scored, salient, rest, metric if by_inputs else None)
        masks = [(~inside & ~large, 1), (large, 1), (inside, 2)]
        if self.grouped:
            _, upper = split_salient(scored, salient)
            masks[2:] = [(inside & ~upper, 2), (upper, 2)]
        extra = {"metric": metric} if by_inputs else {}
        binarize = {"billm": billm, "arb": arb, "arb_x": arb_x, "arb_rc": arb_rc}[self.method]
        return sum((binarize(block, mask, order, **extra) for mask, order in masks), torch.zeros_like(block))
