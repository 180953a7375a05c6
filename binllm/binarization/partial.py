"""A share of the entries with eight bits, the others with their sign (PB-LLM, 2310.00034)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from binllm.binarization.checks import check_block_size
from binllm.binarization.salience import Salience, salience_map
from binllm.binarization.target import Target
from binllm.binarization.uniform import UniformBlock, grid
from binllm.errors import bad_value
from binllm.packing.partial import LEVEL_BITS, PartialCode
from binllm.registry import register


@dataclass
class PartialBlock:
    """Mutable state of one block of ``width`` columns.

    Attributes:
        salient: (width, n_out) bool, entries on the fine grid.
        fine: The fine grid; its levels matter in salient entries only.
        signs: (width, n_out) in {-1, +1}, of the other entries.
        mean: (n_out,) of the other entries.
        scale: (n_out,) of the other entries.
    """

    salient: Tensor
    fine: UniformBlock
    signs: Tensor
    mean: Tensor
    scale: Tensor

    def dense(self) -> Tensor:
        """Ŵᵀ (width, n_out)."""
        return torch.where(self.salient, self.fine.dense(), self.mean + self.scale * self.signs)

    def round_column(self, k: int, weight: Tensor) -> Tensor:
        """Move column k to the levels nearest to ``weight`` (n_out,), and return their values."""
        self.signs[k] = _signs(weight - self.mean)
        return torch.where(self.salient[k], self.fine.round_column(k, weight), self.mean + self.scale * self.signs[k])


@register("binarization", "partial")
@dataclass(frozen=True)
class Partial:
    """The most salient entries of a block on a grid of eight bits.

    Differs from the published code, which chooses salient entries, means and scales of all blocks before any error is fed
    back, and takes mean and scale over the salient entries as well, as zeros: here they are of the block's running weights
    and of the entries that use them. The fine grid spans the whole row of the layer, as published.

    Attributes:
        salience: Which entries are salient.
        share: Share of the entries on the fine grid.
        block_size: Input columns that share mean and scale; None: the whole row.
    """

    name: str = "partial"
    salience: Salience = Salience.hessian
    share: float = 0.1
    block_size: int | None = 128

    version: ClassVar[int] = 1
    block: ClassVar[type] = PartialBlock

    def __post_init__(self) -> None:
        check_block_size(self.block_size)
        if not 0 < self.share < 1:
            raise bad_value("binarization.share", self.share, "0 < share < 1")

    def initialise(self, target: Target) -> PartialBlock:
        """Salient entries by the map, mean and scale of the others, and the nearest level of each."""
        w = target.columns
        importance = salience_map(self.salience, target).abs()
        count = max(1, round(self.share * w.numel()))
        salient = torch.zeros_like(w, dtype=torch.bool)
        salient.flatten()[importance.flatten().topk(count).indices] = True
        low, high = target.limits()
        scale, zero = grid(low, high, LEVEL_BITS)
        fine = UniformBlock(torch.zeros_like(w), scale, zero, 2**LEVEL_BITS - 1)
        fine.level = (torch.round(w / scale) + zero).clamp_(0, fine.top)
        plain = (~salient).to(w.dtype)
        number = plain.sum(0).clamp_min(1)
        mean = (w * plain).sum(0) / number
        return PartialBlock(salient, fine, _signs(w - mean), mean, scale=((w - mean).abs() * plain).sum(0) / number)

    def assemble(self, blocks: list[PartialBlock]) -> PartialCode:
        """The code of the layer."""
        mask = torch.cat([block.salient for block in blocks]).T.contiguous()
        signs, levels = (torch.cat(parts).T for parts in ([b.signs for b in blocks], [b.fine.level for b in blocks]))
        return PartialCode(
            mask=mask,
            signs=(signs * ~mask).to(torch.int8).contiguous(),
            levels=(levels * mask).to(torch.uint8).contiguous(),
            row_scale=torch.stack([block.scale for block in blocks], 1),
            row_mean=torch.stack([block.mean for block in blocks], 1),
            salient_scale=blocks[0].fine.scale,
            salient_zero=blocks[0].fine.zero.to(torch.uint8),
            block_size=self.block_size or mask.shape[1],
        )


def _signs(values: Tensor) -> Tensor:
    """-1 or +1, +1 at zero."""
    return 1 - 2 * (values < 0).to(values.dtype)
