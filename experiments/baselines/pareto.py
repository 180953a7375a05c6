"""Plot perplexity against stored bits: ``python -m experiments.baselines.pareto RESULTS [OVERRIDE ...]``.

Points are the rows of the table (experiments/baselines/table.py); a line joins those that no other one beats in both.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib

from binllm.errors import BinllmError
from binllm.figures.entries import Entry
from binllm.figures.files import save
from binllm.figures.pareto import draw
from binllm.figures.style import STYLE
from experiments.baselines.methods import METHODS
from experiments.baselines.sweep import Row, collect
from experiments.baselines.table import parser
from experiments.common.markdown import protocol_lines


def small_print(rows: Sequence[Row]) -> str:
    """Protocol, what the bars are, every run's id, and what is not drawn."""
    runs = [run for row in rows for run in row.runs]
    protocol = " ".join(protocol_lines(runs)).replace("**", "").replace("`", "")
    names = [
        f"{row.label} {' '.join(run.record.run_id.rpartition('-')[2] for run in row.runs)}" for row in rows if row.runs
    ]
    endless = [row.label for row in rows if row.runs and not math.isfinite(row.perplexity)]
    absent = [f"{row.label} seed {one.combination.seed} {one.status}" for row in rows for one in row.absent]
    parts = [
        f"{protocol}. Points are means over seeds, bars go from the smallest to the largest seed.",
        f"Runs (end of the run folder's name): {', '.join(names)}.",
        f"Not drawn, no finite perplexity: {', '.join(endless)}." if endless else "",
        f"Without a complete run: {', '.join(absent)}." if absent else "",
    ]
    return " ".join(part for part in parts if part)


def entries(rows: Sequence[Row]) -> list[Entry]:
    """The rows that have a run, as the plot takes them."""
    return [
        Entry(row.label, row.runs, METHODS[row.method].family, hollow=row.asymmetric != "none")
        for row in rows
        if row.runs
    ]


def plot(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Write ``baselines.svg`` and ``baselines.png`` with title, protocol and full run ids as metadata."""
    caption = small_print(rows)
    ids = ", ".join(run.record.run_id for row in rows for run in row.runs)
    with matplotlib.rc_context(STYLE):
        figure = draw(entries(rows), caption)
        return save(figure, folder / "baselines", "Perplexity against stored bits", f"{caption} Run folders: {ids}.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the plot; returns the exit code."""
    options = parser("Plot perplexity against stored bits from run folders.").parse_args(arguments)
    try:
        rows = collect(options.results, options.overrides)
        paths = plot(rows, options.out)
    except (BinllmError, OSError) as error:
        print(f"baselines: error: {error}", file=sys.stderr)
        return 2
    print(f"written: {', '.join(map(str, paths))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
