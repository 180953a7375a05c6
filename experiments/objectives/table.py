"""Make the table of objectives from run folders: ``python -m experiments.objectives.table RESULTS``.

Runs that differ in seed only are one row with mean and spread. Runs of different protocols (model, calibration text,
seeds, definition of the perplexity) never share a table: each protocol has its own, with the protocol as its caption.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from binllm.errors import BinllmError, bad_value
from binllm.tables.grid import grid, number
from binllm.tracking.atomic import write_text
from binllm.tracking.memory import format_bytes
from binllm.tracking.runs import Run, read_run
from experiments.common.markdown import made_by, protocol_lines, replace_between
from experiments.common.runs import select
from experiments.objectives.runs import Row, Table, tables_of

BEGIN, END = "<!-- table: objectives -->", "<!-- end table -->"
TEXT = ("run", "target", "α", "λ", "roles", "AMP")
NUMBERS = ("perplexity", "nominal bits", "stored bits", "quantize, s", "peak memory")
SHOWN = ("name", "alpha", "shrinkage", "roles", "amp_rule")  # keys of the objective that have columns
CAPTIONED = {
    "binarization": "binarization.name",
    "solver": "solver.name",
    "objective of the other roles": "elsewhere.name",
    "granularity": "calibration.granularity",
}


def render(table: Table, command: str) -> str:
    """One table as Markdown: caption, full precision, a line for every row.

    Args:
        table: The rows.
        command: How the runs were made, for the caption.
    """
    differing = _differing(table)
    headings = [*TEXT, *NUMBERS, *(["other settings"] if differing else [])]
    lines = [_full_precision(table)] + [_cells(row) for row in table]
    if differing:
        for cells, other in zip(lines, ["-", *(_other(row, differing) for row in table)], strict=True):
            cells.append(other)
    return f"{_caption(table, command)}\n\n{grid(headings, lines, NUMBERS)}\n"


def _full_precision(table: Table) -> list[str]:
    peaks = [run.record.phase_peak_memory_bytes.get("full_precision", 0) for row in table for run in row]
    perplexity = number([table[0][0].full_precision.perplexity])
    return ["full precision", *["-"] * 5, perplexity, *["-"] * 3, format_bytes(max(peaks))]


def _cells(row: Row) -> list[str]:
    settings, bits = row[0].settings, row[0].bits
    alpha, shrinkage = settings.get("objective.alpha"), settings.get("objective.shrinkage")
    target = "-" if alpha is None else {0.0: "X̂Wᵀ", 1.0: "XWᵀ"}.get(alpha, "between X̂Wᵀ and XWᵀ")
    target = "W" if settings["objective.name"] == "weight_align" else target
    rule = settings.get("objective.amp_rule", "-")
    return [
        f"`{settings['objective.name']}`",
        target,
        *("-" if value is None else f"{value:g}" for value in (alpha, shrinkage)),
        ", ".join(settings["objective.roles"]),
        "off" if rule is False else str(rule),  # YAML 1.1 reads an unquoted off as false
        number([run.quantized.perplexity for run in row]),
        f"{bits.nominal:.3f}",
        f"{bits.linear:.3f}",
        f"{statistics.fmean(run.record.seconds['quantize'] for run in row):.0f}",
        format_bytes(max(run.record.phase_peak_memory_bytes["quantize"] for run in row)),
    ]


def _differing(table: Table) -> list[str]:
    """Keys without a column that differ between rows; that a row lacks a key (another class) is no difference."""
    methods = [row[0].method() for row in table]
    keys = {key for method in methods for key in method} - {f"objective.{name}" for name in SHOWN}
    values = {key: {json.dumps(m[key], default=str) for m in methods if key in m} for key in keys}
    return sorted(key for key in keys if len(values[key]) > 1)


def _other(row: Row, differing: Sequence[str]) -> str:
    method = row[0].method()
    return ", ".join(f"`{key}={method[key]}`" for key in differing if key in method) or "-"


def _caption(table: Table, command: str) -> str:
    settings, differing = table[0][0].settings, _differing(table)
    runs = [run for row in table for run in row]
    measured, calibrated = protocol_lines(runs)
    seeds = ", ".join(str(run.seed) for run in table[0])
    several = " (mean ± sample standard deviation)" if len(table[0]) > 1 else ""
    common = [f"{label} `{settings[key]}`" for label, key in CAPTIONED.items() if key not in differing]
    parts = [
        measured,
        f"{calibrated}, seed {seeds}{several}.",
        f"The same in every row: {', '.join(common)}." if common else "",
        "Stored bits: per weight of the quantized layers, with all scales, bitmaps and indices.",
        made_by(command, runs),
    ]
    return "\n".join(part for part in parts if part)


def make_table(results: Path, only: Sequence[str], command: str) -> str:
    """All tables of a results folder as Markdown; says on stderr which runs were left out.

    Raises:
        BinllmError: There is no complete run, or runs cannot share a table.
    """
    runs: list[Run] = []
    for folder in sorted(path.parent for path in results.glob("*/run.json")):
        run = read_run(folder)
        if run is None:
            print(f"left out, not complete: {folder}", file=sys.stderr)
        else:
            runs.append(run)
    runs = select(runs, only)
    if not runs:
        raise bad_value("RESULTS", results, "a folder with complete runs that fulfil every --only")
    return "\n".join(render(table, command) for table in tables_of(runs))


def main(arguments: Sequence[str] | None = None) -> int:
    """Write ``<results>/tables/objectives.md`` and, if asked, the README's part; returns the exit code."""
    parser = argparse.ArgumentParser(description="Make the table of objectives from run folders.")
    parser.add_argument("results", type=Path, nargs="?", default=Path("results"), help="folder of run folders")
    parser.add_argument("--only", action="append", default=[], metavar="KEY=VALUE", help="such as seed=0; repeatable")
    parser.add_argument("--readme", type=Path, help="document whose part between the markers is replaced")
    parser.add_argument("--command", default="make table", help="how the runs were made, for the caption")
    options = parser.parse_args(arguments)
    try:
        table = make_table(options.results, options.only, options.command)
        if options.readme is not None:
            write_text(options.readme, replace_between(options.readme, (BEGIN, END), table))
        out = options.results / "tables" / "objectives.md"
        out.parent.mkdir(exist_ok=True)
        write_text(out, table)
    except (BinllmError, OSError) as error:
        print(f"table: error: {error}", file=sys.stderr)
        return 2
    print(f"{table}\nwritten: {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
