"""``binllm-tools figures``: choose what the runs have the series for, draw it, write it, say what was left out and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from binllm.errors import BinllmError, bad_value
from binllm.figures.catalogue import Kind, catalogue, metrics_kind
from binllm.figures.style import SERIES, STYLE
from binllm.report.ablation import ablations
from binllm.report.comparison import Comparison, read_comparison

COMPARED = ("ablations", "pareto")  # these take any number of runs, at least two


def make_figures(
    comparison: Comparison, out: Path, only: Sequence[str] = (), metrics: Sequence[str] = ()
) -> tuple[list[Path], dict[str, str]]:
    """Draw figures of runs.

    Args:
        comparison: The runs.
        out: Folder for the files; it is made.
        only: Names of the catalogue; all that the runs have the series for without them and without ``metrics``.
        metrics: Series for one further figure over depth.

    Returns:
        The files, and for each figure that was left out the reason.

    Raises:
        BinllmError: ``out`` is a file, a name is unknown, or what was asked for (or every figure) cannot be made.
    """
    if out.exists() and not out.is_dir():
        raise bad_value("--out", out, "a folder, or a name that is free")
    known = catalogue()
    for name in only:
        if name not in known:
            raise bad_value("--only", name, known)
    for name in metrics:
        if name not in comparison.metrics:
            raise bad_value("--metrics", name, comparison.metrics)
    asked = {name: known[name] for name in only} | ({"metrics": metrics_kind(tuple(metrics))} if metrics else {})
    drawn: dict[str, tuple[Kind, Comparison]] = {}
    left_out: dict[str, str] = {}
    for name, kind in (asked or known).items():
        try:
            drawn[name] = kind, suitable(name, kind, comparison)
        except BinllmError as error:
            if asked:
                raise
            left_out[name] = str(error)
    if not drawn:
        raise BinllmError("no figure can be made: " + "; ".join(left_out.values()))
    return [path for name, one in drawn.items() for path in _write(name, *one, comparison, out)], left_out


def suitable(name: str, kind: Kind, comparison: Comparison) -> Comparison:
    """The runs that a figure can show.

    Raises:
        BinllmError: There are none, too few, or too many to tell apart.
    """
    having = comparison.having(*kind.needs)
    if not having.subjects:
        missing = [need for need in kind.needs if need not in comparison.metrics] or list(kind.needs)
        setting = "full" if name == "block_loss" else "standard"
        series = missing[0] + (f" and {len(missing) - 1} other series" if len(missing) > 1 else "")
        raise BinllmError(f"figure {name}: no run has {series} (a run has them with diagnostics={setting})")
    if name in COMPARED:
        if len(having.subjects) < 2:
            raise BinllmError(f"figure {name}: needs at least two runs")
        if name == "ablations" and not ablations(having.subjects):
            raise BinllmError("figure ablations: no two runs differ in one choice only")
        return having
    if kind.only_first:
        return Comparison(having.subjects[:1])
    if len(having.subjects) > len(SERIES):
        raise BinllmError(f"figure {name}: {len(having.subjects)} runs, at most {len(SERIES)} can be told apart")
    if any(one.order >= len(SERIES) for one in having.subjects):
        return Comparison([replace(one, order=order) for order, one in enumerate(having.subjects)])
    return having


def _write(name: str, kind: Kind, shown: Comparison, given: Comparison, out: Path) -> list[Path]:
    import matplotlib

    from binllm.figures.files import save

    caption = _caption(kind, shown, given)
    with matplotlib.rc_context(STYLE):
        return save(kind.draw(shown, caption), out / name, kind.title, caption)


def _caption(kind: Kind, shown: Comparison, given: Comparison) -> str:
    """Title, how to read it, protocol, runs with their ids, and the runs that are not in it."""
    from binllm.figures.panels import runs_text

    run = shown.subjects[0].run
    settings = run.settings
    protocol = (
        f"{settings['model.name']}; calibration {settings['dataset.sequences']} x {settings['dataset.length']} tokens of "
        f"{settings['dataset.corpus']}; perplexity {run.quantized.definition}."
    )
    ids = {one.run.record.run_id for one in shown.subjects}
    others = [one.label for one in given.subjects if one.run.record.run_id not in ids]
    why = "Not shown" if kind.only_first else "Without these series"
    absent = f" {why}: {', '.join(others)}." if others else ""
    return f"{kind.title}. {kind.about} {protocol} {runs_text(shown.subjects)}{absent}"


def save_figures(run_folder: Path) -> list[Path]:
    """Write the figures of one run into ``<run folder>/figures``, for a tracker to log.

    Returns:
        The files.

    Raises:
        BinllmError: The run is not complete, a file cannot be read, or there is no series to draw.
    """
    files, _ = make_figures(read_comparison([run_folder]), run_folder / "figures")
    return files
