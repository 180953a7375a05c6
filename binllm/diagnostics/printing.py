"""Diagnoses of runs side by side: what ``binllm-tools diagnose RUN...`` prints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from binllm.diagnostics.series import summary_table
from binllm.diagnostics.table import read_diagnostics
from binllm.tracking.tables import wide


def print_diagnoses(runs: Sequence[Path], metrics: Sequence[str], console: Console | None = None) -> None:
    """Print one row a metric and one column a run: means over the blocks, as in the summary of the W&B run.

    Args:
        runs: Run folders.
        metrics: Only these; all by default.
        console: Where to print; stdout by default.

    Raises:
        BinllmError: A folder has no readable diagnostics, or has not measured one of the metrics.
    """
    tables = [read_diagnostics(run, metrics) for run in runs]
    shown = Table(title="diagnostics, means over the blocks", box=box.SIMPLE_HEAVY)
    shown.add_column("metric", no_wrap=True)
    for run in runs:
        shown.add_column(run.resolve().name.replace("-", "-\n", 2), justify="right", overflow="fold")
    for metric, values in summary_table(tables):
        shown.add_row(metric, *("-" if value is None else f"{value:.4g}" for value in values))
    wide(console or Console()).print(shown)
