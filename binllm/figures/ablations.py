"""Perplexity against one choice while everything else is the same, a panel a choice."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from binllm.figures.panels import Sheet, logarithmic, title
from binllm.figures.style import SERIES
from binllm.report.ablation import Ablation, ablations
from binllm.report.comparison import Comparison

COLUMNS, DECADE = 3, 10.0  # a panel whose values differ by more is logarithmic
SMALL_MEANS = 20.0  # below it ticks are not whole numbers


def draw(comparison: Comparison, caption: str) -> Figure:
    """A panel for every choice in which runs differ while the rest of their configuration is the same."""
    found = ablations(comparison.subjects)
    columns = min(COLUMNS, len(found))
    sheet = Sheet(-(-len(found) // columns), columns, height=2.2)
    full = comparison.subjects[0].run.full_precision.perplexity
    for axes, one in zip(sheet.axes, found, strict=False):
        _panel(axes, one)
    for axes in sheet.axes[len(found) :]:
        axes.set_visible(False)
    text = (
        f"{caption} Points are means over seeds, bars go from the smallest to the largest. Full precision: {full:,.2f}."
    )
    return sheet.finish(text, [])


def _panel(axes: Axes, one: Ablation) -> None:
    places = [value for value, _ in one.values] if one.numeric else list(range(len(one.values)))
    perplexities = [[subject.run.quantized.perplexity for subject in group] for _, group in one.values]
    points = [Point(statistics.fmean(values), min(values), max(values)) for values in perplexities]
    points_panel(axes, places, points, [] if one.numeric else [str(value) for value, _ in one.values])
    title(axes, one.key, f"the rest as in {one.values[0][1][0].label}", "token perplexity")


@dataclass(frozen=True)
class Point:
    """A mean and the ends of its bar."""

    mean: float
    low: float
    high: float


def points_panel(axes: Axes, places: Sequence[float], points: Sequence[Point], names: Sequence[str] = ()) -> None:
    """Means with bars: joined by a line over numbers, or apart over names; logarithmic where they differ much.

    Args:
        axes: The panel.
        places: Where each stands.
        points: Means with their bars.
        names: Of the places, where they are no numbers.
    """
    colour, marker, _ = SERIES[0]
    means = [point.mean for point in points]
    bars = [[point.mean - point.low for point in points], [point.high - point.mean for point in points]]
    line = "none" if names else "-"
    axes.errorbar(places, means, yerr=bars, color=colour, marker=marker, linestyle=line, markersize=4, capsize=2.5)
    if names:
        axes.set_xticks(places, names, rotation=25, ha="right")
        axes.margins(x=0.15)
    if max(means) > DECADE * min(means):
        logarithmic(axes, "y")
    small = max(means) < SMALL_MEANS
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if small else f"{value:,.0f}"))
