"""Figure 1 of the paper: the block's loss when one layer at a time is quantized, under weight and under output alignment."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from binllm.figures.panels import Sheet, block_axis, handle, logarithmic, look, title
from binllm.figures.style import GREY, SERIES
from binllm.report.comparison import Comparison, Subject
from binllm.report.facts import NAIVE, WEIGHT, loss_ratios
from binllm.report.metrics import BLOCK_LOSS

COLUMNS = 4


def draw(comparison: Comparison, caption: str) -> Figure:
    """A panel for every role, and the ratio of the two losses by role.

    Args:
        comparison: Runs with the block losses; the first one is drawn.
        caption: Small print.
    """
    subject = comparison.subjects[0]
    layers = list(dict.fromkeys(one.layer for one in subject.layers))
    names = [WEIGHT, NAIVE]
    sheet = Sheet(-(-(len(layers) + 1) // COLUMNS), COLUMNS, height=1.75)
    for axes, layer in zip(sheet.axes, layers, strict=False):
        _panel(axes, subject, layer, names)
    for axes in sheet.axes[::COLUMNS]:
        axes.set_ylabel("relative block loss", fontsize=7)
    _ratios(sheet.axes[len(layers)], subject, layers)
    for axes in sheet.axes[len(layers) + 1 :]:
        axes.set_visible(False)
    return sheet.finish(caption, [handle(i, name.removeprefix(BLOCK_LOSS)) for i, name in enumerate(names)])


def _panel(axes: Axes, subject: Subject, layer: str, names: Sequence[str]) -> None:
    for order, name in enumerate(names):
        blocks = subject.by_block(name, layer)
        axes.plot(blocks.index, blocks["median"], **look(order, len(blocks)))
        spread = {"color": SERIES[order][0], "alpha": 0.15, "linewidth": 0}
        axes.fill_between(blocks.index, blocks["least"], blocks["largest"], **spread)
    logarithmic(axes, "y")
    block_axis(axes)
    title(axes, layer.rpartition(".")[2], "block")


def _ratios(axes: Axes, subject: Subject, layers: Sequence[str]) -> None:
    """The ratio's median and quartiles over the blocks, a role a line; left of one, output alignment is better."""
    ratios = loss_ratios(subject)
    for place, layer in enumerate(layers):
        lower, median, upper = ratios[layer].quantile([0.25, 0.5, 0.75])
        axes.plot([lower, upper], [place, place], color="#222222", linewidth=1.2)
        axes.plot([median], [place], color="#222222", marker="o", markersize=3.5)
    axes.axvline(1, color=GREY, linestyle=(0, (4, 3)), linewidth=1)
    axes.set_yticks(range(len(layers)), [layer.rpartition(".")[2] for layer in layers])
    axes.invert_yaxis()
    title(axes, "ratio of losses", "output / weight alignment")
