"""Coordinate descent on the discrete part of a code: signs, residual signs and magnitude groups, column by column.

With the others held, the objective in entry (i, k) is ``A_kk (v - u_ik)²`` with
``u_ik = (T_ik - Σ_{l≠k} Ŵ_il A_lk) / A_kk``, so the best value is the level nearest to u. For one plane this is
``B_:k = sign(b_k a ∘ (T_:k - Σ_{l≠k} Ŵ_:l A_lk))`` (method, corrected sign, factor and moment). A tie keeps the old level.

    for each panel of columns:
        for each column k of the panel:
            u  = R_k / A_kk + Ŵ_k
            v  = nearest level to u
            R[panel] -= A[panel, k] (v - Ŵ_k)
        R[later and earlier columns] -= A[:, panel] · (all changes of the panel)      one matrix product
"""

from __future__ import annotations

import torch
from torch import Tensor

from binllm.binarization import Block
from binllm.solvers.amp import Guard
from binllm.solvers.updates import BlockQuadratic

PANEL = 32


def sweep_levels(block: Block, quadratic: BlockQuadratic, regroup: bool) -> None:
    """One sweep over all columns of the block, in place.

    Args:
        block: The code.
        quadratic: The block's objective.
        regroup: Whether an entry may change its magnitude group, or only its signs.
    """
    metric, guard = quadratic.metric, quadratic.guard
    dense = block.dense()
    residual = quadratic.linear - metric @ dense
    pull = None if guard is None else guard.gradient(dense)
    tables = {salient: block.candidates(salient) for salient in set(block.salient.tolist())}
    diagonal = metric.diagonal().tolist()
    scales = block.column_scale.tolist()
    salient = block.salient.tolist()
    for start in range(0, len(dense), PANEL):
        stop = min(start + PANEL, len(dense))
        change = torch.zeros_like(dense[start:stop])
        for k in range(start, stop):
            if diagonal[k] <= 0:
                continue
            index, values = tables[salient[k]]
            values = values * scales[k] if block.row_mean is None else values * scales[k] + block.row_mean
            best = residual[k] / diagonal[k] + dense[k]
            level, value = _nearest(index, values, best, block.level[k], dense[k], regroup)
            if guard is not None and pull is not None:
                level, value = _filter(guard, block, k, pull[k], (level, value), dense[k])
            step = value - dense[k]
            block.level[k], dense[k], change[k - start] = level, value, step
            residual[start:stop].addr_(metric[start:stop, k], step, alpha=-1)
            if guard is not None and pull is not None:
                pull[start:stop].addr_(guard.metric[start:stop, k], step)
        _propagate(residual, metric, change, start, stop, -1.0)
        if guard is not None and pull is not None:
            _propagate(pull, guard.metric, change, start, stop, 1.0)


def _nearest(
    index: Tensor, values: Tensor, best: Tensor, level: Tensor, current: Tensor, regroup: bool
) -> tuple[Tensor, Tensor]:
    """The level nearest to ``best`` (n_out,), or the current one where none is strictly nearer."""
    distance = (values - best).abs_()
    if not regroup and len(index) > 2:
        distance.masked_fill_((index >> 2)[:, None] != (level >> 2), torch.inf)
    least, chosen = distance.min(0)
    better = least < (current - best).abs_()
    value = torch.where(better, values.gather(0, chosen[None])[0], current)
    return torch.where(better, index[chosen], level), value


def _filter(
    guard: Guard, block: Block, k: int, pull: Tensor, proposal: tuple[Tensor, Tensor], old: Tensor
) -> tuple[Tensor, Tensor]:
    """Let AMP choose between the proposed (level, value) and the old value of column k."""
    level, value = proposal
    # g_B = g_W ∘ (a bᵀ): rules that look at the sign of g_B need the sign of the scale of B.
    scale = block.row_scale.gather(0, (block.level[k] >> 2)[None])[0] * block.column_scale[k]
    accepted = guard.accepts(value - old, pull if guard.rule.value == "agree" else pull * scale)
    changed = value != old
    guard.count(accepted & changed, changed)
    return torch.where(accepted, level, block.level[k]), torch.where(accepted, value, old)


def _propagate(target: Tensor, metric: Tensor, change: Tensor, start: int, stop: int, sign: float) -> None:
    """Add ``sign · A[:, panel] change`` to the rows of ``target`` outside the panel."""
    if start > 0:
        target[:start].addmm_(metric[:start, start:stop], change, alpha=sign)
    if stop < len(target):
        target[stop:].addmm_(metric[stop:, start:stop], change, alpha=sign)
