"""Run folders as the rows of an experiment: runs that differ in seed only are one row, other protocols another section."""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from binllm.collect.runs import COMPLETE, CollectedRun
from binllm.tables.sweeps import Experiment
from binllm.tracking.measurement_tables import seven_task_average
from binllm.tracking.measurements import TaskMeasurement


@dataclass
class Row:
    """The runs of one setting.

    Attributes:
        label: Of the setting.
        values: What is compared, a value a seed.
        runs: The runs, by seed.
    """

    label: str
    values: dict[int, float] = field(default_factory=dict)
    runs: dict[int, CollectedRun] = field(default_factory=dict)

    @property
    def codes(self) -> list[str]:
        """Versions of the code that made the runs."""
        return sorted({run.code for run in self.runs.values()})

    def mean_of(self, metric: str) -> float | None:
        """Mean over the seeds of another measured number; None where no run has it."""
        found = [value for run in self.runs.values() for name, _, value in run.values() if name == metric]
        return statistics.fmean(found) if found else None


@dataclass
class Section:
    """Rows that may be compared: one experiment, one model, one protocol, one definition of what is measured.

    Attributes:
        experiment: What it tests.
        protocol: What a person chose: model, text, windows, machine; dotted keys.
        definition: Of the perplexity; empty for times.
        rows: In the order of the sweep; settings without a run are left out.
        full_precision: Perplexity before; None where it was not measured by this definition.
    """

    experiment: Experiment
    protocol: Mapping[str, str]
    definition: str
    rows: list[Row]
    full_precision: float | None = None

    @property
    def model(self) -> str:
        """Short name of the model."""
        return model_of(self.protocol)

    @property
    def runs(self) -> list[CollectedRun]:
        """All runs."""
        return [run for row in self.rows for run in row.runs.values()]

    def row(self, label: str) -> Row | None:
        """The row of a setting."""
        return next((row for row in self.rows if row.label == label), None)


def model_of(settings: Mapping[str, str]) -> str:
    """Short name of the model of a run's configuration: the last part of its hub id or folder, or else its own name."""
    places = (settings.get(f"model.{key}", "None") for key in ("id", "path"))
    place = next((place for place in places if place != "None"), settings.get("model.name", "?"))
    return place.rstrip("/").rsplit("/", 1)[-1]


def seeds_text(section: Section) -> str:
    """How many seeds its rows have: ``3``, or ``1 to 3``."""
    counts = sorted({len(row.values) for row in section.rows})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def usable(runs: Iterable[CollectedRun]) -> list[CollectedRun]:
    """The runs that a table may use."""
    return [run for run in runs if run.status == COMPLETE and not run.note]


def sections_of(experiment: Experiment, runs: Sequence[CollectedRun]) -> tuple[list[Section], list[str]]:
    """Sort runs into the sections of an experiment.

    Args:
        experiment: Which.
        runs: Runs that a table may use.

    Returns:
        The sections, those with most rows first, and a line for every run that is left out because another folder has the
        same configuration and seed with another result.
    """
    found: dict[tuple[str, str], dict[str, Row]] = defaultdict(dict)
    clashes: dict[tuple[str, str, int], list[CollectedRun]] = defaultdict(list)
    metric = experiment.claim.measures
    for run in runs:
        setting = experiment.setting_of(run.settings)
        if setting is None:
            continue
        protocol, seed = json.dumps(experiment.protocol_of(run.settings), sort_keys=True), int(run.settings["seed"])
        for name, definition, value in run.values():
            if name != metric or not definition.startswith(experiment.claim.corpus):
                continue
            row = found[protocol, definition].setdefault(setting.label, Row(setting.label))
            first, held = row.runs.setdefault(seed, run), row.values.setdefault(seed, value)
            if first is not run and held != value and not math.isnan(value):
                clashes[protocol, setting.label, seed] += [first, run]
    for (protocol, label, seed), _ in clashes.items():
        for (other, _), rows in found.items():
            if other == protocol and label in rows:
                rows[label].values.pop(seed, None)
                rows[label].runs.pop(seed, None)
    sections = [_section(experiment, *key, rows) for key, rows in found.items()]
    sections = [one for one in sections if one.rows]
    said = [
        f"{experiment.claim.experiment}: one configuration and seed, different results, none is used: "
        + ", ".join(sorted({str(run.folder) for run in both}))
        for both in clashes.values()
    ]
    return sorted(sections, key=lambda one: (-len(one.rows), one.model, one.definition)), said


def _section(experiment: Experiment, protocol: str, definition: str, rows: Mapping[str, Row]) -> Section:
    order = [setting.label for setting in experiment.settings]
    kept = sorted((row for row in rows.values() if row.values), key=lambda row: order.index(row.label))
    section = Section(experiment, json.loads(protocol), definition, kept)
    full = {
        value
        for run in section.runs
        for name, key, value in run.values()
        if (name, key) == ("full_precision_perplexity", definition)
    }
    section.full_precision = statistics.fmean(full) if full else None
    return section


def accuracy_of(run: CollectedRun) -> tuple[float, str] | None:
    """Mean accuracy over the seven tasks of the published average, percent, and how many examples of each; or None."""
    tasks = [one for one in run.measurements if isinstance(one, TaskMeasurement)]
    for limit in sorted({one.limit for one in tasks}, key=lambda limit: -(limit or 10**9)):
        average = seven_task_average([one for one in tasks if one.limit == limit])
        if average is not None:
            return 100 * average[0], f"the first {limit} examples of each" if limit else "all examples"
    return None
