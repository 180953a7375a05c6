"""Every algorithm in three lists, and random problems to try them on: the laws in `mathematics` run over both.

Adding an algorithm is one line in OBJECTIVES, BINARIZATIONS or SOLVERS.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from binllm.binarization import Binarization, Block, Foldable, Haar, Partial, Partition, Planes, Target, Uniform
from binllm.binarization.haar import Axis, Norm
from binllm.binarization.partition import Scored
from binllm.binarization.salience import Salience
from binllm.objectives import Objective, OutputAlign, Proposed, WeightAlign
from binllm.plan import Plan
from binllm.quadratic import AmpRule, Problem
from binllm.solvers import Alternating, Arb, ClosedForm, Feedback, Gptq, Rounding, Solution, Solver, solve
from binllm.solvers.linear_algebra import factorise
from binllm.solvers.updates import BlockQuadratic
from binllm.statistics import Moments, Statistics, TokenWeights

INVERSE = TokenWeights.inverse_energy

OBJECTIVES: dict[str, Objective] = {
    "weight_align": WeightAlign(),
    "weight_align_token_weights": WeightAlign(token_weights=INVERSE),
    "output_align": OutputAlign(),
    "interpolated": OutputAlign(alpha=0.25),
    "interpolated_shrunk": OutputAlign(alpha=0.25, shrinkage=0.1),
    "output_error": OutputAlign(alpha=1.0),
    "output_error_shrunk": OutputAlign(alpha=1.0, shrinkage=0.5),
    "wholly_shrunk": OutputAlign(alpha=1.0, shrinkage=1.0),
    "tempered": OutputAlign(alpha=1.0, tempering=0.5),
    "wholly_tempered": OutputAlign(alpha=0.25, tempering=0.0),
    "energy": OutputAlign(alpha=1.0, preserve_energy=True),
    "energy_interpolated": OutputAlign(alpha=0.25, preserve_energy=True),
    "token_weights": OutputAlign(alpha=1.0, token_weights=INVERSE),
    "everything": OutputAlign("everything", ["all"], 0.5, 0.2, 0.7, True, INVERSE),
    "proposed": Proposed(),
    "amp_positive": Proposed(amp_rule=AmpRule.positive),
    "amp_signed": Proposed(amp_rule=AmpRule.signed),
    "amp_shrunk": OutputAlign(alpha=0.25, shrinkage=0.1, amp_rule=AmpRule.agree),
}

BLOCK = 8  # small, so that small problems have several blocks
WIDE = 16  # where salient columns are searched
BINARIZATIONS: dict[str, Planes] = {
    "row": Planes(block_size=BLOCK, column_scale=False),
    "row_column": Planes(block_size=BLOCK),
    "foldable": Foldable(block_size=BLOCK),
    "row_column_residual": Planes(block_size=BLOCK, salient_columns=2),
    "row_column_groups": Planes(block_size=BLOCK, salient_columns=2, groups=2),
    "row_residual": Planes(block_size=BLOCK, column_scale=False, salient_columns=3),
    "row_mean": Planes(block_size=BLOCK, column_scale=False, row_mean=True),
    "groups": Planes(block_size=BLOCK, groups=2),
    "everything": Planes(block_size=BLOCK, groups=2, salient_columns=3, row_mean=True),
}

# What published methods besides need of a block: for the laws that hold whatever a block is made of.
PUBLISHED: dict[str, tuple[Binarization, Solver]] = {
    "gptq": (Uniform(bits=2, block_size=BLOCK), Gptq()),
    "gptq_clipped": (Uniform(bits=2, block_size=BLOCK, clip=True), Gptq()),
    "round_to_nearest": (Uniform(bits=3, block_size=None), Rounding()),
    "pb_llm": (Partial(block_size=BLOCK), Gptq()),
    "pb_llm_magnitude": (Partial(salience=Salience.magnitude, share=0.3, block_size=BLOCK), Gptq()),
    "billm": (Partition(block_size=WIDE, most=5), Rounding(feedback=Feedback.diagonal)),
    "billm_paper": (
        Partition(block_size=WIDE, most=5, salience=Salience.hessian_paper, scored=Scored.weights),
        Rounding(feedback=Feedback.exact),
    ),
    "billm_refitted": (Partition(block_size=WIDE, most=5), ClosedForm()),
    "hbllm_row": (Haar(axis=Axis.row, block_size=WIDE, most=5), Rounding(feedback=Feedback.diagonal)),
    "hbllm_column": (Haar(axis=Axis.column, block_size=WIDE, most=5, norm=Norm.l1), Rounding()),
    "arb": (Partition(block_size=WIDE, most=6, salience=Salience.magnitude), Arb()),
    "arb_cgb": (Partition(block_size=WIDE, most=6, salient_groups=2), Arb(passes=1)),
    "arb_x": (Partition(block_size=WIDE, most=6, split_by_inputs=True), Arb()),
    "arb_rc": (Partition(block_size=WIDE, most=6, column_scale=True), Arb()),
    "arb_rc_cgb": (Partition(block_size=WIDE, most=6, column_scale=True, salient_groups=2), Arb()),
}

SOLVERS: dict[str, Solver] = {
    "closed_form": ClosedForm(),
    "closed_form_no_feedback": ClosedForm(feedback=Feedback.none),
    "closed_form_diagonal": ClosedForm(feedback=Feedback.diagonal),
    "closed_form_no_ridge": ClosedForm(ridge=0.0),
    "closed_form_passes": ClosedForm(passes=3),
    "alternating": Alternating(),
    "alternating_no_feedback": Alternating(feedback=Feedback.none, regroup=False),
    "alternating_diagonal": Alternating(feedback=Feedback.diagonal, ridge=0.1),
    "alternating_period": Alternating(iterations=5, period=3, regroup=False),
    "alternating_without_signs": Alternating(signs=False, passes=1),
    "coordinate_descent": Alternating(passes=2),
    "coordinate_descent_signs": Alternating(passes=2, regroup=False, feedback=Feedback.none, ridge=0.0),
}

# Without updates that descend, and without further passes.
ROUNDERS: dict[str, Solver] = {
    "rounding": Rounding(),
    "rounding_feedback": Rounding(feedback=Feedback.exact),
    "rounding_diagonal": Rounding(feedback=Feedback.diagonal),
    "gptq": Gptq(),
}
ALL_SOLVERS = SOLVERS | ROUNDERS

SEEDS = range(3)


def pairs(*lists: dict) -> list[tuple[str, ...]]:
    """Names from every list such that each entry of the first meets each of the second, and the others in turn."""
    first, second, *rest = (list(names) for names in lists)
    return [
        (a, b, *(others[(i + j) % len(others)] for others in rest))
        for i, a in enumerate(first)
        for j, b in enumerate(second)
    ]


def generator(seed: int) -> torch.Generator:
    """An explicit source of random numbers."""
    return torch.Generator().manual_seed(seed)


def normal(*size: int, source: torch.Generator) -> Tensor:
    """Standard normal numbers, float64."""
    return torch.randn(size, generator=source, dtype=torch.float64)


@dataclass(frozen=True)
class Sample:
    """A layer: weight (n_out, n_in), and its inputs in both streams (sequences, tokens, n_in), float64."""

    weight: Tensor
    x: Tensor
    x_hat: Tensor

    def statistics(self, weights: TokenWeights = TokenWeights.uniform) -> Statistics:
        """The moments of all sequences."""
        moments = Moments(self.weight.shape[1], weights, outputs=[self.weight])
        moments.add(self.x, self.x_hat)
        return moments.statistics()

    def problem(self, objective: Objective, diagonal: bool = False) -> Problem:
        """What a solver gets; with `diagonal`, as if the inputs of the quantized stream were uncorrelated."""
        plan = Plan(objective, BINARIZATIONS["row"], SOLVERS["closed_form"])
        statistics = self.statistics(objective.token_weights)
        if diagonal:
            statistics = replace(statistics, gram=torch.diag(statistics.gram.diagonal()))
        return plan.problem(objective, self.weight, statistics)

    def tokens(self, weights: TokenWeights = TokenWeights.uniform) -> tuple[Tensor, Tensor]:
        """Both streams (all tokens, n_in), each token times the root of its share, so that ``XᵀX`` is a mean."""
        share = torch.stack([torch.ones(len(x)) if (w := weights.of(x)) is None else w for x in self.x]).double()
        root = (share / share.sum()).sqrt()[..., None]
        return (self.x * root).flatten(0, 1), (self.x_hat * root).flatten(0, 1)


class Kind(NamedTuple):
    """Sizes of a sample; `dead` input columns are zero in both streams, the last one only in the quantized one."""

    n_out: int
    n_in: int
    tokens: int
    dead: int = 0


KINDS = {
    "whole": Kind(5, 2 * BLOCK, 30),
    "ragged": Kind(6, 2 * BLOCK + 3, 40),
    "narrow": Kind(4, BLOCK - 3, 20),
    "dead": Kind(5, BLOCK + 5, 30, dead=3),
    "singular": Kind(4, 2 * BLOCK + 1, 3),
    "blocks": Kind(5, 43, 60),
}
REGULAR = ("whole", "ragged", "narrow")


def sample(kind: str | Kind, seed: int = 0) -> Sample:
    """A random layer with correlated inputs; the quantized stream has drifted from the other by mixing and noise."""
    n_out, n_in, tokens, dead = KINDS[kind] if isinstance(kind, str) else kind
    source = generator(seed)
    mix = normal(n_in, n_in, source=source) * torch.linspace(1.0, 0.2, n_in, dtype=torch.float64)
    x = normal(2, tokens, n_in, source=source) @ mix / n_in**0.5 + 0.3 * normal(n_in, source=source)
    drift = torch.eye(n_in, dtype=torch.float64) + 0.3 * normal(n_in, n_in, source=source) / n_in**0.5
    x_hat = x @ drift + 0.2 * normal(2, tokens, n_in, source=source)
    gone = torch.randperm(n_in, generator=source)[:dead]
    x[..., gone[:-1]] = 0
    x_hat[..., gone] = 0
    weight = normal(n_out, n_in, source=source) * (0.5 + torch.rand(n_in, generator=source, dtype=torch.float64))
    return Sample(weight, x, x_hat)


def run(problem: Problem, binarization: str | Planes, solver: str | Solver) -> Solution:
    """Solve in float64."""
    chosen = BINARIZATIONS[binarization] if isinstance(binarization, str) else binarization
    return solve(problem, chosen, ALL_SOLVERS[solver] if isinstance(solver, str) else solver, torch.float64)


def dense(solution: Solution) -> Tensor:
    """Ŵ (n_out, n_in), float64."""
    return solution.code.dense(torch.float64)


class Shape(NamedTuple):
    """Columns of a random block (more than 32 are several panels of a sweep), those at the front that the quadratic
    does not see, and the rank that its metric lacks besides."""

    width: int
    dead: int = 0
    deficient: int = 0


SHAPES = {"narrow": Shape(5), "panels": Shape(71), "dead": Shape(9, dead=2), "singular": Shape(10, deficient=6)}


def target_of(weight: Tensor, metric: Tensor, inputs: Tensor | None = None) -> Target:
    """A block that is a whole layer; no ridge, and the identity's factor where the inputs have none."""
    inputs = metric if inputs is None else inputs
    factor = factorise(inputs.double(), 0.01)
    upper = factor.inverse_upper().to(weight.dtype)
    variance, limits = lambda: factor.variance().to(weight.dtype), lambda: torch.stack(weight.aminmax(dim=1))
    return Target(weight.T.contiguous(), metric, inputs, upper, variance, limits)


def random_block(binarization: str, shape: str, seed: int) -> tuple[Block, BlockQuadratic]:
    """A block of 5 rows in a random state far from an optimum, with scales of both signs, and a quadratic for it."""
    source, n_out, (width, dead, deficient) = generator(seed), 5, SHAPES[shape]
    rank = width - deficient
    root = normal(rank, width, source=source) @ (torch.eye(width) + normal(width, width, source=source) / width**0.5)
    root[:, :dead] = 0
    metric, target = root.T @ root / width, normal(n_out, width, source=source)
    planes = replace(BINARIZATIONS[binarization], block_size=width)
    block = planes.initialise(target_of(target, metric))
    flips = torch.randint(0, 8, block.level.shape, generator=source)
    allowed = 1 + 2 * block.salient.long()[:, None] + 4 * (planes.groups - 1)  # sign, residual sign, group
    block.level = block.level ^ (flips & allowed).to(block.level.dtype)
    block.row_scale = block.row_scale * normal(*block.row_scale.shape, source=source)
    block.residual_scale = block.residual_scale * normal(n_out, source=source)
    if planes.column_scale:
        block.column_scale = block.column_scale * normal(width, source=source)
    if block.row_mean is not None:
        block.row_mean = block.row_mean + 0.1 * normal(n_out, source=source)
    linear = metric @ target.T + root.T @ normal(rank, n_out, source=source) / width
    return block, BlockQuadratic(metric, linear)


def copy_block(block: Block) -> Block:
    """A copy that shares no tensor."""
    return replace(block, **{k: v.clone() for k, v in vars(block).items() if isinstance(v, Tensor)})
