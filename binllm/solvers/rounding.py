"""The binarization's first code as it is: round to nearest, XNOR, BiLLM and HBLLM, whose fits are their first codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from binllm.registry import register
from binllm.solvers.base import Feedback
from binllm.solvers.checks import check_walk
from binllm.solvers.updates import BlockQuadratic


@register("solver", "rounding")
@dataclass(frozen=True)
class Rounding:
    """No update at all; errors are still fed back between blocks, if asked."""

    name: str = "rounding"
    feedback: Feedback = Feedback.none
    ridge: float = 0.01

    version: ClassVar[int] = 1
    passes: ClassVar[int] = 0
    sweeps: ClassVar[int] = 0
    keeps_codes: ClassVar[bool] = True
    blocks: ClassVar[tuple[type, ...]] = (object,)

    def __post_init__(self) -> None:
        check_walk(self.ridge, self.passes)

    def fit(self, block: Any, quadratic: BlockQuadratic) -> None:
        """Keep the first code."""

    def refine(self, block: Any, quadratic: BlockQuadratic) -> None:
        """Keep the first code."""
