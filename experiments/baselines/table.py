"""Make the table of published methods from run folders: ``python -m experiments.baselines.table RESULTS [OVERRIDE ...]``.

Overrides are those that were given to ``binllm experiment=baselines``. Rows are the combinations that the experiments
sweep; what has no complete run is listed as such.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from binllm.errors import BinllmError
from binllm.tables.grid import grid, number
from binllm.tracking.atomic import write_text
from binllm.tracking.runs import Run
from experiments.baselines.methods import METHODS
from experiments.baselines.sweep import Absent, Row, collect, near_misses
from experiments.common.markdown import made_by, protocol_lines, replace_between

MARKERS = ("<!-- baselines -->", "<!-- /baselines -->")
TEXT = ("method", "paper", "error feedback", "asymmetric", "seeds")
NUMBERS = ("perplexity", "nominal bits", "stored bits", "whole model, MB", "quantize, s")
MEASURED: dict[str, Callable[[Run], float]] = {
    "nominal bits": lambda run: run.bits.nominal,
    "stored bits": lambda run: run.bits.linear,
    "whole model, MB": lambda run: run.bits.model_bytes / 1e6,
    "quantize, s": lambda run: run.record.seconds["quantize"],
}
DIGITS = {"nominal bits": 3, "stored bits": 3, "whole model, MB": 1, "quantize, s": 0}
COLUMNS = (
    *("method", "arxiv", "error feedback", "asymmetric", "asymmetric alpha", "seeds", "status"),
    *("perplexity mean", "sample deviation", *MEASURED, "runs"),
)
ERROR_LENGTH = 160  # characters of a failed run's message


def render(rows: Sequence[Row], command: str) -> str:
    """The table as Markdown: caption, full precision, a line for every row, and what has no run.

    Args:
        rows: As from `collect`.
        command: How the runs were made, for the caption.
    """
    runs = [run for row in rows for run in row.runs]
    headings = [*TEXT, *NUMBERS]
    full = ["full precision", *["-"] * 4, number([runs[0].full_precision.perplexity]), *["-"] * 4]
    text = f"{_caption(runs, command)}\n\n{grid(headings, [full, *map(_cells, rows)], NUMBERS)}\n"
    absent = [one for row in rows for one in row.absent]
    return text + (f"\nWithout a complete run: {'; '.join(map(_said, absent))}.\n" if absent else "")


def _caption(runs: Sequence[Run], command: str) -> str:
    measured, calibrated = protocol_lines(runs)
    bits = runs[0].bits
    half = 2 * round(8 * bits.model_bytes / bits.model) / 1e6
    return "\n".join(
        [
            measured,
            f"{calibrated}, seeds as listed; several: mean ± sample standard deviation.",
            "Stored bits: per weight of the quantized layers, with all scales, bitmaps and indices. "
            f"Whole model: all tensors, 1 MB = 10⁶ bytes; with 16 bits per parameter it would be {half:.1f}.",
            "Error feedback: none, exact (GPTQ), or diagonal (as in the published code). "
            "Asymmetric calibration: QEP (2504.09629), GPTAQ (2504.02692).",
            made_by(command, runs),
        ]
    )


def _cells(row: Row) -> list[str]:
    method = METHODS[row.method]
    link = f" ([{method.arxiv}](https://arxiv.org/abs/{method.arxiv}))" if method.arxiv else ""
    first = [f"`{row.method}`", method.title + link]
    if not row.runs:
        asymmetric = "-" if row.asymmetric == "none" else f"`{row.asymmetric}`"
        return [*first, "-", asymmetric, "-", row.absent[0].status, *["-"] * 4]
    settings = row.runs[0].settings
    asymmetric = "-" if row.asymmetric == "none" else f"`{row.asymmetric}`, α = {settings['asymmetric.alpha']:g}"
    seeds = ", ".join(str(run.seed) for run in row.runs)
    means = [f"{_mean(row, name):,.{DIGITS[name]}f}" for name in MEASURED]
    return [*first, settings["solver.feedback"], asymmetric, seeds, number(row.perplexities), *means]


def _mean(row: Row, name: str) -> float:
    return statistics.fmean(map(MEASURED[name], row.runs))


def _said(absent: Absent) -> str:
    one = absent.combination
    asymmetric = f" with `{one.asymmetric}`" if one.asymmetric != "none" else ""
    error = absent.error if len(absent.error) <= ERROR_LENGTH else absent.error[:ERROR_LENGTH] + " ..."
    return f"`{one.method}`{asymmetric}, seed {one.seed} ({absent.status}{f': {error}' if error else ''})"


def to_csv(rows: Sequence[Row]) -> str:
    """The table for programs: full digits, and the runs that each line is made of."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    full = next(run for row in rows for run in row.runs).full_precision.perplexity
    writer.writerow({"method": "full precision", "status": "complete", "perplexity mean": full})
    writer.writerows(map(_line, rows))
    return text.getvalue()


def _line(row: Row) -> dict[str, object]:
    line: dict[str, object] = {
        "method": row.method,
        "arxiv": METHODS[row.method].arxiv or "",
        "asymmetric": row.asymmetric,
    }
    if not row.runs:
        return line | {"status": row.absent[0].status}
    settings, values = row.runs[0].settings, row.perplexities
    spread = {"sample deviation": statistics.stdev(values)} if len(values) > 1 and math.isfinite(sum(values)) else {}
    means = {name: _mean(row, name) for name in MEASURED}
    return {
        **line,
        "error feedback": settings["solver.feedback"],
        "asymmetric alpha": "" if row.asymmetric == "none" else settings["asymmetric.alpha"],
        "seeds": " ".join(str(run.seed) for run in row.runs),
        "status": f"without {len(row.absent)} seeds" if row.absent else "complete",
        "perplexity mean": row.perplexity,
        **spread,
        **means,
        "runs": " ".join(run.record.run_id for run in row.runs),
    }


def parser(what: str) -> argparse.ArgumentParser:
    """The command line that the table and the plot have in common."""
    made = argparse.ArgumentParser(description=what)
    made.add_argument("results", type=Path, nargs="?", default=Path("results"), help="folder of run folders")
    made.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="what binllm was given besides the experiment")
    made.add_argument("--out", type=Path, default=Path("results/tables"), help="folder for the files")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Write ``baselines.md``, ``baselines.csv`` and, if asked, the README's part; returns the exit code."""
    wanted = parser("Make the table of published methods from run folders.")
    wanted.add_argument("--readme", type=Path, help="document whose part between the markers is replaced")
    wanted.add_argument("--command", default="make baselines", help="how the runs were made, for the caption")
    options = wanted.parse_args(arguments)
    try:
        rows = collect(options.results, options.overrides)
        table = render(rows, options.command)
        for line in near_misses(options.results, rows, options.overrides):
            print(line, file=sys.stderr)
        if options.readme is not None:
            write_text(options.readme, replace_between(options.readme, MARKERS, table))
        options.out.mkdir(parents=True, exist_ok=True)
        write_text(options.out / "baselines.md", table)
        write_text(options.out / "baselines.csv", to_csv(rows))
    except (BinllmError, OSError) as error:
        print(f"baselines: error: {error}", file=sys.stderr)
        return 2
    print(f"{table}\nwritten: {options.out / 'baselines.md'}, {options.out / 'baselines.csv'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
