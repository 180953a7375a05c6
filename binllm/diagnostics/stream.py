"""Streams: how far a layer's (or a block's) output in the quantized model is from the full-precision one, and why.

Every error is a sum over tokens, so batches are added and memory does not grow with them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

TOKENS = 256  # compared at once: their temporaries stay in the cache


@dataclass(frozen=True)
class Comparison:
    """What is found against a target, both one vector a token, summed over tokens; two of them add up.

    Attributes:
        error: ``Σ ||target - found||²``.
        energy: ``Σ ||target||²``.
        found: ``Σ ||found||²``.
        cosine: Sum over tokens of the cosine between target and found; 0 for a token where either is zero.
        tokens: Number of tokens.
    """

    error: float
    energy: float
    found: float
    cosine: float
    tokens: int

    def __add__(self, other: Comparison) -> Comparison:
        return Comparison(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    @property
    def relative_error(self) -> float:
        """``Σ ||target - found||² / Σ ||target||²``."""
        return ratio(self.error, self.energy)

    @property
    def similarity(self) -> float:
        """Mean cosine over tokens."""
        return ratio(self.cosine, self.tokens)


def ratio(part: float, whole: float) -> float:
    """``part / whole``; of nothing, 0 where the part is 0 as well and infinite otherwise."""
    return part / whole if whole > 0 else (0.0 if part == 0 else float("inf"))


def compare(target: Tensor, found: Tensor) -> Comparison:
    """Compare two sets of token vectors.

    Args:
        target: (..., features), any floating dtype; products in float32 at least, sums over tokens in float64.
        found: The same shape.
    """
    dtype = torch.promote_types(target.dtype, torch.float32)
    parts = zip(*(one.flatten(0, -2).split(TOKENS) for one in (target, found)), strict=True)
    first, *others = (_compare(one.to(dtype), other.to(dtype)) for one, other in parts)
    return sum(others, first)


def _compare(target: Tensor, found: Tensor) -> Comparison:
    norm, norm_found, norm_error = (
        torch.linalg.vector_norm(one, dim=-1).double() for one in (target, found, target - found)
    )
    norms = norm * norm_found
    product = torch.linalg.vecdot(target, found).double()
    cosine = torch.where(norms > 0, product / norms.clamp_min(torch.finfo(torch.float64).tiny), 0.0)
    error, energy, energy_found = (float(one.square().sum()) for one in (norm_error, norm, norm_found))
    return Comparison(error, energy, energy_found, float(cosine.sum()), len(norms))


@dataclass(frozen=True)
class StreamDrift:
    """The streams of one layer, or of a whole block.

    Attributes:
        conditioned: ``X̂Wᵀ`` against ``X̂Ŵᵀ``: what quantizing this layer does to the inputs it really gets.
        output: ``XWᵀ`` against ``X̂Ŵᵀ``: how far its output is from the full-precision model's.
        stream: ``X`` against ``X̂``.
    """

    conditioned: Comparison
    output: Comparison
    stream: Comparison

    def __add__(self, other: StreamDrift) -> StreamDrift:
        return StreamDrift(self.conditioned + other.conditioned, self.output + other.output, self.stream + other.stream)

    def numbers(self) -> dict[str, list[float]]:
        """Dimensionless: relative squared errors, mean cosines, ``drift = ||X - X̂||/||X||``, ratio of energies."""
        return {
            "conditioned_error": [self.conditioned.relative_error],
            "conditioned_similarity": [self.conditioned.similarity],
            "output_error": [self.output.relative_error],
            "output_similarity": [self.output.similarity],
            "output_energy": [ratio(self.output.found, self.output.energy)],
            "drift": [self.stream.relative_error**0.5],
        }


@dataclass(frozen=True)
class Accumulation:
    """How the error of a block's output ``f(X)`` comes about, f the block as it was and f̂ the quantized one.

    Attributes:
        total: ``f(X)`` against ``f̂(X̂)``.
        inherited: ``f(X)`` against ``f(X̂)``: what the drift of its input alone does.
        new: ``f(X̂)`` against ``f̂(X̂)``: what quantizing the block adds.
    """

    total: Comparison
    inherited: Comparison
    new: Comparison

    def __add__(self, other: Accumulation) -> Accumulation:
        return Accumulation(self.total + other.total, self.inherited + other.inherited, self.new + other.new)

    def numbers(self) -> dict[str, list[float]]:
        """Squared norms of the three differences, each over ``||f(X)||²``; the total has twice their inner product too."""
        names = ("total", "inherited", "new")
        return {name: [ratio(getattr(self, name).error, self.total.energy)] for name in names}
