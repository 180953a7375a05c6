"""What ``conf/experiment/baselines*.yaml`` sweep over, and which run folders hold it.

A run belongs to a combination if its whole configuration is what binllm would compose for that combination, so runs of
another protocol, or of a preset with a changed option, never get in; what no run holds is absent, with the reason.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from binllm.configuration import compose_run
from binllm.errors import bad_value
from binllm.launching import parsed
from binllm.tracking.folder import RunPaths
from binllm.tracking.naming import LEAVE_OUT
from binllm.tracking.records import RunStatus
from binllm.tracking.runs import Run, check_one_model, read_run
from binllm.tracking.settings import flatten, read_settings
from experiments.baselines.methods import ASYMMETRIC
from experiments.common.runs import check_same

EXPERIMENTS = ("baselines", "baselines_asymmetric", "baselines_seeds")
SWEPT = {"method": "best", "asymmetric": "none", "seed": "0"}  # with what they are in config.yaml


@dataclass(frozen=True)
class Combination:
    """One job of the sweeps.

    Attributes:
        experiment: The overlay that has it.
        method: Preset.
        asymmetric: Asymmetric calibration, ``none`` for none.
        seed: Seed of the calibration draw.
    """

    experiment: str
    method: str
    asymmetric: str
    seed: int


@cache
def settings_of(combination: Combination, overrides: tuple[str, ...] = ()) -> dict[str, Any]:
    """What decides the numbers in the configuration that a run leaves in its folder, with dotted keys."""
    swept = [f"{key}={getattr(combination, key)}" for key in SWEPT]
    composed = compose_run([f"experiment={combination.experiment}", *swept, *overrides])
    written = OmegaConf.create(OmegaConf.to_yaml(composed, resolve=True))  # what YAML makes of it, as in the folder
    return numbers(flatten(OmegaConf.to_container(written)))


@dataclass(frozen=True)
class Absent:
    """A combination without a complete run: ``status`` is missing, unfinished or failed; ``error`` says why it failed."""

    combination: Combination
    status: str
    error: str = ""


@dataclass
class Row:
    """The runs of one method, which differ in seed only.

    Attributes:
        method: Preset.
        asymmetric: Asymmetric calibration, ``none`` for none.
        runs: Complete runs in order of seed.
        absent: The other seeds of the sweeps.
    """

    method: str
    asymmetric: str
    runs: list[Run] = field(default_factory=list)
    absent: list[Absent] = field(default_factory=list)

    @property
    def label(self) -> str:
        """Such as ``billm`` or ``billm + QEP``."""
        return self.method + (f" + {ASYMMETRIC[self.asymmetric]}" if self.asymmetric != "none" else "")

    @property
    def perplexities(self) -> list[float]:
        """Of the quantized model, a value a seed."""
        return [run.quantized.perplexity for run in self.runs]

    @property
    def perplexity(self) -> float:
        """Mean over the seeds; infinite where it is no number or there is no run."""
        mean = statistics.fmean(self.perplexities) if self.runs else math.inf
        return mean if math.isfinite(mean) else math.inf

    @property
    def stored_bits(self) -> float:
        """Mean over the seeds, bits per weight of the quantized layers."""
        return statistics.fmean(run.bits.linear for run in self.runs)


def numbers(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that decide a run's numbers."""
    return {key: value for key, value in settings.items() if key.split(".")[0] not in (*LEAVE_OUT, "diagnostics")}


@cache
def combinations() -> tuple[Combination, ...]:
    """All jobs of the sweeps, each once, in order of the overlays."""
    found: dict[tuple[str, ...], Combination] = {}
    for experiment in EXPERIMENTS:
        with parsed([f"experiment={experiment}"]) as said:
            jobs = [dict(word.split("=", 1) for word in job) for job in said.jobs()]
        for job in jobs:
            method, asymmetric, seed = chosen = tuple(job.get(key, usual) for key, usual in SWEPT.items())
            found.setdefault(chosen, Combination(experiment, method, asymmetric, int(seed)))
    return tuple(found.values())


def collect(results: Path, overrides: Sequence[str] = ()) -> list[Row]:
    """Find the runs of the sweeps.

    Args:
        results: Folder of run folders.
        overrides: What was given to binllm besides the experiment, such as ``model=llama2_7b``.

    Returns:
        Rows by ascending perplexity, then those without a run in order of the sweeps.

    Raises:
        BinllmError: An override sets what the experiments sweep, there is no complete run, a file cannot be read, or runs
            contradict each other.
    """
    for override in overrides:
        if override.lstrip("+~").partition("=")[0] in (*SWEPT, "experiment"):
            raise bad_value("OVERRIDE", override, "a key that the experiments do not sweep")
    folders = _folders(results)
    rows: dict[tuple[str, str], Row] = {}
    for combination in combinations():
        key = (combination.method, combination.asymmetric)
        row = rows.setdefault(key, Row(*key))
        candidates = folders.get((*key, combination.seed), {})
        found = _find(combination, candidates, overrides)
        if isinstance(found, Run):
            row.runs.append(found)
        else:
            row.absent.append(found)
    runs = [run for row in rows.values() for run in row.runs]
    if not runs:
        raise bad_value("RESULTS", results, f"a folder with a complete run of {', '.join(EXPERIMENTS)}")
    check_one_model(runs)
    return sorted(rows.values(), key=lambda row: (not row.runs, row.perplexity))


def _folders(results: Path) -> dict[tuple[Any, ...], dict[Path, dict[str, Any]]]:
    """Run folders with their settings, by what the experiments sweep."""
    found: dict[tuple[Any, ...], dict[Path, dict[str, Any]]] = defaultdict(dict)
    for folder in sorted(path.parent for path in results.glob("*/run.json")):
        settings = numbers(read_settings(folder))
        key = (settings.get("method"), settings.get("asymmetric.name", "none"), settings.get("seed"))
        found[key][folder] = settings
    return found


def _find(
    combination: Combination, candidates: Mapping[Path, dict[str, Any]], overrides: Sequence[str]
) -> Run | Absent:
    if not candidates:  # composing is slow, so not before there is something to compare with
        return Absent(combination, "missing")
    wanted = settings_of(combination, tuple(overrides))
    folders = [folder for folder, settings in candidates.items() if settings == wanted]
    runs = [run for run in map(read_run, folders) if run is not None]
    for run in runs:
        check_same(runs[0], run)
    if runs:
        return runs[0]
    for folder in folders:
        record = RunPaths(folder).read_record()
        if record is not None and record.status is RunStatus.failed:
            return Absent(combination, "failed", " ".join((record.error or "no message").split()))
    return Absent(combination, "unfinished" if folders else "missing")


def near_misses(results: Path, rows: Sequence[Row], overrides: Sequence[str]) -> list[str]:
    """Say of missing combinations which run has the same preset and seed, and in which keys it differs."""
    folders, said = _folders(results), []
    for absent in (absent for row in rows for absent in row.absent if absent.status == "missing"):
        one = absent.combination
        candidates = folders.get((one.method, one.asymmetric, one.seed), {})
        wanted = settings_of(one, tuple(overrides)) if candidates else {}
        differing = [
            (sorted(key for key in wanted | settings if wanted.get(key) != settings.get(key)), folder)
            for folder, settings in candidates.items()
        ]
        if differing:
            keys, folder = min(differing, key=lambda pair: len(pair[0]))
            said.append(f"{one.method}, seed {one.seed}: no run; {folder} differs in {', '.join(keys)}")
    return said
