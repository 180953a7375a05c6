"""What Ŵ may be: sign planes with row scales, column scales, magnitude groups and a residual plane, as factors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from binllm.binarization.block import Block
from binllm.binarization.checks import check_block_size
from binllm.binarization.target import Target
from binllm.errors import bad_value
from binllm.packing.code import BinaryCode
from binllm.registry import register

LLOYD_ROUNDS = 8


@register("binarization", "planes")
@dataclass(frozen=True)
class Planes:
    """One sign plane in blocks of input columns, and what is added to it.

    Attributes:
        block_size: Input columns that share a row scale; a narrower layer is one ragged block. None: the whole row.
        column_scale: One scale per input column (ARB-RC).
        groups: 1, or 2 for a split of the entries by magnitude with a row scale each (BiLLM, ARB-LLM's CGB); the split
            costs a bit per entry, which is counted.
        salient_columns: Columns of each full block that get a second, residual plane; a ragged block gets its share.
        row_mean: A mean per row and block (BiLLM, ARB).
    """

    name: str = "planes"
    block_size: int | None = 128
    column_scale: bool = True
    groups: int = 1
    salient_columns: int = 0
    row_mean: bool = False

    version: ClassVar[int] = 1
    block: ClassVar[type] = Block

    def __post_init__(self) -> None:
        check_block_size(self.block_size)
        if self.groups not in (1, 2):
            raise bad_value("binarization.groups", self.groups, "1 or 2")
        most = self.block_size or self.salient_columns
        if not 0 <= self.salient_columns <= most:
            raise bad_value("binarization.salient_columns", self.salient_columns, f"0 to {most} (block_size)")

    def initialise(self, target: Target) -> Block:
        """A first code: nearest levels to the target's weights under its metric's diagonal.

        Returns:
            The block; salient columns are those with the largest ``Σ_i w_ij² S_jj``.

        Raises:
            ValueError: The block is the whole row, and the row has fewer columns than shall be salient.
        """
        w = target.columns
        width, n_out = w.shape
        if self.block_size is None and self.salient_columns > width:
            raise ValueError(
                f"binarization.salient_columns = {self.salient_columns}: allowed is 0 to {width}, the width of the layer"
            )
        importance = target.metric.diagonal().clamp_min(0)
        mean = torch.zeros(n_out, dtype=w.dtype, device=w.device)
        if self.row_mean:
            mean = w.mean(0)
        centred = w - mean
        column_scale = self._initial_column_scale(centred)
        entries = centred / column_scale[:, None]
        row_scale, group = self._lloyd(entries.abs(), importance * column_scale.square())
        level = (4 * group + (entries < 0)).to(torch.int8)
        salient = self._salient(centred, target.inputs.diagonal().clamp_min(0))
        block = Block(
            level, row_scale, column_scale, salient, torch.zeros_like(mean), mean if self.row_mean else None,
            scales_columns=self.column_scale,
        )  # fmt: skip
        if bool(salient.any()):
            rest = (entries - block.unscaled())[salient]
            block.residual_scale = rest.abs().mean(0)
            block.level[salient] += (rest < 0).to(torch.int8) << 1
        return block

    def _initial_column_scale(self, centred: Tensor) -> Tensor:
        if not self.column_scale:
            return torch.ones(len(centred), dtype=centred.dtype, device=centred.device)
        scale = centred.abs().mean(1)
        typical = scale.mean()
        # A dead column gets scale 1: it must not divide by zero, and its entries are zero whatever the scale.
        return torch.where(scale > 0, scale / typical.clamp_min(torch.finfo(scale.dtype).tiny), 1.0)

    def _salient(self, centred: Tensor, importance: Tensor) -> Tensor:
        width = len(centred)
        salient = torch.zeros(width, dtype=torch.bool, device=centred.device)
        salient[(centred.square().sum(1) * importance).topk(self.salient_count(width)).indices] = True
        return salient

    def salient_count(self, width: int) -> int:
        """Salient columns of a block of `width` columns."""
        return min(width, -(-self.salient_columns * width // (self.block_size or width)))

    def _lloyd(self, magnitude: Tensor, importance: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted Lloyd-Max levels of |entries| (width, n_out) per row: scales (groups, n_out), group (width, n_out)."""
        mean = magnitude.mean(0)
        start = (1.0,) if self.groups == 1 else (0.6, 1.8)  # near the two-level optimum of a Gaussian's magnitudes
        scale = torch.stack([mean * s for s in start])
        group = torch.zeros_like(magnitude, dtype=torch.long)
        for _ in range(LLOYD_ROUNDS if self.groups > 1 else 1):
            if self.groups > 1:
                group = (magnitude > scale.mean(0)).long()
            for g in range(self.groups):
                weight = (group == g) * importance[:, None]
                total = weight.sum(0)
                fitted = (weight * magnitude).sum(0) / total.clamp_min(torch.finfo(total.dtype).tiny)
                scale[g] = torch.where(total > 0, fitted, scale[g])
        return scale, group

    def assemble(self, blocks: list[Block]) -> BinaryCode:
        """Concatenate blocks (left to right) into one code of shape (n_out, n_in)."""
        salient = torch.cat([block.salient for block in blocks])
        level = torch.cat([block.level for block in blocks])
        residual = torch.cat([block.residual_signs() for block in blocks])[salient]
        means = [block.row_mean for block in blocks if block.row_mean is not None]
        has_residual = bool(salient.any())
        return BinaryCode(
            signs=(1 - 2 * (level & 1)).T.to(torch.int8).contiguous(),
            group=(level >> 2).T.to(torch.uint8).contiguous() if self.groups > 1 else None,
            row_scale=torch.stack([block.row_scale.T for block in blocks], 1).contiguous(),
            column_scale=torch.cat([block.column_scale for block in blocks]) if self.column_scale else None,
            row_mean=torch.stack(means, 1) if means else None,
            salient=salient.nonzero()[:, 0] if has_residual else None,
            residual_signs=residual.T.to(torch.int8).contiguous() if has_residual else None,
            residual_scale=torch.stack([block.residual_scale for block in blocks], 1) if has_residual else None,
            block_size=self.block_size or len(level),
        )
