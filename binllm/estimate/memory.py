"""Resident memory of a run: weights, streams, inputs of a block's stages, moments, and what a fit holds beside them.

quantize   process + tokens (2 hidden + Σ_stages n_in) + max_stages(weights left + 8 max(moments, moments left + fits))
moments    n_in² float64 of an input (G), and as much where the full-precision stream is looked at (C)
fit        n_in² / 2 + 4 n_out n_in float64 beside G, and n_in² more for an objective on outputs
"""

from __future__ import annotations

from collections.abc import Sequence

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
SEQUENCE = 3  # of a sequence of the input in float64, while it is measured
SQUARES = 0.5  # (n_in, n_in) that a fit has besides G: the factor in panels
SQUARES_ALIGNED = 1  # more for an objective on outputs: the factor as a whole, and then the metric of AMP
RECTANGLES = 4  # (n_out, n_in): weight, linear term, errors, the code; about as many while a record is made


def bytes_by_phase(work: Work) -> dict[str, float]:
    """Highest resident memory of the phases that may be the dearest."""
    weights, evaluation = work.size * _resident(work), work.config.evaluation
    process, kept = PROCESS + PER_WORD * work.geometry.head[0], min(KEPT, weights)
    logits = evaluation.batch * evaluation.window * work.geometry.head[0] * (work.size + LOGITS * FLOAT32)
    return {
        "load": process + (0.0 if work.streamed else LOADED * weights),
        "full_precision": process + weights + logits,
        "quantize": process + kept + _activations(work) + _quantize(work),
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


def _quantize(work: Work) -> float:
    """Weights that are not packed yet, and what the waves hold beside them."""
    found, left = [], float(_resident(work))
    for wave in work.waves:
        moments = [_moments(work, stage) for stage in wave]
        sequence = SEQUENCE * work.config.dataset.length * max(stage[0].n_in for stage in wave)
        found.append(work.size * left + FLOAT64 * (sum(moments) + sequence))
        for index, stage in enumerate(wave):
            found.append(work.size * left + FLOAT64 * (sum(moments[index + 1 :]) + _fits(work, stage, wave)))
            left -= sum(layer.entries for layer in stage)
    return max(found)


def _moments(work: Work, stage: Sequence[Shape]) -> float:
    """Entries of G and C of a stage's input."""
    measured = work.measured(stage)
    return (measured.gram + measured.cross) * stage[0].n_in ** 2


def _fits(work: Work, stage: Sequence[Shape], wave: Wave) -> float:
    """Entries that the fits of a stage hold at the same time: of a layer that is fitted alone, C has ended by then."""
    together = work.side_by_side(wave)
    alone = len(stage) == together == 1
    own = work.measured(stage).gram * stage[0].n_in ** 2 if alone else _moments(work, stage)
    return own + sum(sorted((_fit(work, layer) for layer in stage), reverse=True)[:together])


def _fit(work: Work, layer: Shape) -> float:
    """Entries that a fit holds beside the moments."""
    squares = SQUARES + SQUARES_ALIGNED * work.objective(layer).aligns_outputs
    return squares * layer.n_in**2 + RECTANGLES * layer.entries
