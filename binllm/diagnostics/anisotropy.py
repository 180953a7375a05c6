"""Anisotropy: in which directions of a block's output the error lies, and how few directions the streams live in.

All moments are about zero, as everywhere here, and summed over tokens in float64: memory is d x d.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

RANK_TOLERANCE = 1e-10  # relative eigenvalue under which a direction of the output counts as empty


@dataclass(frozen=True)
class Spread:
    """How a stream fills its space; sums over tokens.

    Attributes:
        moment: ``Σ x xᵀ`` (d, d) float64.
        directions: ``Σ x/||x||`` (d,) float64.
        magnitude: ``Σ |x_i|`` over tokens and entries.
        largest: ``max |x_i|``.
        tokens: Number of tokens.
    """

    moment: Tensor
    directions: Tensor
    magnitude: float
    largest: float
    tokens: int

    def __add__(self, other: Spread) -> Spread:
        return Spread(
            self.moment + other.moment,
            self.directions + other.directions,
            self.magnitude + other.magnitude,
            max(self.largest, other.largest),
            self.tokens + other.tokens,
        )

    def numbers(self, values: Tensor) -> dict[str, float]:
        """Four numbers of a stream.

        Args:
            values: Eigenvalues (d,) of the moment, ascending.

        Returns:
            ``effective_rank``: exp of the entropy (nats) of the eigenvalues' shares, 1 to d (directions).
            ``mean_cosine``: over all pairs of different tokens. ``top_energy``: share of energy in the largest hundredth
            of the directions, at least one. ``massive``: largest magnitude over the mean magnitude of an entry.
        """
        share = values.clamp_min(0) / values.clamp_min(0).sum().clamp_min(torch.finfo(values.dtype).tiny)
        top = max(1, len(values) // 100)
        pairs = self.tokens * (self.tokens - 1)
        mean = self.magnitude / (self.tokens * len(values))
        return {
            "effective_rank": float(torch.special.entr(share).sum().exp()),
            "mean_cosine": (float(self.directions.square().sum()) - self.tokens) / pairs if pairs else 0.0,
            "top_energy": float(share[-top:].sum()),
            "massive": self.largest / mean if mean > 0 else 0.0,
        }


def spread(x: Tensor) -> Spread:
    """Sums of a stream x (..., d) of any floating dtype."""
    x = x.flatten(0, -2).double()
    magnitude = x.abs()
    directions = torch.nn.functional.normalize(x, dim=-1).sum(0)
    return Spread(x.T @ x, directions, float(magnitude.sum()), float(magnitude.max()), len(x))


def relative_spectrum(error: Tensor, values: Tensor, vectors: Tensor) -> Tensor:
    """Eigenvalues of the error's second moment relative to the output's: those of ``Σ_Y^(-1/2) Σ_E Σ_Y^(-1/2)``.

    1 means that the error is as large as the output in a direction. A direction in which the output has no energy (fewer
    tokens than dimensions, a dead dimension) is left out.

    Args:
        error: ``Σ_E`` (d, d) float64.
        values: Eigenvalues (d,) of ``Σ_Y``, ascending.
        vectors: Its eigenvectors (d, d), columns.

    Returns:
        (rank of ``Σ_Y``,) float64, descending, not negative.
    """
    alive = values > RANK_TOLERANCE * values[-1].clamp_min(0)
    whitening = vectors[:, alive] * values[alive].rsqrt()
    return torch.linalg.eigvalsh(whitening.T @ error @ whitening).clamp_min(0).flip(0)


@dataclass(frozen=True)
class Anisotropy:
    """A block's output ``Y`` in the full-precision and ``Ŷ`` in the quantized model.

    Attributes:
        x: Spread of Y.
        x_hat: Spread of Ŷ.
        error: ``Σ (ŷ - y)(ŷ - y)ᵀ`` (d, d) float64.
    """

    x: Spread
    x_hat: Spread
    error: Tensor

    def __add__(self, other: Anisotropy) -> Anisotropy:
        return Anisotropy(self.x + other.x, self.x_hat + other.x_hat, self.error + other.error)

    def numbers(self) -> dict[str, list[float]]:
        """The spectrum (`relative_spectrum`), its variance of logarithms (nats²) and condition number, and both spreads."""
        values, vectors = torch.linalg.eigh(self.x.moment)
        spectrum = relative_spectrum(self.error, values, vectors)
        positive = spectrum[spectrum > RANK_TOLERANCE * spectrum[:1]]
        found = {
            "error_spectrum": spectrum.tolist(),
            "error_log_variance": [float(positive.log().var(correction=0)) if len(positive) else 0.0],
            "error_condition": [float(positive[0] / positive[-1]) if len(positive) else 1.0],
        }
        of_streams = {
            "x": self.x.numbers(values),
            "x_hat": self.x_hat.numbers(torch.linalg.eigvalsh(self.x_hat.moment)),
        }
        for stream, numbers in of_streams.items():
            found |= {f"{name}_{stream}": [value] for name, value in numbers.items()}
        return found


def anisotropy(output: Tensor, found: Tensor) -> Anisotropy:
    """Sums over a batch of a block's outputs Y and Ŷ, each (..., d) of any floating dtype."""
    error = (found.double() - output.double()).flatten(0, -2)
    return Anisotropy(spread(output), spread(found), error.T @ error)
