"""ARB-LLM's alternating refined binarization: ARB, ARB-X and ARB-RC (2410.03129)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from binllm.binarization.cell_fits import fit_alternating, fit_row_column, refit_to_inputs
from binllm.binarization.cells import Cells
from binllm.registry import register
from binllm.solvers.base import Feedback
from binllm.solvers.checks import check_count, check_walk
from binllm.solvers.updates import BlockQuadratic, recorded, update_row_scales


@register("solver", "arb")
@dataclass(frozen=True)
class Arb:
    """Which of the three it is follows from the factors.

    Cells with column scales make it ARB-RC, fitted to the weights whatever the objective is. Without them it is ARB, and
    ARB-X if the objective looks at the inputs, that is, if the block's metric is not a multiple of the identity.

    Attributes:
        iterations: Rounds over the weight error, 15 in the published code.
        output_iterations: ARB-X's rounds over the output error with the signs held, 15 in the published code.
        feedback: Error feedback between blocks; ``diagonal`` is that of the published code.
        ridge: Relative ridge of the metric's factor.
        passes: Passes of block coordinate descent after the greedy one, over means and row scales; the published code
            has none.
    """

    name: str = "arb"
    iterations: int = 15
    output_iterations: int = 15
    feedback: Feedback = Feedback.diagonal
    ridge: float = 0.01
    passes: int = 0

    version: ClassVar[int] = 1
    blocks: ClassVar[tuple[type, ...]] = (Cells,)

    def __post_init__(self) -> None:
        check_count("solver.iterations", self.iterations, 1)
        check_count("solver.output_iterations", self.output_iterations, 0)
        check_walk(self.ridge, self.passes)

    @property
    def sweeps(self) -> int:
        """Rounds, each of which updates the signs (those of ARB-RC in salient cells only)."""
        return self.iterations

    def fit(self, block: Cells, quadratic: BlockQuadratic) -> None:
        """See `fit_row_column`, `fit_alternating` and `refit_to_inputs`."""
        if block.column_scale is not None:
            fit_row_column(block, quadratic.target, self.iterations)
            return
        fit_alternating(block, quadratic.target, self.iterations)
        if _looks_at_inputs(quadratic.metric):
            refit_to_inputs(block, quadratic.target, quadratic.metric, self.output_iterations)

    def refine(self, block: Cells, quadratic: BlockQuadratic) -> None:
        """Means and row scales of all cells jointly, to the other blocks' quantized values; the signs are held."""
        recorded(update_row_scales, block, quadratic)


def _looks_at_inputs(metric: Tensor) -> bool:
    identity = torch.eye(len(metric), dtype=metric.dtype, device=metric.device)
    return not torch.equal(metric, metric[0, 0] * identity)
