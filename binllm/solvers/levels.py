"""Coordinate descent on the discrete part of a code: signs, residual signs and magnitude groups, column by column.

With the others held, the objective in entry (i, k) is ``A_kk (v - u_ik)²`` with
``u_ik = (T_ik - Σ_{l≠k} Ŵ_il A_lk) / A_kk``, so the best value is the level nearest to u. For one plane this is
``B_:k = sign(b_k a ∘ (T_:k - Σ_{l≠k} Ŵ_:l A_lk))`` (method, corrected sign, factor and moment). A tie keeps the old level.

Everything is in units of the column scales: with ``Ŵ = μ + E diag(b)`` the metric of E is ``A' = diag(b) A diag(b)``, half
the descent direction ``R = (T - Ŵ A) diag(b)``, and a level is a row scale with a sign, whatever the column.

    for each panel of columns:
        for each column k of the panel:
            u  = E_k + R_k / A'_kk
            v  = nearest level to u
            R[later columns of the panel] -= A'[later, k] (v - E_k)
        R[later panels] -= A'[later, panel] · (all changes of the panel)          one matrix product

Columns with at most two magnitudes and no residual take the nearest level by one comparison (`_Magnitudes`); the
others, and all columns under AMP, compare all levels (`_nearest`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from binllm.binarization import Block
from binllm.quadratic import AmpRule
from binllm.solvers.updates import BlockQuadratic

PANEL = 32
TIE = 8  # in units of rounding: how far from a tie the old level wins


def sweep_levels(block: Block, quadratic: BlockQuadratic, regroup: bool) -> None:
    """One sweep over all columns of the block, in place.

    Args:
        block: The code.
        quadratic: The block's objective.
        regroup: Whether an entry may change its magnitude group, or only its signs.
    """
    block.make_scales_positive()
    _Sweep(block, quadratic, regroup).run()


class _Sweep:
    """The running state of one sweep; tensors are (width, n_out), in units of the column scales."""

    def __init__(self, block: Block, quadratic: BlockQuadratic, regroup: bool):
        self.block, self.guard, self.regroup = block, quadratic.guard, regroup
        scale = block.column_scale[:, None]
        self.metric = quadratic.metric * scale * scale.T
        entries, dense = block.unscaled(), block.dense()
        self.residual = (quadratic.linear - quadratic.metric @ dense) * scale
        self.pull = self.attention = None
        if self.guard is not None:
            self.pull, self.attention = self.guard.gradient(dense) * scale, self.guard.metric * scale * scale.T
        self.change = torch.zeros_like(entries[:PANEL])
        self.magnitude = _Magnitudes(block, regroup)
        self.salient = block.salient.tolist()
        self.tables = {salient: block.candidates(salient) for salient in set(self.salient)}
        # Views of all columns at once: indexing inside the loop would cost as much as the arithmetic.
        self.entry, self.slope, self.step = entries.unbind(), self.residual.unbind(), self.change.unbind()
        # Where u is zero but for rounding (a weight that is exactly zero), this decides, and the old sign stays.
        self.held = (entries * (1 + TIE * torch.finfo(entries.dtype).eps)).unbind()

    def run(self) -> None:
        """All panels from left to right; what lies left of a panel is not needed any more."""
        width, diagonal = len(self.entry), self.metric.diagonal().tolist()
        for start in range(0, width, PANEL):
            stop = min(start + PANEL, width)
            for k in range(start, stop):
                step = self.step[k - start]
                if diagonal[k] <= 0:
                    step.zero_()
                    continue
                self._update_column(k, 1 / diagonal[k], step)
                if k + 1 < stop:
                    self._move(slice(k + 1, stop), k, step)
            if stop < width:
                change = self.change[: stop - start]
                self.residual[stop:].addmm_(self.metric[stop:, start:stop], change, alpha=-1)
                if self.pull is not None and self.attention is not None:
                    self.pull[stop:].addmm_(self.attention[stop:, start:stop], change)
        self.magnitude.write_levels()

    def _move(self, later: slice, k: int, step: Tensor) -> None:
        self.residual[later].addr_(self.metric[later, k], step, alpha=-1)
        if self.pull is not None and self.attention is not None:
            self.pull[later].addr_(self.attention[later, k], step)

    def _update_column(self, k: int, inverse: float, step: Tensor) -> None:
        """Move column k to its best levels and put the move into ``step`` (n_out,)."""
        old = self.entry[k]
        if self.guard is None and not self.salient[k]:
            torch.sub(self.magnitude.nearest(k, self.held[k], self.slope[k], inverse), old, out=step)
            return
        best = torch.add(old, self.slope[k], alpha=inverse)
        level, value = _nearest(self.tables[self.salient[k]], best, (self.block.level[k], old), self.regroup)
        if self.pull is not None:
            level, value = self._filter(k, self.pull[k], (level, value))
        torch.sub(value, old, out=step)
        self.block.level[k] = level

    def _filter(self, k: int, pull: Tensor, proposal: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Let AMP choose between the proposed (level, value) and the old value of column k."""
        assert self.guard is not None
        (level, value), old, block = proposal, self.entry[k], self.block
        if self.guard.rule is not AmpRule.agree:
            # g_B = g_W ∘ (a bᵀ): rules that look at the sign of g_B need the sign of the scale of B.
            pull = pull * block.own_scale()[k]
        accepted = self.guard.accepts(value - old, pull)
        changed = value != old
        self.guard.count(accepted & changed, changed)
        return torch.where(accepted, level, block.level[k]), torch.where(accepted, value, old)


class _Magnitudes:
    """Nearest level for columns whose entries are ``±low`` or ``±high``.

    What a column was compared with, u, is kept, and the levels are read off it for all columns at once.
    """

    def __init__(self, block: Block, regroup: bool):
        self.block = block
        self.best = torch.zeros_like(block.level, dtype=block.row_scale.dtype)
        self.target = self.best.unbind()
        self.visited: list[int] = []
        self.free = regroup and len(block.row_scale) == 2
        if self.free:
            self.low, self.high = block.row_scale.min(0).values, block.row_scale.max(0).values
            self.middle = (self.low + self.high) / 2
        else:
            self.own = block.own_scale().unbind()

    def nearest(self, k: int, old: Tensor, slope: Tensor, inverse: float) -> Tensor:
        """The level of column k nearest to ``old + slope · inverse`` (n_out,)."""
        target = self.target[k]
        torch.add(old, slope, alpha=inverse, out=target)
        self.visited.append(k)
        magnitude = torch.where(target.abs() > self.middle, self.high, self.low) if self.free else self.own[k]
        return torch.copysign(magnitude, target)

    def write_levels(self) -> None:
        """Turn the kept comparisons into levels."""
        block, rows = self.block, self.visited
        best = self.best[rows]
        large = block.level[rows] >= 4
        if self.free:
            large = (best.abs() > self.middle) == (block.row_scale[1] > block.row_scale[0])
        block.level[rows] = (large.to(torch.int8) << 2) + torch.signbit(best)


def _nearest(
    table: tuple[Tensor, Tensor], best: Tensor, current: tuple[Tensor, Tensor], regroup: bool
) -> tuple[Tensor, Tensor]:
    """The (level, value) nearest to ``best`` (n_out,), or the current one where none is strictly nearer."""
    (index, values), (level, value) = table, current
    distance = (values - best).abs_()
    if not regroup and len(index) > 2:
        distance.masked_fill_((index >> 2)[:, None] != (level >> 2), torch.inf)
    least, chosen = distance.min(0)
    better = least < (value - best).abs_()
    return torch.where(better, index[chosen], level), torch.where(better, values.gather(0, chosen[None])[0], value)
