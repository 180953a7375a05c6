"""The code of one block of input columns while it is being fitted.

Inside a block, ``Ŵ_ij = μ_i + (a_i,g(ij) B_ij + [j salient] r_i R_ij) b_j``: row mean μ, row scales a of the magnitude
groups g, signs B, residual scale r and signs R on the salient columns, column scales b. Tensors are kept transposed,
(columns, n_out), because every update walks over columns and a column is then contiguous in memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Block:
    """Mutable state of one block of ``width`` columns.

    Attributes:
        level: (width, n_out) int64; bit 0 is set where B = -1, bit 1 where R = -1, the higher bits are the group.
        row_scale: a (groups, n_out).
        column_scale: b (width,); ones when the binarization has none.
        salient: (width,) bool, columns with a residual plane.
        residual_scale: r (n_out,), zeros without salient columns.
        row_mean: μ (n_out,) or None.
        scales_columns: Whether b is free.
    """

    level: Tensor
    row_scale: Tensor
    column_scale: Tensor
    salient: Tensor
    residual_scale: Tensor
    row_mean: Tensor | None
    scales_columns: bool

    def signs(self) -> Tensor:
        """B (width, n_out) in {-1, +1}."""
        return (1 - 2 * (self.level & 1)).to(self.row_scale.dtype)

    def residual_signs(self) -> Tensor:
        """R (width, n_out) in {-1, +1}, 0 outside the salient columns."""
        signs = (1 - 2 * ((self.level >> 1) & 1)).to(self.row_scale.dtype)
        return signs * self.salient[:, None]

    def unscaled(self) -> Tensor:
        """E (width, n_out), the reconstruction before column scales and row mean."""
        scale = torch.gather(self.row_scale, 0, self.level >> 2)
        return self.signs() * scale + self.residual_signs() * self.residual_scale

    def dense(self) -> Tensor:
        """Ŵᵀ (width, n_out) of this block."""
        dense = self.unscaled() * self.column_scale[:, None]
        return dense if self.row_mean is None else dense + self.row_mean

    def basis(self) -> tuple[Tensor, Tensor]:
        """The rows that the row-wise parameters multiply: Ŵ_i = Σ_k θ_ki P_ki.

        Returns:
            P (k, width, n_out) and θ (k, n_out): row scales, then the residual scale, then the row mean.
        """
        scaled_signs = self.signs() * self.column_scale[:, None]
        group = self.level >> 2
        rows = [scaled_signs * (group == g) for g in range(len(self.row_scale))]
        values = list(self.row_scale)
        if bool(self.salient.any()):
            rows.append(self.residual_signs() * self.column_scale[:, None])
            values.append(self.residual_scale)
        if self.row_mean is not None:
            rows.append(torch.ones_like(scaled_signs))
            values.append(self.row_mean)
        return torch.stack(rows), torch.stack(values)

    def set_row_parameters(self, values: Tensor) -> None:
        """Write back what `basis` returned as θ (k, n_out)."""
        groups = len(self.row_scale)
        self.row_scale = values[:groups]
        rest = list(values[groups:])
        if bool(self.salient.any()):
            self.residual_scale = rest.pop(0)
        if self.row_mean is not None:
            self.row_mean = rest.pop(0)

    def candidates(self, salient: bool) -> tuple[Tensor, Tensor]:
        """All values that an entry of a column can take before the column scale.

        Returns:
            Level indices (levels,) int64 and values (levels, n_out).
        """
        groups = len(self.row_scale)
        device = self.level.device
        bits = 4 if salient else 2
        index = torch.tensor([4 * g + s for g in range(groups) for s in range(bits)], device=device)
        signs = (1 - 2 * (index & 1)).to(self.row_scale.dtype)[:, None]
        values = signs * self.row_scale[index >> 2]
        if salient:
            values = values + (1 - 2 * ((index >> 1) & 1)).to(values.dtype)[:, None] * self.residual_scale
        return index, values
