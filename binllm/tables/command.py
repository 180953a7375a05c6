"""``binllm-tools tables``: the paper's tables and ablations from run folders, ours beside the published figures."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from binllm.collect.runs import CollectedRun, find_runs
from binllm.errors import bad_value
from binllm.tables.ablation_tables import ablation_grid, claims_grid, ratios_grid
from binllm.tables.claims import claims
from binllm.tables.grid import Grid
from binllm.tables.paper_tables import is_home, paper_grids, paper_tables
from binllm.tables.plots import plot
from binllm.tables.rows import Section, sections_of, usable
from binllm.tables.sweeps import experiment_of, labels
from binllm.tracking.atomic import write_text


def tables(results: Path, out: Path) -> list[Path]:
    """Write all tables and plots; what is in none of them is named on stderr with the reason.

    Args:
        results: Folder of run folders, at any depth.
        out: Folder for the files; it is made.

    Returns:
        The files.

    Raises:
        BinllmError: ``results`` is no folder, ``out`` is a file.
    """
    _check(results, out)
    runs = find_runs(results)
    for run in runs:
        if run.note:
            print(f"left out, {run.status}: {run.folder}: {run.note}", file=sys.stderr)
    sections = _sections(usable(runs))
    used = {id(run) for section in sections for run in section.runs}
    others = sum(id(run) not in used for run in usable(runs))
    if others:
        print(f"left out: {others} complete runs that are no setting of an experiment with a claim", file=sys.stderr)
    out.mkdir(parents=True, exist_ok=True)
    return list(_write(sections, [run for run in runs if run.note], out))


def _check(results: Path, out: Path) -> None:
    if not results.is_dir():
        raise bad_value("RESULTS", results, "an existing folder of run folders")
    if out.exists() and not out.is_dir():
        raise bad_value("--out", out, "a folder, or a name that is free")


def _sections(runs: Sequence[CollectedRun]) -> list[Section]:
    """The sections of all experiments, with progress on stderr: composing an experiment takes a second."""
    found = []
    for claim in claims() if runs else []:
        if sys.stderr.isatty():
            print(f"sorting {len(runs)} runs: {claim.experiment:<30}", end="\r", file=sys.stderr, flush=True)
        sections, said = sections_of(experiment_of(claim), runs)
        found += [one for one in sections if is_home(claim.experiment, one.model)]
        for line in said:
            print(line, file=sys.stderr)
    return _where_they_belong(found)


def _where_they_belong(sections: Sequence[Section]) -> list[Section]:
    """Sections of the experiments that their runs were made for; where nothing says which, of the first."""
    taken = {_runs_of(one) for one in sections if _is_own(one)}
    kept = []
    for one in sections:
        if _is_own(one) or _runs_of(one) not in taken:
            kept.append(one)
            taken.add(_runs_of(one))
    return kept


def _runs_of(section: Section) -> tuple[str, ...]:
    """The same for sections of several experiments with one key, which share runs."""
    protocol = (f"{key}={value}" for key, value in sorted(section.protocol.items()))
    return (section.experiment.claim.varies, section.definition, *protocol)


def _is_own(section: Section) -> bool:
    """Whether runs were made for this experiment: one of the values that no other experiment with its key sweeps.

    Some settings are those of several experiments, the reference mostly. Where an experiment has no value of its own, any
    will do.
    """
    claim = section.experiment.claim
    others = {label for one in claims() if one != claim and one.varies == claim.varies for label in labels(one)}
    own = labels(claim).keys() - others
    return not own or any(row.label in own for row in section.rows)


def _write(sections: Sequence[Section], left_out: Sequence[CollectedRun], out: Path) -> Iterator[Path]:
    for table in paper_tables():
        own = [one for one in sections if one.experiment.claim.experiment == table.experiment]
        yield from _files(paper_grids(table, own), out / table.name)
    compared = [one for one in sections if len(one.rows) > 1]
    for claim in claims():
        chosen = [one for one in compared if one.experiment.claim == claim]
        if chosen:
            name = f"{claim.short}_runs" if claim.short.startswith("table") else claim.short
            yield from _files([ablation_grid(one) for one in chosen], out / name)
            yield from plot(chosen, out / name)
    yield from _files([ratios_grid(claims(), compared)], out / "ratios")
    summary = claims_grid(claims(), compared)
    notes = [f"Left out: {run.folder.name}, {run.status}." for run in left_out]
    yield from _files(
        [Grid(summary.title, summary.headings, summary.lines, summary.numbers, [*summary.notes, *notes])],
        out / "claims",
    )


def _files(grids: Sequence[Grid], path: Path) -> list[Path]:
    files = [path.with_name(f"{path.name}.{ending}") for ending in ("md", "tex")]
    for file, texts in zip(files, ([one.markdown() for one in grids], [one.latex() for one in grids]), strict=True):
        write_text(file, "\n".join(texts))
    return files
