"""Column scales folded into what comes before a layer, so that the weight left is one sign plane with row scales.

    q, k, v      b into the weight of the norm before them: one b for the three
    gate, up     b into the weight of the norm before them: one b for both
    o            b into the rows of v: one factor for all query heads that read a key/value head's channel
    down         b into the rows of up, since down's input is act(gate x) ∘ (up x)

The function stays the same up to rounding the products. A layer whose column scales are not of this form is written dense.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from binllm.llamacpp.matrix import Dense, Matrix, Plane
from binllm.packing import Code


@dataclass
class Pieces:
    """One decoder block, fused layers taken apart.

    Attributes:
        matrices: q, k, v, o, gate, up, down.
        attention_norm: (hidden,) float64 weight of the norm before q, k, v.
        feed_forward_norm: The same before gate and up.
        layers: Module path of the layer that each matrix is (a part of).
    """

    matrices: dict[str, Matrix]
    attention_norm: Tensor
    feed_forward_norm: Tensor
    layers: dict[str, str]


def fold(pieces: Pieces, kv_heads: int) -> None:
    """Fold all column scales of a block away in place; where that is impossible the matrix becomes dense."""
    matrices = pieces.matrices
    pieces.attention_norm = fold_into_norm(matrices, ("q", "k", "v"), pieces.attention_norm)
    pieces.feed_forward_norm = fold_into_norm(matrices, ("gate", "up"), pieces.feed_forward_norm)
    _fold_into_rows(matrices, "o", "v", kv_heads)
    _fold_into_rows(matrices, "down", "up", kv_heads=matrices["up"].shape[0])


def fold_into_norm(matrices: dict[str, Matrix], names: tuple[str, ...], norm: Tensor) -> Tensor:
    """Fold the column scales that all named matrices share.

    Args:
        matrices: Changed in place.
        names: The matrices that read the output of the norm, all of them.
        norm: (n_in,) float64 weight of the norm.

    Returns:
        The new weight of the norm.
    """
    scales = [_column_scale(matrices[name]) for name in names]
    first = scales[0] if scales else None
    if first is not None and all(one is not None and torch.equal(one, first) for one in scales):
        for name in names:
            matrices[name] = _folded(matrices[name])
        return norm * first
    for name, scale in zip(names, scales, strict=True):
        if scale is not None:
            others = ", ".join(other for other in names if other != name)
            matrices[name] = _dense(matrices[name], f"its column scales are not those of {others} as well")
    return norm


def _fold_into_rows(matrices: dict[str, Matrix], name: str, before: str, kv_heads: int) -> None:
    """Fold the column scales of one matrix into the rows of the one that makes its input."""
    scale = _column_scale(matrices[name])
    if scale is None:
        return
    width = matrices[before].shape[0] // kv_heads
    shared = scale.reshape(kv_heads, -1, width)  # (key/value heads, query heads of each, width of a head)
    if not torch.equal(shared, shared[:, :1].expand_as(shared)):
        matrices[name] = _dense(matrices[name], "its column scales differ between query heads of one key/value head")
        return
    matrices[before] = matrices[before].scaled(shared[:, 0].flatten())
    matrices[name] = _folded(matrices[name])


def _column_scale(matrix: Matrix) -> Tensor | None:
    return matrix.column_scale if isinstance(matrix, Plane) else None


def _folded(matrix: Matrix) -> Matrix:
    assert isinstance(matrix, Plane)
    return matrix.without_column_scale()


def _dense(matrix: Matrix, reason: str) -> Dense:
    assert isinstance(matrix, Plane)
    code: Code = matrix.code
    return Dense(code.dense(torch.float32), reason)
