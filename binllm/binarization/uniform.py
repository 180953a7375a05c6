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

CLIP_STEPS, CLIP_NORM = 80, 2.4


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
        self.level[k] = _levels(weight, self.scale, self.zero, self.top)
        return (self.level[k] - self.zero) * self.scale


@register("binarization", "uniform")
@dataclass(frozen=True)
class Uniform:
    """Asymmetric grid between the smallest and the largest weight, 0 included (GPTQ, 2210.17323).

    Attributes:
        bits: Bits of a level: 2, 3, 4 or 8.
        block_size: Input columns that share a grid (GPTQ's group size); None: the whole row.
        clip: Shrink each grid to the range that leaves the least error (``mse`` in GPTQ's code, off there by default).
    """

    name: str = "uniform"
    bits: int = 2
    block_size: int | None = 64
    clip: bool = False

    version: ClassVar[int] = 1
    block: ClassVar[type] = UniformBlock

    def __post_init__(self) -> None:
        check_block_size(self.block_size)
        if self.bits not in WIDTHS:
            raise bad_value("binarization.bits", self.bits, f"one of {', '.join(map(str, WIDTHS))}")

    def initialise(self, target: Target) -> UniformBlock:
        """The grid of the block's weights, and the level nearest to each."""
        w = target.columns
        low, high = w.aminmax(dim=0)
        scale, zero = clipped_grid(w, low, high, self.bits) if self.clip else grid(low, high, self.bits)
        block = UniformBlock(torch.zeros_like(w), scale, zero, 2**self.bits - 1)
        block.level = _levels(w, scale, zero, block.top)
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


def clipped_grid(weight: Tensor, low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Step and zero point (n_out,) of the best grid between ``p low`` and ``p high``, p from 1 down to 0.21.

    Best is the least ``Σ|w - ŵ|^2.4``, the exponent of GPTQ's code; weight is (width, n_out).
    """
    scale, zero = grid(low, high, bits)
    least = torch.full_like(scale, torch.inf)
    for step in range(CLIP_STEPS):
        shrink = 1 - step / 100
        new_scale, new_zero = grid(shrink * low, shrink * high, bits)
        rounded = (_levels(weight, new_scale, new_zero, 2**bits - 1) - new_zero) * new_scale
        error = (rounded - weight).abs().pow(CLIP_NORM).sum(0)
        better = error < least
        least, scale, zero = (
            torch.where(better, *pair) for pair in ((error, least), (new_scale, scale), (new_zero, zero))
        )
    return scale, zero


def _levels(weight: Tensor, scale: Tensor, zero: Tensor, top: int) -> Tensor:
    return (torch.round(weight / scale) + zero).clamp_(0, top)
