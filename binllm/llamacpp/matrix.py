"""A weight matrix on its way into a GGUF file: one sign plane, or dense.

GGUF's `Q1_0` is 18 bytes for 128 consecutive weights of a row: an fp16 scale d, then 128 bits, the first weight in the
lowest bit of the first byte. A weight is +d where its bit is set and -d where not, so `Q1_0` is one sign plane with
a scale for each row and 128 columns, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from gguf import GGMLQuantizationType
from torch import Tensor
from torch.nn import functional

from binllm.packing import BinaryCode, Code
from binllm.packing.bits import pack_bits

BLOCK = 128
"""Weights of a `Q1_0` block."""


@dataclass(frozen=True, eq=False)
class Dense:
    """Any matrix.

    Attributes:
        weight: (n_out, n_in) floating point.
        reason: Why it is not a sign plane; empty for a layer that was not quantized.
    """

    weight: Tensor
    reason: str = ""

    @property
    def shape(self) -> tuple[int, int]:
        """(n_out, n_in)."""
        return self.weight.shape[0], self.weight.shape[1]

    def rows(self, index: Tensor) -> Dense:
        """The rows with these indices, (rows,) int64."""
        return replace(self, weight=self.weight[index])

    def scaled(self, factor: Tensor) -> Dense:
        """Each row multiplied by its factor, (n_out,)."""
        return replace(self, weight=(self.weight.double() * factor[:, None]).float())

    def padded(self, n_out: int, n_in: int) -> Dense:
        """With zero rows and columns appended."""
        rows, columns = self.shape
        return replace(self, weight=functional.pad(self.weight, (0, n_in - columns, 0, n_out - rows)))

    def stored(self, exact: bool) -> tuple[np.ndarray, GGMLQuantizationType]:
        """What is written, in F16 or in the smallest type that holds it exactly: the data in the file's layout, its type."""
        if not exact:
            return self.weight.half().numpy(), GGMLQuantizationType.F16
        for dtype in (torch.float16, torch.bfloat16):
            cast = self.weight.to(dtype)
            if torch.equal(cast.to(self.weight.dtype), self.weight):
                kind = GGMLQuantizationType.F16 if dtype is torch.float16 else GGMLQuantizationType.BF16
                return cast.contiguous().view(torch.uint8).numpy(), kind
        return self.weight.float().numpy(), GGMLQuantizationType.F32


@dataclass(frozen=True, eq=False)
class Plane:
    """One sign plane, ``weight[i, j] = scale[i, j // 128] * signs[i, j] * column_scale[j]``.

    Attributes:
        signs: (n_out, n_in) int8 in {-1, +1}.
        scale: (n_out, ceil(n_in / 128)) float64.
        column_scale: (n_in,) float64, or None once it has been folded away (or never was).
        code: What it was made of, with its column scales.
    """

    signs: Tensor
    scale: Tensor
    column_scale: Tensor | None
    code: Code

    @property
    def shape(self) -> tuple[int, int]:
        """(n_out, n_in)."""
        return self.signs.shape[0], self.signs.shape[1]

    def rows(self, index: Tensor) -> Plane:
        """The rows with these indices, (rows,) int64."""
        return replace(self, signs=self.signs[index], scale=self.scale[index])

    def scaled(self, factor: Tensor) -> Plane:
        """Each row multiplied by its factor, (n_out,)."""
        return replace(self, scale=self.scale * factor[:, None])

    def without_column_scale(self) -> Plane:
        """The plane that is left when the column scales are applied to the layer's input instead."""
        return replace(self, column_scale=None)

    def padded(self, n_out: int, n_in: int) -> Plane:
        """With zero rows appended, and columns that multiply zeros."""
        rows, columns = self.shape
        more = n_out - rows
        signs = functional.pad(self.signs, (0, n_in - columns, 0, more), value=1)
        scale = functional.pad(self.scale, (0, -(-n_in // BLOCK) - self.scale.shape[1], 0, more))
        return replace(self, signs=signs, scale=scale)

    def stored(self) -> tuple[np.ndarray, GGMLQuantizationType]:
        """The bytes of `Q1_0`, (n_out, 18 n_in / 128) uint8, and that type.

        Raises:
            BinllmError: A scale cannot be held in fp16.
        """
        rounded = BinaryCode(signs=self.signs, row_scale=self.scale[..., None], block_size=BLOCK).stored()
        n_out, blocks = self.scale.shape
        scale = rounded.row_scale[..., 0].contiguous().view(torch.uint8).reshape(n_out, blocks, 2)
        bits = pack_bits(self.signs).reshape(n_out, blocks, BLOCK // 8)
        return torch.cat([scale, bits], 2).reshape(n_out, -1).numpy(), GGMLQuantizationType.Q1_0


Matrix = Dense | Plane


def matrix_of(code: Code) -> Matrix:
    """A plane where the code is one (its column scales still to be folded), else its dense weight with the reason."""
    reason = not_a_plane(code)
    if reason or not isinstance(code, BinaryCode):
        return Dense(code.dense(torch.float32), reason)
    n_in = code.shape[1]
    repeats = -(-min(code.block_size, n_in) // BLOCK)
    scale = code.row_scale[..., 0].double().repeat_interleave(repeats, 1)[:, : -(-n_in // BLOCK)]
    column = code.column_scale
    if column is None:
        return Plane(code.signs, scale, None, code)
    column = column.double()
    # A power of two goes from one scale to the other, so that the row scales alone are of the weight's size.
    typical = column[column != 0].abs().log2().mean().round() if bool(column.any()) else torch.zeros(())
    return Plane(code.signs, scale * 2**typical, column / 2**typical, code)


def not_a_plane(code: Code) -> str:
    """Why a code is not one sign plane with scales by blocks of 128 columns; empty if it is."""
    if not isinstance(code, BinaryCode):
        return f"it is of kind {code.spec().kind}, not of sign planes"
    if code.cells > 1:
        return "its entries are in several groups, each with a scale"
    if code.salient_count:
        return f"it has a second sign plane on {code.salient_count} columns"
    if code.row_mean is not None:
        return "it has row means"
    if code.block_size % BLOCK and code.block_size < code.shape[1]:
        return f"its scales are by {code.block_size} columns, not by a multiple of {BLOCK}"
    return ""
