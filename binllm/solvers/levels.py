"""Coordinate descent on the discrete part of a code: signs, residual signs and magnitude groups, column by column.

With the others held, the objective in entry (i, k) is ``A_kk (v - u_ik)²`` with
``u_ik = (T_ik - Σ_{l≠k} Ŵ_il A_lk) / A_kk``, so the best value is the level nearest to u. For one plane this is
``B_:k = sign(b_k a ∘ (T_:k - Σ_{l≠k} Ŵ_:l A_lk))`` (method, corrected sign, factor and moment). A tie keeps the old level.

    R = T - Ŵ A
    for each panel of columns:
        for each column k of the panel:
            u  = R_k / A_kk + Ŵ_k
            v  = nearest level to u
            R[later columns of the panel] -= A[later, k] (v - Ŵ_k)
        R[later panels] -= A[later, panel] · (all changes of the panel)          one matrix product

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
    """The running state of one sweep; tensors are (width, n_out)."""

    def __init__(self, block: Block, quadratic: BlockQuadratic, regroup: bool):
        self.block, self.metric, self.guard, self.regroup = block, quadratic.metric, quadratic.guard, regroup
        self.dense = block.dense()
        self.residual = quadratic.linear - self.metric @ self.dense
        self.pull = None if self.guard is None else self.guard.gradient(self.dense)
        self.change = torch.empty_like(self.dense[:PANEL])
        self.magnitude = _Magnitudes(block, regroup)
        self.diagonal = self.metric.diagonal().tolist()
        self.scales = block.column_scale.tolist()
        self.salient = block.salient.tolist()
        self.tables = {salient: block.candidates(salient) for salient in set(self.salient)}

    def run(self) -> None:
        """All panels from left to right; what lies left of a panel is not needed any more."""
        width = len(self.dense)
        for start in range(0, width, PANEL):
            stop = min(start + PANEL, width)
            for k in range(start, stop):
                step = self.change[k - start]
                if self.diagonal[k] <= 0 or self.scales[k] == 0:
                    step.zero_()
                    continue
                self._update_column(k, step)
                if k + 1 < stop:
                    self.residual[k + 1 : stop].addr_(self.metric[k + 1 : stop, k], step, alpha=-1)
                    if self.guard is not None and self.pull is not None:
                        self.pull[k + 1 : stop].addr_(self.guard.metric[k + 1 : stop, k], step)
            if stop < width:
                change = self.change[: stop - start]
                self.residual[stop:].addmm_(self.metric[stop:, start:stop], change, alpha=-1)
                if self.guard is not None and self.pull is not None:
                    self.pull[stop:].addmm_(self.guard.metric[stop:, start:stop], change)
        self.magnitude.write_levels()

    def _update_column(self, k: int, step: Tensor) -> None:
        """Move column k to its best levels and put the move into ``step`` (n_out,)."""
        old = self.dense[k]
        best = torch.add(old, self.residual[k], alpha=1 / self.diagonal[k])
        if self.guard is None and not self.salient[k]:
            value = self.magnitude.nearest(k, best, self.scales[k])
            torch.sub(value, old, out=step)
            return
        index, values = self.tables[self.salient[k]]
        values = values * self.scales[k]
        if self.block.row_mean is not None:
            values = values + self.block.row_mean
        level, value = _nearest((index, values), best, (self.block.level[k], old), self.regroup)
        if self.guard is not None and self.pull is not None:
            level, value = self._filter(k, self.pull[k], (level, value))
        torch.sub(value, old, out=step)
        self.block.level[k] = level

    def _filter(self, k: int, pull: Tensor, proposal: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Let AMP choose between the proposed (level, value) and the old value of column k."""
        assert self.guard is not None
        (level, value), old, block = proposal, self.dense[k], self.block
        if self.guard.rule is not AmpRule.agree:
            # g_B = g_W ∘ (a bᵀ): rules that look at the sign of g_B need the sign of the scale of B.
            pull = pull * self.scales[k] * block.own_scale()[k]
        accepted = self.guard.accepts(value - old, pull)
        changed = value != old
        self.guard.count(accepted & changed, changed)
        return torch.where(accepted, level, block.level[k]), torch.where(accepted, value, old)


class _Magnitudes:
    """Nearest level for columns whose entries are ``±low`` or ``±high`` times the column scale.

    What a column was compared with, ``(u - μ) / b``, is kept, and the levels are read off it for all columns at once.
    """

    def __init__(self, block: Block, regroup: bool):
        self.block = block
        self.target = torch.zeros_like(block.level, dtype=block.row_scale.dtype)
        self.old_signs = block.signs()
        self.visited = torch.zeros(len(block.level), dtype=torch.bool, device=block.level.device)
        self.free = regroup and len(block.row_scale) == 2
        if self.free:
            self.low, self.high = block.row_scale.min(0).values, block.row_scale.max(0).values
            self.middle = (self.low + self.high) / 2
        else:
            self.own = block.own_scale()

    def nearest(self, k: int, best: Tensor, scale: float) -> Tensor:
        """The level of column k nearest to ``best`` (n_out,)."""
        target, mean = self.target[k], self.block.row_mean
        torch.mul(best if mean is None else best - mean, 1 / scale, out=target)
        magnitude = torch.where(target.abs() > self.middle, self.high, self.low) if self.free else self.own[k]
        # An exact zero keeps the old sign, as the sign of the zero.
        torch.where(target == 0, torch.copysign(target, self.old_signs[k]), target, out=target)
        self.visited[k] = True
        value = torch.copysign(magnitude, target).mul_(scale)
        return value if mean is None else value.add_(mean)

    def write_levels(self) -> None:
        """Turn the kept comparisons into levels."""
        block, rows = self.block, self.visited
        large = block.level >= 4
        if self.free:
            large = (self.target.abs() > self.middle) == (block.row_scale[1] > block.row_scale[0])
        level = (large.to(torch.int8) << 2) + torch.signbit(self.target)
        block.level = torch.where(rows[:, None], level, block.level)


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
