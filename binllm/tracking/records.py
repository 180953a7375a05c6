"""The typed records of a run: one line of ``layers.jsonl`` per layer, one ``run.json`` per run.

Energies and objective values are means per token (an objective Q includes its constant, so it is the mean
squared error it stands for). Sizes are bytes unless the name says bits; times are wall-clock seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Any, ClassVar, Self

from binllm.errors import BinllmError
from binllm.tracking.json_codec import decode, encode

FORMAT_VERSION = 1


def utc_now() -> str:
    """Return the current time as ISO 8601 text in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class RunStatus(Enum):
    """What became of a run. A killed run still says ``running``; nobody holds its lock then."""

    running = "running"
    complete = "complete"
    failed = "failed"


class JsonRecord:
    """Round trip of a dataclass through plain JSON values."""

    VERSION: ClassVar[int | None] = None

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON values, fields in the order of their definition."""
        return encode(self)

    @classmethod
    def from_json(cls, data: Any, where: str | None = None) -> Self:
        """Build the record from what ``json.loads`` returned.

        Args:
            data: The JSON object.
            where: Names the source in error messages; the class name by default.

        Returns:
            The record.

        Raises:
            BinllmError: Another format version, an unknown or missing field, or a wrong type.
        """
        where = where or cls.__name__
        found = data.get("version") if isinstance(data, dict) else None
        if cls.VERSION is not None and found is not None and found != cls.VERSION:
            raise BinllmError(
                f"{where}: format version {found}, this binllm reads version {cls.VERSION}; "
                "use the binllm that wrote it, or another paths.results"
            )
        return decode(cls, data, where)


@dataclass(frozen=True, kw_only=True)
class LayerRecord(JsonRecord):
    """What happened to one linear layer.

    Attributes:
        version: Format version.
        block: Index of the decoder block, from 0.
        layer: Name inside the block, for example ``mlp.down_proj``; of layers fitted as one, their names joined by ``+``.
        role: Layer role: q, k, v, o, gate, up, down, fc1, fc2, qkv, gate_up; joined likewise.
        objective: Name of the objective that the layer was fitted to.
        n_out: Output features.
        n_in: Input features.
        q_before: Q without what the fits gained over each block's first feasible code (the nearest sign code).
        q_after: Q of the code that was kept.
        relative_error_weight: ``‖W - Ŵ‖² / ‖W‖²``.
        relative_error_target: q_after over the energy of the objective's target.
        ridge: Ridge that was used, relative to the metric's mean diagonal; 0 for none.
        recoveries: How often a factorisation had to be repaired.
        amp_accepted: Entries updated under the AMP rule.
        amp_rejected: Entries that the AMP rule held back.
        amp_raised_q: Masked updates that raised Q.
        sweeps: Rounds of the solver.
        status: The solver's status.
        seconds: Time for this layer.
        peak_memory_bytes: Highest resident memory of the process while the layer was fitted.
        payload_bits: Bits of the sign planes.
        stored_bits: Bits of everything needed to rebuild the layer's weight.
        diagnostics: Further numbers by stable name.
    """

    VERSION: ClassVar[int | None] = FORMAT_VERSION

    version: int = FORMAT_VERSION
    block: int
    layer: str
    role: str
    objective: str
    n_out: int
    n_in: int
    q_before: float
    q_after: float
    relative_error_weight: float
    relative_error_target: float
    ridge: float = 0.0
    recoveries: int = 0
    amp_accepted: int = 0
    amp_rejected: int = 0
    amp_raised_q: int = 0
    sweeps: int = 0
    status: str
    seconds: float
    peak_memory_bytes: int
    payload_bits: int
    stored_bits: int
    diagnostics: dict[str, float] = field(default_factory=dict)

    @property
    def layers(self) -> dict[str, str]:
        """Roles of the layers by name: one, or several that were fitted as one."""
        return dict(zip(self.layer.split("+"), self.role.split("+"), strict=True))


@dataclass(frozen=True, kw_only=True)
class PerplexityRecord(JsonRecord):
    """A perplexity together with everything that defines it.

    Attributes:
        perplexity: exp of the mean negative log likelihood per predicted token.
        definition: Key with corpus, split, window, stride, count, BOS policy and convention.
        windows: Windows that were evaluated.
        tokens: Tokens that the mean divides by.
        nll_mean: Mean negative log likelihood in nats.
        seconds: Time for the evaluation.
    """

    perplexity: float
    definition: str
    windows: int
    tokens: int
    nll_mean: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class BitsRecord(JsonRecord):
    """Bits per weight at the levels of the docs, and the bytes of the written tensors they come from.

    Attributes:
        nominal: What the literature would quote, per weight of the quantized layers.
        payload: Sign planes, per weight of the quantized layers.
        linear: Everything stored for the quantized layers, per weight of them.
        model: The whole model's tensors, per parameter.
        payload_bytes: Bytes behind `payload`.
        linear_bytes: Bytes behind `linear`.
        model_bytes: Bytes behind `model`.
    """

    nominal: float
    payload: float
    linear: float
    model: float
    payload_bytes: int
    linear_bytes: int
    model_bytes: int


@dataclass(frozen=True, kw_only=True)
class ResultsRecord(JsonRecord):
    """The two measurements that every run makes with the same function; None until measured."""

    full_precision: PerplexityRecord | None = None
    quantized: PerplexityRecord | None = None


@dataclass(frozen=True, kw_only=True)
class Provenance(JsonRecord):
    """Where a result comes from.

    Attributes:
        git_commit: Commit of the checkout that the package runs from; None for an installed wheel.
        git_dirty: Whether package or configuration differ from that commit; None without a checkout.
        versions: Versions of Python and of the libraries that numbers depend on.
        platform: Operating system and machine.
        cpu: CPU model.
        device: Name of the device that computed.
        threads: CPU threads of torch.
        seeds: Every seed by name.
        calibration_hash: SHA-256 of the calibration token ids.
        checkpoint_hash: SHA-256 of the written checkpoint; None until it is written.
    """

    git_commit: str | None
    git_dirty: bool | None
    versions: dict[str, str]
    platform: str
    cpu: str
    device: str
    threads: int
    seeds: dict[str, int]
    calibration_hash: str
    checkpoint_hash: str | None = None


@dataclass(frozen=True, kw_only=True)
class RunRecord(JsonRecord):
    """The whole run: ``run.json``.

    Attributes:
        version: Format version.
        run_id: Name of the run folder.
        status: running, complete or failed.
        results: Full-precision and quantized perplexity.
        bits: Bits per weight; None until the checkpoint is written.
        provenance: Where the numbers come from; None before the inputs are loaded.
        seconds: Time by phase.
        peak_memory_bytes: Highest resident memory of the whole process.
        phase_peak_memory_bytes: Highest resident memory by phase.
        config_hash: Hash of the resolved configuration.
        error: Message of the error that ended a failed run.
        tracker_error: Why the W&B export failed, if it did; the run itself is not affected.
        started: ISO 8601 time, UTC.
        finished: ISO 8601 time, UTC; None while running.
    """

    VERSION: ClassVar[int | None] = FORMAT_VERSION

    version: int = FORMAT_VERSION
    run_id: str
    status: RunStatus = RunStatus.running
    results: ResultsRecord = field(default_factory=ResultsRecord)
    bits: BitsRecord | None = None
    provenance: Provenance | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    peak_memory_bytes: int = 0
    phase_peak_memory_bytes: dict[str, int] = field(default_factory=dict)
    config_hash: str = ""
    error: str | None = None
    tracker_error: str | None = None
    started: str = field(default_factory=utc_now)
    finished: str | None = None
