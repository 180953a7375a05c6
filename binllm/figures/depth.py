"""Figures over the depth of the model: figures 2 and 3 of the paper, drift, and the shape of the error."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from binllm.figures.panels import (
    Sheet,
    block_axis,
    depth_lines,
    last_layers,
    logarithmic,
    look,
    reference,
    run_handles,
    title,
)
from binllm.figures.style import GREY
from binllm.report.comparison import Comparison
from binllm.report.metrics import metric_of

SIMILARITY = (
    *("stream/conditioned_error", "stream/conditioned_similarity", "tokens/conditioned_error"),
    *("stream/output_error", "stream/output_similarity", "tokens/output_error"),
)
PROXY, VARIATION = "attention/proxy_output_error", "attention/total_variation"
ATTENTION = ("attention/kl", VARIATION, "attention/probability_cosine", "attention/logit_cosine", PROXY)
ACCUMULATION = ("accumulation/total", "accumulation/inherited", "accumulation/new")
DRIFT = ("stream/drift", "stream/output_energy", *ACCUMULATION)
SPECTRUM = "anisotropy/error_spectrum"
SHAPE = ("anisotropy/error_log_variance", "anisotropy/error_condition")
PAIRS = ("anisotropy/effective_rank", "anisotropy/mean_cosine", "anisotropy/top_energy", "anisotropy/massive")
SHAPES = (*SHAPE, *(f"{name}{stream}" for name in PAIRS for stream in ("_x", "_x_hat")))
SPECTRA = 4  # blocks whose spectrum is drawn


def draw_similarity(comparison: Comparison, caption: str) -> Figure:
    """Figure 2: error, similarity and token-similarity error, of the layer alone and of the whole stream."""
    sheet = Sheet(2, 3)
    for axes, name in zip(sheet.axes, SIMILARITY, strict=True):
        depth_lines(axes, comparison, name, last_layers(comparison))
    return sheet.finish(caption, run_handles(comparison))


def draw_attention(comparison: Comparison, caption: str) -> Figure:
    """Figure 3: how far the attention has moved, and whether the proxy that AMP acts on says so."""
    sheet = Sheet(2, 3)
    for axes, name in zip(sheet.axes, ATTENTION, strict=False):
        depth_lines(axes, comparison, name, [""] * len(comparison.subjects))
    axes = sheet.axes[-1]
    for subject in comparison.subjects:
        proxy, real = (subject.by_block(name, "")["median"] for name in (PROXY, VARIATION))
        axes.plot(proxy, real.reindex(proxy.index), **{**look(subject.order), "linestyle": "none"})
    logarithmic(axes, "x")
    title(axes, "proxy against attention", "token-similarity error", "total variation")
    return sheet.finish(caption, run_handles(comparison))


def draw_drift(comparison: Comparison, caption: str) -> Figure:
    """How the error builds up: drift, energy of what enters the residual stream, inherited and new error."""
    sheet = Sheet(2, 3)
    whole = [""] * len(comparison.subjects)
    depth_lines(sheet.axes[0], comparison, "stream/drift", whole)
    depth_lines(sheet.axes[1], comparison, "stream/output_energy", last_layers(comparison))
    sheet.axes[1].axhline(1, color=GREY, linestyle=(0, (4, 3)), linewidth=1)
    for axes, name in zip(sheet.axes[2:], ACCUMULATION, strict=False):
        depth_lines(axes, comparison, name, whole)
    _inherited_share(sheet.axes[5], comparison)
    handles = [*run_handles(comparison), reference("energy of full precision")]
    return sheet.finish(caption, handles)


def _inherited_share(axes: Axes, comparison: Comparison) -> None:
    for subject in comparison.subjects:
        inherited, new = (subject.by_block(f"accumulation/{name}", "")["median"] for name in ("inherited", "new"))
        axes.plot(inherited.index, inherited / (inherited + new), **look(subject.order, len(inherited)))
    axes.set_ylim(0, 1)
    block_axis(axes)
    title(axes, "inherited share of the error", "block", "inherited / (inherited + new)")


def draw_shape(comparison: Comparison, caption: str) -> Figure:
    """Spread of the error's spectrum, and the shape of the representation in both streams."""
    sheet = Sheet(2, 3)
    whole = [""] * len(comparison.subjects)
    for axes, name in zip(sheet.axes, SHAPE, strict=False):
        depth_lines(axes, comparison, name, whole)
    for axes, name in zip(sheet.axes[2:], PAIRS, strict=True):
        depth_lines(axes, comparison, f"{name}_x_hat", whole)
        full = comparison.subjects[0].by_block(f"{name}_x", "")["median"]
        axes.plot(full.index, full, color=GREY, linestyle=(0, (4, 3)), linewidth=1.2)
        axes.set_title(metric_of(f"{name}_x").title.removesuffix(", X"), fontsize=8, loc="left")
    return sheet.finish(caption, [*run_handles(comparison), reference("full precision")])


def draw_spectra(comparison: Comparison, caption: str) -> Figure:
    """Eigenvalues of the output error's covariance relative to the output's, in a few blocks."""
    blocks = sorted(set.intersection(*(set(one.metric(SPECTRUM)["block"]) for one in comparison.subjects)))
    chosen = sorted({blocks[round(i * (len(blocks) - 1) / (SPECTRA - 1))] for i in range(SPECTRA)})
    sheet = Sheet(1, len(chosen), share_y=True, height=2.5)
    for axes, block in zip(sheet.axes, chosen, strict=True):
        for subject in comparison.subjects:
            rows = subject.metric(SPECTRUM, "")
            values = rows.loc[(rows["block"] == block) & (rows["value"] > 0)].set_index("index")["value"].sort_index()
            axes.plot(values.index + 1, values, **look(subject.order, len(values)))
        logarithmic(axes, "x", "y")
        title(axes, f"block {block}", "rank of the direction")
    sheet.axes[0].set_ylabel("error / output, eigenvalue", fontsize=7)
    return sheet.finish(caption, run_handles(comparison))


def draw_metrics(comparison: Comparison, caption: str, names: Sequence[str]) -> Figure:
    """Any metrics over depth: the median over the layers (or heads, or batches) of a block, with quartiles."""
    columns = min(3, len(names))
    sheet = Sheet(-(-len(names) // columns), columns, height=2.4)
    for axes, name in zip(sheet.axes, names, strict=False):
        depth_lines(axes, comparison, name)
    for axes in sheet.axes[len(names) :]:
        axes.set_visible(False)
    return sheet.finish(caption, run_handles(comparison))
