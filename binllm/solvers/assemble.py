"""From fitted blocks to the code of the whole matrix."""

from __future__ import annotations

import torch

from binllm.binarization import Block
from binllm.packing.code import BinaryCode


def assemble(blocks: list[Block], block_size: int) -> BinaryCode:
    """Concatenate blocks (left to right) into one `BinaryCode` of shape (n_out, n_in)."""
    salient = torch.cat([block.salient for block in blocks])
    level = torch.cat([block.level for block in blocks])
    residual = torch.cat([block.residual_signs() for block in blocks])[salient]
    first = blocks[0]
    has_residual = bool(salient.any())
    return BinaryCode(
        signs=(1 - 2 * (level & 1)).T.to(torch.int8).contiguous(),
        group=(level >> 2).T.to(torch.uint8).contiguous() if len(first.row_scale) > 1 else None,
        row_scale=torch.stack([block.row_scale.T for block in blocks], 1).contiguous(),
        column_scale=torch.cat([block.column_scale for block in blocks]) if first.scales_columns else None,
        row_mean=None
        if first.row_mean is None
        else torch.stack([b.row_mean for b in blocks if b.row_mean is not None], 1),
        salient=salient.nonzero()[:, 0] if has_residual else None,
        residual_signs=residual.T.to(torch.int8).contiguous() if has_residual else None,
        residual_scale=torch.stack([block.residual_scale for block in blocks], 1) if has_residual else None,
        block_size=block_size,
    )
