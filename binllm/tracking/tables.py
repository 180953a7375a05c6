"""The records of a run as tables for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from binllm.tracking.folder import RunPaths
from binllm.tracking.measurement_tables import measurement_tables
from binllm.tracking.measurements import read_measurements
from binllm.tracking.memory import format_bytes
from binllm.tracking.progress import format_seconds
from binllm.tracking.records import LayerRecord, PerplexityRecord, RunRecord

# A pipe or a log has no width of its own; rich would squeeze the tables into 80 columns.
PLAIN_WIDTH = 200


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def results_table(record: RunRecord) -> Table:
    """Make the table that a run ends with; what is not measured yet is a dash.

    Args:
        record: The run.

    Returns:
        Rows full precision and quantized; perplexity (its definition is the caption), nominal and stored bits
        per weight, time, peak memory.
    """
    results, bits = record.results, record.bits
    table = Table(title=f"{record.run_id} ({record.status.name})", box=box.SIMPLE_HEAVY, caption=_caption(record))
    for heading in (
        "",
        "perplexity",
        "nominal bits",
        "stored bits",
        "whole model",
        "quantize",
        "evaluate",
        "peak memory",
    ):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    full, quantized = results.full_precision, results.quantized
    table.add_row("full precision", _perplexity(full), "-", "-", "-", "-", _time(full), _peak(record, "full_precision"))
    measured = (f"{bits.nominal:.3f}", f"{bits.linear:.3f}", format_bytes(bits.model_bytes)) if bits else ("-",) * 3
    spent = format_seconds(record.seconds["quantize"]) if "quantize" in record.seconds else "-"
    table.add_row("quantized", _perplexity(quantized), *measured, spent, _time(quantized), _peak(record, "quantize"))
    return table


def _caption(record: RunRecord) -> str:
    measured = [one for one in (record.results.full_precision, record.results.quantized) if one]
    keys = sorted({f"{one.definition} ({one.windows} windows, {one.tokens} tokens)" for one in measured})
    lines = [f"perplexity: {key}" for key in keys] or ["perplexity: not measured"]
    lines.append("stored bits: per weight of the quantized layers, with all scales, bitmaps and indices")
    lines.append(f"peak memory: of the phase; of the whole process {format_bytes(record.peak_memory_bytes)}")
    return "\n".join(lines)


def _perplexity(record: PerplexityRecord | None) -> str:
    return f"{record.perplexity:,.2f}" if record else "-"


def _time(record: PerplexityRecord | None) -> str:
    return format_seconds(record.seconds) if record else "-"


def _peak(record: RunRecord, phase: str) -> str:
    peak = record.phase_peak_memory_bytes.get(phase)
    return format_bytes(peak) if peak else "-"


LAYER_COLUMNS: dict[str, Callable[[LayerRecord], str]] = {
    "block": lambda one: str(one.block),
    "layer": lambda one: one.layer,
    "role": lambda one: one.role,
    "objective": lambda one: one.objective,
    "Q\nbefore": lambda one: _number(one.q_before),
    "Q\nafter": lambda one: _number(one.q_after),
    "error\nW": lambda one: f"{one.relative_error_weight:.4f}",
    "error\ntarget": lambda one: f"{one.relative_error_target:.4f}",
    "ridge": lambda one: _number(one.ridge),
    "reco-\nveries": lambda one: str(one.recoveries),
    "AMP\n+/-": lambda one: f"{one.amp_accepted}/{one.amp_rejected}",
    "raised\nQ": lambda one: str(one.amp_raised_q),
    "sweeps": lambda one: str(one.sweeps),
    "bits": lambda one: f"{one.stored_bits / (one.n_out * one.n_in):.3f}",
    "status": lambda one: one.status,
    "s": lambda one: f"{one.seconds:.2f}",
    "peak": lambda one: format_bytes(one.peak_memory_bytes),
}


def layers_table(records: Sequence[LayerRecord]) -> Table:
    """Make one row a layer.

    Args:
        records: In order of the layers.

    Returns:
        The table.
    """
    table = Table(title=f"{len(records)} layers", box=box.SIMPLE_HEAVY, padding=(0, 1, 0, 0))
    for heading in LAYER_COLUMNS:
        text = heading in ("layer", "role", "objective", "status")
        # Folded, not cut: on a narrow terminal no digit may get lost.
        table.add_column(heading, justify="left" if text else "right", overflow="fold")
    for record in records:
        table.add_row(*(Text(show(record)) for show in LAYER_COLUMNS.values()))
    return table


def wide(console: Console) -> Console:
    """Give a console that is no terminal enough width for the tables; returns it."""
    if not console.is_terminal:
        console.width = max(console.width, PLAIN_WIDTH)
    return console


def print_results(folder: RunPaths, console: Console | None = None) -> None:
    """Print a finished run's tables and then the path of its folder.

    Args:
        folder: The run folder; its run.json is read.
        console: Where to print; stdout by default.

    Raises:
        BinllmError: run.json cannot be read.
    """
    console = wide(console or Console())
    record = folder.read_record()
    if record is not None:
        console.print(results_table(record))
    for table in measurement_tables([*read_measurements(folder.evaluations)]):
        console.print(table)
    # On a line of its own and never wrapped, so that it can be copied or taken by a script.
    console.print(f"run folder: {folder.path}", soft_wrap=True, highlight=False, markup=False)
