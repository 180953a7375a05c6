"""A uniform grid of a few bits in each row and block of columns (GPTQ): the anchor of the 1-bit methods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from binllm.binarization.checks import check_block_size
from binllm.binarization.target import Target
from binllm.errors import bad_value
from binllm.packing.uniform import WIDTHS, UniformCode
from binllm.registry import register


@dataclass
class UniformBlock:
    """Mutable state of one block of ``width`` columns: ``Ŵ = scale (level - zero)``.

    Attributes:
        level: (width, n_out), whole numbers from 0 to ``top``.
        scale: (n_out,) step of the grid.
        zero: (n_out,) whole numbers, the level that stands for 0.
        top: Largest level.
    """

    level: Tensor
    scale: Tensor
    zero: Tensor
    top: int

    def dense(self) -> Tensor:
        """Ŵᵀ (width, n_out)."""
        return (self.level - self.zero) * self.scale

    def round_column(self, k: int, weight: Tensor) -> Tensor:
        """Move column k to the levels nearest to ``weight`` (n_out,), and return their values."""
        self.level[k] = (torch.round(weight / self.scale) + self.zero).clamp_(0, self.top)
        return (self.level[k] - self.zero) * self.scale


@register("binarization", "uniform")
@dataclass(frozen=True)
class Uniform:
    """Asymmetric grid between the smallest and the largest weight, 0 included (GPTQ, 2210.17323).

    Attributes:
        bits: Bits of a level: 2, 3, 4 or 8.
        block_size: Input columns that share a grid (GPTQ's group size); None: the whole row.
    """

    name: str = "uniform"
    bits: int = 2
    block_size: int | None = 64

    version: ClassVar[int] = 1
    block: ClassVar[type] = UniformBlock

    def __post_init__(self) -> None:
        check_block_size(self.block_size)
        if self.bits not in WIDTHS:
            raise bad_value("binarization.bits", self.bits, f"one of {', '.join(map(str, WIDTHS))}")

    def initialise(self, target: Target) -> UniformBlock:
        """The grid of the block's weights, and the level nearest to each."""
        w = target.weight.T.contiguous()
        scale, zero = grid(*w.aminmax(dim=0), self.bits)
        block = UniformBlock(torch.zeros_like(w), scale, zero, 2**self.bits - 1)
        block.level = (torch.round(w / scale) + zero).clamp_(0, block.top)
        return block

    def assemble(self, blocks: list[UniformBlock]) -> UniformCode:
        """The code of the layer."""
        levels = torch.cat([block.level for block in blocks]).T.to(torch.uint8).contiguous()
        return UniformCode(
            levels=levels,
            scale=torch.stack([block.scale for block in blocks], 1),
            zero=torch.stack([block.zero for block in blocks], 1).to(torch.uint8),
            level_bits=self.bits,
            block_size=self.block_size or levels.shape[1],
        )


def grid(low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Step and zero point (n_out,) of the grid from ``low`` to ``high`` (n_out,) that has 0 among its levels.

    Rows of zeros get the grid from -1 to 1, as in GPTQ's code.
    """
    low, high = low.clamp_max(0), high.clamp_min(0)
    empty = low == high
    low, high = torch.where(empty, -1.0, low), torch.where(empty, 1.0, high)
    scale = (high - low) / (2**bits - 1)
    return scale, torch.round(-low / scale)
