"""Output alignment with every option of the quadratic family; by itself the naive form that ARB-X uses (2410.03129)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from binllm.objectives import family
from binllm.objectives.base import ALL, check_interval
from binllm.quadratic import Amp, AmpRule, Quadratic
from binllm.registry import register
from binllm.statistics import Statistics, TokenWeights


@register("objective", "output_align")
@dataclass(frozen=True)
class OutputAlign:
    """``||((1-α)X̂ + αX)Wᵀ - X̂Ŵᵀ||²/N``, shrunk, tempered and rescaled as asked.

    Attributes:
        alpha: α, target between the quantized (0) and the full-precision (1) stream.
        shrinkage: λ, share of an isotropic weight error in the metric.
        tempering: γ, exponent of the metric's spectrum; 1 leaves it as it is.
        preserve_energy: Rescale each output's target to the energy of the true output.
        token_weights: Weights of the tokens in the moments.
        amp_rule: Attention matrix preservation.
    """

    name: str = "output_align"
    roles: list[str] = field(default_factory=lambda: [ALL])
    alpha: float = 0.0
    shrinkage: float = 0.0
    tempering: float = 1.0
    preserve_energy: bool = False
    token_weights: TokenWeights = TokenWeights.uniform
    amp_rule: AmpRule = AmpRule.off

    version: ClassVar[int] = 1

    @property
    def aligns_outputs(self) -> bool:
        """The metric is the input's second moment, shrunk and tempered."""
        return True

    @property
    def reads_reference(self) -> bool:
        """With a target of the quantized stream alone, and no AMP, it does not look at the full-precision one."""
        return self.alpha > 0 or self.preserve_energy or self.amp_rule is not AmpRule.off

    def __post_init__(self) -> None:
        for option in ("alpha", "shrinkage", "tempering"):
            check_interval(f"objective.{option}", getattr(self, option), 0.0, 1.0)

    def quadratic(self, weight: Tensor, statistics: Statistics) -> Quadratic:
        """``A = G``, ``T = W((1-α)G + αC)``, then energy, shrinkage, tempering in this order."""
        quadratic = family.output_error(weight, statistics, self.alpha)
        if self.preserve_energy:
            quadratic = family.preserve_energy(quadratic, weight, statistics, self.alpha)
        quadratic = family.shrink(quadratic, weight, self.shrinkage)
        return family.temper(quadratic, weight, self.tempering)

    def amp(self, weight: Tensor, statistics: Statistics) -> Amp | None:
        """``L_AMP = ||W C Ŵᵀ||²_F``, up to a factor the paper's ``||(XWᵀ)ᵀ(X̂Ŵᵀ)||²_F`` (docs/notation.md)."""
        return None if self.amp_rule is AmpRule.off else Amp(weight @ statistics.cross_gram, self.amp_rule)
