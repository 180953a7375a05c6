"""Resident memory of a run: weights, streams, inputs of a block's stages, moments, and what a fit holds beside them.

quantize   process + weights + tokens (2 hidden + Σ_stages n_in) + 8 max_waves(moments, moments left + fits side by side)
moments    3 n_in² float64 of an input (G, C, F)
fit        3 n_in² + k n_out n_in float64, k = 5, and 6 for an objective on outputs
"""

from __future__ import annotations

from binllm.estimate.work import Wave, Work
from binllm.models.geometry import Shape
from binllm.streams import Storage

FLOAT64, FLOAT32 = 8, 4
PROCESS = 0.55e9  # interpreter, torch, transformers
PER_WORD = 1e3  # of the vocabulary: the tokenizer, and texts
KEPT = 0.2e9  # what the C library keeps of freed memory at most, while blocks are quantized; not more than the weights
# Copies that live at the same time.
LOADED = 2.0  # of the weights while they are read
LOGITS = 2.0  # of one forward pass, in float32
SQUARES_MEASURED = 3  # G, C, F (n_in, n_in)
SQUARES_FITTED = 3  # the objective's metric, that of the feedback or of AMP, and the factor
RECTANGLES = 5  # (n_out, n_in): the weight, the code, its first form, errors, and what a value of Q takes
RECTANGLES_ALIGNED = 1  # more for an objective on outputs: its linear term


def bytes_by_phase(work: Work) -> dict[str, float]:
    """Highest resident memory of the phases that may be the dearest."""
    weights, evaluation = work.size * _resident(work), work.config.evaluation
    process, kept = PROCESS + PER_WORD * work.geometry.head[0], min(KEPT, weights)
    logits = evaluation.batch * evaluation.window * work.geometry.head[0] * (work.size + LOGITS * FLOAT32)
    return {
        "load": process + (0.0 if work.streamed else LOADED * weights),
        "full_precision": process + weights + logits,
        "quantize": process + kept + weights + _activations(work) + max(_wave(work, wave) for wave in work.waves),
        "evaluate": process + kept + weights + logits,
    }


def _resident(work: Work) -> int:
    """Parameters in memory: all, or those of the largest part."""
    vocabulary, n_in = work.geometry.head
    return max(work.geometry.block_entries, vocabulary * n_in) if work.streamed else work.geometry.parameters


def _activations(work: Work) -> float:
    """Both streams, and the inputs of all stages of a block."""
    if work.config.calibration.storage is Storage.disk:
        return 0.0
    inputs = sum(stage[0].n_in for stage in work.geometry.stages)
    return work.tokens * (2 * work.geometry.hidden + inputs) * work.size


def _wave(work: Work, wave: Wave) -> float:
    """Moments of all inputs of a wave; or those that still have readers, and the fits that go on side by side."""
    moments = [SQUARES_MEASURED * work.weightings * stage[0].n_in ** 2 for stage in wave]
    together = work.side_by_side(wave)
    found: list[float] = [sum(moments)]
    for index, stage in enumerate(wave):
        left = sum(moments[index if len(stage) > 1 or together > 1 else index + 1 :])
        found.append(left + sum(sorted((_fit(work, layer) for layer in stage), reverse=True)[:together]))
    return FLOAT64 * max(found)


def _fit(work: Work, layer: Shape) -> float:
    """Entries in float64 that a fit holds beside the moments."""
    rectangles = RECTANGLES + RECTANGLES_ALIGNED * work.objective(layer).aligns_outputs
    return SQUARES_FITTED * layer.n_in**2 + rectangles * layer.entries
