"""What is diagnosed: the typed form of ``conf/diagnostics/*.yaml``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from binllm.errors import bad_value

BLOCK_LOSS = "block_loss"
METRICS = (BLOCK_LOSS, "stream", "tokens", "attention", "anisotropy", "accumulation")


@dataclass(frozen=True)
class DiagnosticsConfig:
    """Which groups of metrics are measured in every block, and on how many tokens; see docs/diagnostics.md.

    Attributes:
        name: Name of the choice.
        metrics: Groups: block_loss, stream, tokens, attention, anisotropy, accumulation.
        sequences: Looks at the first so many calibration sequences, rounded up to whole batches; null at all.
        objectives: For block_loss: any key to an objective, under which each layer is quantized alone.
    """

    name: str = "none"
    metrics: list[str] = field(default_factory=list)
    sequences: int | None = 4
    objectives: dict[str, Any] = field(default_factory=dict)

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        for metric in self.metrics:
            if metric not in METRICS:
                raise bad_value("diagnostics.metrics", metric, METRICS)
        if self.sequences is not None and self.sequences < 1:
            raise bad_value("diagnostics.sequences", self.sequences, "a whole number of at least 1, or null")
        names = [getattr(objective, "name", None) for objective in self.objectives.values()]
        if BLOCK_LOSS in self.metrics and not names:
            wanted = "at least one objective with block_loss, as in diagnostics=full"
            raise bad_value("diagnostics.objectives", "{}", wanted)
        if len(set(names)) < len(names):
            raise bad_value("diagnostics.objectives", ", ".join(map(str, names)), "objectives with different names")
