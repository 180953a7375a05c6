"""A plot of an experiment: a panel for every section, means over seeds with 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from binllm.collect.paired import paired_over_seeds
from binllm.tables.claims import PERPLEXITY
from binllm.tables.rows import Row, Section, seeds_text
from binllm.tables.texts import VARIED, protocol_of, text_of, windows_of
from binllm.tables.verdicts import logarithms

if TYPE_CHECKING:
    from binllm.figures.ablations import Point

COLUMNS = 3


def plot(sections: Sequence[Section], out: Path) -> list[Path]:
    """Draw the sections of one experiment that have two settings and more.

    Args:
        sections: Of one experiment.
        out: Both files without their endings.

    Returns:
        The SVG and the PNG file; none if no section can be drawn.
    """
    import matplotlib

    from binllm.figures.ablations import points_panel
    from binllm.figures.files import save
    from binllm.figures.panels import Sheet, title
    from binllm.figures.style import STYLE

    drawn = [one for one in sections if len(_finite(one)) > 1]
    if not drawn:
        return []
    claim = drawn[0].experiment.claim
    with matplotlib.rc_context(STYLE):
        columns = min(COLUMNS, len(drawn))
        sheet = Sheet(-(-len(drawn) // columns), columns, height=2.4)
        for axes, section in zip(sheet.axes, drawn, strict=False):
            rows = _finite(section)
            numbers = _numbers([row.label for row in rows])
            names = [] if numbers else [row.label for row in rows]
            points_panel(axes, numbers or list(range(len(rows))), [_point(row.values) for row in rows], names)
            measured = "token perplexity" if claim.measures == PERPLEXITY else "quantize, s"
            title(axes, f"{section.model}, {text_of(section.definition) or 'time'}", claim.varies, measured)
        for axes in sheet.axes[len(drawn) :]:
            axes.set_visible(False)
        caption = _caption(drawn)
        return save(sheet.finish(caption, []), out, claim.experiment, caption)


def _finite(section: Section) -> list[Row]:
    return [row for row in section.rows if all(math.isfinite(value) for value in logarithms(row.values).values())]


def _numbers(labels: Sequence[str]) -> list[float]:
    """The labels as numbers; none if one is none."""
    try:
        return [float(label) for label in labels]
    except ValueError:
        return []


def _point(values: Mapping[int, float]) -> Point:
    """Geometric mean and its interval; without one for a single seed."""
    from binllm.figures.ablations import Point

    own = paired_over_seeds(logarithms(values), dict.fromkeys(values, 0.0))
    assert own is not None  # the rows are finite
    low, high = (own.difference if end is None else end for end in (own.low, own.high))
    return Point(*(math.exp(min(one, 700.0)) for one in (own.difference, low, high)))


def _caption(sections: Sequence[Section]) -> str:
    claim = sections[0].experiment.claim
    panels = "; ".join(
        f"{one.model}: {text_of(one.definition)}, {windows_of(one.definition) if one.definition else 'time'}, calibration "
        f"{protocol_of({**one.protocol, **dict.fromkeys(one.experiment.varied, VARIED)})}, "
        f"seeds: {seeds_text(one)}"
        for one in sections
    )
    return (
        f"{claim.experiment}. Claim: {claim.text}. Points: geometric means over seeds; bars: 95 % intervals of the mean "
        f"(Student's t on the logarithm). {panels}."
    )
