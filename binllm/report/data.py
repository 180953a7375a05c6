"""What the page's plots and its layer table are made of, as plain JSON values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, cast

import pandas as pd

from binllm.figures.style import SERIES
from binllm.report.comparison import Comparison, Subject
from binllm.report.metrics import metric_of

DIGITS = 4  # significant digits are enough to look at
RANKS = 40  # points of a spectrum
SPECTRUM = "anisotropy/error_spectrum"
COLUMNS = ("run", "block", "layer", "role", "objective", "Q before", "Q after", "bits", "seconds", "sweeps", "status")
LAYER_METRICS = {  # column of the layer table to a series
    "weight error": "layer/relative_error_weight",
    "error / target": "layer/relative_error_target",
    "conditioned error": "stream/conditioned_error",
    "output error": "stream/output_error",
    "output energy": "stream/output_energy",
    "drift": "stream/drift",
}


def page_data(comparison: Comparison) -> dict[str, Any]:
    """Everything that the page's script draws: runs with their series, what the series are called, rows of the table."""
    names = [name for name in comparison.metrics if name != SPECTRUM]
    tables = {one.label: _layer_numbers(one) for one in comparison.subjects}
    measured = [name for name in LAYER_METRICS if any(name in table for table in tables.values())]
    return {
        "runs": [_run(one) for one in comparison.subjects],
        "metrics": {name: asdict(metric_of(name)) for name in names},
        "columns": [*COLUMNS, *measured],
        "rows": [row for one in comparison.subjects for row in _rows(one, tables[one.label], measured)],
    }


def _run(subject: Subject) -> dict[str, Any]:
    colour, _, dash = SERIES[subject.order % len(SERIES)]
    run, series = subject.run, subject.series
    metrics = [name for name in series["metric"].unique() if name != SPECTRUM]
    return {
        "label": subject.label,
        "id": run.record.run_id,
        "colour": colour,
        "dash": "" if isinstance(dash, str) else " ".join(str(2 * length) for length in dash[1]),
        "perplexity": number(run.quantized.perplexity),
        "fullPrecision": number(run.full_precision.perplexity),
        "bits": number(run.bits.linear),
        "series": {name: _by_layer(subject.metric(name)) for name in metrics},
        "heads": {name: _grid(subject.metric(name)) for name in metrics if metric_of(name).over == "head"},
        "spectra": _spectra(subject.metric(SPECTRUM)),
    }


def _by_layer(rows: pd.DataFrame) -> dict[str, list[list[Any]]]:
    """For every layer (empty for the whole block) points of block and median."""
    medians = cast(pd.Series, rows.groupby(["layer", "block"], sort=False)["value"].median())
    found: dict[str, list[list[Any]]] = {}
    for (layer, block), value in medians.items():  # pyright: ignore[reportGeneralTypeIssues] a MultiIndex
        found.setdefault(str(layer), []).append([int(block), number(float(value))])
    return found


def _grid(rows: pd.DataFrame) -> list[list[Any]]:
    """Triples of block, head, value."""
    return [[int(b), int(i), number(v)] for b, i, v in zip(rows["block"], rows["index"], rows["value"], strict=True)]


def _spectra(rows: pd.DataFrame) -> dict[str, list[list[Any]]]:
    """For every block points of rank, from 1, and eigenvalue, at ranks in equal ratios."""
    found = {}
    for block, values in rows.groupby("block"):
        ordered = values.sort_values("index")["value"].tolist()
        steps = sorted({round(len(ordered) ** (i / (RANKS - 1))) for i in range(RANKS)})
        found[str(block)] = [[rank, number(ordered[rank - 1])] for rank in steps]
    return found


def _layer_numbers(subject: Subject) -> pd.DataFrame:
    """The columns of `LAYER_METRICS` by block and layer."""
    found = {name: subject.metric(metric) for name, metric in LAYER_METRICS.items()}
    means = {name: rows.groupby(["block", "layer"])["value"].mean() for name, rows in found.items() if len(rows)}
    return pd.DataFrame(means)


def _rows(subject: Subject, table: pd.DataFrame, measured: Iterable[str]) -> Iterable[list[Any]]:
    numbers: Mapping[Any, Mapping[Any, float]] = table.to_dict("index")
    for one in subject.layers:
        bits = one.stored_bits / (one.n_out * one.n_in)
        first = [
            subject.label,
            one.block,
            one.layer,
            one.role,
            one.objective,
            number(one.q_before),
            number(one.q_after),
        ]
        own = numbers.get((one.block, one.layer), {})
        diagnosed = [number(own.get(name, math.nan)) for name in measured]
        yield [*first, number(bits), number(one.seconds), one.sweeps, one.status, *diagnosed]


def number(value: float) -> float | None:
    """A number with few digits; None for what is no finite number, which JSON cannot say."""
    value = float(value)
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
