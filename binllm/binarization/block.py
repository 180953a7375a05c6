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
        level: (width, n_out) int8; bit 0 is set where B = -1, bit 1 where R = -1, the higher bits are the group.
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
        signs = torch.zeros(self.level.shape, dtype=self.row_scale.dtype, device=self.level.device)
        signs[self.salient] = (1 - (self.level[self.salient] & 2)).to(signs.dtype)
        return signs

    def own_scale(self) -> Tensor:
        """The row scale (width, n_out) that each entry's group gives it."""
        if len(self.row_scale) == 1:
            return self.row_scale.expand(self.level.shape)
        return torch.where(self.level >= 4, self.row_scale[1], self.row_scale[0])

    def unscaled(self) -> Tensor:
        """E (width, n_out), the reconstruction before column scales and row mean."""
        entries = self.signs() * self.own_scale()
        entries[self.salient] += (1 - (self.level[self.salient] & 2)).to(entries.dtype) * self.residual_scale
        return entries

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
        large = self.level >= 4
        rows = [scaled_signs * ~large, scaled_signs * large] if len(self.row_scale) == 2 else [scaled_signs]
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

    def make_scales_positive(self) -> None:
        """Flip the signs that belong to negative row and residual scales; Ŵ does not change."""
        if bool((self.row_scale < 0).any()):
            self.level = self.level ^ (self.own_scale() < 0).to(torch.int8)
        if bool((self.residual_scale < 0).any()):
            self.level = self.level ^ (((self.residual_scale < 0) & self.salient[:, None]).to(torch.int8) << 1)
        self.row_scale, self.residual_scale = self.row_scale.abs(), self.residual_scale.abs()

    def candidates(self, salient: bool) -> tuple[Tensor, Tensor]:
        """All values that an entry of a column can take before the column scale.

        Returns:
            Level indices (levels,) int8 and values (levels, n_out).
        """
        groups = len(self.row_scale)
        device = self.level.device
        bits = 4 if salient else 2
        index = torch.tensor([4 * g + s for g in range(groups) for s in range(bits)], dtype=torch.int8, device=device)
        signs = (1 - 2 * (index & 1)).to(self.row_scale.dtype)[:, None]
        values = signs * self.row_scale[(index >> 2).long()]
        if salient:
            values = values + (1 - (index & 2)).to(values.dtype)[:, None] * self.residual_scale
        return index, values

    def round_column(self, k: int, weight: Tensor) -> Tensor:
        """Move column k to the levels nearest to ``weight`` (n_out,), and return their values."""
        index, values = self.candidates(bool(self.salient[k]))
        values = values * self.column_scale[k]
        if self.row_mean is not None:
            values = values + self.row_mean
        chosen = (values - weight).abs().argmin(0)
        self.level[k] = index[chosen]
        return values.gather(0, chosen[None])[0]
