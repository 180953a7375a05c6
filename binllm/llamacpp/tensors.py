"""The tensors of a GGUF file, one after the other: each block taken apart, folded, padded and put in llama.cpp's order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from binllm.errors import BinllmError
from binllm.llamacpp.architecture import matrix_of_layer, pieces_of, rope_factors, tensors_of
from binllm.llamacpp.folding import Pieces, fold, fold_into_norm
from binllm.llamacpp.geometry import Geometry
from binllm.llamacpp.matrix import BLOCK, Dense, Matrix, Plane
from binllm.llamacpp.options import ExportOptions
from binllm.packing import BinaryLinear


@dataclass(frozen=True, eq=False)
class FileTensor:
    """One tensor as it is written.

    Attributes:
        name: In the file.
        data: In the file's layout.
        type: Of GGUF.
        entries: Its entries, padding included.
        linear: Whether it is a linear layer of a decoder block, or a packed output layer.
        reason: Why a packed layer is not `Q1_0`.
    """

    name: str
    data: np.ndarray
    type: GGMLQuantizationType
    entries: int
    linear: bool = False
    reason: str = ""


def linear_weights(model: PreTrainedModel) -> int:
    """Entries of the linear layers that `FileTensor.linear` is said of, without padding."""
    inside = (m for m in model.base_model.modules() if isinstance(m, BinaryLinear | nn.Linear))
    head = model.get_output_embeddings()
    layers = [*inside, *([head] if isinstance(head, BinaryLinear) else [])]
    return sum(layer.in_features * layer.out_features for layer in layers)


def tensors(model: PreTrainedModel, sizes: tuple[Geometry, Geometry], options: ExportOptions) -> Iterator[FileTensor]:
    """Every tensor of the file in its order.

    Args:
        model: As checked by `check_exportable`.
        sizes: The model's own, and those of the file.
        options: See `ExportOptions`.

    Raises:
        BinllmError: A packed layer cannot be `Q1_0` and that is to be refused, or a scale is outside fp16.
    """
    own, padded = sizes
    base: Any = model.base_model
    table, head = base.embed_tokens.weight, model.get_output_embeddings()
    vocabulary = len(table)
    dense = Dense(table.detach().cpu().float()).padded(vocabulary, padded.hidden)
    yield _matrix("token_embd", dense, options.exact_embeddings)
    factors = rope_factors(model)
    if factors is not None:
        yield _vector("rope_freqs", factors)
    for index, block in enumerate(base.layers):
        yield from _block(index, pieces_of(block, own), sizes, options, str(model.config.model_type))
    matrices: dict[str, Matrix] = {}
    if getattr(head, "weight", None) is not table:
        matrices["output"] = _allowed(matrix_of_layer(head), padded.hidden, options)  # type: ignore[arg-type]
    norm = fold_into_norm(matrices, tuple(matrices), base.norm.weight.double().cpu())
    yield _norm("output_norm", norm, sizes)
    for matrix in matrices.values():
        _check({"output layer": matrix}, options)
        packed = isinstance(matrix, Plane) or bool(matrix.reason)
        exact = options.one_bit if packed else options.exact_embeddings
        yield _matrix("output", matrix.padded(vocabulary, padded.hidden), exact, linear=packed)


def _block(
    index: int, pieces: Pieces, sizes: tuple[Geometry, Geometry], options: ExportOptions, model_type: str
) -> Iterator[FileTensor]:
    own, padded = sizes
    pieces.matrices = {p: _allowed(m, padded.shape(p)[1], options) for p, m in pieces.matrices.items()}
    fold(pieces, own.kv_heads)
    _check({f"{pieces.layers[p]} of block {index}": m for p, m in pieces.matrices.items()}, options)
    matrices = {piece: matrix.padded(*padded.shape(piece)) for piece, matrix in pieces.matrices.items()}
    yield _norm(f"blk.{index}.attn_norm", pieces.attention_norm, sizes)
    yield _norm(f"blk.{index}.ffn_norm", pieces.feed_forward_norm, sizes)
    for name, matrix in tensors_of(matrices, model_type, padded).items():
        yield _matrix(f"blk.{index}.{name}", matrix, options.one_bit, linear=True)


def _allowed(matrix: Matrix, n_in: int, options: ExportOptions) -> Matrix:
    """A plane stays one where the file is to have `Q1_0` and its rows, padded to n_in, are whole blocks."""
    if isinstance(matrix, Dense):
        return matrix
    if not options.one_bit:
        return Dense(matrix.code.dense(torch.float32))
    if n_in % BLOCK:
        return Dense(matrix.code.dense(torch.float32), f"its rows of {n_in} are not a multiple of {BLOCK}")
    return matrix


def _check(matrices: dict[str, Matrix], options: ExportOptions) -> None:
    if not (options.refuse and options.one_bit):
        return
    for name, matrix in matrices.items():
        if isinstance(matrix, Dense) and matrix.reason:
            raise BinllmError(f"{name} cannot be written as Q1_0: {matrix.reason}")


def _norm(name: str, weight: Tensor, sizes: tuple[Geometry, Geometry]) -> FileTensor:
    own, padded = (size.hidden for size in sizes)
    return _vector(name, functional.pad(weight * sqrt(own / padded), (0, padded - own)))


def _vector(name: str, values: Tensor) -> FileTensor:
    return FileTensor(f"{name}.weight", values.float().numpy(), GGMLQuantizationType.F32, len(values))


def _matrix(name: str, matrix: Matrix, exact: bool, linear: bool = False) -> FileTensor:
    n_out, n_in = matrix.shape
    reason = "" if isinstance(matrix, Plane) else matrix.reason
    data, kind = matrix.stored() if isinstance(matrix, Plane) else matrix.stored(exact)
    return FileTensor(f"{name}.weight", data, kind, n_out * n_in, linear, reason)
