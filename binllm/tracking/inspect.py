"""A run folder for people: what ``binllm-tools inspect RUN`` prints."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.text import Text

from binllm.errors import bad_value
from binllm.tracking.folder import RunPaths
from binllm.tracking.measurement_tables import measurement_tables
from binllm.tracking.measurements import read_measurements
from binllm.tracking.records import Provenance, RunRecord, RunStatus
from binllm.tracking.tables import layers_table, results_table, wide


def render_run(path: Path | str) -> RenderableType:
    """Render a run folder, finished, failed or half-finished.

    Args:
        path: The run folder.

    Returns:
        Status, results table, provenance, measurements and layer table, to be printed by rich.

    Raises:
        BinllmError: No such folder, not a run folder, or a file in it that cannot be read.
    """
    folder = RunPaths(path)
    if not folder.path.is_dir():
        raise bad_value("RUN", path, "an existing run folder")
    record, layers = folder.read_record(), folder.read_layers()
    if record is None and not layers:
        raise bad_value("RUN", path, "a run folder; this one has neither run.json nor layers.jsonl")
    parts: list[RenderableType] = [Text(f"{folder.path}: {status_line(folder, record)}")]
    if record is not None:
        parts.append(results_table(record))
        parts.append(Text(_provenance_lines(record.provenance)))
        if record.error:
            parts.append(Text(f"error: {record.error}"))
        if record.tracker_error:
            parts.append(Text(f"W&B export failed: {record.tracker_error}"))
    parts += measurement_tables([*read_measurements(folder.evaluations)])
    if layers:
        parts.append(layers_table(layers))
    return Group(*parts)


def print_run(path: Path | str, console: Console | None = None) -> None:
    """Print what `render_run` returns; stdout by default."""
    wide(console or Console()).print(render_run(path))


def status_line(folder: RunPaths, record: RunRecord | None) -> str:
    """Say what became of a run: a record that says running is believed only while somebody holds the lock."""
    holder = folder.holder()
    if holder:
        return f"running, {holder}"
    if record is None or record.status is RunStatus.running:
        return "interrupted; the same command resumes it"
    return record.status.name


def _provenance_lines(provenance: Provenance | None) -> str:
    if provenance is None:
        return "provenance: not recorded yet"
    dirty = " with changes" if provenance.git_dirty else ""
    code = f"commit {provenance.git_commit}{dirty}" if provenance.git_commit else "installed package"
    versions = ", ".join(f"{name} {version}" for name, version in provenance.versions.items())
    seeds = ", ".join(f"{name} {seed}" for name, seed in provenance.seeds.items())
    return "\n".join(
        (
            f"code: {code}; {versions}",
            f"machine: {provenance.device}, {provenance.threads} threads, {provenance.platform}",
            f"seeds: {seeds}; calibration tokens {provenance.calibration_hash}",
            f"checkpoint: {provenance.checkpoint_hash or 'not written'}",
        )
    )
