"""What a solver is, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from binllm.packing.protocol import Code
from binllm.solvers.amp import AmpCounts
from binllm.solvers.updates import BlockQuadratic


class Feedback(Enum):
    """How later blocks of columns absorb the error of earlier ones.

    ``none``: blocks are fitted on their own. ``exact``: GPTQ/OBC for whole blocks,
    ``W_later -= (W_b - Ŵ_b) U_bb⁻¹ U_b,later``, block b fitted in the Schur complement ``((A⁻¹)_bb)⁻¹``.
    ``diagonal``: the published code of BiLLM and ARB-LLM, which divides by ``diag(U)`` only.
    """

    none = "none"
    exact = "exact"
    diagonal = "diagonal"


class Status(Enum):
    """How a layer's solution came about; the value advises the user."""

    solved = "solved"
    recovered = "solved after raising the ridge: more calibration tokens or a larger solver.ridge would avoid it"
    amp_raised = "solved; some AMP-masked updates raised the objective, as the method allows"


@dataclass(frozen=True)
class Solution:
    """What a solver found.

    Attributes:
        code: The quantized weight.
        status: See `Status`.
        trace: Objective (with its constant): without what the fits gained over the blocks' first feasible codes, in each
            block's own problem; after the greedy pass; after every further pass.
        ridge: Relative ridge used.
        recoveries: How often the ridge was raised.
        sweeps: Sweeps over the signs of the whole layer.
        amp: Counts of attention matrix preservation.
        fed_back: ``Σ_b ||E_b||²``, energy of the errors that later columns were given, in units of their conditional
            standard deviation: GPTQ's loss, twice what its code prints.
    """

    code: Code
    status: Status
    trace: list[float]
    ridge: float
    recoveries: int
    sweeps: int
    amp: AmpCounts = field(default_factory=AmpCounts)
    fed_back: float = 0.0


class Solver(Protocol):
    """The interface: options of the walk over blocks, and a fit of one block.

    Attributes:
        name: Label in records.
        feedback: Error feedback between blocks.
        ridge: Relative ridge of the metric's factor.
        passes: Further passes of block coordinate descent on the joint problem.
        sweeps: Sign sweeps over the whole layer, for the record.
        blocks: Classes of blocks (`Binarization.block`) that it can work on.

    A solver whose updates ask the guard of attention matrix preservation says so by ``masks_updates = True``;
    one that leaves every first code as it is, by ``keeps_codes = True``.
    """

    @property
    def name(self) -> str: ...
    @property
    def feedback(self) -> Feedback: ...
    @property
    def ridge(self) -> float: ...
    @property
    def passes(self) -> int: ...
    @property
    def sweeps(self) -> int: ...
    @property
    def blocks(self) -> tuple[type, ...]: ...

    def fit(self, block: Any, quadratic: BlockQuadratic) -> None:
        """Improve a block's first code in place, in the greedy pass."""
        ...

    def refine(self, block: Any, quadratic: BlockQuadratic) -> None:
        """Improve a block's code in place, in a further pass."""
        ...
