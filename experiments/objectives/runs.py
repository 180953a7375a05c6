"""Runs as the rows of the table of objectives: what may share a row, and what may share a table."""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence

from binllm.tracking.runs import Run, check_one_model
from experiments.common.runs import check_same

Row = Sequence[Run]  # equal but for the seed
Table = Sequence[Row]  # of one protocol; every row has the same seeds


def rows_of(runs: Iterable[Run]) -> list[dict[int, Run]]:
    """Put runs that differ in seed only together.

    Returns:
        For each row its runs by seed.

    Raises:
        BinllmError: As `check_same`.
    """
    rows: dict[str, dict[int, Run]] = defaultdict(dict)
    for run in runs:
        row = rows[json.dumps([run.protocol(), run.method()], sort_keys=True, default=str)]
        check_same(row.setdefault(run.seed, run), run)
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
        check_one_model([run for row in rows for run in row.values()])
        for seeds in sorted({tuple(sorted(row)) for row in rows}):
            chosen = [[row[seed] for seed in seeds] for row in rows if set(seeds) <= set(row)]
            tables.append(sorted(chosen, key=_order))
    return sorted(tables, key=lambda table: (-len(table), len(table[0]), table[0][0].protocol()))


def _order(row: Row) -> tuple[float, str]:
    mean = statistics.fmean(run.quantized.perplexity for run in row)
    return (mean if math.isfinite(mean) else math.inf, row[0].settings["objective.name"])
