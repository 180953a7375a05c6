"""A weight of sign planes as a sum of terms that one kernel can multiply by.

With bit_ij in {0, 1} of the term's plane, gate_ij in {0, 1} of the magnitude groups, c(j) the input column of the
term's column j and g(j) its block, a term is

    y_i += Σ_g scale[i, g] Σ_{j: g(j) = g} gate_ij (2 bit_ij - 1) factor_j x_{c(j)}

where a term without a plane has 1 in place of (2 bit - 1). The formula of `BinaryCode` is one term for each cell of
the first plane, one for each cell's mean, and one for each cell of the residual plane over the salient columns alone.
A cell of salient columns has factor 0 in the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from binllm.packing.bits import pack_bits, packed_size, unpack_bits, unpack_signs
from binllm.packing.columns import column_mask, unpack_columns

if TYPE_CHECKING:
    from binllm.packing.spec import LayerSpec


@dataclass(frozen=True, eq=False)
class Inputs:
    """The inputs of a term; terms that have the same share one object.

    Attributes:
        columns: (count,) int32 input columns, or None for all in order.
        factor: (count,) float32, or None for ones.
        block: (count,) int32, not decreasing: the block of each column.
        first: (blocks + 1,) int32: the first column of each block, and the count.
        bytes_a_block: Packed bytes of a block where all blocks begin at whole bytes, known without looking; else 0.
    """

    columns: Tensor | None
    factor: Tensor | None
    block: Tensor
    first: Tensor
    bytes_a_block: int = 0

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return len(self.first) - 1

    def values(self, x: Tensor) -> Tensor:
        """factor_j x_{c(j)} as (tokens, count), x (tokens, n_in); in float64 if x is, else in float32."""
        x = x if x.dtype == torch.float64 else x.float()
        x = x if self.columns is None else x[:, self.columns]
        return x if self.factor is None else x * self.factor


@dataclass(frozen=True, eq=False)
class Term:
    """One term of a product.

    Attributes:
        inputs: What is multiplied.
        scale: (n_out, blocks) floating point, any strides.
        bits: (n_out, ceil(count / 8)) uint8 as `pack_bits` makes it, or None.
        gate: The same for the groups, or None.
        inverted: The gate is open where its bit is 0.
    """

    inputs: Inputs
    scale: Tensor
    bits: Tensor | None = None
    gate: Tensor | None = None
    inverted: bool = False

    def product(self, x: Tensor) -> Tensor:
        """The twin of the Triton kernel: (tokens, n_out), x (tokens, n_in); in float64 if x is, else in float32."""
        values = self.inputs.values(x)
        count, work = values.shape[1], values.dtype
        weight = self.scale.to(work)[:, self.inputs.block]
        if self.bits is not None:
            weight = weight * unpack_signs(self.bits, count)
        if self.gate is not None:
            weight = weight * (unpack_bits(self.gate, count) ^ int(self.inverted))
        return values @ weight.T


def terms_of(spec: LayerSpec, stored: Mapping[str, Tensor]) -> list[Term]:
    """Take a layer of sign planes apart.

    Args:
        spec: Of a `BinaryCode`.
        stored: Its tensors as saved; most terms are views of them.

    Returns:
        The terms; the layer's product is their sum.
    """
    layer = _Layer(spec, stored)
    return layer.first_plane() + layer.means() + (layer.residual_plane() if spec.salient else [])


class _Layer:
    """The parts of a layer's stored tensors that terms are made of."""

    def __init__(self, spec: LayerSpec, stored: Mapping[str, Tensor]):
        self.spec, self.stored = spec, stored
        self.device = stored["signs"].device
        self.salient = unpack_columns(stored["salient"], spec.n_in) if spec.salient else None
        self.inputs: dict[tuple[int, bool, bool], Inputs] = {}

    def first_plane(self) -> list[Term]:
        """A term for each cell."""
        scale, bits = self.stored["row_scale"], self.stored["signs"]
        return [Term(self.cell_inputs(c, scaled=True), scale[..., c], bits, *self.gate(c)) for c in self.cells]

    def means(self) -> list[Term]:
        """A term for the mean, or for each cell's."""
        if not self.spec.row_mean:
            return []
        mean = self.stored["row_mean"]
        if mean.ndim == 2:
            return [Term(self.regular(None), mean)]
        return [Term(self.cell_inputs(c, scaled=False), mean[..., c], None, *self.gate(c)) for c in self.cells]

    def residual_plane(self) -> list[Term]:
        """A term over the salient columns, or one for each magnitude group that matters there."""
        spec, scale, bits = self.spec, self.stored["residual_scale"], self.stored["residual_signs"]
        own, shared = self.stored.get("residual_column_scale"), self.stored.get("column_scale")
        by_group = own is None and spec.column_scale_per_group and spec.groups == 2 and not spec.salient_groups
        groups = range(2) if spec.salient_groups == 2 or by_group else range(1)
        packed = None
        if len(groups) == 2:
            packed = pack_bits(unpack_bits(self.stored["group"], spec.n_in)[:, self.salient])
        found = []
        for k in groups:
            columns = _of_group(own, k) if own is not None else _of_group(shared, k)
            factor = columns if own is not None or columns is None else columns[self.salient]
            of_group = scale[..., k] if scale.ndim == 3 else scale
            found.append(Term(self.chosen(factor), of_group, bits, packed, k == 0))
        return found

    @property
    def cells(self) -> range:
        """Cells of the first plane."""
        return range(self.spec.cells)

    def gate(self, cell: int) -> tuple[Tensor | None, bool]:
        """The group bits of a cell and whether they are inverted; none where its columns have one group."""
        plain = cell < self.spec.groups
        if (self.spec.groups if plain else self.spec.salient_groups) == 1:
            return None, False
        return self.stored["group"], cell in (0, self.spec.groups)

    def cell_inputs(self, cell: int, scaled: bool) -> Inputs:
        """All columns, those of the other class with factor 0; `scaled` by the cell's column scales."""
        plain, k = cell < self.spec.groups, cell if cell < self.spec.groups else cell - self.spec.groups
        scaled = scaled and self.spec.column_scale
        key = (k if scaled and self.spec.column_scale_per_group else 0, plain, scaled)
        if key not in self.inputs:
            factor = _of_group(self.stored["column_scale"], k).float() if scaled else None  # type: ignore[union-attr]
            if self.spec.salient_groups:
                own = (column_mask(self.salient, self.spec.n_in) != plain).float()
                factor = own if factor is None else factor * own
            self.inputs[key] = self.regular(factor)
        return self.inputs[key]

    def regular(self, factor: Tensor | None) -> Inputs:
        """All columns in order."""
        return self._make(None, factor, torch.arange(self.spec.n_in, device=self.device))

    def chosen(self, factor: Tensor | None) -> Inputs:
        """The salient columns."""
        assert self.salient is not None
        return self._make(self.salient.int(), None if factor is None else factor.float(), self.salient)

    def _make(self, columns: Tensor | None, factor: Tensor | None, places: Tensor) -> Inputs:
        block = (places // self.spec.block_size).int()
        edges = torch.arange(self.spec.blocks + 1, device=self.device, dtype=torch.int32)
        first = torch.searchsorted(block, edges).int()
        whole = columns is None and (self.spec.block_size % 8 == 0 or self.spec.blocks == 1)
        a_block = packed_size(min(self.spec.block_size, self.spec.n_in)) if whole else 0
        return Inputs(columns, None if factor is None else factor.contiguous(), block.contiguous(), first, a_block)


def _of_group(scale: Tensor | None, group: int) -> Tensor | None:
    """Column scales (columns,), or those of one group of (columns, 2)."""
    return scale if scale is None or scale.ndim == 1 else scale[:, group]
