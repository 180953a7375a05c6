"""Streaming second moments of a layer's inputs in the full-precision and in the quantized model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

import torch
from torch import Tensor

from binllm.distributed import Ranks

PANEL = 192  # columns; a panel's product is the same to the bit as its part of the whole one
OUTPUTS = 4096  # whose energy is summed at once


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

    Of a wide layer these are the largest things in memory, so what nobody reads is not measured, and the second moment
    ``F = XᵀX/N`` of the full-precision stream never is: all that is asked of it is ``(W F Wᵀ)_ii``.

    Attributes:
        gram: ``G = X̂ᵀX̂/N`` (n_in, n_in), the quantized stream.
        cross_gram: ``C = XᵀX̂/N`` (n_in, n_in), not symmetric; empty if it was not measured.
        output_energy: Mean of ``(x Wᵀ)²`` (n_out,), of each full-precision output; empty if it was not measured.
        mean: Mean of ``x`` (n_in,).
        mean_hat: Mean of ``x_hat`` (n_in,).
        tokens: Number of tokens.
    """

    gram: Tensor
    cross_gram: Tensor
    output_energy: Tensor
    mean: Tensor
    mean_hat: Tensor
    tokens: int

    def finite(self) -> bool:
        """Whether no moment has NaN or infinite entries; its sum would have them too."""
        moments = (self.gram, self.cross_gram, self.output_energy, self.mean, self.mean_hat)
        return all(math.isfinite(float(moment.sum())) for moment in moments)

    def split(self, outputs: Sequence[int]) -> list[Statistics]:
        """The statistics of every layer that reads the input; the moments are shared.

        Args:
            outputs: How many each layer has, in the order in which they were measured.
        """
        if not len(self.output_energy):
            return [self] * len(outputs)
        return [replace(self, output_energy=own) for own in self.output_energy.split(list(outputs))]


class Moments:
    """Accumulates `Statistics` one sequence at a time.

    Products are taken in float64 and sequence by sequence, so the result does not depend on how sequences are batched.
    Outputs are made in the stream's own precision, float32 at least; their energy is summed in float64.

    Args:
        n_in: Size of the input.
        weights: How tokens count.
        device: Where the sums are.
        outputs: Weights (n_out, n_in) of layers that read the input, whose outputs' energy is wanted.
        cross: Whether C is wanted.
    """

    def __init__(
        self,
        n_in: int,
        weights: TokenWeights = TokenWeights.uniform,
        device: str | torch.device = "cpu",
        outputs: Sequence[Tensor] = (),
        cross: bool = True,
    ):
        def zeros(*size: int) -> Tensor:
            return torch.zeros(size, dtype=torch.float64, device=device)

        self._gram = zeros(n_in, n_in)
        self._cross = zeros(n_in, n_in) if cross else zeros(0, 0)
        self._mean, self._mean_hat = zeros(n_in), zeros(n_in)
        self._outputs = [rows for weight in outputs for rows in weight.detach().split(OUTPUTS)]
        self._energies = [zeros(len(rows)) for rows in self._outputs]
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
        if len(self._cross):
            self._cross.addmm_(left.T, x_hat)
        narrow = torch.promote_types(reference.dtype, torch.float32)
        for energy, rows in zip(self._energies, self._outputs, strict=True):
            squares = (reference.to(narrow) @ rows.to(narrow).T).double().square_()
            energy += squares.sum(0) if weight is None else weight @ squares
        self._mean += left.sum(0)
        self._mean_hat += left_hat.sum(0)
        self._total += float(len(x)) if weight is None else float(weight.sum())
        self._tokens += len(x)

    def add_over(self, ranks: Ranks) -> None:
        """Make these the moments of what all processes of a run added, up to the rounding of float64."""
        counts = torch.tensor([self._total, self._tokens], dtype=torch.float64)
        ranks.add_up([self._gram, self._cross, *self._energies, self._mean, self._mean_hat, counts])
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
        energy = torch.cat(self._energies) if self._energies else self._mean.new_empty(0)
        moments = (self._gram, self._cross, energy, self._mean, self._mean_hat)
        return Statistics(*(moment.div_(total) for moment in moments), tokens=tokens)


def _add_upper(square: Tensor, left: Tensor, right: Tensor) -> None:
    """Add ``leftᵀ right``, which is symmetric, to the panels of a square matrix that hold its upper triangle."""
    for start in range(0, len(square), PANEL):
        rows = slice(start, start + PANEL)
        square[rows, start:].addmm_(left[:, rows].T, right[:, start:])


def _mirror(square: Tensor) -> None:
    """Make a matrix symmetric by its upper triangle; what is below it is overwritten, panel by panel."""
    for start in range(0, len(square), PANEL):
        stop = start + PANEL
        own = square[start:stop, start:stop]
        own.copy_(own.triu() + own.triu(1).T)
        square[stop:, start:stop] = square[start:stop, stop:].T
