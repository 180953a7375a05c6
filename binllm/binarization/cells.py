"""The code of one block of input columns whose entries are partitioned into cells (BiLLM, ARB-LLM).

Every cell has, in each output row, a mean and a scale of its own for one or two sign planes; in ARB-RC there are no means,
and scales of its own for the input columns as well. With c the cell of entry (i, j), and one plane or two,

    Ŵ_ij = μ_ci + Σ_p a_pci b_pcj B_pij.

Tensors are kept transposed, (columns, n_out), as in `Block`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass
class Cells:
    """Mutable state of one block of ``width`` columns.

    Attributes:
        cell: (width, n_out) uint8, the cell that holds the entry, 0..cells-1. Everywhere in this package the order is plain
            small, plain large, salient (small), salient large.
        orders: Sign planes of each cell, 1 or 2.
        signs: B (2, width, n_out) int8 in {-1, 0, +1}; the second plane is read in cells of order 2 only.
        mean: μ (cells, n_out), or None; zero in rows where the cell is empty, like the scales.
        row_scale: a (2, cells, n_out).
        column_scale: b (2, cells, width), or None when there are none; zero for columns where the cell is empty.
    """

    cell: Tensor
    orders: tuple[int, ...]
    signs: Tensor
    mean: Tensor | None
    row_scale: Tensor
    column_scale: Tensor | None = None

    @classmethod
    def blank(cls, cell: Tensor, orders: tuple[int, ...], dtype: torch.dtype, column_scales: bool = False) -> Cells:
        """A partition that nothing has been fitted to yet: all parameters are zero.

        Args:
            cell: (width, n_out) uint8.
            orders: Sign planes of each cell.
            dtype: Of the parameters.
            column_scales: Whether the cells have column scales and no means (ARB-RC), or means only.
        """
        width, n_out = cell.shape
        row_scale = torch.zeros(2, len(orders), n_out, dtype=dtype, device=cell.device)
        return cls(
            cell=cell,
            orders=orders,
            signs=torch.zeros(2, width, n_out, dtype=torch.int8, device=cell.device),
            mean=None if column_scales else torch.zeros_like(row_scale[0]),
            row_scale=row_scale,
            column_scale=row_scale.new_zeros(2, len(orders), width) if column_scales else None,
        )

    def mask(self, cell: int) -> Tensor:
        """(width, n_out), 1 in the cell and 0 outside, in the dtype of the scales.

        Comparing in place stays in floating point, which is several times faster on a CPU than by way of bool.
        """
        return self.cell.to(self.row_scale.dtype).eq_(cell)

    def dense(self) -> Tensor:
        """Ŵᵀ (width, n_out) of this block."""
        planes = self.signs.to(self.row_scale.dtype)
        dense = torch.zeros_like(planes[0])
        for cell, order in enumerate(self.orders):
            entries = torch.zeros_like(dense) if self.mean is None else self.mean[cell].expand(dense.shape)
            for plane in range(order):
                signs = self._scaled_columns(planes[plane], plane, cell)
                entries = torch.addcmul(entries, signs, self.row_scale[plane, cell])
            dense.addcmul_(self.mask(cell), entries)
        return dense

    def basis(self) -> tuple[Tensor, Tensor]:
        """The rows that the row-wise parameters multiply: Ŵ_i = Σ_k θ_ki P_ki.

        Returns:
            P (k, width, n_out) and θ (k, n_out): for each cell its mean, if there are means, and the scale of each plane.
        """
        rows, values = [], []
        for cell, order in enumerate(self.orders):
            mask = self.mask(cell)
            if self.mean is not None:
                rows.append(mask)
                values.append(self.mean[cell])
            for plane in range(order):
                rows.append(self._scaled_columns(mask * self.signs[plane], plane, cell))
                values.append(self.row_scale[plane, cell])
        return torch.stack(rows), torch.stack(values)

    def set_row_parameters(self, values: Tensor) -> None:
        """Write back what `basis` returned as θ (k, n_out)."""
        rest = iter(values)
        for cell, order in enumerate(self.orders):
            if self.mean is not None:
                self.mean[cell] = next(rest)
            for plane in range(order):
                self.row_scale[plane, cell] = next(rest)

    def without_zeros(self) -> Cells:
        """The same cells with +1 for every sign that is 0.

        Differs from the published code, where an entry equal to its cell's mean stands for the mean alone: one bit cannot
        hold a zero. Signs of the second plane outside the cells of order 2 stay 0; they are not stored.

        Returns:
            A copy that shares all tensors but the signs.
        """
        signs = self.signs.clone()
        signs[0] |= 1  # of -1, 0 and 1 this changes the 0 only
        for cell, order in enumerate(self.orders):
            if order == 2:
                signs[1] |= (self.cell == cell).view(torch.int8)
        return replace(self, signs=signs)

    def _scaled_columns(self, signs: Tensor, plane: int, cell: int) -> Tensor:
        """Signs (width, n_out) times the cell's column scales, if there are any."""
        return signs if self.column_scale is None else signs * self.column_scale[plane, cell, :, None]
