"""The proposed objective of "Rethinking Output Alignment For 1-bit PTQ of LLMs" (2512.21651)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from binllm.objectives.base import LAST
from binllm.objectives.output_align import OutputAlign
from binllm.quadratic import AmpRule
from binllm.registry import register


@register("objective", "proposed")
@dataclass(frozen=True)
class Proposed(OutputAlign):
    """Output error against the full-precision output (α = 1), in the last linear layer of each block, under AMP.

    The same member of the family as `OutputAlign` with other defaults; the other layers take ``objective@elsewhere``.
    """

    name: str = "proposed"
    roles: list[str] = field(default_factory=lambda: [LAST])
    alpha: float = 1.0
    amp_rule: AmpRule = AmpRule.agree

    version: ClassVar[int] = 1
