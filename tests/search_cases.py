"""Searched matrices of many kinds, with the columns that a literal oracle finds salient in them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import oracles
import torch
from helpers import generator
from torch import Tensor

MOST = 50
SHAPES = ((24, 128), (40, 64), (17, 100))


def heavy(n_out: int, width: int, seed: int) -> Tensor:
    """Student's t with 4 degrees of freedom, rows and columns of different strength, float32."""
    source = generator(seed)
    chi = torch.randn(4, n_out, width, generator=source).square().mean(0).sqrt()
    strength = 0.02 * torch.randn(width, generator=source).exp() * torch.randn(n_out, 1, generator=source).exp().sqrt()
    return torch.randn(n_out, width, generator=source) / chi * strength


def hessian(weight: Tensor) -> Tensor:
    """The salience map w² / d², d the diagonal of some factor."""
    return weight.square() / torch.randn(weight.shape[1], generator=generator(1)).exp().square()


def holes(weight: Tensor) -> Tensor:
    """Exact zeros: a third of the entries, a row and a column."""
    weight = weight * (torch.rand(weight.shape, generator=generator(2)) > 0.3)
    weight[1], weight[:, 2] = 0, 0
    return weight


KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "magnitude": lambda weight: weight,
    "hessian": hessian,
    "holes": holes,
    "hessian_holes": lambda weight: hessian(holes(weight)),
    "bfloat16": lambda weight: weight.bfloat16().float(),  # means that are entries
    "few_values": lambda weight: (weight * 100).round().clamp(-3, 3),
    "sparse": lambda weight: weight * (torch.rand(weight.shape, generator=generator(3)) > 0.97),
    "one_column": lambda weight: weight * torch.eye(1, weight.shape[1]),
    "far_from_0": lambda weight: weight + 1,
    "tiny": lambda weight: weight * 1e-18,
    "huge": lambda weight: weight * 1e15,
}
CASES = [(kind, *shape, seed) for kind in KINDS for seed, shape in enumerate(SHAPES)] + [("magnitude", 64, 128, 3)]
# With few values second-order residuals equal their mean, which rounding hides from any but exact arithmetic.
ROUNDED_CASES = [case for case in CASES if case[0] != "few_values"]


@cache
def problem(kind: str, n_out: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    """M, and which of its columns the oracle finds salient."""
    matrix = KINDS[kind](heavy(n_out, width, seed))
    salient = torch.zeros(width, dtype=torch.bool)
    salient[oracles.salient_columns(matrix, MOST)] = True
    return matrix, salient


def metric(width: int, seed: int) -> Tensor:
    """Second moments of correlated inputs with a channel of large ones."""
    mix = torch.eye(width) + torch.randn(width, width, generator=generator(seed)) / width**0.5
    mix[:, 3] *= 20
    tokens = torch.randn(300, width, generator=generator(seed + 1)) @ mix
    return tokens.T @ tokens
