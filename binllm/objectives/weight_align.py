"""Weight alignment, ``||W - Ŵ||²_F``: the objective of BiLLM (2402.04291) and ARB-RC (2410.03129)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from binllm.objectives import family
from binllm.objectives.base import ALL
from binllm.quadratic import Amp, Quadratic
from binllm.registry import register
from binllm.statistics import Statistics, TokenWeights


@register("objective", "weight_align")
@dataclass(frozen=True)
class WeightAlign:
    """Bring Ŵ close to W entry by entry; the inputs play no part (but for error feedback)."""

    name: str = "weight_align"
    roles: list[str] = field(default_factory=lambda: [ALL])
    token_weights: TokenWeights = TokenWeights.uniform

    version: ClassVar[int] = 1

    @property
    def aligns_outputs(self) -> bool:
        """The metric is I."""
        return False

    @property
    def reads_reference(self) -> bool:
        """The inputs play no part."""
        return False

    def quadratic(self, weight: Tensor, statistics: Statistics) -> Quadratic:
        """``A = I``, ``T = W``."""
        return family.weight_error(weight)

    def amp(self, weight: Tensor, statistics: Statistics) -> Amp | None:
        """Weight alignment has no attention term."""
        return None
