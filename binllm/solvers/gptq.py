"""GPTQ/OBC (2210.17323): columns are rounded one after the other, each absorbing what the earlier ones left.

    for each column k of the block:
        Ŵ_k = nearest level to W_k
        W_later -= U_k,later (W_k - Ŵ_k) / U_kk          A⁻¹ = UᵀU
        W_later += P_k,later W_k                          (GPTAQ only; 2504.02692)

The levels stay those of the binarization's first code. Between blocks the walk does the same with whole blocks, so the size
of blocks changes the levels' scales but not the rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from binllm.binarization import Columnwise
from binllm.errors import bad_value
from binllm.registry import register
from binllm.solvers.base import Feedback
from binllm.solvers.checks import check_walk
from binllm.solvers.updates import BlockQuadratic


@register("solver", "gptq")
@dataclass(frozen=True)
class Gptq:
    """Greedy rounding column by column.

    Attributes:
        feedback: ``exact``; GPTQ is its special case for blocks of one column.
        ridge: Relative ridge of the metric's factor (GPTQ's percdamp).
    """

    name: str = "gptq"
    feedback: Feedback = Feedback.exact
    ridge: float = 0.01

    version: ClassVar[int] = 1
    passes: ClassVar[int] = 0
    sweeps: ClassVar[int] = 0
    blocks: ClassVar[tuple[type, ...]] = (Columnwise,)

    def __post_init__(self) -> None:
        if self.feedback is not Feedback.exact:
            raise bad_value("solver.feedback", self.feedback.value, (Feedback.exact.value,))
        check_walk(self.ridge, self.passes)

    def fit(self, block: Any, quadratic: BlockQuadratic) -> None:
        """Round all columns from left to right; the weights are left as each was when its turn came."""
        running = quadratic.running
        assert running is not None
        running.columnwise = True
        weight, upper, drift = running.weight, running.upper, running.drift
        pivots = upper.diagonal().tolist()
        for k, column in enumerate(weight.unbind()):
            error = (column - block.round_column(k, column)) / pivots[k]
            weight[k + 1 :].addr_(upper[k, k + 1 :], error, alpha=-1)
            if drift is not None:
                weight[k + 1 :].addr_(drift[k, k + 1 :], column)

    def refine(self, block: Any, quadratic: BlockQuadratic) -> None:
        """Nothing: there is one pass."""
