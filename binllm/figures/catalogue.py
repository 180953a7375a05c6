"""Every figure by name: what it needs, who draws it, what its caption says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from binllm.report.comparison import Comparison
from binllm.report.facts import NAIVE, WEIGHT
from binllm.report.metrics import BLOCK_LOSS, metric_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Draw = Callable[[Comparison, str], "Figure"]


@dataclass(frozen=True)
class Kind:
    """A figure that can be made.

    Attributes:
        title: What it is.
        about: How to read it, for the caption.
        needs: Series that a run must have to be in it.
        draw: Draws it from runs that have the series, with a caption.
        only_first: It shows one run, the first that has the series.
    """

    title: str
    about: str
    needs: tuple[str, ...]
    draw: Draw
    only_first: bool = False


def catalogue() -> dict[str, Kind]:
    """All figures; matplotlib is imported here."""
    from binllm.figures import ablations, block_loss, depth

    last = "of the last linear layer of each block"
    return {
        "block_loss": Kind(
            "Block loss when one layer is quantized",
            "Each layer alone is quantized in its full-precision block, under weight alignment and under naive output "
            f"alignment. Loss: {metric_of(BLOCK_LOSS).axis}; median over calibration batches, band: least to largest. Last "
            "panel: median and quartiles over the blocks.",
            (WEIGHT, NAIVE),
            block_loss.draw,
            only_first=True,
        ),
        "similarity": Kind(
            "Error and similarity with and without the drift of the inputs",
            f"Top: the output {last}, the quantized weight against the true one on the same inputs X̂. Bottom: against "
            "the full-precision output. Right: error of the row-normalised similarity matrices between tokens.",
            depth.SIMILARITY,
            depth.draw_similarity,
        ),
        "attention": Kind(
            "Drift of the attention",
            "Attention of the quantized model against that of the full-precision model. Lines: median over heads, band: "
            "quartiles. Last panel: a point a block.",
            depth.ATTENTION,
            depth.draw_attention,
        ),
        "drift": Kind(
            "How the error builds up with depth",
            f"Energy: {last}. Inherited: what the full-precision block makes of the quantized model's input; new: what "
            "its own quantization adds.",
            depth.DRIFT,
            depth.draw_drift,
        ),
        "shape": Kind(
            "Shape of the error and of the representation",
            "Top left: eigenvalues of the output error's covariance relative to the output's. Dashed grey: the "
            "full-precision model.",
            depth.SHAPES,
            depth.draw_shape,
        ),
        "spectra": Kind(
            "Spectra of the output error",
            "Eigenvalues of the covariance of each block's output error, relative to the covariance of the output.",
            (depth.SPECTRUM,),
            depth.draw_spectra,
        ),
        "ablations": Kind(
            "One choice at a time",
            "Runs that agree in everything but the named choice (and the seed).",
            (),
            ablations.draw,
        ),
        "pareto": Kind(
            "Perplexity against stored bits", "A point a run; the line joins the Pareto front.", (), _pareto
        ),
    }


def metrics_kind(names: tuple[str, ...]) -> Kind:
    """A figure of any series over depth."""
    from binllm.figures import depth

    about = "Lines: median over what a block has of the metric (layers, heads, batches), band: quartiles."
    return Kind(", ".join(names), about, names, partial(depth.draw_metrics, names=names))


def _pareto(comparison: Comparison, caption: str) -> Figure:
    from binllm.figures.entries import Entry
    from binllm.figures.pareto import draw
    from binllm.figures.style import SERIES, Family

    entries = []
    for one in comparison.subjects:
        colour, marker, _ = SERIES[one.order % len(SERIES)]
        entries.append(Entry(one.label, [one.run], Family("", marker, colour)))
    return draw(entries, caption)
