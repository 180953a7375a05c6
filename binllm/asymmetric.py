"""Asymmetric calibration: a switch beside every method that makes up for the drift of a layer's inputs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from torch import Tensor

from binllm.objectives.base import check_interval
from binllm.registry import register
from binllm.solvers.linear_algebra import by_columns, factorise
from binllm.statistics import Statistics


class AsymmetricRule(Enum):
    """How a layer makes up for the drift of its inputs, besides its objective.

    ``none``: not at all. ``qep``: it is fitted to ``W + α W (C - G) G⁻¹`` instead of W (2504.09629). ``gptaq``: the strictly
    upper triangular part of that correction is added while errors are fed back (2504.02692, whose code has α = 0.25)."""

    none = "none"
    qep = "qep"
    gptaq = "gptaq"


@register("asymmetric", "asymmetric")
@dataclass(frozen=True)
class Asymmetric:
    """Asymmetric calibration, a switch for every method.

    Attributes:
        rule: See `AsymmetricRule`.
        alpha: Share of the correction, 0 to 1.
        ridge: Relative ridge for the solve with G (``qep``).
    """

    name: str = "none"
    rule: AsymmetricRule = AsymmetricRule.none
    alpha: float = 1.0
    ridge: float = 0.01

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_interval("asymmetric.alpha", self.alpha, 0.0, 1.0)
        check_interval("asymmetric.ridge", self.ridge, 0.0, 1.0)

    def corrected(self, weight: Tensor, statistics: Statistics) -> Tensor:
        """What a layer is fitted to (n_out, n_in)."""
        if self.rule is not AsymmetricRule.qep:
            return weight
        pull = weight @ (statistics.cross_gram - statistics.gram)
        return weight + self.alpha * factorise(statistics.gram, self.ridge).solve_right_(by_columns(pull))

    def drift(self, statistics: Statistics) -> Tensor | None:
        """``α(C - G)`` for `Problem.drift`, or None."""
        if self.rule is not AsymmetricRule.gptaq:
            return None
        return self.alpha * (statistics.cross_gram - statistics.gram)
