"""Alternating updates: column scales every round, row scales and signs every ``period``-th (ARB-RC; 2512.21651)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from binllm.binarization import Block
from binllm.registry import register
from binllm.solvers.base import Feedback
from binllm.solvers.checks import check_count, check_walk
from binllm.solvers.levels import sweep_levels
from binllm.solvers.updates import BlockQuadratic, recorded, update_column_scales, update_row_scales


@register("solver", "alternating")
@dataclass(frozen=True)
class Alternating:
    """Block-coordinate descent over row scales, column scales and signs.

    Attributes:
        iterations: Rounds.
        period: k, row scales and signs are updated in every k-th round only.
        signs: Whether signs are updated at all; without it they stay those of the target.
        regroup: Whether an entry may change its magnitude group when its sign is updated.
        feedback: Error feedback between blocks.
        ridge: Relative ridge of the metric's factor.
        passes: Passes of block coordinate descent on the joint problem after the greedy one.
    """

    name: str = "alternating"
    iterations: int = 4
    period: int = 1
    signs: bool = True
    regroup: bool = True
    feedback: Feedback = Feedback.exact
    ridge: float = 0.01
    passes: int = 0

    version: ClassVar[int] = 2
    masks_updates: ClassVar[bool] = True
    blocks: ClassVar[tuple[type, ...]] = (Block,)

    def __post_init__(self) -> None:
        check_count("solver.iterations", self.iterations, 1)
        check_count("solver.period", self.period, 1)
        check_walk(self.ridge, self.passes)

    @property
    def sweeps(self) -> int:
        """Sign sweeps over the layer, in the greedy pass and in the further ones."""
        return -(-self.iterations // self.period) + self.passes if self.signs else 0

    def fit(self, block: Block, quadratic: BlockQuadratic) -> None:
        """The rounds, and a last fit of the row scales to the final signs."""
        for iteration in range(self.iterations):
            turn = iteration % self.period == 0
            if turn:
                recorded(update_row_scales, block, quadratic)
            recorded(update_column_scales, block, quadratic)
            if turn:
                self._update_signs(block, quadratic)
        recorded(update_row_scales, block, quadratic)

    def refine(self, block: Block, quadratic: BlockQuadratic) -> None:
        """One round, signs first: the scales are already fitted and the others have moved only a little."""
        self._update_signs(block, quadratic)
        recorded(update_column_scales, block, quadratic)
        recorded(update_row_scales, block, quadratic)

    def _update_signs(self, block: Block, quadratic: BlockQuadratic) -> None:
        if self.signs:
            recorded(lambda b, q: sweep_levels(b, q, self.regroup), block, quadratic)
