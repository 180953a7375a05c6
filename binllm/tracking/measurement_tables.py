"""Measurements as tables for people."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich import box
from rich.table import Table

from binllm.tracking.measurements import Interval, Measurement, TaskMeasurement, TextMeasurement

SEVEN = ("arc_easy", "arc_challenge", "piqa", "boolq", "hellaswag", "winogrande", "openbookqa")
"""The tasks of the published average of zero-shot accuracies."""
CHANCE_WIDTH = 2.0  # standard errors


def measurement_tables(measurements: Sequence[Measurement]) -> list[Table]:
    """Make the tables of what there is: one of texts, one of tasks for every model, dtype, source and limit."""
    texts = [one for one in measurements if isinstance(one, TextMeasurement)]
    tasks = [one for one in measurements if isinstance(one, TaskMeasurement)]
    groups: dict[tuple, list[TaskMeasurement]] = {}
    for one in tasks:
        local = one.source.split()[0]
        groups.setdefault((one.origin.model, one.origin.dtype, one.origin.kernel, local, one.limit), []).append(one)
    return ([texts_table(texts)] if texts else []) + [tasks_table(group) for group in groups.values()]


def texts_table(measurements: Sequence[TextMeasurement]) -> Table:
    """Make one row a text: perplexity, interval, definition."""
    table = Table(title="perplexity (95 % bootstrap interval over windows)", box=box.SIMPLE_HEAVY)
    for heading in ("", "computed in", "perplexity", "interval", "definition"):
        table.add_column(heading, justify="right" if heading in ("perplexity", "interval") else "left")
    for one in sorted(measurements, key=lambda one: (one.definition, one.origin.quantized)):
        model = model_kind(one)
        table.add_row(model, one.origin.dtype, f"{one.perplexity:,.2f}", interval_text(one.interval), one.definition)
    return table


def interval_text(interval: Interval | None) -> str:
    """Such as ``150.12 to 188.90``; a dash where there is none."""
    return f"{interval.low:,.2f} to {interval.high:,.2f}" if interval else "-"


def tasks_table(measurements: Sequence[TaskMeasurement]) -> Table:
    """Make one row a task, and the average of the seven where all of them are there."""
    first = measurements[0]
    amount = f"the first {first.limit} examples of each" if first.limit else "all examples"
    title = f"zero-shot, {model_kind(first)}, {first.origin.dtype}, {amount}, data: {first.source.split()[0]}"
    table = Table(title=title, box=box.SIMPLE_HEAVY)
    for heading in ("task", "examples", "acc", "SE", "guess", "constant", "acc_norm", "perplexity", ""):
        table.add_column(heading, justify="left" if heading in ("task", "") else "right")
    for one in sorted(measurements, key=lambda one: one.task):
        table.add_row(*task_cells(one))
    average = seven_task_average(measurements)
    if average is not None:
        accuracy, error, chance = average
        numbers = (_percent(accuracy), _percent(error), _percent(chance), "", "", "")
        table.add_row("average of seven", "", *numbers, at_chance(accuracy, error, chance))
    return table


def task_cells(one: TaskMeasurement) -> list[str]:
    """The cells of a task's row; accuracies in percent."""
    metrics, error = one.metrics, one.standard_errors.get("acc", math.nan)
    return [
        one.task,
        str(one.examples),
        _percent(metrics["acc"]),
        _percent(error),
        _percent(one.chance),
        _percent(one.constant),
        _percent(metrics["acc_norm"]) if "acc_norm" in metrics else "",
        f"{metrics['perplexity']:,.2f}" if "perplexity" in metrics else "",
        at_chance(metrics["acc"], error, one.chance) if one.chance else "",
    ]


def at_chance(accuracy: float, error: float, chance: float) -> str:
    """Say it where an accuracy is not above a uniform guess by more than two standard errors."""
    return "" if accuracy > chance + CHANCE_WIDTH * error else "not above chance"


def seven_task_average(measurements: Sequence[TaskMeasurement]) -> tuple[float, float, float] | None:
    """The mean acc of the seven tasks, its standard error and the mean of the chance levels.

    Args:
        measurements: Of one model on one kind of data, each task at most once.

    Returns:
        All between 0 and 1; None if one of the seven is missing. The tasks are independent samples, so the error is
        ``sqrt(sum of the squared errors) / 7``.
    """
    found = {one.task: one for one in measurements if one.task in SEVEN}
    if len(found) < len(SEVEN):
        return None
    count = len(SEVEN)
    accuracy = sum(one.metrics["acc"] for one in found.values()) / count
    error = math.sqrt(sum(one.standard_errors.get("acc", math.nan) ** 2 for one in found.values())) / count
    return accuracy, error, sum(one.chance for one in found.values()) / count


def model_kind(one: Measurement) -> str:
    """What was measured, in words."""
    return "quantized" if one.origin.quantized else "full precision"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"
