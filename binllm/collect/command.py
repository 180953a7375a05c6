"""``binllm-tools collect``: all runs below a folder as two tables for other programs."""

from __future__ import annotations

import sys
from pathlib import Path

from binllm.collect.runs import CollectedRun, find_runs
from binllm.errors import BinllmError, bad_value
from binllm.tracking.atomic import replacing

SUFFIXES = (".parquet", ".csv")


def collect(results: Path, out: Path, reference: str | None = None) -> list[CollectedRun]:
    """Write ``<out>`` (one row a run and metric) and ``<out's name>_summary`` (mean, spread, paired tests).

    What has no part in the summary is named on stderr with the reason.

    Args:
        results: Folder of run folders, at any depth.
        out: A ``.parquet`` or ``.csv`` file.
        reference: Id of the run whose group others are tested against; None is the best group.

    Returns:
        The runs, as read.

    Raises:
        BinllmError: No run can be read (for example all of an older version), a wrong suffix, an unknown reference, or
            a file that cannot be written.
    """
    _check(results, out)
    from binllm.collect.tables import summary, tidy

    runs = find_runs(results)
    if not runs:
        raise bad_value("RESULTS", results, "a folder with run folders")
    readable = [run for run in runs if run.status != "unreadable"]
    if not readable:
        raise BinllmError(f"{results}: none of {len(runs)} run folders can be read; the first: {runs[0].note}")
    usable = [run.run_id for run in runs if run.status == "complete" and not run.note]
    if reference is not None and reference not in usable:
        raise bad_value("--reference", reference, usable or "none: no run is complete and of one version of the code")
    for run in runs:
        if run.note:
            print(f"not in the summary, {run.status}: {run.folder}: {run.note}", file=sys.stderr)
    table = tidy(runs)
    second = out.with_name(f"{out.stem}_summary{out.suffix}")
    _write(table, out)
    _write(summary(runs, table, reference), second)
    print(f"{len(runs)} runs, {len(usable)} of them in the summary\nwritten: {out}, {second}")
    return runs


def _check(results: Path, out: Path) -> None:
    if not results.is_dir():
        raise bad_value("RESULTS", results, "an existing folder of run folders")
    if out.suffix not in SUFFIXES:
        raise bad_value("--out", out, f"a file that ends in {' or '.join(SUFFIXES)}")
    if not out.absolute().parent.is_dir():
        raise bad_value("--out", out, "a file in an existing folder")


def _write(table, path: Path) -> None:
    try:
        with replacing(path) as temporary:
            if path.suffix == ".csv":
                table.to_csv(temporary, index=False)
            else:
                table.to_parquet(temporary, index=False)
    except OSError as error:
        raise bad_value("--out", path, f"a file that can be written ({error})") from error
