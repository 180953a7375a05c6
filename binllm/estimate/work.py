"""The amounts of work in a run that both its time and its memory depend on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch

from binllm.asymmetric import AsymmetricRule
from binllm.models.geometry import Geometry, Shape
from binllm.objectives import applies_to, reads_reference
from binllm.parallel import LARGE
from binllm.plan import Granularity
from binllm.quadratic import AmpRule

Wave = Sequence[Sequence[Shape]]  # stages whose inputs are measured together


class Sums(NamedTuple):
    """How often G, C and the energy of the outputs are measured."""

    gram: int
    cross: int
    outputs: int


@dataclass(frozen=True)
class Work:
    """A run.

    Attributes:
        config: The built `RunConfig`.
        geometry: Shapes of its model.
        windows: Windows of the evaluation.
    """

    config: Any
    geometry: Geometry
    windows: int

    @cached_property
    def threads(self) -> int:
        """Of torch."""
        return self.config.threads or torch.get_num_threads()

    @cached_property
    def tokens(self) -> int:
        """Of the calibration."""
        return self.config.dataset.sequences * self.config.dataset.length

    @cached_property
    def size(self) -> int:
        """Bytes of an entry of weights and streams."""
        return getattr(torch, self.config.model.dtype.value).itemsize

    @cached_property
    def streamed(self) -> bool:
        """Whether weights are read block by block."""
        return self.config.streaming

    @cached_property
    def waves(self) -> list[Wave]:
        """The stages of a block by waves."""
        stages = self.geometry.stages
        return [stages] if self.config.calibration.granularity is Granularity.block else [[stage] for stage in stages]

    def side_by_side(self, wave: Wave) -> int:
        """Fits that go on at the same time."""
        small = all(layer.entries < LARGE for layer in self.geometry.layers)
        return min(self.threads, sum(map(len, wave))) if small else 1

    def measured(self, stage: Sequence[Shape]) -> Sums:
        """What is measured of the input of a stage, by each weighting of tokens that its layers ask for."""
        objectives = [self.objective(layer) for layer in stage]
        kinds = {one.token_weights for one in objectives}
        read = {one.token_weights for one in objectives if reads_reference(one)}
        asymmetric = self.config.asymmetric.rule is not AsymmetricRule.none
        return Sums(len(kinds), len(kinds if asymmetric else read), len(read))

    def objective(self, layer: Shape) -> Any:
        """What a layer is fitted to."""
        named = applies_to(self.config.objective, layer.role, is_last=layer is self.geometry.layers[-1])
        return self.config.objective if named else self.config.elsewhere


def has_amp(objective: Any) -> bool:
    """Whether attention matrix preservation is on."""
    return getattr(objective, "amp_rule", AmpRule.off) is not AmpRule.off
