"""Run folders side by side: what a figure or a report is made of.

The series of a run are one tidy table in the form of `binllm.diagnostics.table`: its ``diagnostics.parquet``, and from
``layers.jsonl`` the numbers of every layer (as ``layer/<field>``) and those of its diagnostics that the first does not hold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from binllm.diagnostics.table import Row, read_diagnostics, to_table
from binllm.errors import BinllmError, bad_value
from binllm.tracking.folder import RunPaths
from binllm.tracking.inspect import status_line
from binllm.tracking.records import LayerRecord
from binllm.tracking.runs import NO_NUMBERS, Run, check_one_model, read_run

LAYER_NUMBERS = ("relative_error_weight", "relative_error_target", "q_before", "q_after", "amp_rejected", "seconds")
MODEL_KEYS = ("model.name", "model.id", "model.path")
NAMES = ("objective.name", "binarization.name", "solver.name", "asymmetric.name", "dataset.name", "seed")
OWN_PRESETS = ("best", "paper")  # bases of comparisons of objectives, so their name says less than the objective's
MANY = 3  # differing settings that a label lists; with more it is numbered


@dataclass(frozen=True)
class Subject:
    """A run with its series.

    Attributes:
        order: Its place in the comparison, which decides its colour.
        label: Short and unique in the comparison.
        run: The complete run.
        layers: Its layer records, in order.
        series: Its table.
    """

    order: int
    label: str
    run: Run
    layers: Sequence[LayerRecord]
    series: pd.DataFrame

    @property
    def last_layer(self) -> str:
        """The last linear layer of a block, whose output goes into the residual stream."""
        return [one.layer for one in self.layers if one.block == self.layers[0].block][-1]

    def metric(self, name: str, layer: str | None = None) -> pd.DataFrame:
        """The rows of a metric; with ``layer`` of that layer only, "" for the whole block."""
        chosen = self.series["metric"] == name
        return cast(pd.DataFrame, self.series[chosen if layer is None else chosen & (self.series["layer"] == layer)])

    def has(self, name: str) -> bool:
        """Whether the run has a finite value of a metric."""
        return bool(self.metric(name)["value"].notna().any())

    def by_block(self, name: str, layer: str | None = None) -> pd.DataFrame:
        """Median, quartiles, least and largest finite value of each block, indexed by the block."""
        finite = self.metric(name, layer).dropna(subset="value")
        values = finite.groupby("block")["value"]
        parts = {"least": 0.0, "lower": 0.25, "median": 0.5, "upper": 0.75, "largest": 1.0}
        return pd.DataFrame({name: values.quantile(part) for name, part in parts.items()})


@dataclass(frozen=True)
class Comparison:
    """Complete runs of one model, measured alike."""

    subjects: Sequence[Subject]

    @property
    def metrics(self) -> list[str]:
        """Names of all series, sorted."""
        return sorted({name for one in self.subjects for name in one.series["metric"].unique()})

    def having(self, *names: str) -> Comparison:
        """Only the runs that have all these metrics."""
        return Comparison([one for one in self.subjects if all(one.has(name) for name in names)])


def read_comparison(folders: Sequence[Path]) -> Comparison:
    """Read run folders.

    Raises:
        BinllmError: A folder holds no complete run, a file cannot be read, a run is given twice, or the runs are of
            different models or measured by different definitions.
    """
    runs = [_complete(folder) for folder in folders]
    for run in runs:
        if sum(other.record.run_id == run.record.run_id for other in runs) > 1:
            raise BinllmError(f"RUN = {run.folder}: {run.record.run_id} is given twice")
        _check_comparable(runs[0], run)
    check_one_model(runs)
    subjects = []
    for order, (run, label) in enumerate(zip(runs, labels([run.settings for run in runs]), strict=True)):
        layers = RunPaths(run.folder).read_layers()
        if not layers:
            raise bad_value("RUN", run.folder, "a run folder with layer records; layers.jsonl is missing or empty")
        subjects.append(Subject(order, label, run, layers, _series(run.folder, layers)))
    return Comparison(subjects)


def _complete(folder: Path) -> Run:
    paths = RunPaths(folder)
    if not folder.is_dir():
        raise bad_value("RUN", folder, "an existing run folder")
    record = paths.read_record()
    if record is None:
        raise bad_value("RUN", folder, "a run folder; this one has no run.json")
    run = read_run(folder)
    if run is None:
        raise BinllmError(f"RUN = {folder}: allowed is a complete run; this one is: {status_line(paths, record)}")
    return run


def _check_comparable(first: Run, other: Run) -> None:
    models = [[run.settings.get(key) for key in MODEL_KEYS] for run in (first, other)]
    if models[0] != models[1]:
        names = [next(str(part) for part in reversed(model) if part) for model in models]
        raise BinllmError(
            f"runs of different models cannot be compared: {first.folder} is of {names[0]}, {other.folder} of {names[1]}"
        )
    definitions = [run.quantized.definition for run in (first, other)]
    if definitions[0] != definitions[1]:
        raise BinllmError(
            f"perplexities of different definitions cannot be compared: {first.folder} has {definitions[0]}, "
            f"{other.folder} has {definitions[1]}"
        )


def labels(settings: Sequence[dict[str, Any]]) -> list[str]:
    """Short unique names of runs: the preset of a published method or else the objective, then what sets those apart.

    Args:
        settings: Configurations with dotted keys.

    Returns:
        A label each, such as ``proposed``, ``interpolated block_size=64``.
    """
    found = [_name(one) for one in settings]
    shared = Counter(found)
    alike = {name: [one for one in settings if _name(one) == name] for name in shared}
    return [
        name if shared[name] == 1 else f"{name} {_apart(own, alike[name])}"
        for own, name in zip(settings, found, strict=True)
    ]


def _name(settings: dict[str, Any]) -> str:
    method = settings.get("method")
    return str(settings["objective.name"] if method in (None, *OWN_PRESETS) else method)


def _apart(own: dict[str, Any], alike: Sequence[dict[str, Any]]) -> str:
    """The settings of one configuration that are not the same in all of them: names first, then single keys."""
    keys = [
        key for key in own if key.split(".")[0] not in NO_NUMBERS and any(one.get(key) != own[key] for one in alike)
    ]
    named = {key.split(".")[0] for key in keys if key in NAMES and key != "seed"}
    shown = [key for key in keys if key in NAMES or key.split(".")[0] not in named]
    words = [_word(key, own[key]) for key in shown]
    texts = [" ".join(_word(key, one.get(key)) for key in shown) for one in alike]
    unique = texts.count(" ".join(words)) == 1
    return " ".join(words) if unique and len(words) <= MANY else _numbered(own, alike, words)


def _word(key: str, value: Any) -> str:
    if key in NAMES and key != "seed":
        return str(value)
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return f"{key.rpartition('.')[2]}={text}"


def _numbered(own: dict[str, Any], alike: Sequence[dict[str, Any]], words: Sequence[str]) -> str:
    """The first differing settings and the place among those alike."""
    return " ".join([*words[: MANY - 1], f"({1 + next(i for i, one in enumerate(alike) if one is own)})"])


def _series(folder: Path, layers: Sequence[LayerRecord]) -> pd.DataFrame:
    tables = [read_diagnostics(folder)] if RunPaths(folder).diagnostics.exists() else []
    known = {name for table in tables for name in table["metric"]}
    series = pd.concat([*tables, to_table(_layer_rows(layers, known))], ignore_index=True)
    series["value"] = series["value"].where(np.isfinite(series["value"]))  # a ratio to nothing is infinite
    return series


def _layer_rows(layers: Iterable[LayerRecord], known: set[str]) -> Iterator[Row]:
    for one in layers:
        numbers = {f"layer/{name}": getattr(one, name) for name in LAYER_NUMBERS}
        numbers |= {name: value for name, value in one.diagnostics.items() if name not in known}
        for name, value in numbers.items():
            yield Row(one.block, one.layer, one.role, name, 0, value)
