"""A weight matrix of sign planes, and the weight that it stands for.

Inside block g of `block_size` input columns, with k the magnitude group of entry (i, j) and c its cell (k, or in
the salient columns `groups` + k where these have cells of their own):

    weight_hat[i, j] = row_mean[i, g, c] + column_scale[j, k] * row_scale[i, g, c] * signs[i, j]
                     + [j salient] * residual_column_scale[j, k] * residual_scale[i, g, k] * residual_signs[i, j]

Indices that a tensor does not have are shared. Without a `residual_column_scale` both planes share the column scale,
which then multiplies their sum. Options: BiLLM has `groups` 2, `salient_groups` 1 and means (one for each cell);
ARB-RC no means, column scales per group and a residual column scale; ARB-LLM's CGB `salient_groups` 2.

A worked 1 x 2 example with one block: signs (+1, -1), row_scale 2, column_scale (1, 3), row_mean 0.5, column
1 salient with residual sign +1 and residual_scale 0.5 gives (0.5 + 1 * 2, 0.5 + 3 * (-2 + 0.5)) = (2.5, -4).
With salient_groups 1, row_scale (2, 4) and residual_column_scale 2 besides, column 1 is in the second cell:
0.5 + 3 * 4 * (-1) + 2 * 0.5 * 1 = -10.5.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from binllm.packing.bits import pack_bits
from binllm.packing.columns import column_mask, pack_columns
from binllm.packing.panels import pick, spread
from binllm.packing.protocol import Code, dtype_name
from binllm.packing.rounding import round_binary
from binllm.packing.spec import LayerSpec
from binllm.packing.validation import given, validate

BY_ROW = ("signs", "group", "row_scale", "row_mean", "residual_signs", "residual_scale")


@dataclass(frozen=True, eq=False, kw_only=True)
class BinaryCode(Code):
    """Sign planes with scales; blocks = ceil(n_in / block_size), the last may be ragged.

    cells = groups + salient_groups, k = max(groups, salient_groups), S salient columns.

    Attributes:
        signs: (n_out, n_in) int8 in {-1, +1}.
        row_scale: (n_out, blocks, cells) floating point: the plain groups', then the salient groups'.
        block_size: Input columns of a block; n_in for one scale over the whole row.
        group: (n_out, n_in) uint8, the magnitude group within the column's class (plain or salient), 0 where
            the class has one; None when k is 1.
        column_scale: (n_in,) floating point, or (n_in, 2) for one in each group when k is 2, or None. A column's
            scale of a group that the column has no entry in is stored too: make it 1.
        row_mean: (n_out, blocks) floating point, or (n_out, blocks, cells) when cells > 1, or None.
        salient: (S,) int64, strictly increasing column indices of the residual plane; None or empty without
            one.
        residual_signs: (n_out, S) int8 in {-1, +1}, or None.
        residual_scale: (n_out, blocks) floating point, (n_out, blocks, 2) when salient_groups is 2, or None.
        residual_column_scale: (S,) floating point, (S, 2) when salient_groups is 2, or None for `column_scale`.
        salient_groups: Cells that only salient columns have, 1 or 2; 0: they share the plain columns' cells.
    """

    signs: Tensor
    row_scale: Tensor
    block_size: int
    group: Tensor | None = None
    column_scale: Tensor | None = None
    row_mean: Tensor | None = None
    salient: Tensor | None = None
    residual_signs: Tensor | None = None
    residual_scale: Tensor | None = None
    residual_column_scale: Tensor | None = None
    salient_groups: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """(n_out, n_in)."""
        return self.signs.shape[0], self.signs.shape[1]

    @property
    def blocks(self) -> int:
        """Blocks of input columns, the ragged last one included."""
        return -(-self.shape[1] // self.block_size)

    @property
    def cells(self) -> int:
        """Sets of entries with a row scale of their own."""
        return self.row_scale.shape[-1]

    @property
    def groups(self) -> int:
        """Magnitude groups of the plain columns, and of the salient ones if salient_groups is 0."""
        return self.cells - self.salient_groups

    @property
    def salient_count(self) -> int:
        """Input columns with a residual plane."""
        return 0 if self.salient is None else self.salient.numel()

    def validate(self) -> BinaryCode:
        """See `Code.validate`."""
        validate(self)
        return self

    def stored(self, dtype: torch.dtype = torch.float16) -> BinaryCode:
        """See `Code.stored`."""
        return round_binary(self, dtype)

    def spec(self, bias: bool = False) -> LayerSpec:
        """See `Code.spec`; the dtype of the row scales is taken for all scales."""
        return LayerSpec(
            n_out=self.shape[0],
            n_in=self.shape[1],
            block_size=self.block_size,
            groups=self.groups,
            salient=self.salient_count,
            column_scale=self.column_scale is not None,
            row_mean=self.row_mean is not None,
            salient_groups=self.salient_groups,
            column_scale_per_group=self.column_scale is not None and self.column_scale.ndim == 2,
            row_mean_per_cell=self.row_mean is not None and self.row_mean.ndim == 3,
            residual_column_scale=self.residual_column_scale is not None and self.salient_count > 0,
            bias=bias,
            scale_dtype=dtype_name(self.row_scale.dtype),
        )

    def pack(self) -> dict[str, Tensor]:
        """See `Code.pack`."""
        tensors = {name: getattr(self, name) for name in self.spec().tensors()}
        packed = {n: pack_bits(t) for n, t in tensors.items() if n in ("signs", "group", "residual_signs")}
        if "salient" in tensors:
            packed["salient"] = pack_columns(tensors["salient"], self.shape[1])
        return tensors | packed

    def rows(self, start: int, stop: int) -> BinaryCode:
        """See `Code.rows`."""
        parts = {name: getattr(self, name) for name in BY_ROW}
        return replace(self, **{name: part[start:stop] for name, part in parts.items() if part is not None})

    def reconstruct(self) -> Tensor:
        """See `Code.reconstruct`."""
        n_in, work = self.shape[1], self.work_dtype
        block = torch.arange(n_in, device=self.device) // self.block_size
        cell = self._cell()
        weight = self._by_cell(self.row_scale.to(work), block, cell) * self.signs
        shared = self.residual_column_scale is None
        if self.salient_count and shared:
            weight[:, given(self.salient)] += self._residual(block, work)
        if self.column_scale is not None:
            weight *= _of_group(self.column_scale.to(work), self.group)
        if self.salient_count and not shared:
            weight[:, given(self.salient)] += self._residual(block, work)
        if self.row_mean is not None:
            means = self.row_mean if self.row_mean.ndim == 3 else self.row_mean[..., None]
            weight += self._by_cell(means.to(work), block, cell)
        return weight

    def _cell(self) -> Tensor | None:
        """Cell of each entry, (n_out, n_in) or (n_in,) uint8; None when there is one."""
        if not self.salient_groups:
            return self.group
        own = column_mask(self.salient, self.shape[1]).to(torch.uint8) * self.groups
        return own if self.group is None else own + self.group

    def _by_cell(self, values: Tensor, block: Tensor, cell: Tensor | None) -> Tensor:
        """Values (n_out, blocks, cells or 1) of each entry, (n_out, n_in)."""
        if values.shape[2] == 1:
            return spread(values[..., 0], self.block_size, len(block))
        return pick(values, block, cell)

    def _residual(self, block: Tensor, work: torch.dtype) -> Tensor:
        """What the residual plane adds to the salient columns, (n_out, S)."""
        salient, scale = given(self.salient), given(self.residual_scale)
        group = given(self.group)[:, salient] if self.salient_groups > 1 else None
        scale = scale if scale.ndim == 3 else scale[..., None]
        residual = pick(scale.to(work), block[salient], group) * given(self.residual_signs)
        if self.residual_column_scale is not None:
            residual *= _of_group(self.residual_column_scale.to(work), group)
        return residual


def _of_group(scale: Tensor, group: Tensor | None) -> Tensor:
    """A column scale (columns,) as it is; of (columns, groups) that of each entry's group (rows, columns)."""
    if scale.ndim == 1:
        return scale
    return scale[torch.arange(len(scale), device=scale.device), given(group).long()]
