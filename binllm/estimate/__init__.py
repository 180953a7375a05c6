"""What a run will cost, from the shapes of its model: seconds and resident bytes of every phase."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from binllm.estimate.memory import bytes_by_phase
from binllm.estimate.seconds import seconds_by_phase
from binllm.estimate.work import Work
from binllm.models.geometry import Geometry

__all__ = ["Estimate", "estimate"]


@dataclass(frozen=True)
class Estimate:
    """What a run will cost.

    Attributes:
        seconds_by_phase: Wall-clock time by phase, named as in run.json; empty where nothing is known of the device or of
            the solver.
        bytes_by_phase: Highest resident memory by phase.
    """

    seconds_by_phase: dict[str, float]
    bytes_by_phase: dict[str, float]

    @property
    def seconds(self) -> float | None:
        """Of all phases; None if unknown."""
        return sum(self.seconds_by_phase.values()) if self.seconds_by_phase else None

    @property
    def bytes(self) -> float:
        """Of the dearest phase."""
        return max(self.bytes_by_phase.values())


def estimate(config: Any, geometry: Geometry, windows: int) -> Estimate:
    """Estimate a run on a CPU.

    Args:
        config: The built `RunConfig`.
        geometry: Shapes of its model.
        windows: Windows of the evaluation.

    Returns:
        Seconds and bytes by phase.
    """
    work = Work(config, geometry, windows)
    return Estimate(seconds_by_phase(work), bytes_by_phase(work))
