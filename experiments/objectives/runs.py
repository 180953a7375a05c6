"""Run folders as the rows of tables: what may share a row, and what may share a table."""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from binllm.errors import BinllmError, bad_value
from binllm.tracking.folder import RunPaths
from binllm.tracking.records import BitsRecord, PerplexityRecord, Provenance, RunRecord, RunStatus

PROTOCOL = ("model", "dataset", "evaluation")  # groups of the configuration that must agree within a table
NO_NUMBERS = ("paths", "tracker", "plugins", "method")  # keys that change no number


@dataclass(frozen=True)
class Run:
    """A complete run.

    Attributes:
        folder: The run folder.
        settings: Its configuration with dotted keys.
        full_precision: Measured before.
        quantized: Measured after.
        bits: Of the checkpoint.
        provenance: Where the numbers come from.
        record: The whole record.
    """

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
        """What must be equal within a table, seeds apart, as text."""
        keys = {key: value for key, value in self.settings.items() if key.split(".")[0] in PROTOCOL}
        definitions = [self.full_precision.definition, self.quantized.definition]
        return json.dumps([definitions, keys], sort_keys=True, default=str)

    def method(self) -> dict[str, Any]:
        """What must be equal within a row, besides the protocol."""
        left_out = ("seed", *PROTOCOL, *NO_NUMBERS)
        return {key: value for key, value in self.settings.items() if key.split(".")[0] not in left_out}


Row = Sequence[Run]  # equal but for the seed
Table = Sequence[Row]  # of one protocol; every row has the same seeds


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
    settings = _flatten(OmegaConf.to_container(OmegaConf.load(paths.config)))
    return Run(folder, settings, full, quantized, record.bits, record.provenance, record)


def _flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted keys."""
    if not isinstance(node, dict):
        return {prefix: node}
    parts = (_flatten(part, f"{prefix}.{name}" if prefix else str(name)) for name, part in node.items())
    return {key: value for part in parts for key, value in part.items()}


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


def rows_of(runs: Iterable[Run]) -> list[dict[int, Run]]:
    """Put runs that differ in seed only together.

    Returns:
        For each row its runs by seed.

    Raises:
        BinllmError: Two runs have the same configuration and seed, but not the same perplexity (made by different
            versions of the code). With the same one they are one run under two names, such as a preset's.
    """
    rows: dict[str, dict[int, Run]] = defaultdict(dict)
    for run in runs:
        row = rows[json.dumps([run.protocol(), run.method()], sort_keys=True, default=str)]
        other = row.setdefault(run.seed, run)
        if other.quantized.perplexity != run.quantized.perplexity:
            raise BinllmError(
                f"{other.folder} and {run.folder} are one configuration with one seed and differ in perplexity: "
                "made by different versions of the code they cannot share a table; remove one"
            )
    return list(rows.values())


def tables_of(runs: Iterable[Run]) -> list[Table]:
    """Make one table for every protocol and every set of seeds that a row of it has.

    A row with more seeds than a table's is in that table too, with the table's seeds only, so that all rows of a table
    saw the same calibration text.

    Returns:
        The tables, largest first; rows by ascending perplexity.

    Raises:
        BinllmError: As `rows_of`, or the full-precision perplexity differs within one protocol.
    """
    protocols: dict[str, list[dict[int, Run]]] = defaultdict(list)
    for row in rows_of(runs):
        protocols[next(iter(row.values())).protocol()].append(row)
    tables: list[Table] = []
    for rows in protocols.values():
        _check_one_model(rows)
        for seeds in sorted({tuple(sorted(row)) for row in rows}):
            chosen = [[row[seed] for seed in seeds] for row in rows if set(seeds) <= set(row)]
            tables.append(sorted(chosen, key=_order))
    return sorted(tables, key=lambda table: (-len(table), len(table[0]), table[0][0].protocol()))


def _check_one_model(rows: Sequence[dict[int, Run]]) -> None:
    runs = [run for row in rows for run in row.values()]
    wanted = runs[0].full_precision.perplexity
    for run in runs:
        found = run.full_precision.perplexity
        if not math.isclose(found, wanted, rel_tol=1e-4):
            raise BinllmError(
                f"{runs[0].folder} and {run.folder} have one protocol and full-precision perplexities "
                f"{wanted:.6g} and {found:.6g}: the model or the code changed in between"
            )


def _order(row: Row) -> tuple[float, str]:
    mean = statistics.fmean(run.quantized.perplexity for run in row)
    return (mean if math.isfinite(mean) else math.inf, row[0].settings["objective.name"])
