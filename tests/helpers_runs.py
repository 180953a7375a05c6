"""Made-up run folders, as a run leaves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from binllm.tracking.atomic import write_json, write_text
from binllm.tracking.records import (
    BitsRecord,
    PerplexityRecord,
    Provenance,
    ResultsRecord,
    RunRecord,
    RunStatus,
)

WEIGHTS, REST_BYTES = 100_000_000, 57_000_000  # of the made-up model: quantized weights, bytes of all else
PARAMETERS = 128_500_000


def bits_record(linear: float, nominal: float = 1.0) -> BitsRecord:
    """What the made-up model takes at a number of stored bits."""
    linear_bytes = round(linear * WEIGHTS / 8)
    model_bytes = REST_BYTES + linear_bytes
    return BitsRecord(
        nominal=nominal,
        payload=nominal,
        linear=linear,
        model=8 * model_bytes / PARAMETERS,
        payload_bytes=round(nominal * WEIGHTS / 8),
        linear_bytes=linear_bytes,
        model_bytes=model_bytes,
    )


def perplexity(value: float, definition: str) -> PerplexityRecord:
    """A perplexity by a definition."""
    return PerplexityRecord(
        perplexity=value, definition=definition, windows=20, tokens=10220, nll_mean=1.0, seconds=1.0
    )


def write_run(
    results: Path,
    config: Any,
    measured: tuple[PerplexityRecord, PerplexityRecord],
    bits: BitsRecord,
    **fields: Any,
) -> Path:
    """Write a run folder with a new name.

    Args:
        results: Its parent, which exists.
        config: Plain or composed configuration.
        measured: Full precision, quantized.
        bits: Of the checkpoint.
        fields: Other fields of the `RunRecord` than those of a complete run.
    """
    folder = results / f"run-{sum(1 for _ in results.iterdir()):03d}"
    folder.mkdir()
    usual: dict[str, Any] = {
        "status": RunStatus.complete,
        "seconds": {"quantize": 150.4},
        "phase_peak_memory_bytes": {"full_precision": 2**30, "quantize": 3 * 2**29},
    }
    record = RunRecord(
        run_id=folder.name,
        results=ResultsRecord(full_precision=measured[0], quantized=measured[1]),
        bits=bits,
        provenance=Provenance(
            git_commit="0123456789abcdef",
            git_dirty=False,
            versions={"binllm": "0.1.0"},
            platform="Linux",
            cpu="a CPU",
            device="a CPU",
            threads=2,
            seeds={"seed": 0},
            calibration_hash="00",
        ),
        **(usual | fields),
    )
    write_json(folder / "run.json", record)
    write_text(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(config), resolve=True))
    return folder
