"""Made-up run folders with every diagnostic, good or bad on request."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from helpers_runs import bits_record, perplexity, write_run

from binllm.diagnostics.table import Row, to_table, write_parquet
from binllm.tracking.records import LayerRecord

LAYERS = {
    "self_attn.q_proj": "q",
    "self_attn.k_proj": "k",
    "self_attn.v_proj": "v",
    "self_attn.o_proj": "o",
    "mlp.gate_proj": "gate",
    "mlp.up_proj": "up",
    "mlp.down_proj": "down",
}
LAST = "mlp.down_proj"
DEFINITION = "wikitext2/test"
CONFIG: dict[str, Any] = {
    "method": "best",
    "seed": 0,
    "model": {"name": "smollm2", "id": None, "path": None, "dtype": "float32"},
    "dataset": {"name": "c4", "corpus": "c4", "split": "train", "sequences": 16, "length": 512},
    "objective": {"name": "proposed", "amp_rule": "agree", "alpha": 1.0},
    "binarization": {"name": "row_column"},
    "solver": {"name": "coordinate_descent", "period": 1},
    "paths": {"results": "results"},
}


def made_up_run(
    results: Path,
    objective: str = "proposed",
    value: float = 100.0,
    changed: Mapping[str, float] | None = None,
    table: bool = True,
    **settings: Any,
) -> Path:
    """Write a complete run folder of six blocks.

    Args:
        results: Its parent; made if missing.
        objective: Its objective.
        value: Its quantized perplexity.
        changed: Factors of metrics by name, to make one better or worse.
        table: Whether it has ``diagnostics.parquet``.
        settings: Groups of the configuration to replace or add to.
    """
    results.mkdir(exist_ok=True, parents=True)
    config = {**CONFIG, "objective": {**CONFIG["objective"], "name": objective}}
    for group, values in settings.items():
        config[group] = {**config.get(group, {}), **values} if isinstance(values, dict) else values
    measured = (perplexity(35.88, DEFINITION), perplexity(value, DEFINITION))
    folder = write_run(results, config, measured, bits_record(2.5 + 0.01 * len(list(results.iterdir()))))
    lines = [one.to_json() for one in _layers(objective)]
    (folder / "layers.jsonl").write_text("".join(f"{_json(line)}\n" for line in lines))
    if table:
        write_parquet(folder / "diagnostics.parquet", to_table(diagnostic_rows(changed or {})))
    return folder


def _json(value: Any) -> str:
    import json

    return json.dumps(value)


def _layers(objective: str, blocks: int = 6) -> Iterator[LayerRecord]:
    for block in range(blocks):
        for layer, role in LAYERS.items():
            yield LayerRecord(
                block=block, layer=layer, role=role, objective=objective, n_out=96, n_in=64, q_before=2.0 + block,
                q_after=1.0 + block, relative_error_weight=0.12, relative_error_target=0.05 * (block + 1), sweeps=4,
                status="solved", seconds=0.5, peak_memory_bytes=2**30, payload_bits=6144, stored_bits=15000,
            )  # fmt: skip


def diagnostic_rows(changed: Mapping[str, float], blocks: int = 6) -> Iterator[Row]:
    """All metrics of docs/diagnostics.md, smooth in depth with a little noise."""
    noise = random.Random(0)
    for block in range(blocks):
        depth = (block + 1) / blocks
        for layer, role in LAYERS.items():
            scalars = {
                "stream/weight_error": 0.12,
                "stream/conditioned_error": 0.05,
                "stream/conditioned_similarity": 0.97,
                "stream/output_error": 0.06 + 0.3 * depth,
                "stream/output_similarity": 0.95 - 0.3 * depth,
                "stream/drift": 0.1 + 0.8 * depth,
                "stream/output_energy": 0.7,
                "tokens/conditioned_error": 0.02,
                "tokens/output_error": 0.03 + 0.2 * depth,
            }
            for metric, value in scalars.items():
                factor = changed.get(metric, 1.0) * noise.uniform(0.98, 1.02)
                yield Row(block, layer, role, metric, 0, value * factor)
            for index in range(3):
                for objective, loss in (("weight_align", 0.02), ("output_align", 0.015)):
                    metric = f"block_loss/{objective}"
                    yield Row(
                        block, layer, role, metric, index, loss * changed.get(metric, 1.0) * noise.uniform(0.9, 1.1)
                    )
        yield from _block_rows(block, depth, changed, noise)


def _block_rows(block: int, depth: float, changed: Mapping[str, float], noise: random.Random) -> Iterator[Row]:
    scalars = {
        "stream/output_similarity": 0.95 - 0.3 * depth,
        "stream/drift": 0.1 + 0.8 * depth,
        "attention/proxy_output_error": 0.1 * depth,
        "anisotropy/error_log_variance": 3.0,
        "anisotropy/error_condition": 1e4,
        "anisotropy/effective_rank_x": 40.0,
        "anisotropy/effective_rank_x_hat": 25.0,
        "anisotropy/mean_cosine_x": 0.2,
        "anisotropy/mean_cosine_x_hat": 0.4,
        "anisotropy/top_energy_x": 0.2,
        "anisotropy/top_energy_x_hat": 0.4,
        "anisotropy/massive_x": 100.0,
        "anisotropy/massive_x_hat": 80.0,
        "accumulation/total": 0.02 + 0.5 * depth,
        "accumulation/inherited": 0.4 * depth,
        "accumulation/new": 0.1,
    }
    for metric, value in scalars.items():
        yield Row(block, "", "", metric, 0, value * changed.get(metric, 1.0))
    heads = {"kl": 0.2, "total_variation": 0.4, "probability_cosine": 0.8, "logit_cosine": 0.9}
    for name, value in heads.items():
        metric = f"attention/{name}"
        for head in range(4):
            yield Row(block, "", "", metric, head, value * depth * changed.get(metric, 1.0) * noise.uniform(0.8, 1.2))
    for rank in range(64):
        metric = "anisotropy/error_spectrum"
        yield Row(block, "", "", metric, rank, 0.5 * math.exp(-rank / 12) * changed.get(metric, 1.0))
