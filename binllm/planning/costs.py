"""What a run costs: as measured before on this machine, else as its shapes say."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from omegaconf import OmegaConf

from binllm.data.config import TextConfig
from binllm.data.corpora import load_documents
from binllm.errors import BinllmError
from binllm.estimate import estimate
from binllm.identity import Identity
from binllm.models.geometry import geometry_of
from binllm.pipeline import pick_device
from binllm.schema import RunConfig
from binllm.tracking.provenance import cpu_model, device_name
from binllm.tracking.runs import Run, read_run
from binllm.tracking.settings import flatten

CHARACTERS_PER_TOKEN = 4.2  # of English text, to tell the number of windows of a whole text
BY_BLOCK = ("quantize", "diagnostics")  # phases of which a resumed run does not repeat finished blocks
NO_COST = ("paths", "tracker", "plugins", "zero_shot", "method", "seed")  # what two runs of one cost may differ in


@dataclass(frozen=True)
class Cost:
    """What a whole run costs.

    Attributes:
        seconds: By phase; empty if unknown.
        bytes: Highest resident memory; None if unknown.
        source: Where this is from, or why it is not known.
    """

    seconds: dict[str, float]
    bytes: float | None
    source: str

    def left(self, share: float) -> float | None:
        """Seconds that are left when a share of the blocks is done; None if unknown."""
        if not self.seconds:
            return None
        return sum(time * (1 - share if phase in BY_BLOCK else 1) for phase, time in self.seconds.items())


UNKNOWN = Cost({}, None, "")


class Costs:
    """Costs of runs, by what the complete runs of a results folder took.

    Args:
        results: Folder of run folders; it need not exist.
    """

    def __init__(self, results: Path):
        self._runs: dict[str, Run] = {}
        self._alike: dict[str, list[Run]] = defaultdict(list)
        for folder in sorted(path.parent for path in results.glob("*/run.json")):
            try:
                run = read_run(folder)
            except BinllmError:
                continue  # of another version; it cannot say what it took
            if run is not None and run.record.seconds:
                machine = (run.provenance.device, run.provenance.cpu, run.provenance.threads)
                self._runs[folder.name] = run
                self._alike[_key(run.settings, machine)].append(run)

    def of(self, one: Identity) -> Cost:
        """What a run costs: itself where it is complete, else the mean of those that differ in the seed."""
        config = one.config
        as_written = OmegaConf.to_container(OmegaConf.create(OmegaConf.to_yaml(one.resolved)))  # as in a run folder
        threads = config.threads or torch.get_num_threads()
        machine = (device_name(pick_device(config.device)), cpu_model(), threads)
        alike = self._alike.get(_key(flatten(as_written), machine), [])
        runs = [self._runs[one.name]] if one.name in self._runs else alike
        if runs:
            phases = sorted({phase for run in runs for phase in run.record.seconds})
            seconds = {phase: fmean(run.record.seconds.get(phase, 0.0) for run in runs) for phase in phases}
            peak = max(run.record.peak_memory_bytes for run in runs)
            return Cost(seconds, peak, f"measured, {len(runs)} {'run' if len(runs) == 1 else 'runs'}")
        return _from_shapes(config)


def _key(settings: Mapping[str, Any], machine: tuple[Any, ...]) -> str:
    left_out = NO_COST if settings.get("diagnostics.metrics") else (*NO_COST, "diagnostics")
    kept = {key: str(value) for key, value in settings.items() if key.split(".")[0] not in left_out}
    return json.dumps([kept, machine], sort_keys=True)


def _from_shapes(config: RunConfig) -> Cost:
    try:
        found = estimate(config, geometry_of(config.model), windows_of(config.evaluation))
    except BinllmError as error:
        return Cost({}, None, f"no estimate: {error}")
    if pick_device(config.device).type != "cpu":
        return Cost({}, None, "no estimate: no run on this GPU has been measured yet")
    if not found.seconds_by_phase:
        return Cost({}, found.bytes, f"memory estimated from shapes; no time for solver {config.solver.name}")
    return Cost(found.seconds_by_phase, found.bytes, "estimated from shapes")


def windows_of(config: Any) -> int:
    """How many windows an evaluation has; told from the length of the text where it is all of them.

    Raises:
        BinllmError: The text cannot be read.
    """
    return config.windows or max(
        1, math.floor(_characters(config) / CHARACTERS_PER_TOKEN / (config.stride or config.window))
    )


@cache
def _characters(config: TextConfig) -> int:
    return sum(map(len, load_documents(config, "evaluation").texts))
