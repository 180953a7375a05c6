"""HBLLM (2512.00862): the signs of Haar coefficients, in two magnitude groups for every row and frequency band.

    M = w² / U_jj²                                        salience map of the block's running weights
    salient columns: the first of the columns ranked by the norm of M, as many as leave the least error when both parts
                     of M are binarized with two planes each
    axis row:        plain part = row transform of the block, its salient columns filled by their neighbours;
                     salient part = column transform of what the plain part leaves of the salient columns
    axis column:     plain part = column transform of the plain columns, salient part = that of the salient ones

Low and high band are binarized row by row, see `haar_split`. The transform is orthogonal: the published order, low band
first and then the high band of what the low band leaves, comes to both bands at once, as here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from itertools import accumulate
from typing import ClassVar

import torch
from torch import Tensor

from binllm.binarization.checks import check_block_size, check_most, check_width
from binllm.binarization.haar_split import fill_salient, split_magnitudes
from binllm.binarization.salience import Salience, salience_map
from binllm.binarization.search import salient_columns
from binllm.binarization.target import Target
from binllm.errors import bad_value
from binllm.packing.haar import PLAIN, SALIENT, HaarCode, haar
from binllm.packing.validation import given
from binllm.registry import register


class Axis(Enum):
    """What the plain part pairs: ``row`` neighbouring input columns along a row, ``column`` neighbouring output rows."""

    row = "row"
    column = "column"


class Norm(Enum):
    """Norm of a column of the salience map, by which the columns are ranked."""

    l1 = "l1"
    l2 = "l2"


@dataclass
class HaarBlock:
    """One block of ``width`` columns.

    Attributes:
        code: Of the block as a layer of its own, scales in the dtype of the target.
    """

    code: HaarCode

    def dense(self) -> Tensor:
        """Ŵᵀ (width, n_out)."""
        return self.code.reconstruct().T


@register("binarization", "haar")
@dataclass(frozen=True)
class Haar:
    """Binarized Haar coefficients with groups in each row and a mean that the plain part's groups share.

    Differs from the published code, which has three ways to group (``--group_partition global``, ``row``, and ``row`` with
    ``--share_mean``): here is the last one only, the paper's. Its inverse transform multiplies by 0.70703125, here by 1/√2.
    Where a block has fewer than ``most`` columns it fails, and so does this.

    Attributes:
        axis: What the plain part pairs.
        block_size: Input columns of a block; even with axis row. None: the whole row.
        most: The search tries 1 to ``most - 1`` salient columns; 50 in the published code.
        norm: How columns are ranked.
    """

    name: str = "haar"
    axis: Axis = Axis.row
    block_size: int | None = 128
    most: int = 50
    norm: Norm = Norm.l2

    version: ClassVar[int] = 1
    block: ClassVar[type] = HaarBlock

    def __post_init__(self) -> None:
        check_block_size(self.block_size)
        if self.axis is Axis.row and self.block_size is not None and self.block_size % 2:
            raise bad_value("binarization.block_size", self.block_size, "an even number with axis row")
        check_most(self.most, self.block_size)

    def initialise(self, target: Target) -> HaarBlock:
        """Search the salient columns and binarize both parts.

        Raises:
            ValueError: Output rows, or with axis row the block's columns, cannot be paired, or the block has fewer columns
                than the search ranks.
            BinllmError: The block has one column only, and none could stay plain.
        """
        weight = target.weight.contiguous()
        self._check_shape(*weight.shape)
        columns = self._salient(target)
        salient = torch.zeros(weight.shape[1], dtype=torch.bool, device=weight.device)
        salient[columns] = True
        if self.axis is Axis.row:
            code = self._plain(haar(fill_salient(weight, salient), 1), bands=2)
            rest = (weight - code.reconstruct())[:, columns]
        else:
            code = self._plain(haar(weight[:, ~salient], 0), bands=1)
            rest = weight[:, columns]
        split = split_magnitudes(haar(rest, 0), shared_mean=False)
        code = replace(
            code,
            salient=columns,
            salient_signs=split.signs,
            salient_group=split.group,
            salient_scale=split.scale[:, None],
            salient_mean=split.mean[:, None],
            block_size=len(salient),
        )
        return HaarBlock(code)

    def _check_shape(self, n_out: int, width: int) -> None:
        if n_out % 2:
            raise ValueError(f"n_out: is {n_out}, the transform along columns pairs output rows, must be even")
        if self.axis is Axis.row and width % 2:
            raise ValueError(f"width: a block has {width} columns, axis row pairs input columns, must be even")
        if width < 2:
            allowed = f"a size that leaves every block at least 2 columns, one of them salient (here one has {width})"
            raise bad_value("binarization.block_size", self.block_size, allowed)
        check_width(self.most, width)

    def _salient(self, target: Target) -> Tensor:
        """Ascending indices of the salient columns."""
        searched = salience_map(Salience.hessian, target).T
        ranking = torch.linalg.vector_norm(searched, ord=1 if self.norm is Norm.l1 else 2, dim=0)
        return salient_columns(searched, self.most, ranking)

    def _plain(self, coefficients: Tensor, bands: int) -> HaarCode:
        """The plain part (n_out, n_plain); coefficients of `bands` bands take turns in each row."""
        split = split_magnitudes(coefficients.unflatten(1, (-1, bands)).transpose(1, 2), shared_mean=True)
        signs, group = (part.transpose(1, 2).flatten(1) for part in (split.signs, split.group))
        return HaarCode(
            axis=self.axis.value,
            signs=signs,
            group=group,
            scale=split.scale[:, None],
            mean=split.mean[:, None, :, 0],
            block_size=signs.shape[1],
        )

    def assemble(self, blocks: list[HaarBlock]) -> HaarCode:
        """Concatenate blocks (left to right) into one code of shape (n_out, n_in)."""
        codes = [block.code for block in blocks]
        *starts, n_in = accumulate((code.shape[1] for code in codes), initial=0)
        salient = [given(code.salient) + start for code, start in zip(codes, starts, strict=True)]
        return HaarCode(
            axis=self.axis.value,
            block_size=self.block_size or n_in,
            salient=torch.cat(salient),
            **{name: torch.cat([getattr(code, name) for code in codes], 1) for name in PLAIN + SALIENT},
        )
