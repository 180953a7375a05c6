"""Perplexity against one choice while everything else is the same, a panel a choice."""

from __future__ import annotations

import statistics

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from binllm.figures.panels import Sheet, logarithmic, title
from binllm.figures.style import SERIES
from binllm.report.ablation import Ablation, ablations
from binllm.report.comparison import Comparison

COLUMNS, DECADE = 3, 10.0  # a panel whose values differ by more is logarithmic


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
    colour, marker, _ = SERIES[0]
    places = [value for value, _ in one.values] if one.numeric else list(range(len(one.values)))
    perplexities = [[subject.run.quantized.perplexity for subject in group] for _, group in one.values]
    means = [statistics.fmean(values) for values in perplexities]
    bars = [[mean - min(v) for mean, v in zip(means, perplexities, strict=True)],
            [max(v) - mean for mean, v in zip(means, perplexities, strict=True)]]  # fmt: skip
    line = "-" if one.numeric else "none"
    axes.errorbar(places, means, yerr=bars, color=colour, marker=marker, linestyle=line, markersize=4, capsize=2.5)
    if not one.numeric:
        axes.set_xticks(places, [str(value) for value, _ in one.values], rotation=25, ha="right")
        axes.margins(x=0.15)
    if max(means) > DECADE * min(means):
        logarithmic(axes, "y")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    title(axes, one.key, f"the rest as in {one.values[0][1][0].label}", "token perplexity")
