"""Cholesky factors with a relative ridge and a recorded recovery."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ATTEMPTS = 12
LIMIT = 1.0  # moments are positive semi-definite up to rounding; a metric that needs more than this is not


@dataclass(frozen=True)
class Factor:
    """A factored metric, ``R Rᵀ = A + ridge · mean(diag A) · I`` with R (n, n) upper triangular.

    Its inverse ``U = R⁻¹`` is the upper Cholesky factor of ``A⁻¹ = Uᵀ U``, as in GPTQ, and ``U_bb = (R_bb)⁻¹`` for every
    block: a walk needs no more.

    Attributes:
        panels: R in panels of columns from left to right, each down to its diagonal block: little more than half of n².
        ridge: Relative ridge that was used.
        recoveries: How many times the ridge had to be raised by ten beyond what was asked.
    """

    panels: list[Tensor]
    ridge: float
    recoveries: int

    @property
    def upper(self) -> Tensor:
        """R as a whole, a copy with its zeros.

        Raises:
            RuntimeError: Panels have been let go of.
        """
        if sum(panel.shape[1] for panel in self.panels) < len(self.panels[-1]):
            raise RuntimeError(
                "panels of the factor are gone; what takes the whole of it is asked for at the first block"
            )
        upper = self.panels[-1].new_zeros(2 * (len(self.panels[-1]),))
        for panel in self.panels:
            upper[: len(panel), len(panel) - panel.shape[1] : len(panel)] = panel
        return upper

    def solve_right_(self, rows: Tensor) -> Tensor:
        """``rows A⁻¹ = rows R⁻ᵀ R⁻¹``, in place of rows (m, n) that lie `by_columns`."""
        upper, width = self.upper, self.panels[0].shape[1]
        self.panels.clear()  # a wide layer's factor is not to be in memory twice
        torch.linalg.solve_triangular(upper.T, rows, upper=False, left=False, out=rows)
        torch.linalg.solve_triangular(upper, rows, upper=True, left=False, out=rows)
        for start in range(0, len(upper), width):
            panel = upper[: start + width, start : start + width]
            self.panels.append(panel.clone(memory_format=torch.contiguous_format))
        return rows

    def inverse_upper(self) -> Tensor:
        """U."""
        return inverse_of_upper(self.upper)

    def variance(self) -> Tensor:
        """Diagonal (n,) of ``A⁻¹``."""
        return self.inverse_upper().square().sum(0)

    def correction(self, drift: Tensor) -> Tensor:
        """``P = striu(D Uᵀ) U`` (n, n) for D (n, n): GPTAQ's (2504.02692)."""
        upper = self.upper
        seen = torch.triu(torch.linalg.solve_triangular(upper.T, drift, upper=False, left=False), 1)
        return torch.linalg.solve_triangular(upper, seen, upper=True, left=False)


def by_columns(matrix: Tensor) -> Tensor:
    """A copy of a matrix that lies column by column in memory; then a triangular solve from the right works in place."""
    return matrix.T.contiguous().T


def inverse_of_upper(upper: Tensor) -> Tensor:
    """The inverse of an upper triangular matrix."""
    identity = torch.eye(len(upper), dtype=upper.dtype, device=upper.device)
    return torch.linalg.solve_triangular(upper, identity, upper=True)


def all_finite(tensor: Tensor) -> bool:
    """Whether there is no NaN and no infinite entry; the sum says so at once, unless it is too large itself."""
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def factorise(metric: Tensor, ridge: float, width: int = 128) -> Factor:
    """Factor a PSD metric (n, n), float64, which stays as it is.

    A zero matrix is treated as the identity (no input, no preference). Where the factorisation fails the ridge is raised
    from 1e-10 or the asked value by factors of ten, and the number of raises is recorded.

    Args:
        metric: A; its upper triangle is read.
        ridge: Relative to the mean of its diagonal.
        width: Columns of a panel of the factor.

    Raises:
        ValueError: The matrix has NaN or infinite entries, or is far from positive semi-definite.
    """
    if not all_finite(metric):
        raise ValueError("the moment matrix has NaN or infinite entries")
    scale = float(metric.diagonal().mean())
    if scale <= 0:
        metric, scale, ridge = torch.eye(len(metric), dtype=metric.dtype, device=metric.device), 1.0, 0.0
    used = ridge
    for attempt in range(ATTEMPTS):
        # A pivot at rounding level is as useless as a failed factorisation.
        panels = _factored(metric, used * scale, width, least=1e-7 * scale**0.5)
        if panels is not None:
            return Factor(panels, used, attempt)
        used = max(used * 10, 1e-10)
        if used > LIMIT:
            break
    raise ValueError("the moment matrix is not positive semi-definite")


def _factored(metric: Tensor, shift: float, width: int, least: float) -> list[Tensor] | None:
    """The panels of R with ``R Rᵀ = A + shift · I``, from right to left; None where a pivot is not above ``least``.

    ``R_:b R_bbᵀ = A_:b - Σ_{h>b} R_:h R_bhᵀ``, of which R_bb is the lower factor of the rows and columns of b in reverse
    order, reversed again.
    """
    panels: list[Tensor] = []
    for start in reversed(range(0, len(metric), width)):
        stop = min(start + width, len(metric))
        panel = metric[:stop, start:stop].clone(memory_format=torch.contiguous_format)
        for later in panels:
            panel.addmm_(later[:stop], later[start:stop].T, alpha=-1)
        own = panel[start:]
        own.diagonal().add_(shift)
        lower, info = torch.linalg.cholesky_ex(own.flip(0, 1))
        if int(info) != 0 or not float(lower.diagonal().min()) > least:
            return None
        own.copy_(lower.flip(0, 1))
        panel[:start] = torch.linalg.solve_triangular(own.T, panel[:start], upper=False, left=False)
        panels.insert(0, panel)
    return panels
