"""Attention matrix preservation (AMP): which part of a proposed update is accepted.

With ``L_AMP = ||W C Ŵᵀ||²`` and its gradient g in a parameter θ, a proposal θ* of a closed-form update is filtered entry
by entry. ``agree`` (default) accepts where ``g (θ* - θ) >= 0``; L_AMP is convex in each factor (row scales, column scales,
entries), hence never falls. ``positive`` accepts where ``g > 0``. ``signed`` is the printed formula
``θ (1 - m) + θ* m`` with ``m = sign(g)`` to the letter: m = -1 reflects to ``2θ - θ*`` (arXiv 2512.21651).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from binllm.quadratic import AmpRule


@dataclass
class AmpCounts:
    """Entries accepted and rejected, and how many masked updates raised the objective."""

    accepted: int = 0
    rejected: int = 0
    raised: int = 0


class Guard:
    """AMP within one block: the running gradient of L_AMP, and the filter.

    Args:
        rule: The acceptance rule.
        metric: H of the block (width, width).
        offset: What the other blocks add to half the gradient, ``(Ŵ H)`` without this block, transposed (width, n_out).
        counts: Shared over the layer, updated in place.
    """

    def __init__(self, rule: AmpRule, metric: Tensor, offset: Tensor, counts: AmpCounts):
        self.rule = rule
        self.metric = metric
        self.offset = offset
        self.counts = counts

    def gradient(self, dense: Tensor) -> Tensor:
        """Half the gradient of L_AMP in Ŵᵀ (width, n_out) of the block."""
        return self.offset + self.metric @ dense

    def select(self, old: Tensor, new: Tensor, gradient: Tensor) -> Tensor:
        """Filter a continuous proposal; all arguments have the shape of the parameter."""
        accepted = self.accepts(new - old, gradient)
        changed = new != old
        self.count(accepted & changed, changed)
        if self.rule is AmpRule.signed:
            return old + torch.sign(gradient) * (new - old)
        return torch.where(accepted, new, old)

    def accepts(self, step: Tensor, gradient: Tensor) -> Tensor:
        """Mask of the entries that take their proposal (for signs, ``signed`` is the same as ``positive``)."""
        return gradient * step >= 0 if self.rule is AmpRule.agree else gradient > 0

    def count(self, accepted: Tensor, changed: Tensor) -> None:
        """Add to the counts: proposals that differ from the old value, and those of them that were accepted."""
        taken = int(accepted.sum())
        self.counts.accepted += taken
        self.counts.rejected += int(changed.sum()) - taken
