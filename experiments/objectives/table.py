"""Make the table of objectives from run folders: ``python experiments/objectives/table.py RESULTS [--readme README.md]``.

Runs that differ in seed only are one row with mean and spread. Runs of different protocols (model, calibration text,
seeds, definition of the perplexity) never share a table: each protocol has its own, with the protocol as its caption.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from binllm.errors import BinllmError, bad_value
from binllm.tracking.atomic import write_text
from binllm.tracking.folder import RunPaths
from binllm.tracking.memory import format_bytes
from binllm.tracking.records import BitsRecord, PerplexityRecord, Provenance, RunRecord, RunStatus

BEGIN, END = "<!-- table: objectives -->", "<!-- end table -->"
HEADINGS = (
    "run", "target", "α", "λ", "roles", "AMP", "perplexity", "nominal bits", "stored bits", "quantize, s", "peak memory"
)  # fmt: skip
PROTOCOL = ("model", "dataset", "evaluation")  # groups of the configuration that must agree within a table
NO_NUMBERS = ("paths", "tracker", "plugins", "method", "kernel.name")  # keys that change no number of a row
SHOWN = ("name", "alpha", "shrinkage", "roles", "amp_rule")  # keys of the objective that have columns


@dataclass(frozen=True)
class Run:
    """A complete run; `settings` are the dotted keys of its configuration."""

    folder: Path
    settings: dict[str, Any]
    full_precision: PerplexityRecord
    quantized: PerplexityRecord
    bits: BitsRecord
    provenance: Provenance
    record: RunRecord

    @property
    def seed(self) -> int:
        """Seed of the calibration draw."""
        return self.settings["seed"]

    def protocol(self) -> str:
        """What must be equal within a table, as text."""
        keys = {k: v for k, v in self.settings.items() if k.split(".")[0] in PROTOCOL}
        return json.dumps([self.full_precision.definition, self.quantized.definition, keys], sort_keys=True, default=str)

    def method(self) -> dict[str, Any]:
        """What must be equal within a row."""
        left_out = ("seed", *PROTOCOL, *NO_NUMBERS)
        return {k: v for k, v in self.settings.items() if not any(k == n or k.startswith(f"{n}.") for n in left_out)}


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted keys."""
    if not isinstance(node, dict):
        return {prefix: node}
    return {key: value for name, part in node.items() for key, value in flatten(part, _join(prefix, str(name))).items()}


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def read_run(folder: Path) -> Run | None:
    """Read a run folder; None for a run that is not complete.

    Raises:
        BinllmError: A file cannot be read, or has another version.
    """
    paths = RunPaths(folder)
    record = paths.read_record()
    if record is None or record.status is not RunStatus.complete:
        return None
    full, quantized = record.results.full_precision, record.results.quantized
    if full is None or quantized is None or record.bits is None or record.provenance is None:
        raise BinllmError(f"{paths.record}: the run is complete but a result is missing")
    settings = flatten(OmegaConf.to_container(OmegaConf.load(paths.config)))
    return Run(folder, settings, full, quantized, record.bits, record.provenance, record)


def select(runs: Iterable[Run], only: Sequence[str]) -> list[Run]:
    """Keep runs whose configuration has the asked values.

    Args:
        runs: Any runs.
        only: Conditions ``KEY=VALUE[,VALUE]`` with dotted keys.

    Raises:
        BinllmError: A condition has no ``=``, or no run has its key.
    """
    chosen = list(runs)
    for condition in only:
        key, equals, values = condition.partition("=")
        known = {name for run in chosen for name in run.settings}
        if not equals:
            raise bad_value("--only", condition, "KEY=VALUE or KEY=VALUE,VALUE")
        if chosen and key not in known:
            raise bad_value("--only", key, known)
        chosen = [run for run in chosen if str(run.settings.get(key)) in values.split(",")]
    return chosen


def rows_of(runs: Iterable[Run]) -> list[list[Run]]:
    """Put runs that differ in seed only together, seeds ascending.

    Raises:
        BinllmError: Two runs have the same configuration and seed (made by different versions of the code).
    """
    rows: dict[str, dict[int, Run]] = defaultdict(dict)
    for run in runs:
        row = rows[json.dumps([run.protocol(), run.method()], sort_keys=True, default=str)]
        other = row.setdefault(run.seed, run)
        if other is not run:
            raise BinllmError(
                f"{other.folder} and {run.folder} are one configuration with one seed: made by different versions of the "
                "code, they cannot be averaged; remove one"
            )
    return [[row[seed] for seed in sorted(row)] for row in rows.values()]


def tables_of(runs: Iterable[Run]) -> list[list[list[Run]]]:
    """Rows by protocol and seeds, largest table first.

    Raises:
        BinllmError: As `rows_of`, or the full-precision perplexity differs within one protocol.
    """
    tables: dict[tuple[str, tuple[int, ...]], list[list[Run]]] = defaultdict(list)
    for row in rows_of(runs):
        tables[row[0].protocol(), tuple(run.seed for run in row)].append(row)
    for rows in tables.values():
        first = rows[0][0]
        for run in (run for row in rows for run in row):
            if not math.isclose(run.full_precision.perplexity, first.full_precision.perplexity, rel_tol=1e-4):
                raise BinllmError(
                    f"{first.folder} and {run.folder} have one protocol and full-precision perplexities "
                    f"{first.full_precision.perplexity} and {run.full_precision.perplexity}: the model or the code changed"
                )
        rows.sort(key=lambda row: (_mean(row), row[0].settings["objective.name"]))
    return sorted(tables.values(), key=lambda rows: (-len(rows), rows[0][0].protocol()))


def _mean(row: Sequence[Run]) -> float:
    value = statistics.fmean(run.quantized.perplexity for run in row)
    return value if math.isfinite(value) else math.inf


def render(rows: Sequence[Sequence[Run]], command: str) -> str:
    """One table as Markdown: caption, full precision, a line for every row.

    Args:
        rows: Of one protocol; each has the same seeds.
        command: How the runs were made, for the caption.
    """
    differing = _differing(rows)
    first = rows[0][0]
    peak = max(run.record.phase_peak_memory_bytes.get("full_precision", 0) for row in rows for run in row)
    blank = ["-"] * (len(HEADINGS) - 3)
    top = ["full precision", *blank[:5], _number([first.full_precision.perplexity]), *blank[:3], format_bytes(peak)]
    lines = [[*HEADINGS, *(["other settings"] if differing else [])], [*top, *(["-"] if differing else [])]]
    lines += [[*_cells(row), *([_other(row, differing)] if differing else [])] for row in rows]
    head, *body = ["| " + " | ".join(cells) + " |" for cells in lines]
    rule = "| " + " | ".join("---:" if cell in HEADINGS[6:] else "---" for cell in lines[0]) + " |"
    return "\n".join([_caption(rows, command), "", head, rule, *body]) + "\n"


def _differing(rows: Sequence[Sequence[Run]]) -> list[str]:
    """Keys without a column of their own that are not the same in every row; a key that a run lacks is no difference."""
    methods = [row[0].method() for row in rows]
    keys = sorted({key for method in methods for key in method} - {f"objective.{name}" for name in SHOWN})
    return [k for k in keys if len({json.dumps(m[k], default=str) for m in methods if k in m}) > 1]


def _other(row: Sequence[Run], differing: Sequence[str]) -> str:
    method = row[0].method()
    return ", ".join(f"`{key}={method[key]}`" for key in differing if key in method) or "-"


def _cells(row: Sequence[Run]) -> list[str]:
    settings, bits = row[0].settings, row[0].bits
    alpha = settings.get("objective.alpha")
    target = "weight" if alpha is None else {0.0: "X̂Wᵀ", 1.0: "XWᵀ"}.get(alpha, "between X̂Wᵀ and XWᵀ")
    rule = settings.get("objective.amp_rule", "-")
    return [
        f"`{settings['objective.name']}`",
        target,
        *("-" if value is None else f"{value:g}" for value in (alpha, settings.get("objective.shrinkage"))),
        ", ".join(settings["objective.roles"]),
        "off" if rule is False else str(rule),  # YAML 1.1 reads an unquoted off as false
        _number([run.quantized.perplexity for run in row]),
        f"{bits.nominal:.3f}",
        f"{bits.linear:.3f}",
        f"{statistics.fmean(run.record.seconds['quantize'] for run in row):.0f}",
        format_bytes(max(run.record.phase_peak_memory_bytes["quantize"] for run in row)),
    ]


def _number(values: Sequence[float]) -> str:
    mean = statistics.fmean(values)
    text = f"{mean:,.2f}" if mean < 1000 else f"{mean:,.0f}"
    if len(values) == 1 or not math.isfinite(mean):
        return text
    spread = statistics.stdev(values)
    return f"{text} ± {spread:,.2f}" if mean < 1000 else f"{text} ± {spread:,.0f}"


def _caption(rows: Sequence[Sequence[Run]], command: str) -> str:
    runs = [run for row in rows for run in row]
    first = runs[0]
    settings = first.settings
    keys = sorted({one.definition for run in runs for one in (run.full_precision, run.quantized)})
    seeds = ", ".join(str(run.seed) for run in rows[0])
    several = ", perplexity as mean ± sample standard deviation over the seeds" if len(rows[0]) > 1 else ""
    machines = sorted({f"{run.provenance.device}, {run.provenance.threads} threads" for run in runs})
    commits = sorted({_commit(run.provenance) for run in runs})
    shared = ("binarization.name", "solver.name", "elsewhere.name", "calibration.granularity")
    common = [f"{key.split('.')[0]} `{settings[key]}`" for key in shared if key not in _differing(rows)]
    parts = [
        f"**{settings['model.name']}**, token perplexity by the definition `{'`, `'.join(keys)}`"
        f" ({first.quantized.tokens} predicted tokens, {settings['model.dtype']}); calibration"
        f" {settings['dataset.sequences']} x {settings['dataset.length']} tokens of `{settings['dataset.corpus']}`"
        f"/`{settings['dataset.split']}`, seed {seeds}{several}.",
        f"The same in every row: {', '.join(common)}." if common else "",
        "Stored bits: per weight of the quantized layers, with all scales, bitmaps and indices.",
        f"Made by `{command}` on {'; '.join(machines)}; code {', '.join(commits)}.",
    ]
    return " ".join(part for part in parts if part)


def _commit(provenance: Provenance) -> str:
    if provenance.git_commit is None:
        return f"binllm {provenance.versions.get('binllm', 'unknown')}"
    return provenance.git_commit[:12] + (" with changes" if provenance.git_dirty else "")


def replace_between(text: str, table: str, where: Path) -> str:
    """Put a table between the two markers of a document.

    Raises:
        BinllmError: The markers are not there once each, in order.
    """
    begin, end = text.find(BEGIN), text.find(END)
    if text.count(BEGIN) != 1 or text.count(END) != 1 or end < begin:
        raise BinllmError(f"{where}: needs the lines {BEGIN} and {END} once each, in this order")
    return text[: begin + len(BEGIN)] + "\n" + table + text[end:]


def make_table(results: Path, only: Sequence[str], command: str) -> str:
    """All tables of a results folder as Markdown; says on stderr which runs were left out.

    Raises:
        BinllmError: There is no complete run, or as `read_run`, `select`, `tables_of`.
    """
    folders = sorted(path.parent for path in results.glob("*/run.json"))
    read = {folder: read_run(folder) for folder in folders}
    for folder in (folder for folder, run in read.items() if run is None):
        print(f"left out, not complete: {folder}", file=sys.stderr)
    runs = select((run for run in read.values() if run is not None), only)
    if not runs:
        raise bad_value("RESULTS", results, "a folder with complete runs that fulfil every --only")
    return "\n".join(render(rows, command) for rows in tables_of(runs))


def main(arguments: Sequence[str] | None = None) -> int:
    """Write ``<results>/tables/objectives.md`` and, if asked, the README's part; returns the exit code."""
    parser = argparse.ArgumentParser(description="Make the table of objectives from run folders.")
    parser.add_argument("results", type=Path, nargs="?", default=Path("results"), help="folder of run folders (results)")
    parser.add_argument("--only", action="append", default=[], metavar="KEY=VALUE", help="such as seed=0; may be repeated")
    parser.add_argument("--readme", type=Path, help="document whose part between the markers is replaced")
    parser.add_argument("--command", default="make table", help="how the runs were made, for the caption")
    options = parser.parse_args(arguments)
    try:
        table = make_table(options.results, options.only, options.command)
        if options.readme is not None:
            write_text(options.readme, replace_between(options.readme.read_text("utf-8"), table, options.readme))
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
