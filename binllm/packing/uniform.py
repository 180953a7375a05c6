"""Integer levels with a scale and a zero point in each block of columns (GPTQ, 2210.17323; round to nearest).

Inside block g of `block_size` input columns (GPTQ's group size):

    weight_hat[i, j] = scale[i, g] * (levels[i, j] - zero[i, g])

A worked 1 x 3 example with 2 bits and one block: levels (0, 1, 3), zero 1, scale 0.5 gives (-0.5, 0, 1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from binllm.packing.bits import pack_levels, packed_size, unpack_levels
from binllm.packing.panels import spread
from binllm.packing.protocol import Code, LayerBits, Spec, dtype_name
from binllm.packing.rounding import round_scales
from binllm.packing.validation import check_below, check_matrix, check_tensor

WIDTHS = (2, 3, 4, 8)


@dataclass(frozen=True, eq=False, kw_only=True)
class UniformCode(Code):
    """Integer levels of a uniform grid; blocks = ceil(n_in / block_size), the last may be ragged.

    Attributes:
        levels: (n_out, n_in) uint8 below 2^level_bits.
        scale: (n_out, blocks) floating point, the grid's step.
        zero: (n_out, blocks) uint8 below 2^level_bits, the level that stands for 0.
        level_bits: Bits of a level: 2, 3, 4 or 8.
        block_size: Input columns that share a grid; n_in for one grid over the whole row.
    """

    levels: Tensor
    scale: Tensor
    zero: Tensor
    level_bits: int
    block_size: int

    @property
    def shape(self) -> tuple[int, int]:
        """(n_out, n_in)."""
        return self.levels.shape[0], self.levels.shape[1]

    def validate(self) -> UniformCode:
        """See `Code.validate`."""
        check_matrix(self, "levels", self.block_size)
        if self.level_bits not in WIDTHS:
            raise ValueError(f"level_bits: is {self.level_bits}, must be one of {WIDTHS}")
        by_block = (self.shape[0], -(-self.shape[1] // self.block_size))
        check_tensor(self, "levels", torch.uint8, self.shape)
        check_tensor(self, "scale", None, by_block)
        check_tensor(self, "zero", torch.uint8, by_block)
        check_below("levels", self.levels, 2**self.level_bits)
        check_below("zero", self.zero, 2**self.level_bits)
        return self

    def stored(self, dtype: torch.dtype = torch.float16) -> UniformCode:
        """See `Code.stored`."""
        return round_scales(self, dtype)

    def spec(self, bias: bool = False) -> UniformSpec:
        """See `Code.spec`."""
        scale_dtype = dtype_name(self.scale.dtype)
        return UniformSpec(*self.shape, self.block_size, self.level_bits, bias=bias, scale_dtype=scale_dtype)

    def pack(self) -> dict[str, Tensor]:
        """See `Code.pack`."""
        levels, zero = (pack_levels(t, self.level_bits) for t in (self.levels, self.zero))
        return {"levels": levels, "scale": self.scale, "zero": zero}

    def rows(self, start: int, stop: int) -> UniformCode:
        """See `Code.rows`."""
        parts = {name: getattr(self, name)[start:stop] for name in ("levels", "scale", "zero")}
        return replace(self, **parts)

    def reconstruct(self) -> Tensor:
        """See `Code.reconstruct`."""
        n_in, work = self.shape[1], self.work_dtype
        steps = self.levels.to(work) - spread(self.zero.to(work), self.block_size, n_in)
        return steps * spread(self.scale.to(work), self.block_size, n_in)


@dataclass(frozen=True)
class UniformSpec(Spec):
    """Shapes and dtypes of a packed `UniformCode`; levels and zero points are packed row by row.

    Attributes:
        level_bits: Bits of a level and of a zero point.
    """

    level_bits: int

    kind: ClassVar[str] = "uniform"
    payload: ClassVar[tuple[str, ...]] = ("levels",)

    @property
    def in_range(self) -> bool:
        """See `Spec.in_range`."""
        return self.level_bits in WIDTHS

    def tensors(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """See `Spec.tensors`."""
        return {
            "levels": ((self.n_out, packed_size(self.level_bits * self.n_in)), torch.uint8),
            "scale": ((self.n_out, self.blocks), self.torch_scale_dtype),
            "zero": ((self.n_out, packed_size(self.level_bits * self.blocks)), torch.uint8),
        }

    def reader(self, tensors: Mapping[str, Tensor]) -> Callable[[int, int], UniformCode]:
        """See `Spec.reader`."""

        def rows(start: int, stop: int) -> UniformCode:
            return UniformCode(
                levels=unpack_levels(tensors["levels"][start:stop], self.n_in, self.level_bits),
                scale=tensors["scale"][start:stop],
                zero=unpack_levels(tensors["zero"][start:stop], self.blocks, self.level_bits),
                level_bits=self.level_bits,
                block_size=self.block_size,
            )

        return rows

    def bits(self) -> LayerBits:
        """See `Spec.bits`."""
        payload = 8 * self.n_out * packed_size(self.level_bits * self.n_in)
        zeros = 8 * self.n_out * packed_size(self.level_bits * self.blocks)
        return LayerBits(
            weights=self.n_out * self.n_in,
            sign_bits=self.level_bits * self.n_out * self.n_in,
            payload_bits=payload,
            linear_bits=payload + zeros + self.scale_bits * self.n_out * self.blocks,
        )
