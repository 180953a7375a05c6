"""The figures: made from run folders alone, nothing empty, runs named, missing series said."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from helpers_diagnostics import made_up_run
from matplotlib.image import imread

from binllm.errors import BinllmError
from binllm.figures import block_loss, depth, panels
from binllm.figures.catalogue import catalogue
from binllm.figures.making import make_figures
from binllm.figures.style import SERIES
from binllm.report.comparison import Comparison, read_comparison


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """Two objectives with diagnostics, and one run without."""
    folder = tmp_path_factory.mktemp("runs")
    runs = [
        made_up_run(folder),
        made_up_run(folder, "output_error", 150.0, {"stream/drift": 1.4, "attention/kl": 2.0}),
        made_up_run(folder, "weight_align", 90.0, table=False),
    ]
    return read_comparison(runs)


@pytest.fixture(scope="module")
def out(comparison: Comparison, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All figures of these runs, drawn once and coarse."""
    folder = tmp_path_factory.mktemp("figures")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(panels, "DPI", 50)
        files, left_out = make_figures(comparison, folder)
    assert left_out == {}
    assert sorted(path.name for path in files) == sorted(f"{n}.{e}" for n in catalogue() for e in ("svg", "png"))
    return folder


def texts(svg: Path) -> list[str]:
    return ["".join(node.itertext()).strip() for node in ET.parse(svg).iter() if node.tag.endswith("}text")]


@pytest.mark.parametrize("name", catalogue())
def test_a_figure_names_its_runs_and_is_not_empty(name: str, out: Path):
    said = " ".join(texts(out / f"{name}.svg"))
    assert "run-000" in said
    assert "wikitext2/test" in said
    if name not in ("pareto", "ablations"):
        absent = "Not shown: output_error" if name == "block_loss" else "Without these series: weight_align"
        assert absent in said
    image = imread(out / f"{name}.png")
    assert (image[..., :3] < 0.9).any(axis=2).mean() > 0.01
    assert b"Run" in (out / f"{name}.png").read_bytes()  # the caption is in the metadata too


def test_axes_have_units_and_lines_hold_the_numbers(comparison: Comparison):
    figure = depth.draw_drift(comparison.having(*depth.DRIFT), "")
    assert all(axes.get_xlabel() == "block" and axes.get_ylabel() for axes in figure.axes)
    first, second = figure.axes[0].lines
    assert first.get_ydata() == pytest.approx([0.1 + 0.8 * (block + 1) / 6 for block in range(6)])
    assert second.get_ydata() == pytest.approx([1.4 * value for value in first.get_ydata()])
    assert first.get_color() != second.get_color() and first.get_linestyle() != second.get_linestyle()
    assert first.get_marker() != second.get_marker()


def test_block_loss_shows_both_alignments_for_every_layer(comparison: Comparison):
    figure = block_loss.draw(comparison, "")
    *layers, ratios = (axes for axes in figure.axes if axes.get_visible())
    assert len(layers) == 7
    for axes in layers:
        weight, naive = (line.get_ydata() for line in axes.lines)
        assert (weight > naive).all()
    points = [line.get_xdata()[0] for line in ratios.lines if line.get_marker() == "o"]
    assert points == pytest.approx([0.75] * 7, rel=0.1)


def test_series_can_be_told_apart_without_colour():
    assert len({(marker, str(dash)) for _, marker, dash in SERIES}) == len(SERIES)
    assert len({colour for colour, _, _ in SERIES}) == len(SERIES)


def test_what_cannot_be_drawn_is_said_and_nothing_is_written(tmp_path: Path):
    folder = made_up_run(tmp_path, table=False)
    with pytest.raises(
        BinllmError, match="no figure can be made: figure block_loss: no run has block_loss/weight_align"
    ):
        make_figures(read_comparison([folder]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_more_runs_than_can_be_told_apart_are_refused(tmp_path: Path):
    runs = [made_up_run(tmp_path, solver={"period": period}) for period in range(1, len(SERIES) + 2)]
    with pytest.raises(BinllmError, match=f"{len(runs)} runs, at most {len(SERIES)} can be told apart"):
        make_figures(read_comparison(runs), tmp_path / "out", only=["drift"])


def test_the_same_runs_give_the_same_bytes(tmp_path: Path):
    comparison = read_comparison([made_up_run(tmp_path / "runs")])
    for out in ("one", "two"):
        make_figures(comparison, tmp_path / out, metrics=["stream/drift"])
    for file in ("metrics.svg", "metrics.png"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
