"""Streaming second moments of a layer's inputs in the full-precision and in the quantized model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from binllm.distributed import Ranks

PANEL = 192  # columns; a panel's product is the same to the bit as its part of the whole one


class TokenWeights(Enum):
    """How much a token counts in the moments.

    ``uniform``: every token 1. ``inverse_energy``: ``1 / (1 + ||x||^2 / typical)``, so that a few massive activations do not
    own the moments; ``typical`` is the median of ``||x||^2`` in the token's own sequence.
    """

    uniform = "uniform"
    inverse_energy = "inverse_energy"

    def of(self, x: Tensor) -> Tensor | None:
        """Weights (tokens,) of one sequence ``x`` (tokens, n_in), or None for uniform ones."""
        if self is TokenWeights.uniform:
            return None
        energy = x.square().sum(1)
        return 1.0 / (1.0 + energy / energy.median().clamp_min(torch.finfo(x.dtype).tiny))


@dataclass(frozen=True)
class Statistics:
    """Moments of one layer's input, means per (weighted) token, float64.

    Attributes:
        gram: ``G = X̂ᵀX̂/N`` (n_in, n_in), the quantized stream.
        cross_gram: ``C = XᵀX̂/N`` (n_in, n_in), not symmetric.
        reference_gram: ``F = XᵀX/N`` (n_in, n_in), the full-precision stream.
        mean: Mean of ``x`` (n_in,).
        mean_hat: Mean of ``x_hat`` (n_in,).
        tokens: Number of tokens.
    """

    gram: Tensor
    cross_gram: Tensor
    reference_gram: Tensor
    mean: Tensor
    mean_hat: Tensor
    tokens: int

    def finite(self) -> bool:
        """Whether no moment has NaN or infinite entries."""
        moments = (self.gram, self.cross_gram, self.reference_gram, self.mean, self.mean_hat)
        return all(bool(torch.isfinite(moment).all()) for moment in moments)


class Moments:
    """Accumulates `Statistics` one sequence at a time.

    Products are taken in float64 and sequence by sequence, so the result does not depend on how sequences are batched. Those
    of F, which only enters constants and diagnostics, are taken in the stream's own precision, float32 at least, and
    summed in float64: their relative error stays under 1e-6 x the square root of a sequence's length.
    """

    def __init__(self, n_in: int, weights: TokenWeights = TokenWeights.uniform, device: str | torch.device = "cpu"):
        square = {"size": (n_in, n_in), "dtype": torch.float64, "device": device}
        self._gram, self._cross, self._reference = (torch.zeros(**square) for _ in range(3))
        self._mean, self._mean_hat = (torch.zeros(n_in, dtype=torch.float64, device=device) for _ in range(2))
        self._weights = weights
        self._total = 0.0
        self._tokens = 0

    def add(self, x: Tensor, x_hat: Tensor) -> None:
        """Add a batch.

        Args:
            x: (sequences, tokens, n_in) or (tokens, n_in), input in the full-precision model.
            x_hat: The same tokens in the quantized model, same shape.
        """
        if x.dim() == 2:
            x, x_hat = x[None], x_hat[None]
        for reference, quantized in zip(x, x_hat, strict=True):
            self._add_sequence(reference, quantized.double())

    def _add_sequence(self, reference: Tensor, x_hat: Tensor) -> None:
        x = reference.double()
        weight = self._weights.of(x)
        left, left_hat = (x, x_hat) if weight is None else (x * weight[:, None], x_hat * weight[:, None])
        _add_upper(self._gram, left_hat, x_hat)
        self._cross.addmm_(left.T, x_hat)
        narrow = torch.promote_types(reference.dtype, torch.float32)
        _add_upper(self._reference, left.to(narrow), x.to(narrow))
        self._mean += left.sum(0)
        self._mean_hat += left_hat.sum(0)
        self._total += float(len(x)) if weight is None else float(weight.sum())
        self._tokens += len(x)

    def add_over(self, ranks: Ranks) -> None:
        """Make these the moments of what all processes of a run added, up to the rounding of float64."""
        counts = torch.tensor([self._total, self._tokens], dtype=torch.float64)
        ranks.add_up([self._gram, self._cross, self._reference, self._mean, self._mean_hat, counts])
        self._total, self._tokens = float(counts[0]), int(counts[1])

    def statistics(self) -> Statistics:
        """The means of all that was added. The sums become the means in place, so nothing more can be added.

        Raises:
            ValueError: Nothing has been added, or the means were asked for before.
        """
        if self._tokens == 0:
            raise ValueError("no tokens were added, or the sums are means already")
        tokens, total = self._tokens, self._total
        self._tokens, self._total = 0, math.nan
        _mirror(self._gram)
        _mirror(self._reference)
        moments = (self._gram, self._cross, self._reference, self._mean, self._mean_hat)
        return Statistics(*(moment.div_(total) for moment in moments), tokens=tokens)


def _add_upper(square: Tensor, left: Tensor, right: Tensor) -> None:
    """Add ``leftᵀ right``, which is symmetric, to the panels of a square matrix that hold its upper triangle."""
    for start in range(0, len(square), PANEL):
        rows = slice(start, start + PANEL)
        block = square[rows, start:]
        if left.dtype == square.dtype:
            block.addmm_(left[:, rows].T, right[:, start:])
        else:
            block += left[:, rows].T @ right[:, start:]


def _mirror(square: Tensor) -> None:
    """Make a matrix symmetric by its upper triangle; what is below it is overwritten, panel by panel."""
    for start in range(0, len(square), PANEL):
        stop = start + PANEL
        own = square[start:stop, start:stop]
        own.copy_(own.triu() + own.triu(1).T)
        square[stop:, start:stop] = square[start:stop, stop:].T
