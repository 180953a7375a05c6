"""Time of a run on a CPU: operations over the rate of their kind, plus what a fit costs a column and an entry of the weight.

The rates and costs are those of one machine (an Intel Xeon with AVX-512, one thread, nothing else running); docs/sweeps.md
says how they were measured. On another CPU the seconds are off by the ratio of the speeds. For a GPU there are none.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from binllm.diagnostics.config import BLOCK_LOSS
from binllm.estimate.work import Wave, Work, has_amp
from binllm.evaluation.by_block import TOKENS_AT_ONCE
from binllm.models.geometry import Shape
from binllm.parallel import LARGE
from binllm.plan import Granularity

# Operations a second of one thread.
FLOAT32_RATE = 130e9  # products of forward passes
FLOAT64_RATE, FLOAT64_RATE_LARGE = 60e9, 70e9  # products of moments and of the feedback between blocks
CHOLESKY_RATE = 40e9
EXTRA_THREAD = 0.9  # what a further thread adds to the rate of a large product
# Seconds.
START = 3.0  # texts and tokenizer
PER_PARAMETER_READ = 10e-9
PER_PARAMETER_SAVED = 5e-9
PER_STATE_BYTE = 1 / 300e6  # both streams are hashed and made durable after every block
PER_SQUARE_ENTRY = 25e-9  # of a matrix (n_in, n_in): means, mirroring, checks, copies; limited by memory
# Products of n_out n_in² operations of a layer, in float64.
PRODUCTS = 1  # feedback
PRODUCTS_ALIGNED = 9  # more for an objective on outputs: target, the minimiser, three values of Q
PRODUCTS_ENERGY = 2  # and the energy of a target that is not the full-precision output itself
PRODUCTS_PASS = 2  # and in every pass over the joint problem
PRODUCTS_AMP = 2  # more under AMP: W C, H, and in the greedy pass Ŵ H; in every pass PRODUCTS_PASS more
# Ratios.
AMP_COST = 2.3  # of a fit under AMP, which compares all levels of every entry, to one without
DIAGNOSED = 8.0  # forward passes that diagnostics take as long as, over the sequences that they look at


class FitCost(NamedTuple):
    """Seconds that a fit takes besides its large products.

    Attributes:
        column: For a column of the weight.
        entry: For an entry of the weight.
        sweeps: The solver's sweeps in this time; 0 where it has none.
    """

    column: float
    entry: float
    sweeps: int = 0


FIT_COSTS = {  # by solver and binarization
    ("coordinate_descent", "row_column_groups_64"): FitCost(230e-6, 480e-9, 4),
    ("coordinate_descent", "row_column_groups"): FitCost(130e-6, 390e-9, 4),
    ("coordinate_descent", "foldable"): FitCost(33e-6, 160e-9, 4),
    ("coordinate_descent", "row"): FitCost(160e-6, 240e-9, 4),
    ("alternating", "row_column_groups"): FitCost(180e-6, 530e-9, 4),
    ("alternating", "whole_matrix"): FitCost(85e-6, 270e-9, 4),
    ("arb", "partition"): FitCost(0.0, 175e-9, 15),
    ("arb", "partition_columns"): FitCost(28e-6, 175e-9, 15),
    ("closed_form", "row_column_groups_64"): FitCost(16e-6, 220e-9),
    ("closed_form", "row"): FitCost(0.0, 105e-9),
    ("gptq", "row"): FitCost(56e-6, 250e-9),
    ("gptq", "uniform"): FitCost(40e-6, 200e-9),
    ("gptq", "partial"): FitCost(40e-6, 160e-9),
    ("rounding", "partition"): FitCost(0.0, 105e-9),
    ("rounding", "haar_row"): FitCost(9e-6, 500e-9),
    ("rounding", "haar_column"): FitCost(0.0, 255e-9),
    ("rounding", "whole_row"): FitCost(0.0, 90e-9),
    ("rounding", "row"): FitCost(0.0, 73e-9),
    ("rounding", "row_mean"): FitCost(0.0, 72e-9),
}


def fit_cost(solver: Any, binarization: Any) -> FitCost | None:
    """What a fit costs, in proportion to the solver's sweeps.

    Returns:
        Where the pair was never measured, the cost of the solver's dearest binarization; None for a new solver.
    """
    same = [cost for (name, _), cost in FIT_COSTS.items() if name == solver.name]
    cost = FIT_COSTS.get((solver.name, binarization.name), max(same, key=lambda one: one.entry, default=None))
    if cost is None or not cost.sweeps:
        return cost
    share = solver.sweeps / cost.sweeps
    return FitCost(share * cost.column, share * cost.entry, solver.sweeps)


def seconds_by_phase(work: Work) -> dict[str, float]:
    """Wall-clock time by phase; empty for a GPU and for a solver that is not known here."""
    cost = fit_cost(work.config.solver, work.config.binarization)
    if cost is None or work.config.device.startswith("cuda"):
        return {}
    blocks, evaluate = work.geometry.blocks, _evaluate(work)
    found = {
        "load": START + (0.0 if work.streamed else PER_PARAMETER_READ * work.geometry.parameters),
        "full_precision": evaluate,
        "quantize": blocks * _block(work, cost),
        "diagnostics": blocks * _diagnose(work, cost),
        "save": PER_PARAMETER_SAVED * work.geometry.parameters,
        "evaluate": evaluate,
    }
    return {phase: seconds for phase, seconds in found.items() if seconds > 0}


def _speedup(work: Work) -> float:
    return 1 + EXTRA_THREAD * (work.threads - 1)


def _forward(work: Work, tokens: int, length: int, entries: float) -> float:
    """One pass of tokens through linear layers with so many weights and through one attention."""
    operations = 2.0 * tokens * entries + 4.0 * tokens * length * work.geometry.hidden
    return operations / (FLOAT32_RATE * _speedup(work))


def _evaluate(work: Work) -> float:
    window, (vocabulary, n_in) = work.config.evaluation.window, work.geometry.head
    block = _forward(work, window, window, work.geometry.block_entries)
    head = 2.0 * window * vocabulary * n_in / (FLOAT32_RATE * _speedup(work))
    together = max(work.config.evaluation.batch, TOKENS_AT_ONCE // window)  # windows that pass a block at once
    read = PER_PARAMETER_READ * work.geometry.parameters / together if work.streamed else 0.0
    return work.windows * (work.geometry.blocks * block + head + read)


def _block(work: Work, cost: FitCost) -> float:
    """Forward passes, moments and fits of one block, and its durable state."""
    state = PER_STATE_BYTE * 2 * work.tokens * work.geometry.hidden * work.size
    read = PER_PARAMETER_READ * work.geometry.block_entries if work.streamed else 0.0
    return _passes(work) + _moments(work) + sum(_fits(work, cost, wave) for wave in work.waves) + state + read


def _passes(work: Work) -> float:
    """X and X̂ through the whole block, and X̂ as far as the last layer that is measured, once a wave."""
    whole, stages = work.geometry.block_entries, work.geometry.stages
    before = [sum(layer.entries for stage in stages[:index] for layer in stage) for index in range(len(stages))]
    measured = before[-1:] if work.config.calibration.granularity is Granularity.block else before[1:]
    return sum(_forward(work, work.tokens, work.config.dataset.length, e) for e in (whole, whole, *measured))


def _moments(work: Work) -> float:
    """C whole, G by half; the outputs in the precision of the streams."""
    found = 0.0
    for stage in work.geometry.stages:
        measured, square = work.measured(stage), stage[0].n_in ** 2
        rate = FLOAT64_RATE_LARGE if square >= LARGE else FLOAT64_RATE
        wide = (measured.gram + 2 * measured.cross) * square / rate
        narrow = 2 * measured.outputs * sum(layer.entries for layer in stage) / FLOAT32_RATE
        found += work.tokens * (wide + narrow) / _speedup(work)
        found += PER_SQUARE_ENTRY * (measured.gram + measured.cross) * square
    return found


def _fits(work: Work, cost: FitCost, wave: Wave) -> float:
    return sum(_fit(work, cost, layer) for stage in wave for layer in stage) / work.side_by_side(wave)


def _fit(work: Work, cost: FitCost, layer: Shape) -> float:
    """Factorising, feedback, products with the metric, and the fits inside blocks of columns."""
    objective, passes, n_in = work.objective(layer), work.config.solver.passes, layer.n_in
    amp, width = has_amp(objective), work.config.binarization.block_size or n_in
    products = PRODUCTS
    if objective.aligns_outputs:
        products += PRODUCTS_ENERGY * (getattr(objective, "alpha", 0.0) != 1)
        products += PRODUCTS_ALIGNED + PRODUCTS_PASS * passes + amp * (PRODUCTS_AMP + PRODUCTS_PASS * passes)
    alone = layer.entries >= LARGE
    rate = FLOAT64_RATE_LARGE if alone else FLOAT64_RATE
    large = n_in**3 / 3 / CHOLESKY_RATE + (n_in * width**2 + products * layer.entries * n_in) / rate
    small = (AMP_COST if amp else 1.0) * n_in * (cost.column + layer.n_out * cost.entry)
    return large / (_speedup(work) if alone else 1.0) + PER_SQUARE_ENTRY * n_in**2 + small


def _diagnose(work: Work, cost: FitCost) -> float:
    wanted, dataset = work.config.diagnostics, work.config.dataset
    if not wanted.metrics:
        return 0.0
    tokens = min(wanted.sequences or dataset.sequences, dataset.sequences) * dataset.length
    passes = DIAGNOSED * _forward(work, tokens, dataset.length, work.geometry.block_entries)
    alone = sum(_fits(work, cost, wave) for wave in work.waves) if BLOCK_LOSS in wanted.metrics else 0.0
    return passes + len(wanted.objectives) * alone
