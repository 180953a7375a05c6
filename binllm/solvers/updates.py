"""Closed-form block-coordinate updates of a block's code for any quadratic (method equations, corrected).

Every update is a step from the old value, ``θ + (K + εI)⁻¹ (rhs - K θ)``: a zero denominator keeps the old scale, and the
step can only lower the quadratic. Along directions of θ that do not change Ŵ, rounding decides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from binllm.binarization import Block, Cells, Target
from binllm.solvers.amp import Guard


@dataclass
class Running:
    """The continuous weights of a block in the greedy pass, and what rounding one column does to the later ones.

    Attributes:
        weight: (width, n_out); a solver that rounds column by column leaves here what each column was when its turn came.
        upper: U_bb (width, width), see `Target.upper`.
        drift: P_bb (width, width) of GPTAQ, strictly upper triangular, or None.
        columnwise: Set by a solver that applied ``drift`` inside the block.
    """

    weight: Tensor
    upper: Tensor
    drift: Tensor | None = None
    columnwise: bool = False

    @classmethod
    def of(cls, target: Target, drift: Tensor | None) -> Running:
        """The weights as they stand before the first column is rounded; the target's are changed with them."""
        return cls(target.columns, target.upper, drift)

    def correction(self) -> Tensor | None:
        """What the drift added inside the block (width, n_out), if anything."""
        if self.drift is None or not self.columnwise:
            return None
        return self.drift.T @ self.weight


@dataclass(frozen=True)
class BlockQuadratic:
    """The objective restricted to one block.

    Attributes:
        metric: A (width, width).
        linear: Tᵀ (width, n_out).
        guard: AMP, or None.
        running: The continuous weights that the block stands for, in the greedy pass; None in a further pass.
    """

    metric: Tensor
    linear: Tensor
    guard: Guard | None = None
    running: Running | None = None

    @property
    def target(self) -> Tensor:
        """The continuous weights (width, n_out) that the block stands for; in the greedy pass only."""
        assert self.running is not None
        return self.running.weight

    def rows(self, block: Block | Cells) -> Tensor:
        """Each output row's value (n_out,), without the constant."""
        dense = block.dense()
        return ((self.metric @ dense - 2 * self.linear) * dense).sum(0)


def recorded(update: Callable[[Any, BlockQuadratic], None], block: Block | Cells, quadratic: BlockQuadratic) -> None:
    """Apply an update; under AMP, count it when the masked step raised the objective by more than rounding."""
    if quadratic.guard is None:
        update(block, quadratic)
        return
    before = float(quadratic.rows(block).sum())
    update(block, quadratic)
    if float(quadratic.rows(block).sum()) > before + 1e-6 * abs(before):
        quadratic.guard.counts.raised += 1


def _damping(dtype: torch.dtype) -> float:
    return 10 * torch.finfo(dtype).eps


def update_row_scales(block: Block | Cells, quadratic: BlockQuadratic) -> None:
    """Jointly the row scales, the residual scale and the row mean: ``(P A Pᵀ) θ = P Tᵀ`` for every output row."""
    basis, old = block.basis()
    count = len(basis)
    system = _products(quadratic.metric @ basis, basis)  # (n_out, k, k)
    force = (basis * quadratic.linear).sum(1).T - (system @ old.T[..., None])[..., 0]  # (n_out, k)
    diagonal = system.diagonal(dim1=1, dim2=2)
    damping = _damping(system.dtype) * diagonal.mean(1) + torch.finfo(system.dtype).tiny ** 0.5
    system = system + damping[:, None, None] * torch.eye(count, dtype=system.dtype, device=system.device)
    step = torch.linalg.solve(system, force[..., None])[..., 0].T
    new = old + torch.where(diagonal.T > 0, step, 0.0)
    if quadratic.guard is not None:
        gradient = (quadratic.guard.gradient(block.dense()) * basis).sum(1)
        new = quadratic.guard.select(old, new, gradient)
    block.set_row_parameters(new)


def _products(images: Tensor, basis: Tensor) -> Tensor:
    """``P A Pᵀ`` of every output row (n_out, k, k) from ``A P`` and P (k, width, n_out); half of it, as it is symmetric."""
    count, n_out = len(basis), basis.shape[2]
    system = basis.new_empty(n_out, count, count)
    for a in range(count):
        for b in range(a + 1):
            system[:, a, b] = system[:, b, a] = (images[a] * basis[b]).sum(0)
    return system


def update_column_scales(block: Block | Cells, quadratic: BlockQuadratic) -> None:
    """``(A ∘ (EᵀE)) b = colsum(E ∘ T)``; PSD by the Schur product theorem, factored by Cholesky with a relative ridge."""
    if isinstance(block, Cells) or not block.scales_columns:
        return  # column scales of cells belong to a cell, not to the column
    entries = block.unscaled()
    system = quadratic.metric * (entries @ entries.T)
    linear = quadratic.linear
    if block.row_mean is not None:
        linear = linear - quadratic.metric.sum(1)[:, None] * block.row_mean
    force = (entries * linear).sum(1) - system @ block.column_scale
    step = _damped_solve(system, force)
    new = block.column_scale + step
    if quadratic.guard is not None:
        gradient = (quadratic.guard.gradient(block.dense()) * entries).sum(1)
        new = quadratic.guard.select(block.column_scale, new, gradient)
    block.column_scale = new


def _damped_solve(system: Tensor, force: Tensor) -> Tensor:
    """Solve a PSD system (n, n); the ridge grows until Cholesky succeeds, and any ridge still gives a descent step.

    Raises:
        ValueError: The system has NaN or infinite entries.
    """
    mean = system.diagonal().mean()
    if float(mean) <= 0:
        return torch.zeros_like(force)
    identity = torch.eye(len(system), dtype=system.dtype, device=system.device)
    damping = _damping(system.dtype)
    while damping < 1:  # rounding needs far less; what is still indefinite then has NaN or infinite entries
        factor, info = torch.linalg.cholesky_ex(system + damping * mean * identity)
        if int(info) == 0:
            return torch.cholesky_solve(force[:, None], factor)[:, 0]
        damping *= 10
    raise ValueError(f"the system of the column scales left the range of {system.dtype}")
