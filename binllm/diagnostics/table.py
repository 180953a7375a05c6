"""The diagnostics of a run as one tidy table: a row per block, layer, metric and index."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from binllm.errors import BinllmError, bad_value
from binllm.tracking.atomic import replacing
from binllm.tracking.folder import RunPaths

TYPES = {"block": "int32", "layer": "str", "role": "str", "metric": "str", "index": "int32", "value": "float64"}


class Row(NamedTuple):
    """One number.

    Attributes:
        block: Index of the decoder block, from 0.
        layer: Name inside the block; empty for the whole block.
        role: Its role; empty for the whole block.
        metric: ``group/name``.
        index: 0 for a scalar; head, rank or calibration sequence for a series.
        value: The number.
    """

    block: int
    layer: str
    role: str
    metric: str
    index: int
    value: float


def to_table(rows: Iterable[Row]) -> pd.DataFrame:
    """Rows as a table with the types of every table here."""
    return pd.DataFrame(list(rows), columns=list(Row._fields)).astype(TYPES)


def write_parquet(path: Path, table: pd.DataFrame) -> None:
    """Write a table atomically."""
    with replacing(path) as temporary:
        table.to_parquet(temporary, index=False)


def read_parquet(path: Path) -> pd.DataFrame:
    """Read a table.

    Raises:
        BinllmError: The file is missing, unreadable, or no table of diagnostics.
    """
    try:
        table = pd.read_parquet(path)
    except FileNotFoundError as error:
        raise BinllmError(f"{path} is missing: a run writes it with diagnostics=standard or full") from error
    except Exception as error:  # whatever pyarrow meets in a user's file is a fault of that file
        reason = str(error).splitlines()[0]
        raise BinllmError(
            f"{path} cannot be read as parquet ({reason}); remove the run folder and run again"
        ) from error
    if list(table.columns) != list(TYPES):
        raise BinllmError(f"{path}: the columns are {', '.join(map(str, table.columns))} instead of {', '.join(TYPES)}")
    return table.astype(TYPES)


def read_diagnostics(run: Path, metrics: Sequence[str] = ()) -> pd.DataFrame:
    """Read the diagnostics of a run.

    Args:
        run: The run folder.
        metrics: Keep these metrics only; all by default.

    Returns:
        A table with the columns of `Row`, in the order of the blocks.

    Raises:
        BinllmError: No such folder, no or an unreadable table in it, or a metric that the run has not measured (the nearest
            name is suggested).
    """
    if not run.is_dir():
        raise bad_value("RUN", run, "an existing run folder")
    path = RunPaths(run).diagnostics
    table = read_parquet(path)
    known = sorted(set(table["metric"]))
    for metric in metrics:
        if metric not in known:
            raise bad_value(f"{path}: metric", metric, known)
    kept = table.query("metric in @metrics") if metrics else table
    return kept.reset_index(drop=True)


class BlockFiles:
    """The rows of finished blocks while a run is under way: one file a block, whole before the block counts as finished.

    Args:
        state: The run folder's ``state``.
    """

    def __init__(self, state: Path):
        self._state = state

    def _path(self, block: int) -> Path:
        return self._state / f"diagnostics_{block:05d}.parquet"

    def save(self, block: int, rows: Sequence[Row]) -> None:
        """Write the rows of one block, if there are any; those of an earlier, killed attempt are replaced."""
        if rows:
            write_parquet(self._path(block), to_table(rows))

    def join(self, blocks: int, run: RunPaths) -> None:
        """Write the run's ``diagnostics.parquet`` and ``diagnostics.csv`` from those of all blocks.

        Raises:
            BinllmError: A block's file is missing or damaged.
        """
        table = pd.concat([read_parquet(self._path(block)) for block in range(blocks)], ignore_index=True)
        write_parquet(run.diagnostics, table)
        with replacing(run.diagnostics.with_suffix(".csv")) as temporary:
            table.to_csv(temporary, index=False, lineterminator="\n")
