"""The plot of published methods: every point labelled, nothing covered, both axes right."""

from __future__ import annotations

import itertools
import random
import xml.etree.ElementTree as ET
from pathlib import Path

import matplotlib
import pytest
from helpers_runs import REST_BYTES, WEIGHTS, bits_record, perplexity, write_run
from matplotlib.container import ErrorbarContainer
from matplotlib.image import imread

from binllm.errors import BinllmError
from binllm.figures.entries import front
from binllm.figures.labels import Box, Scene, place
from binllm.figures.pareto import draw, megabyte_ticks
from binllm.figures.style import STYLE
from binllm.tracking.records import BitsRecord
from binllm.tracking.runs import Run, read_run
from experiments.baselines.pareto import entries, plot, small_print
from experiments.baselines.sweep import Absent, Combination, Row, combinations

CONFIG = {
    "model": {"name": "smollm2", "dtype": "float32"},
    "dataset": {"corpus": "c4", "split": "train", "sequences": 16, "length": 512},
}
MEGABYTES_A_BIT = WEIGHTS / 8 / 1e6


def run_of(folder: Path, value: float, bits: BitsRecord) -> Run:
    folder.mkdir(exist_ok=True)
    measured = (perplexity(35.88, "wikitext2/test"), perplexity(value, "wikitext2/test"))
    run = read_run(write_run(folder, CONFIG, measured, bits))
    assert run is not None
    return run


def row_of(folder: Path, values: list[float], bits: float, method: str = "billm", asymmetric: str = "none") -> Row:
    return Row(method, asymmetric, [run_of(folder, value, bits_record(bits)) for value in values])


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    """Every combination of the sweeps, crowded: many methods store nearly the same."""
    made: dict[tuple[str, str], Row] = {}
    generator = random.Random(0)
    for one in combinations():
        row = made.setdefault((one.method, one.asymmetric), Row(one.method, one.asymmetric))
        bits, value = 2.9 + 0.3 * generator.random(), 100 * 10 ** generator.random()
        row.runs.append(run_of(tmp_path / "runs", value, bits_record(bits)))
    return list(made.values())


def test_every_row_is_labelled_and_nothing_is_covered(rows: list[Row], tmp_path: Path) -> None:
    with matplotlib.rc_context(STYLE):
        figure = draw(entries(rows), small_print(rows))
    svg, png = plot(rows, tmp_path / "out")
    texts = ["".join(node.itertext()).strip() for node in ET.parse(svg).iter() if node.tag.endswith("}text")]
    labels = [row.label for row in rows]
    assert sorted(text for text in texts if text in labels) == sorted(labels)
    assert "full precision 35.88" in texts
    with matplotlib.rc_context(STYLE):
        boxes = [text.get_window_extent() for text in figure.axes[0].texts if text.get_text()]
    covered = [(a, b) for a, b in itertools.combinations(boxes, 2) if a.overlaps(b)]
    assert covered == []
    outside = figure.axes[0].get_window_extent()
    assert all(outside.x0 <= box.x0 and box.x1 <= outside.x1 for box in boxes)
    assert imread(png).shape[1] == 2000


def test_the_files_say_where_they_come_from_and_are_the_same_each_time(tmp_path: Path) -> None:
    rows = [row_of(tmp_path / "runs", [100.0], 3.0), row_of(tmp_path / "runs", [200.0], 2.0, "rtn")]
    rows[0].absent.append(Absent(Combination("baselines_seeds", "billm", "none", 1), "failed", "why"))
    contents = []
    for out in ("one", "two"):
        paths = plot(rows, tmp_path / out)
        contents.append([path.read_bytes() for path in paths])
    assert contents[0] == contents[1]
    svg, png = contents[0]
    for said in (b"run-000, run-001", b"wikitext2/test", b"billm seed 1 failed"):
        assert said in svg
        assert said in png


def test_bars_go_from_the_smallest_to_the_largest_seed(tmp_path: Path) -> None:
    rows = [row_of(tmp_path, [100.0, 110.0, 150.0], 3.0), row_of(tmp_path, [200.0], 2.0, "rtn")]
    several, single = (one for one in draw(entries(rows), "").axes[0].containers if isinstance(one, ErrorbarContainer))
    (bar,) = several.lines[2]
    assert [point[1] for point in bar.get_segments()[0]] == pytest.approx([100.0, 150.0])
    assert several.lines[0].get_ydata() == pytest.approx([120.0])
    assert single.lines[2] == ()


def test_asymmetric_calibration_is_hollow(tmp_path: Path) -> None:
    rows = [row_of(tmp_path, [100.0], 3.0), row_of(tmp_path, [90.0], 3.0, asymmetric="qep")]
    plain, hollow = (one.lines[0] for one in draw(entries(rows), "").axes[0].containers)
    assert plain.get_marker() == hollow.get_marker()
    assert plain.get_markerfacecolor() == hollow.get_markeredgecolor() != hollow.get_markerfacecolor()


def test_a_row_without_a_finite_perplexity_is_named_not_drawn(tmp_path: Path) -> None:
    rows = [row_of(tmp_path, [100.0], 3.0), row_of(tmp_path, [float("inf")], 1.0, "rtn")]
    figure = draw(entries(rows), small_print(rows))
    assert {text.get_text() for text in figure.axes[0].texts} == {"full precision 35.88", "billm"}
    assert "no finite perplexity: rtn." in small_print(rows)
    with pytest.raises(BinllmError, match="nothing to plot"):
        draw(entries(rows[1:]), "")


def test_the_front_is_what_no_other_row_beats(tmp_path: Path) -> None:
    points = [(3.0, 100.0), (1.0, 900.0), (2.0, 300.0), (2.5, 400.0), (2.0, 350.0), (3.5, 100.0)]
    rows = [row_of(tmp_path, [value], bits) for bits, value in points]
    best = [(row.stored_bits, row.perplexity) for row in front(entries(rows))]
    assert best == [(1.0, 900.0), (2.0, 300.0), (3.0, 100.0)]


def test_megabytes_are_a_line_of_the_stored_bits(tmp_path: Path) -> None:
    positions, texts = megabyte_ticks([run_of(tmp_path, 1.0, bits_record(2.0))], 1.0, 4.0)
    assert len(texts) > 3
    assert [REST_BYTES / 1e6 + MEGABYTES_A_BIT * x for x in positions] == pytest.approx([float(one) for one in texts])
    assert 1.0 <= positions[0] < positions[-1] <= 4.0


def test_megabytes_without_a_common_line_are_interpolated_and_not_beyond(tmp_path: Path) -> None:
    sizes = {1.0: 60, 2.0: 70, 4.0: 130}
    fields = {"nominal": 1.0, "payload": 1.0, "model": 1.0, "payload_bytes": 1}
    records = [
        BitsRecord(linear=bits, linear_bytes=round(bits * 1e7), model_bytes=megabytes * 10**6, **fields)
        for bits, megabytes in sizes.items()
    ]
    positions, texts = megabyte_ticks([run_of(tmp_path, 1.0, bits) for bits in records], 0.0, 6.0)
    ticks = dict(zip(texts, positions, strict=True))
    assert (ticks["70"], ticks["100"]) == pytest.approx((2.0, 3.0))
    assert 60 <= min(map(float, texts)) < max(map(float, texts)) <= 130


def test_labels_overlap_nothing_while_there_is_room() -> None:
    generator = random.Random(1)
    frame = Box(0, 0, 600, 400)
    anchors = [(300 + generator.gauss(0, 40), 200 + generator.gauss(0, 40)) for _ in range(30)]
    anchors += [(2.0, 2.0), (598.0, 398.0)]  # in corners, where only one side has room
    markers = [Box(x - 4, y - 4, x + 4, y + 4) for x, y in anchors]
    boxes = place(Scene(anchors, markers, [], frame), [(60.0, 9.0)] * len(anchors))
    assert all(a.overlap(b) == 0 for a, b in itertools.combinations(boxes, 2))
    assert all(box.overlap(marker) == 0 for box in boxes for marker in markers)
    assert all(box.overlap(frame) == pytest.approx(60.0 * 9.0) for box in boxes)


def test_a_label_stays_beside_its_point_and_off_lines_where_it_can() -> None:
    frame, marker = Box(0, 0, 600, 400), Box(296, 196, 304, 204)
    (alone,) = place(Scene([(300.0, 200.0)], [marker], [], frame), [(60.0, 9.0)])
    assert alone.left == pytest.approx(307)
    line = Box(300, 199, 600, 201)
    (beside,) = place(Scene([(300.0, 200.0)], [marker], [line], frame), [(60.0, 9.0)])
    assert beside.overlap(line) == 0
