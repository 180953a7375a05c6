"""What the plot of perplexity against stored bits shows: runs of one method as one entry, and the Pareto front."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from binllm.figures.style import Family
from binllm.tracking.runs import Run


@dataclass(frozen=True)
class Entry:
    """A method in the plot.

    Attributes:
        label: Written beside it.
        runs: Its runs, which differ in seed only.
        family: Its marker.
        hollow: Whether the marker is hollow.
    """

    label: str
    runs: Sequence[Run]
    family: Family
    hollow: bool = False

    @property
    def perplexities(self) -> list[float]:
        """Of the quantized model, a value a seed."""
        return [run.quantized.perplexity for run in self.runs]

    @property
    def perplexity(self) -> float:
        """Mean over the seeds; infinite where it is no number."""
        mean = statistics.fmean(self.perplexities)
        return mean if math.isfinite(mean) else math.inf

    @property
    def stored_bits(self) -> float:
        """Mean over the seeds, bits per weight of the quantized layers."""
        return statistics.fmean(run.bits.linear for run in self.runs)


def front(rows: Iterable[Entry]) -> list[Entry]:
    """The rows that no other one beats in both stored bits and perplexity, by ascending bits."""
    best: list[Entry] = []
    for row in sorted(rows, key=lambda row: (row.stored_bits, row.perplexity)):
        if not best or row.perplexity < best[-1].perplexity:
            best.append(row)
    return best
