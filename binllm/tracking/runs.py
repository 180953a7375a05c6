"""Complete run folders with their configuration in dotted keys, as tables, figures and reports read them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from binllm.errors import BinllmError
from binllm.tracking.folder import RunPaths
from binllm.tracking.naming import LEAVE_OUT
from binllm.tracking.records import BitsRecord, PerplexityRecord, Provenance, RunRecord, RunStatus
from binllm.tracking.settings import read_settings

PROTOCOL = ("model", "dataset", "evaluation")  # groups of the configuration that must agree within a table
NO_NUMBERS = (*LEAVE_OUT, "method", "diagnostics")  # groups that change no number


@dataclass(frozen=True)
class Run:
    """A complete run.

    Attributes:
        folder: The run folder.
        settings: Its configuration with dotted keys.
        full_precision: Measured before.
        quantized: Measured after.
        bits: Of the checkpoint.
        provenance: Where the numbers come from.
        record: The whole record.
    """

    folder: Path
    settings: dict[str, Any]
    full_precision: PerplexityRecord
    quantized: PerplexityRecord
    bits: BitsRecord
    provenance: Provenance
    record: RunRecord

    @property
    def seed(self) -> int:
        """Seed of the calibration draw."""
        return self.settings["seed"]

    def protocol(self) -> str:
        """What must be equal within a table, seeds apart, as text."""
        keys = {key: value for key, value in self.settings.items() if key.split(".")[0] in PROTOCOL}
        definitions = [self.full_precision.definition, self.quantized.definition]
        return json.dumps([definitions, keys], sort_keys=True, default=str)

    def method(self) -> dict[str, Any]:
        """What must be equal within a row, besides the protocol."""
        left_out = ("seed", *PROTOCOL, *NO_NUMBERS)
        return {key: value for key, value in self.settings.items() if key.split(".")[0] not in left_out}


def read_run(folder: Path) -> Run | None:
    """Read a run folder; None for a run that is not complete.

    Raises:
        BinllmError: A file cannot be read, or has another version.
    """
    paths = RunPaths(folder)
    record = paths.read_record()
    if record is None or record.status is not RunStatus.complete:
        return None
    full, quantized = record.results.full_precision, record.results.quantized
    if full is None or quantized is None or record.bits is None or record.provenance is None:
        raise BinllmError(f"{paths.record}: the run is complete but a result is missing")
    return Run(folder, read_settings(folder), full, quantized, record.bits, record.provenance, record)


def check_one_model(runs: Sequence[Run]) -> None:
    """Check that the runs of one protocol started from one model.

    Raises:
        BinllmError: Their full-precision perplexities differ.
    """
    wanted = runs[0].full_precision.perplexity
    for run in runs:
        found = run.full_precision.perplexity
        if not math.isclose(found, wanted, rel_tol=1e-4):
            raise BinllmError(
                f"{runs[0].folder} and {run.folder} have one protocol and full-precision perplexities "
                f"{wanted:.6g} and {found:.6g}: the model or the code changed in between"
            )
