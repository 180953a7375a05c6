"""What a run will cost, from the shapes of its model: seconds and resident bytes of every phase.

    seconds   floating-point operations over the rate of their kind, plus what fitting costs a column and an entry
    bytes     weights, streams, inputs of a block's stages, moments (n_in, n_in) float64, and what a fit holds beside them

The rates and costs are those of one machine (an Intel Xeon with AVX-512, torch on the CPU, nothing else running); they are
the named constants below, and docs/sweeps.md says how they were measured. On another CPU the seconds are off by the ratio of
the speeds; for a GPU there are none. Bytes do not depend on the machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from binllm.diagnostics.config import BLOCK_LOSS
from binllm.models.geometry import Geometry
from binllm.parallel import LARGE
from binllm.plan import Granularity
from binllm.streams import Storage

# Operations a second of one thread.
FLOAT32_RATE = 130e9  # products of forward passes
FLOAT64_RATE = 45e9  # products of moments and of the feedback between blocks
CHOLESKY_RATE = 20e9
EXTRA_THREAD = 0.9  # what a further thread adds to the rate of a large product
# Seconds.
PER_SQUARE_ENTRY = 50e-9  # of moments (n_in, n_in): means, mirroring, checks, copies; limited by memory
PER_PARAMETER_READ = 10e-9
PER_PARAMETER_SAVED = 5e-9
PER_STATE_BYTE = 1 / 300e6  # both streams are hashed and made durable after every block
START = 3.0  # texts and tokenizer
# Bytes.
PROCESS = 0.6e9  # interpreter, torch, transformers, tokenizer, texts
KEPT = 0.2e9  # what the C library keeps of freed memory while blocks are quantized
FLOAT64, FLOAT32 = 8, 4
# Copies that live at the same time.
LOADED = 2.0  # of the weights while they are read
LOGITS = 2.0  # of one forward pass in float32
SQUARES_MEASURED = 3  # G, C, F of an input
SQUARES_AVERAGED = 2  # beside sums and means of G, C and F: what mirroring one of them takes
SQUARES_FITTED = 4  # beside G, C and F: the objective's metric, and what factorising takes
RECTANGLES_FITTED = 10  # (n_out, n_in) float64 of a fit: weight, target, errors, code, and temporaries
DIAGNOSED = 8.0  # forward passes that diagnostics take as long as, over the sequences that they look at
CHARACTERS_PER_TOKEN = 4.2


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


FIT_COSTS = {  # by solver and binarization, with the rounds that their YAML files have
    ("coordinate_descent", "row_column_groups_64"): FitCost(230e-6, 480e-9, 4),
    ("coordinate_descent", "row_column_groups"): FitCost(130e-6, 390e-9, 4),
    ("coordinate_descent", "foldable"): FitCost(33e-6, 160e-9, 4),
    ("coordinate_descent", "row"): FitCost(160e-6, 240e-9, 4),
    ("alternating", "row_column_groups"): FitCost(180e-6, 530e-9, 4),
    ("alternating", "whole_matrix"): FitCost(85e-6, 270e-9, 4),
    ("arb", "partition"): FitCost(35e-6, 420e-9, 15),
    ("arb", "partition_columns"): FitCost(60e-6, 370e-9, 15),
    ("closed_form", "row_column_groups_64"): FitCost(16e-6, 220e-9),
    ("closed_form", "row"): FitCost(0.0, 105e-9),
    ("gptq", "row"): FitCost(56e-6, 250e-9),
    ("gptq", "uniform"): FitCost(40e-6, 200e-9),
    ("gptq", "partial"): FitCost(40e-6, 160e-9),
    ("rounding", "partition"): FitCost(13e-6, 330e-9),
    ("rounding", "haar_row"): FitCost(9e-6, 500e-9),
    ("rounding", "haar_column"): FitCost(50e-6, 500e-9),
    ("rounding", "whole_row"): FitCost(0.0, 90e-9),
    ("rounding", "row"): FitCost(0.0, 73e-9),
    ("rounding", "row_mean"): FitCost(0.0, 72e-9),
}


@dataclass(frozen=True)
class Estimate:
    """What a run will cost.

    Attributes:
        seconds_by_phase: Wall-clock time by phase, named as in run.json; empty where nothing is known of the device or of
            the solver.
        bytes_by_phase: Highest resident memory by phase.
    """

    seconds_by_phase: dict[str, float]
    bytes_by_phase: dict[str, float]

    @property
    def seconds(self) -> float | None:
        """Of all phases; None if unknown."""
        return sum(self.seconds_by_phase.values()) if self.seconds_by_phase else None

    @property
    def bytes(self) -> float:
        """Of the dearest phase."""
        return max(self.bytes_by_phase.values())


def estimate(config: Any, geometry: Geometry, windows: int) -> Estimate:
    """Estimate a run.

    Args:
        config: The built `RunConfig`; its device is the CPU, ``auto`` where there is no GPU.
        geometry: Shapes of its model.
        windows: Windows of the evaluation.

    Returns:
        Seconds and bytes by phase.
    """
    cost = _Cost(config, geometry, windows)
    return Estimate(cost.seconds(), cost.bytes())


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


class _Cost:
    """The terms of one run."""

    def __init__(self, config: Any, geometry: Geometry, windows: int):
        self.config, self.geometry, self.windows = config, geometry, windows
        self.threads = config.threads or torch.get_num_threads()
        self.speedup = 1 + EXTRA_THREAD * (self.threads - 1)
        self.tokens = config.dataset.sequences * config.dataset.length
        self.size = getattr(torch, config.model.dtype.value).itemsize
        self.fit = fit_cost(config.solver, config.binarization)

    # --- seconds

    def seconds(self) -> dict[str, float]:
        """By phase."""
        if self.fit is None or self.config.device.startswith("cuda"):
            return {}
        evaluate = self._evaluate()
        found = {
            "load": START + PER_PARAMETER_READ * self.geometry.parameters,
            "full_precision": evaluate,
            "quantize": self.geometry.blocks * self._block(),
            "diagnostics": self.geometry.blocks * self._diagnose(),
            "save": PER_PARAMETER_SAVED * self.geometry.parameters,
            "evaluate": evaluate,
        }
        return {phase: seconds for phase, seconds in found.items() if seconds > 0}

    def _forward(self, tokens: int, length: int, entries: float) -> float:
        """One pass of tokens through linear layers with so many weights, and through one attention."""
        attention = 4 * tokens * length * self.geometry.hidden
        return (2.0 * tokens * entries + attention) / (FLOAT32_RATE * self.speedup)

    def _evaluate(self) -> float:
        window, (vocabulary, n_in) = self.config.evaluation.window, self.geometry.head
        block = self._forward(window, window, self.geometry.block_entries)
        head = 2.0 * window * vocabulary * n_in / (FLOAT32_RATE * self.speedup)
        return self.windows * (self.geometry.blocks * block + head)

    def _block(self) -> float:
        """Forward passes, moments and fits of one block, and its durable state."""
        state = PER_STATE_BYTE * 2 * self.tokens * self.geometry.hidden * self.size
        fits = sum(self._wave(wave) for wave in self._waves())
        return self._passes() + self._moments() + fits + state

    def _passes(self) -> float:
        """X and X̂ through the whole block, and X̂ as far as the last layer that is measured, once a wave."""
        whole, stages = self.geometry.block_entries, self.geometry.stages
        before = [sum(m * n for stage in stages[:index] for m, n in stage) for index in range(len(stages))]
        measured = before[-1:] if self.config.calibration.granularity is Granularity.block else before[1:]
        return sum(self._forward(self.tokens, self.config.dataset.length, e) for e in (whole, whole, *measured))

    def _moments(self) -> float:
        """C whole, G and F by half; F in the precision of the streams."""
        squares = self._weightings() * sum(stage[0][1] ** 2 for stage in self.geometry.stages)
        products = self.tokens * squares * (3 / FLOAT64_RATE + 1 / FLOAT32_RATE) / self.speedup
        return products + PER_SQUARE_ENTRY * squares

    def _weightings(self) -> int:
        return len({self.config.objective.token_weights, self.config.elsewhere.token_weights})

    def _waves(self) -> list[list[tuple[int, int]]]:
        """Layers that are measured together."""
        if self.config.calibration.granularity is Granularity.block:
            return [self.geometry.layers]
        return [list(stage) for stage in self.geometry.stages]

    def _side_by_side(self, wave: Sequence[Any]) -> int:
        small = all(m * n < LARGE for m, n in self.geometry.layers)
        return min(self.threads, len(wave)) if small else 1

    def _wave(self, wave: list[tuple[int, int]]) -> float:
        return sum(self._layer(n_out, n_in) for n_out, n_in in wave) / self._side_by_side(wave)

    def _layer(self, n_out: int, n_in: int) -> float:
        """Factorising, feedback, products with the metric, and the fits inside blocks of columns."""
        assert self.fit is not None
        solver, aligns = self.config.solver, self.config.objective.aligns_outputs
        width = self.config.binarization.block_size or n_in
        products = 1 + (16 + 2 * solver.passes if aligns else 0)  # of n_out n_in² operations; see `solvers.layer`
        square = n_in**3 / 3 / CHOLESKY_RATE + n_in * width**2 / FLOAT64_RATE
        large = (square + products * n_out * n_in**2 / FLOAT64_RATE) / (self.speedup if n_out * n_in >= LARGE else 1)
        return large + PER_SQUARE_ENTRY * n_in**2 + n_in * (self.fit.column + n_out * self.fit.entry)

    def _diagnose(self) -> float:
        wanted = self.config.diagnostics
        if not wanted.metrics:
            return 0.0
        sequences = min(wanted.sequences or self.config.dataset.sequences, self.config.dataset.sequences)
        tokens, length = sequences * self.config.dataset.length, self.config.dataset.length
        passes = DIAGNOSED * self._forward(tokens, length, self.geometry.block_entries)
        alone = len(wanted.objectives) * sum(map(self._wave, self._waves())) if BLOCK_LOSS in wanted.metrics else 0.0
        return passes + alone

    # --- bytes

    def bytes(self) -> dict[str, float]:
        """By phase."""
        weights = self.geometry.parameters * self.size
        window, evaluation = self.config.evaluation.window, self.config.evaluation.batch
        logits = evaluation * window * self.geometry.head[0] * (self.size + LOGITS * FLOAT32)
        return {
            "load": PROCESS + LOADED * weights,
            "full_precision": PROCESS + weights + logits,
            "quantize": PROCESS + KEPT + weights + self._activations() + max(self._measured(), self._fitted()),
            "evaluate": PROCESS + KEPT + weights + logits,
        }

    def _activations(self) -> float:
        """Both streams, and the inputs of all stages of a block."""
        if self.config.calibration.storage is Storage.disk:
            return 0.0
        inputs = sum(stage[0][1] for stage in self.geometry.stages)
        return self.tokens * (2 * self.geometry.hidden + inputs) * self.size

    def _measured(self) -> float:
        """Sums and means of the moments of a wave's inputs."""
        widths = [sorted(n_in for _, n_in in readers) for readers in self._squares()]
        return FLOAT64 * max(
            2 * SQUARES_MEASURED * self._weightings() * sum(n**2 for n in wave) + SQUARES_AVERAGED * wave[-1] ** 2
            for wave in widths
        )

    def _squares(self) -> list[list[tuple[int, int]]]:
        """One layer of every stage, by waves."""
        readers = [stage[0] for stage in self.geometry.stages]
        return [readers] if self.config.calibration.granularity is Granularity.block else [[one] for one in readers]

    def _fitted(self) -> float:
        """Means of a wave's inputs, and the largest fits that go on side by side."""
        found = []
        for readers, wave in zip(self._squares(), self._waves(), strict=True):
            kept = SQUARES_MEASURED * self._weightings() * sum(n_in**2 for _, n_in in readers)
            fits = sorted((SQUARES_FITTED * n**2 + RECTANGLES_FITTED * m * n for m, n in wave), reverse=True)
            found.append(kept + sum(fits[: self._side_by_side(wave)]))
        return FLOAT64 * max(found)
