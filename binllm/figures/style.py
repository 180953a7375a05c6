"""One look for all figures: readable in print, for colour-blind readers, and the same bytes from the same runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

DPI = 200  # pixels an inch
TEXT, GREY, GRID = "#222222", "#8a8a8a", "#e6e6e6"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be searched and read aloud
    "svg.hashsalt": "binllm",  # the same file from the same runs
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"],  # of nearly the same widths, for who lacks the first
    "font.size": 9,
    "text.hinting": "no_hinting",  # or widths depend on the resolution
    "text.color": TEXT,
}


@dataclass(frozen=True)
class Family:
    """What shares a marker and a colour.

    Attributes:
        title: As in the legend; empty for what is labelled in the plot.
        marker: Matplotlib's marker; filled, so that a hollow one can mean asymmetric calibration.
        colour: From a palette that colour-blind readers can tell apart.
    """

    title: str
    marker: str
    colour: str


# Okabe and Ito's palette without yellow, and one of Tol's. A line has its own marker and dash too, for print in grey.
SERIES = (
    ("#0072b2", "o", "-"),
    ("#d55e00", "s", (0, (5, 1.5))),
    ("#009e73", "^", (0, (1, 1))),
    ("#cc79a7", "D", (0, (4, 1.5, 1, 1.5))),
    ("#e69f00", "v", (0, (8, 2))),
    ("#56b4e9", "P", (0, (3, 1, 1, 1, 1, 1))),
    ("#882255", "X", (0, (2, 2))),
    ("#000000", "*", (0, (10, 1, 1, 1))),
)
