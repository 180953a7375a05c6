"""Runs to data frames: one row a run and metric; and one row a group of runs and metric, with spread and paired tests."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import pandas

from binllm.collect.paired import paired_over_seeds
from binllm.collect.runs import COMPLETE, CollectedRun
from binllm.evaluation.intervals import PairedDifference, paired_difference
from binllm.tracking.runs import NO_NUMBERS

KEYS = ["protocol", "group", "metric", "definition"]
SUMMARY = [
    *(*KEYS, "model", "method", "objective", "runs", "code", "mean", "spread", "is_reference"),
    *("seeds_in_common", "difference", "difference_se", "p_value"),
    *("windows", "windows_better", "nll_difference", "nll_low", "nll_high"),
]


def tidy(runs: Sequence[CollectedRun]) -> pandas.DataFrame:
    """One row for every run and metric; a run without a value has one row that says what became of it.

    Settings that are not the same in all runs are columns of text, named by their dotted keys.
    """
    differing = _differing(runs)
    rows = []
    for run in runs:
        about: dict[str, Any] = {
            "run_id": run.run_id,
            "folder": str(run.folder),
            "status": run.status,
            "note": run.note,
            "protocol": run.protocol if run.settings else "",
            "group": run.group if run.settings else "",
            "model": run.settings.get("model.name", ""),
            "method": run.settings.get("method", ""),
            "objective": run.settings.get("objective.name", ""),
            "seed": run.settings.get("seed"),
            "code": run.code,
            "config_hash": run.record.config_hash if run.record else "",
        }
        about |= {key: _text(run.settings[key]) if key in run.settings else None for key in differing}
        values = [*run.values()] or [("", "", math.nan)]
        rows += [about | {"metric": name, "definition": key, "value": value} for name, key, value in values]
    table = pandas.DataFrame(rows)
    return table.astype({"seed": "Int64", "value": "float64"})


def summary(runs: Sequence[CollectedRun], table: Any, reference: str | None = None) -> pandas.DataFrame:
    """One row for every group of runs that differ in seed only, and metric.

    Args:
        runs: All runs.
        table: What `tidy` made of them, a data frame.
        reference: Id of a run whose group the others of its protocol are tested against; by default, and in other
            protocols, the group with the lowest mean perplexity.

    Returns:
        Number of runs, mean, spread (sample standard deviation), and against the reference: the mean difference over
        the common seeds, its standard error and p of the paired t-test (two seeds and more); for perplexities the
        difference in nats a token over the common windows, with its 95 % bootstrap interval.
    """
    used = [run for run in runs if run.status == COMPLETE and not run.note]
    kept = table[(table["status"] == COMPLETE) & (table["note"] == "")]
    references = _references(kept, used, reference)
    rows = []
    for keys, part in kept.groupby(KEYS, sort=True):
        protocol, group, metric, definition = map(str, keys)
        row: dict[str, Any] = dict(zip(KEYS, keys, strict=True))
        row |= {"model": part["model"].iloc[0], "method": ", ".join(sorted(set(part["method"])))}
        row |= {"objective": part["objective"].iloc[0], "runs": len(part)}
        row |= {
            "code": ", ".join(sorted(set(part["code"]))),
            "mean": part["value"].mean(),
            "spread": part["value"].std(),
        }
        other = references.get(protocol)
        row["is_reference"] = group == other
        if other is not None and group != other:
            same = (kept["protocol"] == protocol) & (kept["metric"] == metric) & (kept["definition"] == definition)
            row |= _by_seeds(part, kept[same & (kept["group"] == other)])
            if metric == "perplexity":
                row |= _by_windows(used, (other, group), definition)
        rows.append(row)
    return pandas.DataFrame(rows, columns=SUMMARY)


def _references(kept: Any, used: Sequence[CollectedRun], reference: str | None) -> dict[str, str]:
    """The group that others are tested against, by protocol."""
    measured = kept[kept["metric"] == "perplexity"]
    means = measured.groupby(["protocol", "group"])["value"].mean().dropna().sort_values(kind="stable")
    found: dict[str, str] = {}
    for protocol, group in means.index:
        found.setdefault(str(protocol), str(group))
    chosen = [run for run in used if run.run_id == reference]
    return found | {run.protocol: run.group for run in chosen}


def _by_seeds(part: Any, other: Any) -> dict[str, float]:
    """The paired t-test over common seeds."""
    one, two = (dict(zip(frame["seed"], frame["value"], strict=True)) for frame in (part, other))
    paired = paired_over_seeds(one, two)
    if paired is None:
        return {}
    found = {"seeds_in_common": paired.seeds, "difference": paired.difference}
    if paired.standard_error is not None and paired.p_value is not None:
        found |= {"difference_se": paired.standard_error, "p_value": paired.p_value}
    return found


def _by_windows(used: Sequence[CollectedRun], groups: tuple[str, str], definition: str) -> dict[str, float]:
    """The paired bootstrap over windows of the mean over the common seeds."""
    reference, group = ({run.settings["seed"]: run for run in used if run.group == one} for one in groups)
    pairs = [
        (reference[seed].windows(definition), group[seed].windows(definition)) for seed in reference.keys() & group
    ]
    kept = [(a, b) for a, b in pairs if a and b and a.text_hash == b.text_hash and a.window_tokens == b.window_tokens]
    if not kept:
        return {}
    first, second = (_mean_windows(one[side].window_nll for one in kept) for side in (0, 1))
    found: PairedDifference | None = paired_difference(first, second, kept[0][0].window_tokens)
    if found is None:
        return {}
    interval = {"nll_low": found.nll_interval.low, "nll_high": found.nll_interval.high}
    return {"nll_difference": found.nll, **interval, "windows": found.windows, "windows_better": found.better}


def _mean_windows(models: Iterable[Sequence[float]]) -> list[float]:
    return [sum(values) / len(values) for values in zip(*models, strict=True)]


def _differing(runs: Sequence[CollectedRun]) -> list[str]:
    keys = {key for run in runs for key in run.settings if key.split(".")[0] not in (*NO_NUMBERS, "seed")}
    readable = [run.settings for run in runs if run.settings]
    return sorted(key for key in keys if len({_text(one[key]) if key in one else None for one in readable}) > 1)


def _text(value: object) -> str:
    return "" if value is None else str(value)
