"""One W&B run from a run folder's files, made at the end of the job.

The files are the truth and this is a copy of them, so it is made once, from the finished files: a run killed
and resumed five times is still one W&B run, and every job of a multirun has its own. Nothing that goes wrong
here stops or fails a run: one warning, and the reason in run.json.

Series: ``layer/*`` over ``layer/index`` (one point a layer), ``block/*``, ``role/<role>/*`` and ``diagnostics/*`` over
    ``block/index``.
Summary: perplexities, bits, times, peaks under the names they have in run.json, dotted; the run's ``diagnostics/*``.
Images: ``figures/<name>`` for every figures/<name>.png.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

from binllm.diagnostics import read_diagnostics
from binllm.diagnostics.series import PREFIX, block_series, summarise
from binllm.errors import BinllmError
from binllm.tracking.config import TrackerConfig, TrackerMode
from binllm.tracking.folder import RunFolder, RunPaths
from binllm.tracking.json_codec import encode
from binllm.tracking.records import LayerRecord, RunRecord, RunStatus

log = logging.getLogger(__name__)

AXES = {"layer/*": "layer/index"} | dict.fromkeys(("block/*", "role/*", f"{PREFIX}/*"), "block/index")
ROLE_SERIES = ("q_before", "q_after", "relative_error_weight", "relative_error_target")


def export_run(folder: RunFolder, tracker: TrackerConfig, config: dict[str, Any]) -> None:
    """Make the W&B run of a job that ended, complete or failed.

    Args:
        folder: Its folder, still held.
        tracker: The choice of tracker; without W&B nothing happens.
        config: The resolved configuration.
    """
    if not tracker.wandb or tracker.mode is TrackerMode.disabled:
        return
    try:
        record = folder.read_record()
        if record is None:
            raise FileNotFoundError(f"{folder.record} is missing")
        _export(folder, tracker, encode(config), record)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        log.warning("the W&B export of %s failed, the run is not affected: %s", folder.path, reason)
        _note_failure(folder, reason)


def _note_failure(folder: RunFolder, reason: str) -> None:
    try:
        record = folder.read_record()
        if record is not None:
            folder.write_record(dataclasses.replace(record, tracker_error=reason))
    except Exception as error:
        log.debug("run.json cannot take the reason: %s", error)


def _export(
    folder: RunFolder,
    tracker: TrackerConfig,
    config: dict[str, Any],
    record: RunRecord,
) -> None:
    shutil.rmtree(folder.wandb, ignore_errors=True)
    folder.wandb.mkdir(parents=True)
    layers = folder.read_layers()
    table = read_diagnostics(folder.path) if folder.diagnostics.exists() else None
    if table is not None:
        _draw_figures(folder)
    with _environment(folder.wandb, tracker.mode), _session() as wandb:
        run = wandb.init(
            project=tracker.project,
            entity=tracker.entity,
            id=record.run_id[-128:],
            name=record.run_id,
            tags=list(tracker.tags) or None,
            config=config,
            resume="allow" if tracker.mode is TrackerMode.online else None,
            reinit="create_new",
            settings=_settings(wandb, folder.wandb, tracker.mode),
        )
        try:
            _define_axes(run)
            for row in (*layer_rows(layers), *block_rows(layers)):
                run.log(row)
            run.summary.update(summary_values(record))
            if table is not None:
                for row in block_series(table):
                    run.log(row)
                run.summary.update({f"{PREFIX}/{name}": value for name, value in summarise(table).items()})
            log_figures(run, folder)
        finally:
            run.finish(exit_code=0 if record.status is RunStatus.complete else 1)


def _draw_figures(folder: RunFolder) -> None:
    """Into the run folder, where `log_figures` finds them; a run without them is exported all the same."""
    from binllm.figures.making import save_figures

    try:
        save_figures(folder.path)
    except BinllmError as error:
        log.warning("no figures of %s: %s", folder.path, error)


@contextmanager
def _session() -> Iterator[Any]:
    """Give the library, silent, and end its background process unless somebody else in this process uses it.

    The end of the process is also what guarantees that the run is on disk: `finish` returns a little earlier.
    """
    ours = "WANDB_SERVICE" not in os.environ
    logger = logging.getLogger("wandb")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        import wandb

        try:
            yield wandb
        finally:
            if ours:
                wandb.teardown()
    finally:
        logger.setLevel(level)


def _settings(wandb: Any, folder: Path, mode: TrackerMode) -> Any:
    return wandb.Settings(
        mode=mode.name,
        root_dir=str(folder.parent),  # W&B adds the folder "wandb" itself.
        silent=True,
        console="off",
        save_code=False,
        disable_code=True,
        disable_git=True,
        disable_job_creation=True,
        x_disable_stats=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
    )


@contextmanager
def _environment(folder: Path, mode: TrackerMode) -> Iterator[None]:
    """Point every place where W&B writes into the run folder while the export runs.

    Offline its configuration is taken from there too, so that nothing of the user's account is read. Online
    the user's own configuration (server, key) is needed.
    """
    places = {name: str(folder / ".local") for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR")}
    values = {
        "WANDB_DIR": str(folder.parent),
        **places,
        "WANDB_SILENT": "true",
        "WANDB_ERROR_REPORTING": "false",
    }
    if mode is TrackerMode.offline:
        values["WANDB_CONFIG_DIR"] = str(folder / ".local")
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def log_figures(run: Any, folder: RunPaths) -> None:
    """Log every image of a run folder's ``figures`` under its name; none, if nobody made any.

    Args:
        run: An open W&B run.
        folder: The run folder.
    """
    import wandb

    for path in sorted(folder.figures.glob("*.png")):
        run.log({f"figures/{path.stem}": wandb.Image(str(path))})


def _define_axes(run: Any) -> None:
    for axis in ("layer/index", "block/index"):
        run.define_metric(axis, hidden=True, summary="none")
    for pattern, axis in AXES.items():
        run.define_metric(pattern, step_metric=axis, summary="none")


def layer_rows(layers: Sequence[LayerRecord]) -> list[dict[str, float]]:
    """Return one row a layer: every number of its record, and the role's series over the block index."""
    rows = []
    for index, layer in enumerate(layers):
        numbers = {name: value for name, value in layer.to_json().items() if isinstance(value, (int, float))}
        del numbers["version"]
        row = {"layer/index": index, **{f"layer/{name}": value for name, value in numbers.items()}}
        row |= {f"layer/{name}": value for name, value in layer.diagnostics.items()}
        row |= {"block/index": layer.block}
        row |= {f"role/{layer.role}/{name}": numbers[name] for name in ROLE_SERIES if name in numbers}
        rows.append(row)
    return rows


def block_rows(layers: Sequence[LayerRecord]) -> list[dict[str, float]]:
    """Return one row a block: sums, means and the highest memory over its layers."""
    rows = []
    for block, group in groupby(layers, key=lambda layer: layer.block):
        members = list(group)
        rows.append(
            {
                "block/index": block,
                "block/seconds": sum(layer.seconds for layer in members),
                "block/peak_memory_bytes": max(layer.peak_memory_bytes for layer in members),
                "block/stored_bits_per_weight": sum(layer.stored_bits for layer in members)
                / sum(layer.n_out * layer.n_in for layer in members),
                "block/relative_error_weight": sum(layer.relative_error_weight for layer in members) / len(members),
                "block/relative_error_target": sum(layer.relative_error_target for layer in members) / len(members),
                "block/recoveries": sum(layer.recoveries for layer in members),
            }
        )
    return rows


def summary_values(record: RunRecord) -> dict[str, Any]:
    """Return what run.json says, flat: ``results.quantized.perplexity`` and so on."""
    flat: dict[str, Any] = {}

    def visit(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for name, item in value.items():
                visit(f"{prefix}.{name}" if prefix else name, item)
        elif value is not None:
            flat[prefix] = value

    visit("", record.to_json())
    return flat
