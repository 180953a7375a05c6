"""Cholesky factors with a relative ridge and a recorded recovery."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ATTEMPTS = 12
LIMIT = 1.0  # moments are positive semi-definite up to rounding; a metric that needs more than this is not


@dataclass(frozen=True)
class Factor:
    """A factored metric.

    Attributes:
        upper: R (n, n), upper triangular, with ``R Rᵀ = A + ridge · mean(diag A) · I``. Its inverse ``U = R⁻¹`` is the upper
            Cholesky factor of ``A⁻¹ = Uᵀ U``, as in GPTQ, and ``U_bb = (R_bb)⁻¹`` for every block: a walk needs no more.
        ridge: Relative ridge that was used.
        recoveries: How many times the ridge had to be raised by ten beyond what was asked.
    """

    upper: Tensor
    ridge: float
    recoveries: int

    def solve_right(self, rows: Tensor) -> Tensor:
        """``rows A⁻¹ = rows R⁻ᵀ R⁻¹`` for rows (m, n)."""
        return self.solve_upper(torch.linalg.solve_triangular(self.upper.T, rows, upper=False, left=False))

    def solve_upper(self, rows: Tensor) -> Tensor:
        """``rows U = rows R⁻¹`` for rows (m, n)."""
        return torch.linalg.solve_triangular(self.upper, rows, upper=True, left=False)

    def inverse_upper(self, span: slice = slice(None)) -> Tensor:
        """U, or its diagonal block ``U_bb``."""
        own = self.upper[span, span]
        identity = torch.eye(len(own), dtype=own.dtype, device=own.device)
        return torch.linalg.solve_triangular(own, identity, upper=True)

    def variance(self) -> Tensor:
        """Diagonal (n,) of ``A⁻¹``."""
        return self.inverse_upper().square().sum(0)

    def correction(self, drift: Tensor) -> Tensor:
        """``P = striu(D Uᵀ) U`` (n, n) for D (n, n): GPTAQ's (2504.02692)."""
        return self.solve_upper(
            torch.triu(torch.linalg.solve_triangular(self.upper.T, drift, upper=False, left=False), 1)
        )


def all_finite(tensor: Tensor) -> bool:
    """Whether there is no NaN and no infinite entry; the sum says so at once, unless it is too large itself."""
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def factorise(metric: Tensor, ridge: float) -> Factor:
    """Factor a PSD metric (n, n), float64.

    A zero matrix is treated as the identity (no input, no preference). Where the factorisation fails the ridge is raised
    from 1e-10 or the asked value by factors of ten, and the number of raises is recorded.

    Raises:
        ValueError: The matrix has NaN or infinite entries, or is far from positive semi-definite.
    """
    if not all_finite(metric):
        raise ValueError("the moment matrix has NaN or infinite entries")
    scale = metric.diagonal().mean()
    if float(scale) <= 0:
        return Factor(torch.eye(len(metric), dtype=metric.dtype, device=metric.device), ridge, 0)
    # R is the lower factor of the metric with rows and columns in reverse order, reversed again.
    reverse = metric.flip(0, 1)
    diagonal = reverse.diagonal().clone()
    used = ridge
    for attempt in range(ATTEMPTS):
        reverse.diagonal().copy_(diagonal + used * scale)
        lower, info = torch.linalg.cholesky_ex(reverse)
        # A pivot at rounding level is as useless as a failed factorisation.
        if int(info) == 0 and float(lower.diagonal().min()) > 1e-7 * float(scale) ** 0.5:
            return Factor(lower.flip(0, 1), used, attempt)
        used = max(used * 10, 1e-10)
        if used > LIMIT:
            break
    raise ValueError("the moment matrix is not positive semi-definite")
