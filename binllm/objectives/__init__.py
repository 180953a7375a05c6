"""Objectives: (weight, statistics) to a quadratic. One file each; importing them registers them."""

from binllm.objectives.base import ALL, LAST, Objective, applies_to, reads_reference
from binllm.objectives.output_align import OutputAlign
from binllm.objectives.proposed import Proposed
from binllm.objectives.weight_align import WeightAlign

__all__ = ["ALL", "LAST", "Objective", "OutputAlign", "Proposed", "WeightAlign", "applies_to", "reads_reference"]
