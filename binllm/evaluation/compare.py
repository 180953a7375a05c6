"""``binllm-tools compare``: two models on the same windows and the same examples, pair by pair."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from binllm.errors import BinllmError, bad_value
from binllm.evaluation.intervals import PairedDifference, paired_difference
from binllm.tracking.folder import RunPaths
from binllm.tracking.measurement_tables import interval_text
from binllm.tracking.measurements import Measurement, TaskMeasurement, TextMeasurement, read_measurements
from binllm.tracking.tables import wide


def measurements_of(place: Path) -> list[Measurement]:
    """What was measured of a run's quantized model, or of whatever a folder of records belongs to.

    Args:
        place: Run folder, or a folder of records.

    Returns:
        Those of the quantized model where there are any, else those of the full-precision model.

    Raises:
        BinllmError: There are none, or one cannot be read.
    """
    if not place.is_dir():
        raise bad_value("RUN", place, "an existing run folder, or a folder of records")
    folder = RunPaths(place).evaluations if RunPaths(place).evaluations.is_dir() else place
    is_run = RunPaths(place).record.exists()
    found = [] if is_run and folder == place else list(read_measurements(folder))
    if not found:
        older = " (an older binllm kept no windows)" if is_run else ""
        raise BinllmError(f"{place}: has no measurements{older}; binllm-tools evaluate {place} makes them")
    return [one for one in found if one.origin.quantized] or found


def compare(first: Path, second: Path) -> None:
    """Print the paired differences of all that both places have, the second minus the first.

    Raises:
        BinllmError: They have nothing in common, or the same text with other tokens.
    """
    ones, twos = measurements_of(first), measurements_of(second)
    texts = [(one, two) for one, two in _pairs(ones, twos) if isinstance(one, TextMeasurement)]
    tasks = [(one, two) for one, two in _pairs(ones, twos) if isinstance(one, TaskMeasurement)]
    if not texts and not tasks:
        raise BinllmError(
            f"{first} and {second}: have no text and no task in common: {_has(ones)} against {_has(twos)}"
        )
    console = wide(Console())
    console.print(f"1: {first}\n2: {second}", highlight=False, markup=False, soft_wrap=True)
    if texts:
        console.print(_texts_table(texts))
    if tasks:
        console.print(_tasks_table(tasks))


def _pairs(ones: list[Measurement], twos: list[Measurement]) -> Iterator[tuple]:
    """Measurements of one thing, made in one dtype."""
    for one in ones:
        for two in twos:
            if _key(one) == _key(two) and one.origin.dtype == two.origin.dtype:
                if isinstance(one, TextMeasurement) and isinstance(two, TextMeasurement):
                    _check_same_tokens(one, two)
                yield one, two


def _key(one: Measurement) -> tuple:
    if isinstance(one, TextMeasurement):
        return (one.definition,)
    return one.task, one.source, one.limit, one.task_hash


def _check_same_tokens(one: TextMeasurement, two: TextMeasurement) -> None:
    if one.text_hash != two.text_hash or one.window_tokens != two.window_tokens:
        raise BinllmError(
            f"{one.definition}: the two models cut this text into other tokens, so their windows are not the same"
        )


def _has(found: list[Measurement]) -> str:
    return ", ".join(sorted({f"{_key(one)[0]} in {one.origin.dtype}" for one in found}))


def _texts_table(pairs: list[tuple[TextMeasurement, TextMeasurement]]) -> Table:
    table = Table(title="perplexity: 2 minus 1, 95 % bootstrap intervals over the same windows", box=box.SIMPLE_HEAVY)
    for heading in ("1", "2", "difference", "interval", "nats a token", "interval", "2 better", "", "definition"):
        table.add_column(heading, justify="left" if heading in ("", "definition") else "right")
    for one, two in pairs:
        found = paired_difference(one.window_nll, two.window_nll, one.window_tokens)
        cells = _difference_cells(found) if found else ["-"] * 5 + ["one window, or not finite"]
        table.add_row(f"{one.perplexity:,.2f}", f"{two.perplexity:,.2f}", *cells, one.definition)
    return table


def _difference_cells(found: PairedDifference) -> list[str]:
    low, high = found.nll_interval.low, found.nll_interval.high
    return [
        f"{found.perplexity:+,.2f}",
        interval_text(found.perplexity_interval),
        f"{found.nll:+.4f}",
        f"{low:+.4f} to {high:+.4f}",
        f"{found.better} of {found.windows}",
        "" if found.is_clear else "no clear difference",
    ]


def _tasks_table(pairs: list[tuple[TaskMeasurement, TaskMeasurement]]) -> Table:
    table = Table(title="zero-shot acc in percent: 2 minus 1 over the same examples", box=box.SIMPLE_HEAVY)
    for heading in ("task", "examples", "1", "2", "difference", "SE", ""):
        table.add_column(heading, justify="left" if heading in ("", "task") else "right")
    for one, two in sorted(pairs, key=lambda pair: pair[0].task):
        difference, error = paired_accuracy(one, two)
        values = [f"{100 * value:.1f}" for value in (one.metrics["acc"], two.metrics["acc"])]
        clear = "" if abs(difference) > 2 * error else "no clear difference"
        changes = (f"{100 * difference:+.1f}", f"{100 * error:.1f}")
        table.add_row(one.task, str(one.examples), *values, *changes, clear)
    return table


def paired_accuracy(one: TaskMeasurement, two: TaskMeasurement) -> tuple[float, float]:
    """Difference of acc (second minus first) and its standard error, from the differences of the examples."""
    differences = [b - a for a, b in zip(one.correct, two.correct, strict=True)]
    spread = statistics.stdev(differences) if len(differences) > 1 else math.nan
    return statistics.fmean(differences), spread / math.sqrt(len(differences))
