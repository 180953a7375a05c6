"""Signs of the target and one closed-form fit of the scales."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from binllm.binarization import Block, Cells
from binllm.registry import register
from binllm.solvers.base import Feedback
from binllm.solvers.checks import check_walk
from binllm.solvers.updates import BlockQuadratic, recorded, update_column_scales, update_row_scales


@register("solver", "closed_form")
@dataclass(frozen=True)
class ClosedForm:
    """No iteration: the cheapest solver, and the first step of the others."""

    name: str = "closed_form"
    feedback: Feedback = Feedback.exact
    ridge: float = 0.01
    passes: int = 0

    version: ClassVar[int] = 1
    sweeps: ClassVar[int] = 0
    masks_updates: ClassVar[bool] = True
    blocks: ClassVar[tuple[type, ...]] = (Block, Cells)

    def __post_init__(self) -> None:
        check_walk(self.ridge, self.passes)

    def fit(self, block: Block | Cells, quadratic: BlockQuadratic) -> None:
        """Row scales, then column scales."""
        recorded(update_row_scales, block, quadratic)
        recorded(update_column_scales, block, quadratic)

    def refine(self, block: Block | Cells, quadratic: BlockQuadratic) -> None:
        """The same fit, to the other blocks' quantized values."""
        self.fit(block, quadratic)
