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
        lower: L (n, n) with ``L Lᵀ = A + ridge · mean(diag A) · I``.
        ridge: Relative ridge that was used.
        recoveries: How many times the ridge had to be raised by ten beyond what was asked.
    """

    lower: Tensor
    ridge: float
    recoveries: int

    def solve_right(self, rows: Tensor) -> Tensor:
        """``rows A⁻¹`` for rows (m, n)."""
        return torch.cholesky_solve(rows.T, self.lower).T

    def inverse_upper(self) -> Tensor:
        """U (n, n), the upper Cholesky factor of ``A⁻¹ = Uᵀ U``, as in GPTQ."""
        inverse = torch.cholesky_inverse(self.lower)
        return torch.linalg.cholesky((inverse + inverse.T) / 2, upper=True)


def factorise(metric: Tensor, ridge: float) -> Factor:
    """Factor a PSD metric (n, n), float64.

    A zero matrix is treated as the identity (no input, no preference). Where the factorisation fails the ridge is raised
    from 1e-10 or the asked value by factors of ten, and the number of raises is recorded.

    Raises:
        ValueError: The matrix has NaN or infinite entries, or is far from positive semi-definite.
    """
    if not bool(torch.isfinite(metric).all()):
        raise ValueError("the moment matrix has NaN or infinite entries")
    scale = metric.diagonal().mean()
    identity = torch.eye(len(metric), dtype=metric.dtype, device=metric.device)
    if float(scale) <= 0:
        return Factor(identity, ridge, 0)
    used = ridge
    for attempt in range(ATTEMPTS):
        lower, info = torch.linalg.cholesky_ex(metric + used * scale * identity)
        # A pivot at rounding level is as useless as a failed factorisation.
        if int(info) == 0 and float(lower.diagonal().min()) > 1e-7 * float(scale) ** 0.5:
            return Factor(lower, used, attempt)
        used = max(used * 10, 1e-10)
        if used > LIMIT:
            break
    raise ValueError("the moment matrix is not positive semi-definite")
