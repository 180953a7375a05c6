"""Every run folder below a folder, whatever became of it: what can be read, and why something cannot."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from binllm.errors import BinllmError
from binllm.tracking.folder import RunPaths
from binllm.tracking.measurements import Measurement, TaskMeasurement, TextMeasurement, read_measurements
from binllm.tracking.naming import config_hash
from binllm.tracking.records import RunRecord, RunStatus
from binllm.tracking.runs import NO_NUMBERS
from binllm.tracking.settings import read_settings

PROTOCOL = ("model", "dataset", "evaluation")  # groups of the configuration that must agree to be compared
COMPLETE = "complete"


@dataclass(frozen=True)
class CollectedRun:
    """A run folder.

    Attributes:
        folder: Where it is.
        status: complete, failed, running, interrupted or unreadable.
        note: Why it has no part in the summary; empty for a run that has.
        settings: Its configuration with dotted keys; empty if unreadable.
        record: Its record, if it can be read.
        measurements: What is in its ``evaluations``, of the quantized model.
    """

    folder: Path
    status: str
    note: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    record: RunRecord | None = None
    measurements: list[Measurement] = field(default_factory=list)

    @property
    def run_id(self) -> str:
        """Name of the run; of the folder where there is no record."""
        return self.record.run_id if self.record else self.folder.name

    @property
    def code(self) -> str:
        """Commit or version of the code that made it; empty where it is not recorded."""
        made = self.record.provenance if self.record else None
        if made is None:
            return ""
        if made.git_commit is None:
            return f"binllm {made.versions.get('binllm', 'unknown')}"
        return made.git_commit[:12] + (" with changes" if made.git_dirty else "")

    @property
    def protocol(self) -> str:
        """Equal for runs that may be compared: same model, texts and windows."""
        return _digest({key: value for key, value in self.settings.items() if key.split(".")[0] in PROTOCOL})

    @property
    def group(self) -> str:
        """Equal for runs that differ in seed only."""
        kept = {key: value for key, value in self.settings.items() if key.split(".")[0] not in (*NO_NUMBERS, "seed")}
        return _digest(kept)

    def values(self) -> Iterator[tuple[str, str, float]]:
        """Everything that was measured: (metric, definition or empty, value)."""
        if self.record is None:
            return
        results, bits = self.record.results, self.record.bits
        own = results.quantized.definition if results.quantized else None
        if results.full_precision:
            yield "full_precision_perplexity", results.full_precision.definition, results.full_precision.perplexity
        if results.quantized:
            yield "perplexity", results.quantized.definition, results.quantized.perplexity
        if bits:
            for name, value in (("nominal", bits.nominal), ("payload", bits.payload), ("linear", bits.linear)):
                yield f"{name}_bits", "", value
            yield "model_bytes", "", float(bits.model_bytes)
        for phase, seconds in self.record.seconds.items():
            yield f"{phase}_seconds", "", seconds
        yield "peak_memory_bytes", "", float(self.record.peak_memory_bytes)
        for one in self.measurements:
            if isinstance(one, TaskMeasurement):
                amount = f"limit={one.limit}" if one.limit else "all"
                for metric, value in one.metrics.items():
                    yield metric, f"{one.task}/{one.source.split()[0]}/{amount}/{one.origin.dtype}", value
            elif one.definition != own:
                yield "perplexity", one.definition, one.perplexity

    def windows(self, definition: str) -> TextMeasurement | None:
        """The windows of a perplexity of the quantized model, where they were kept."""
        texts = (one for one in self.measurements if isinstance(one, TextMeasurement))
        return next((one for one in texts if one.definition == definition), None)


def find_runs(results: Path) -> list[CollectedRun]:
    """Read all run folders below a folder; one that cannot be read stops nothing.

    Two folders with one run id are marked, all of them where different code made them, else all but the first.
    """
    places = {file.parent for file in results.rglob("run.json")}
    places |= {file.parent.parent for file in results.rglob("state/state.json")}
    runs = [_read(place) for place in sorted(places)]
    by_id: dict[str, list[int]] = defaultdict(list)
    for place, run in enumerate(runs):
        if run.status == COMPLETE:
            by_id[run.run_id].append(place)
    for places_of_id in by_id.values():
        codes = {runs[place].code for place in places_of_id}
        marked = places_of_id[1:] if len(codes) == 1 else places_of_id
        note = (
            "a copy of another folder"
            if len(codes) == 1
            else f"one id, made by different code: {', '.join(sorted(codes))}"
        )
        for place in marked:
            runs[place] = replace(runs[place], note=note)
    return runs


def _read(folder: Path) -> CollectedRun:
    paths = RunPaths(folder)
    try:
        record = paths.read_record()
        settings = read_settings(folder)
        measured = [one for one in read_measurements(paths.evaluations) if one.origin.quantized]
    except BinllmError as error:
        return CollectedRun(folder, "unreadable", str(error))
    if record is not None and record.status is RunStatus.complete:
        return CollectedRun(folder, COMPLETE, "", settings, record, measured)
    if record is not None and record.status is RunStatus.failed:
        return CollectedRun(folder, "failed", record.error or "no message", settings, record)
    holder = paths.holder()
    status, note = ("running", holder) if holder else ("interrupted", "the same command resumes it")
    return CollectedRun(folder, status, note, settings, record)


def _digest(settings: dict[str, Any]) -> str:
    return config_hash({key: str(value) for key, value in settings.items()}, leave_out=())
