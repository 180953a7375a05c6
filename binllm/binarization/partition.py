"""The partition of BiLLM (2402.04291) and ARB-LLM (2410.03129): salient columns with two planes, the rest in two groups.

    M = salience map of the block's running weights
    salient columns: the count whose two parts, binarized with two planes each, leave the least error
    plain entries:   small and large, split at the quantile of |M| that leaves the least error
    (CGB)            the salient entries split in the same way

Every part is a cell with parameters of its own in each output row; see `Cells`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

import torch
from torch import Tensor

from binllm.binarization.cell_fits import fit_alternating, fit_moments, fit_row_column
from binllm.binarization.cells import Cells
from binllm.binarization.checks import check_block_size, check_most, check_width
from binllm.binarization.salience import Salience, salience_map
from binllm.binarization.search import salient_columns, split_plain, split_plain_by_inputs, split_salient
from binllm.binarization.target import Target
from binllm.errors import bad_value
from binllm.packing.code import BinaryCode
from binllm.registry import register

PLAIN = 2  # cells of the columns that are not salient: small, large
SALIENT_FIT_ROUNDS = 15  # of the salient part, where the split of the others is scored by the inputs (published)


class Scored(Enum):
    """Whose binarization error a search compares: that of the salience map (published code), or of the weights (papers)."""

    map = "map"
    weights = "weights"


@register("binarization", "partition")
@dataclass(frozen=True)
class Partition:
    """Searched salient columns and magnitude groups.

    Attributes:
        block_size: Input columns of a block.
        salience: The map that columns are ranked by.
        scored: What the searches compare.
        most: The search tries 1 to ``most - 1`` salient columns; 50 in the published code.
        salient_groups: 1, or 2 for a split of the salient entries as well (CGB, order-2 grouping).
        column_scale: Row and column scales and no means (ARB-RC), instead of row scales and means.
        split_by_inputs: Score the plain entries' split by the output error (ARB-X).
    """

    name: str = "partition"
    block_size: int | None = 128
    salience: Salience = Salience.hessian
    scored: Scored = Scored.map
    most: int = 50
    salient_groups: int = 1
    column_scale: bool = False
    split_by_inputs: bool = False

    version: ClassVar[int] = 1
    block: ClassVar[type] = Cells

    def __post_init__(self) -> None:
        check_block_size(self.block_size)
        if self.salient_groups not in (1, 2):
            raise bad_value("binarization.salient_groups", self.salient_groups, "1 or 2")
        check_most(self.most, self.block_size)

    def initialise(self, target: Target) -> Cells:
        """Search the partition and fit every cell's moments.

        Raises:
            ValueError: The block has fewer columns than the search wants to rank; the authors' code fails there, too.
        """
        cell = self.search(target)[0].T.contiguous()
        orders = (1,) * PLAIN + (2,) * self.salient_groups
        cells = Cells.blank(cell, orders, target.columns.dtype, self.column_scale)
        if self.column_scale:
            fit_row_column(cells, target.columns, iterations=0)
        else:
            fit_moments(cells, target.columns)
        return cells

    def search(self, target: Target) -> tuple[Tensor, float]:
        """Search the partition alone.

        Returns:
            Index of every entry's cell (n_out, width) uint8, and the threshold that parts the plain entries.

        Raises:
            ValueError: See `initialise`.
        """
        width = len(target.columns)
        check_width(self.most, width)
        ranked = salience_map(self.salience, target)
        searched = ranked.T if self.scored is Scored.map else target.weight
        salient = torch.zeros(width, dtype=torch.bool, device=ranked.device)
        salient[salient_columns(searched, self.most, ranked.abs().sum(1))] = True
        if self.split_by_inputs:
            fitted = _salient_fit(searched, salient)
            threshold, large = split_plain_by_inputs(searched, salient, fitted, target.inputs)
        else:
            threshold, large = split_plain(searched, salient)
        cell = large.to(torch.uint8).index_fill_(1, salient.nonzero()[:, 0], PLAIN)
        if self.salient_groups == 2:
            cell[:, salient] += split_salient(searched, salient)[1][:, salient].to(torch.uint8)
        return cell, threshold

    def assemble(self, blocks: list[Cells]) -> BinaryCode:
        """Concatenate blocks (left to right) into one code of shape (n_out, n_in)."""
        blocks = [block.without_zeros() for block in blocks]
        cell = torch.cat([block.cell for block in blocks])
        signs = torch.cat([block.signs for block in blocks], 1)
        salient = (cell[:, 0] >= PLAIN).nonzero()[:, 0]
        means = [block.mean.T for block in blocks if block.mean is not None]
        residual = torch.stack([block.row_scale[1, PLAIN:].T for block in blocks], 1)
        columns, residual_columns = _column_scales(blocks, salient) if self.column_scale else (None, None)
        return BinaryCode(
            signs=signs[0].T.contiguous(),
            group=(cell & 1).T.contiguous(),  # small or large, plain or salient
            row_scale=torch.stack([block.row_scale[0].T for block in blocks], 1).contiguous(),
            column_scale=columns,
            row_mean=torch.stack(means, 1).contiguous() if means else None,
            salient=salient,
            residual_signs=signs[1, salient].T.contiguous(),
            residual_scale=(residual if self.salient_groups == 2 else residual[..., 0]).contiguous(),
            residual_column_scale=residual_columns,
            salient_groups=self.salient_groups,
            block_size=self.block_size or len(cell),
        )


def _salient_fit(searched: Tensor, salient: Tensor) -> Tensor:
    """The salient columns with two planes, zero elsewhere (n_out, width): what ARB-X's split search holds fixed."""
    part = searched[:, salient].T.contiguous()
    cells = Cells.blank(torch.zeros_like(part, dtype=torch.uint8), (2,), part.dtype)
    fit_alternating(cells, part, SALIENT_FIT_ROUNDS)
    fitted = torch.zeros_like(searched)
    fitted[:, salient] = cells.dense().T
    return fitted


def _column_scales(blocks: list[Cells], salient: Tensor) -> tuple[Tensor, Tensor]:
    """Column scales (n_in, 2) of each column's own groups, and those of the residual planes (S,) or (S, 2).

    The scale of a group that a column has no entry in is stored as 1.
    """
    scale = torch.cat([block.column_scale for block in blocks if block.column_scale is not None], 2)  # (2, cells, n_in)
    cell = torch.cat([block.cell for block in blocks])
    empty = torch.stack([(cell != c).all(1) for c in range(scale.shape[1])])
    first, second = (plane.masked_fill(empty, 1.0).T for plane in scale)
    columns = first[:, :PLAIN].clone()
    columns[salient] = 1.0
    columns[salient, : first.shape[1] - PLAIN] = first[salient, PLAIN:]
    residual = second[salient, PLAIN:]
    return columns, (residual if residual.shape[1] == 2 else residual[:, 0]).contiguous()
