"""A sheet of panels with one legend and a caption that names the runs, and the lines that most figures are made of."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from binllm.figures.style import DPI, GREY, GRID, SERIES
from binllm.report.comparison import Comparison, Subject
from binllm.report.metrics import metric_of

WIDTH, PANEL_HEIGHT = 7.4, 1.95  # inches: a page's text width; height of a panel with its labels
SMALL = 5.5  # points
SMALL_LINE, SMALL_WIDTH = 0.105, 165  # inches a line, characters a line
LEGEND_LINE, LEGEND_COLUMNS = 0.19, 5
MARKERS = 8  # at most so many markers on a line


class Sheet:
    """Panels in rows, filled by the caller, then `finish`ed."""

    def __init__(self, rows: int, columns: int, share_y: bool = False, height: float = PANEL_HEIGHT) -> None:
        self.figure = Figure(figsize=(WIDTH, rows * height), dpi=DPI, facecolor="white", layout="constrained")
        FigureCanvasAgg(self.figure)
        grid = self.figure.subplots(rows, columns, squeeze=False, sharey=share_y)
        self.axes: list[Axes] = list(grid.flat)
        for axes in self.axes:
            axes.grid(which="major", color=GRID, linewidth=0.6)
            axes.set_axisbelow(True)
            axes.tick_params(labelsize=7)
            axes.spines[["top", "right"]].set_visible(False)

    def finish(self, caption: str, handles: Sequence[Line2D]) -> Figure:
        """Add the legend and the caption below the panels, where the figure grows to make room for them."""
        small = textwrap.wrap(caption, SMALL_WIDTH, break_on_hyphens=False)
        columns = min(LEGEND_COLUMNS, max(len(handles), 1))
        legend = LEGEND_LINE * math.ceil(len(handles) / columns) + 0.06 if handles else 0.0
        foot = SMALL_LINE * len(small) + 0.08
        panels = self.figure.get_figheight()
        height = panels + legend + foot
        self.figure.set_figheight(height)
        layout = self.figure.get_layout_engine()
        assert isinstance(layout, ConstrainedLayoutEngine)
        layout.set(rect=(0, (foot + legend) / height, 1, panels / height))
        layout.execute(self.figure)
        self.figure.set_layout_engine("none")  # found once, not again for every file
        if handles:
            place: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, foot / height)}
            self.figure.legend(
                handles=list(handles),
                ncols=columns,
                frameon=False,
                fontsize=7,
                handlelength=3.2,
                borderaxespad=0,
                **place,
            )
        self.figure.text(0.012, 0.05 / height, "\n".join(small), fontsize=SMALL, va="bottom", linespacing=1.25)
        return self.figure


def title(axes: Axes, text: str, x: str = "", y: str = "") -> None:
    """Label a panel."""
    axes.set_title(text, fontsize=8, loc="left")
    axes.set_xlabel(x, fontsize=7)
    axes.set_ylabel(y, fontsize=7)


def look(order: int, count: int = 1) -> dict[str, Any]:
    """Colour, marker and dash of the series at a place in the comparison, drawn with ``count`` points."""
    colour, marker, dash = SERIES[order]
    every = max(1, math.ceil(count / MARKERS))
    return {
        "color": colour, "marker": marker, "linestyle": dash, "linewidth": 1.2, "markersize": 3.2, "markevery": every
    }  # fmt: skip


def handle(order: int, label: str) -> Line2D:
    """A legend's line."""
    return Line2D([], [], label=label, **look(order))


def run_handles(comparison: Comparison) -> list[Line2D]:
    """A legend's line for every run."""
    return [handle(one.order, one.label) for one in comparison.subjects]


def reference(label: str) -> Line2D:
    """A legend's line for what is no run."""
    return Line2D([], [], color=GREY, linestyle=(0, (4, 3)), linewidth=1.2, label=label)


def depth_lines(axes: Axes, comparison: Comparison, name: str, layer: Sequence[str] | None = None) -> None:
    """A metric over the block index, a line a run; where a block has several values, the median and its quartiles.

    Args:
        axes: The panel, which gets title and labels.
        comparison: Runs that have the metric.
        name: The metric.
        layer: The layer for each run, "" for the whole block; all values without.
    """
    metric = metric_of(name)
    for subject, chosen in zip(comparison.subjects, layer or [None] * len(comparison.subjects), strict=True):
        blocks = subject.by_block(name, chosen)
        axes.plot(blocks.index, blocks["median"], **look(subject.order, len(blocks)))
        colour = SERIES[subject.order][0]
        axes.fill_between(blocks.index, blocks["lower"], blocks["upper"], color=colour, alpha=0.15, linewidth=0)
    if metric.log and _positive(comparison, name):
        logarithmic(axes, "y")
    block_axis(axes)
    title(axes, metric.title, "block", metric.axis)


def logarithmic(axes: Axes, *directions: str) -> None:
    """Make axes logarithmic, with few ticks in plain numbers where there are less than two decades."""
    for direction in directions:
        getattr(axes, f"set_{direction}scale")("log")
        axis = getattr(axes, f"{direction}axis")
        low, high = sorted(axis.get_view_interval())
        if high < 100 * low:
            axis.set_major_locator(
                MaxNLocator(4, steps=[1, 2, 5, 10]) if high < 4 * low else LogLocator(subs=(1.0, 2.0, 5.0))
            )
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def block_axis(axes: Axes) -> None:
    """Whole numbers on the block axis."""
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _positive(comparison: Comparison, name: str) -> bool:
    return all(bool((one.metric(name)["value"].dropna() > 0).all()) for one in comparison.subjects)


def last_layers(comparison: Comparison) -> list[str]:
    """The last linear layer of a block for every run."""
    return [one.last_layer for one in comparison.subjects]


def runs_text(subjects: Sequence[Subject]) -> str:
    """Every run's label and id, for the caption."""
    return "Runs: " + ", ".join(f"{one.label} = {one.run.record.run_id}" for one in subjects) + "."
