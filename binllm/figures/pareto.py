"""Perplexity against stored bits: a labelled marker a method, and the front of those that no other one beats in both."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import Affine2D

from binllm.errors import BinllmError
from binllm.figures.entries import Entry, front
from binllm.figures.labels import Box, Point, Scene, place
from binllm.figures.style import DPI, GREY, GRID, Family
from binllm.tracking.runs import Run

WIDTH, PLOT_HEIGHT = 10.0, 6.6  # inches; the caption adds to the height
LABEL, SMALL = 7.5, 5.5  # font sizes in points
SMALL_LINE, SMALL_WIDTH = 0.105, 225  # inches a line, characters a line
LEGEND_HEIGHT = 0.95  # inches, with the axis' own labels
MARKER = 6.5  # points
PAD = 2.0  # points of room around a label
LEADER, CROWDED = 4.0, 14.0  # points from a marker to a label without a leader; to another marker that asks for one
FRONT = "#d55e00"


def megabyte_ticks(runs: Sequence[Run], low: float, high: float) -> tuple[list[float], list[str]]:
    """Where whole-model megabytes are on the axis of stored bits.

    One model has ``model_bytes = rest + linear · weights / 8`` with the same rest and weights for every method, a line
    that each run's record gives on its own. Where the records do not agree on it (something outside the layers was
    quantized too), ticks are interpolated between the runs, and there are none beyond them.

    Args:
        runs: Runs of one model.
        low: Left end of the axis, bits per weight.
        high: Right end.

    Returns:
        Positions in bits per weight, and their texts.
    """
    sizes = [run.bits for run in runs]
    lines = np.array([(one.model_bytes - one.linear_bytes, one.linear_bytes / one.linear) for one in sizes])
    if np.allclose(lines, lines[0], rtol=1e-6):
        rest, slope = lines[0]
        bits, megabytes = np.array([low, high]), (rest + slope * np.array([low, high])) / 1e6
    else:
        pairs = sorted({one.model_bytes / 1e6: one.linear for one in sizes}.items())
        megabytes, bits = np.array(pairs).T
    inside = [tick for tick in MaxNLocator(8).tick_values(*megabytes[[0, -1]]) if megabytes[0] <= tick <= megabytes[-1]]
    places = np.interp(inside, megabytes, bits)
    shown = [(float(x), f"{tick:g}") for x, tick in zip(places, inside, strict=True) if low <= x <= high]
    return [x for x, _ in shown], [text for _, text in shown]


def draw(rows: Sequence[Entry], caption: str) -> Figure:
    """The plot with its small print.

    Args:
        rows: What to plot.
        caption: The small print.

    Raises:
        BinllmError: No row has a finite perplexity.
    """
    drawn = [row for row in rows if math.isfinite(row.perplexity)]
    if not drawn:
        raise BinllmError("no run has a finite perplexity: there is nothing to plot")
    small = textwrap.wrap(caption, SMALL_WIDTH, break_on_hyphens=False)
    foot = SMALL_LINE * len(small) + 0.1
    height = PLOT_HEIGHT + LEGEND_HEIGHT + foot
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0.11, (foot + LEGEND_HEIGHT) / height, 0.87, 1 - (foot + LEGEND_HEIGHT + 0.55) / height))
    _axes(axes, drawn)
    for row in drawn:
        _point(axes, row)
    handles = _handles(drawn)
    figure.legend(
        handles=handles,
        loc="lower center",
        bbox_to_anchor=(0.5, foot / height),
        ncols=math.ceil(len(handles) / 2),
        frameon=False,
        fontsize=8,
    )
    figure.text(0.012, 0.05 / height, "\n".join(small), fontsize=SMALL, va="bottom", linespacing=1.25)
    canvas.draw()
    _labels(axes, drawn)
    return figure


def _axes(axes: Axes, rows: Sequence[Entry]) -> None:
    """Scales, the second axis, full precision, the front."""
    full = rows[0].runs[0].full_precision.perplexity
    bits = [row.stored_bits for row in rows]
    values = [value for row in rows for value in row.perplexities] + [full]
    margin = 0.08 * (max(bits) - min(bits)) + 0.1
    axes.set_xlim(min(bits) - margin, max(bits) + margin)
    axes.set_yscale("log")
    axes.set_ylim(min(values) / 1.35, max(values) * 1.6)
    decades = math.log10(max(values) / min(values))
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 4 else (1.0,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("stored bits per weight of the quantized layers, with all scales, bitmaps and indices")
    axes.set_ylabel("token perplexity (log scale)")
    positions, texts = megabyte_ticks([run for row in rows for run in row.runs], *axes.get_xlim())
    above = axes.secondary_xaxis("top")
    above.set_xticks(positions, texts)
    above.set_xlabel("whole model, MB (10⁶ bytes)")
    axes.grid(which="major", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.axhline(full, color=GREY, linestyle=(0, (4, 3)), linewidth=1)
    axes.annotate(
        f"full precision {full:,.2f}", (1, full), (-4, 3), ("axes fraction", "data"), "offset points",
        ha="right", va="bottom", fontsize=LABEL, color="#555555",
    )  # fmt: skip
    best = front(rows)
    axes.step(
        [*(row.stored_bits for row in best), axes.get_xlim()[1]],
        [*(row.perplexity for row in best), best[-1].perplexity],
        where="post", color=FRONT, linewidth=1.2, alpha=0.6, zorder=1.5,
    )  # fmt: skip


def _point(axes: Axes, row: Entry) -> None:
    """A marker, with a bar from the smallest to the largest seed."""
    family, mean = row.family, row.perplexity
    below, above = mean - min(row.perplexities), max(row.perplexities) - mean
    axes.errorbar(
        [row.stored_bits], [mean], yerr=[[below], [above]] if len(row.runs) > 1 else None, zorder=3, capsize=3,
        **_marker(family, row.hollow), ecolor=family.colour, elinewidth=1,
    )  # fmt: skip


def _marker(family: Family, hollow: bool) -> dict[str, Any]:
    size = MARKER * (1.7 if family.marker == "*" else 1.0)
    face = "white" if hollow else family.colour
    edge = {"markeredgecolor": family.colour, "markeredgewidth": 1.1}
    return {"marker": family.marker, "markersize": size, "linestyle": "none", "markerfacecolor": face, **edge}


def _handles(rows: Sequence[Entry]) -> list[Line2D]:
    families = {row.family: None for row in rows}
    shapes = [Line2D([], [], label=family.title, **_marker(family, False)) for family in families if family.title]
    if any(row.hollow for row in rows):
        hollow = Family("", "o", "#444444")
        shapes.append(Line2D([], [], label="hollow: asymmetric calibration", **_marker(hollow, True)))
    return [*shapes, Line2D([], [], color=FRONT, alpha=0.6, label="Pareto front")]


def _labels(axes: Axes, rows: Sequence[Entry]) -> None:
    """Write every row's label where it covers nothing, with a leader to its point."""
    figure = axes.get_figure(root=True)
    assert isinstance(figure, Figure)
    texts = [axes.annotate(row.label, (0, 0), xycoords="figure points", fontsize=LABEL, zorder=4) for row in rows]
    boxes = [_box(text) for text in texts]
    sizes = [(box.right - box.left + 2 * PAD, box.top - box.bottom + PAD) for box in boxes]
    scene = _scene(axes, rows)
    points = Affine2D().scale(1 / 72) + figure.dpi_scale_trans
    for anchor, text, box in zip(scene.anchors, texts, place(scene, sizes), strict=True):
        text.xy = (box.left + PAD, box.bottom + PAD / 2)
        text.set_position(text.xy)
        end = box.nearest(anchor)
        crowded = any(0 < math.dist(anchor, other) < CROWDED for other in scene.anchors)
        if crowded or math.dist(anchor, end) > MARKER / 2 + LEADER:
            # above the markers, whose centres it ends at: in a stack of them that tells which one
            axes.add_line(Line2D(*zip(anchor, end, strict=True), transform=points, color="#555555", lw=0.6, zorder=3.5))


def _scene(axes: Axes, rows: Sequence[Entry]) -> Scene:
    """Points, markers with error bars, the front and full precision, in points of the figure."""
    at = _to_points(axes)
    half = MARKER / 2 + PAD
    markers = []
    for row in rows:
        (x, low), (_, high) = (at(row.stored_bits, value) for value in (min(row.perplexities), max(row.perplexities)))
        markers.append(Box(x - half, low - half, x + half, high + half))
    words = [_box(text) for text in axes.texts if text.get_text().startswith("full precision")]
    corners = [at(row.stored_bits, row.perplexity) for row in front(rows)]
    (left, bottom), (right, top) = (at(x, y) for x, y in zip(axes.get_xlim(), axes.get_ylim(), strict=True))
    steps = [*corners, (right, corners[-1][1])]
    lines = [Box(x, y - 1, further, y + 1) for (x, y), (further, _) in pairwise(steps)]
    lines += [Box(x - 1, y, x + 1, above) for (_, above), (x, y) in pairwise(corners)]
    full = at(0.0, rows[0].runs[0].full_precision.perplexity)[1]
    lines.append(Box(left, full - 1, right, full + 1))
    frame = Box(left + PAD, bottom + PAD, right - PAD, top - PAD)
    return Scene([at(row.stored_bits, row.perplexity) for row in rows], [*markers, *words], lines, frame)


def _to_points(axes: Axes) -> Callable[[float, float], Point]:
    """From data to points of the figure."""

    def at(x: float, y: float) -> Point:
        pixels = axes.transData.transform((x, y))
        return float(pixels[0]) * 72 / DPI, float(pixels[1]) * 72 / DPI

    return at


def _box(text: Text) -> Box:
    """What a text covers, in points of the figure."""
    return Box(*(float(side) * 72 / DPI for side in text.get_window_extent().extents))
