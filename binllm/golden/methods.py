"""What the published methods, by the names of their code, are in this project."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from binllm.binarization import Cells, Target
from binllm.binarization.partition import Partition
from binllm.binarization.salience import Salience
from binllm.errors import bad_value
from binllm.golden.files import Case
from binllm.golden.outcome import Unjudged
from binllm.packing.code import BinaryCode
from binllm.quadratic import Problem
from binllm.solvers import Feedback, Solution, solve
from binllm.solvers.arb import Arb
from binllm.solvers.linear_algebra import Factor, inverse_of_upper
from binllm.solvers.rounding import Rounding

METHODS = ("braq", "arb", "arb-x", "arb-rc")  # braq is BiLLM
METRICS = ("hessian", "magnitude")


@dataclass(frozen=True)
class Method:
    """A published method with its options.

    Attributes:
        name: As the published code calls it.
        metric: Its salience.
        salient_groups: 2 with CGB (``order2_group``).
        up_lim: One more than the largest number of salient columns that is tried.
    """

    name: str
    metric: str
    salient_groups: int
    up_lim: int

    @classmethod
    def of(cls, case: Case, metric: str, up_lim: int) -> Method:
        """Read a case's method.

        Args:
            case: The case; without a method it is BiLLM's.
            metric: Key of the salience.
            up_lim: Default of the function.

        Raises:
            BinllmError: An option that the published code does not have.
            Unjudged: More than one threshold of the plain entries.
        """
        name = case.argument("method", str, METHODS[0])
        if name not in METHODS:
            raise bad_value("method", name, METHODS)
        salience = case.argument(metric, str, "magnitude")
        if salience not in METRICS:
            raise bad_value(metric, salience, METRICS)
        thresholds = case.argument("num_p", int, 1)
        if thresholds != 1:
            raise Unjudged(f"num_p = {thresholds}: this project has one threshold")
        grouped = case.argument("order2_group", bool, False) and name != METHODS[0]
        return cls(
            name,
            salience,
            salient_groups=1 + grouped,
            up_lim=case.argument("up_lim", int, up_lim),
        )

    @property
    def looks_at_inputs(self) -> bool:
        """ARB-X, whose objective is the output error."""
        return self.name == "arb-x"

    def partition(self, block_size: int) -> Partition:
        """The binarization.

        Raises:
            BinllmError: ``up_lim`` is out of range.
        """
        return Partition(
            block_size=block_size,
            salience=Salience[self.metric],
            most=self.up_lim,
            salient_groups=self.salient_groups,
            column_scale=self.name == "arb-rc",
            split_by_inputs=self.looks_at_inputs,
        )

    def solve(
        self, problem: Problem, block_size: int, feedback: Feedback, ridge: float
    ) -> tuple[Solution, list[Cells]]:
        """Quantize a layer, fits in float32 as published.

        Args:
            problem: The layer's; in float32 its factor is the published one.
            block_size: Columns of a block.
            feedback: Error feedback between blocks.
            ridge: Of the metric, relative to its mean diagonal.

        Returns:
            The solution, and its blocks from left to right with the zeros of their signs.

        Raises:
            BinllmError: An option is out of range.
            ValueError: See `binllm.solvers.solve`.
        """
        recorder = Recorder(self.partition(block_size))
        # Any, because pyright does not take class constants for the properties of a protocol.
        solver: Any = (Rounding if self.name == METHODS[0] else Arb)(feedback=feedback, ridge=ridge)
        published = problem.weight.dtype == torch.float32
        factor = published_factor(problem.feedback, ridge, block_size) if published else None
        return solve(problem, recorder, solver, factor=factor), recorder.blocks


def published_factor(metric: Tensor, ridge: float, width: int) -> Factor:
    """The factor by the way of the published code, which inverts the metric in its own precision and factors the inverse.

    `factorise` needs no inverse. In float32 the two differ by more than rounding of the result, enough to turn a near tie.

    Args:
        metric: H (n, n).
        ridge: Relative to the mean of its diagonal.
        width: Columns of a panel.

    Raises:
        torch.linalg.LinAlgError: H or its inverse is not positive definite in this precision.
    """
    damped = metric.clone()
    damped.diagonal().add_(ridge * metric.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    upper = torch.linalg.cholesky(inverse, upper=True)
    own = inverse_of_upper(upper.double()).to(metric.dtype)  # the walk inverts it back: no further rounding
    starts = range(0, len(own), width)
    return Factor([own[: start + width, start : start + width].clone() for start in starts], ridge, recoveries=0)


class Recorder:
    """A partition that keeps its fitted blocks: published zeros of signs are in them, and not in the stored code."""

    def __init__(self, partition: Partition):
        self.partition = partition
        self.blocks: list[Cells] = []

    @property
    def block_size(self) -> int | None:
        """That of the partition."""
        return self.partition.block_size

    @property
    def block(self) -> type:
        """That of the partition."""
        return self.partition.block

    def initialise(self, target: Target) -> Cells:
        """See `Partition.initialise`."""
        return self.partition.initialise(target)

    def assemble(self, blocks: list[Cells]) -> BinaryCode:
        """See `Partition.assemble`."""
        self.blocks = blocks
        return self.partition.assemble(blocks)
