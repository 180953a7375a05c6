"""Error feedback: later columns become the conditional minimiser; the published variant is GPTQ's loop."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import pytest
import torch
from helpers import ALL_SOLVERS, BINARIZATIONS, BLOCK, OBJECTIVES, SOLVERS, Sample, dense, pairs, run, sample
from torch import Tensor

from binllm.binarization import Block, Planes, Target
from binllm.objectives import OutputAlign, WeightAlign
from binllm.quadratic import Problem, Quadratic
from binllm.solvers import ClosedForm, Feedback, Solution

KIND = "ragged"


@dataclass
class Recorder:
    """A binarization that keeps what it is asked to fit."""

    inner: Planes
    targets: list[Tensor] = field(default_factory=list)
    metrics: list[Tensor] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=list)

    @property
    def block_size(self) -> int:
        return self.inner.block_size

    def assemble(self, blocks: list[Block]) -> Any:
        return self.inner.assemble(blocks)

    def initialise(self, target: Target) -> Block:
        self.targets.append(target.weight.clone())
        self.metrics.append(target.metric.clone())
        self.inputs.append(target.inputs.clone())
        return self.inner.initialise(target)


def walk(layer: Sample, objective: str, binarization: str, solver: Any) -> tuple[Problem, Solution, Recorder]:
    """The greedy pass only."""
    recorder = Recorder(BINARIZATIONS[binarization])
    problem = layer.problem(OBJECTIVES[objective])
    return problem, run(problem, recorder, greedy_only(solver)), recorder  # type: ignore[arg-type]


def greedy_only(solver: Any) -> Any:
    return replace(solver, passes=0) if "passes" in {one.name for one in fields(solver)} else solver


def with_ridge(problem: Problem, ridge: float) -> tuple[Tensor, Tensor]:
    """Metric and linear term of what feedback minimises: the ridge pulls towards W."""
    metric, weight = problem.feedback, problem.weight
    linear = problem.objective.linear if problem.feedback_is_objective else weight @ metric
    size = ridge * float(metric.diagonal().mean())
    return metric + size * torch.eye(len(metric)), linear + size * weight


def solve_right(rows: Tensor, matrix: Tensor) -> Tensor:
    return torch.linalg.solve(matrix, rows.T).T


def cases(feedback: Feedback) -> list[tuple[str, ...]]:
    solvers = {name: solver for name, solver in ALL_SOLVERS.items() if solver.feedback is feedback}
    return pairs(OBJECTIVES, solvers, BINARIZATIONS)


@pytest.mark.parametrize(("objective", "solver", "binarization"), cases(Feedback.exact))
def test_after_exact_feedback_later_columns_minimise_the_quadratic_given_the_earlier_ones(
    objective: str, binarization: str, solver: str
) -> None:
    layer = sample(KIND)
    problem, solution, seen = walk(layer, objective, binarization, ALL_SOLVERS[solver])
    (metric, linear), done = with_ridge(problem, solution.ridge), dense(solution)
    assert len(seen.targets) == 3
    for number, target in enumerate(seen.targets):
        start, width = number * BLOCK, target.shape[1]
        rest = linear[:, start:] - done[:, :start] @ metric[:start, start:]
        wanted = solve_right(rest, metric[start:, start:])[:, :width]
        torch.testing.assert_close(target, wanted, rtol=1e-8, atol=1e-8)
        if problem.feedback_is_objective:
            inverse = torch.linalg.inv(metric[start:, start:])[:width, :width]
            torch.testing.assert_close(seen.metrics[number], torch.linalg.inv(inverse), rtol=1e-8, atol=1e-8)
            assert torch.equal(seen.inputs[number], seen.metrics[number])
        else:
            span = slice(start, start + width)
            torch.testing.assert_close(seen.metrics[number], problem.objective.metric[span, span])
            assert torch.equal(seen.inputs[number], problem.feedback[span, span])  # salience looks at the inputs


@pytest.mark.parametrize(("objective", "solver", "binarization"), cases(Feedback.diagonal))
def test_diagonal_feedback_is_the_literal_loop_of_the_published_code(
    objective: str, binarization: str, solver: str
) -> None:
    layer = sample(KIND)
    problem, solution, seen = walk(layer, objective, binarization, ALL_SOLVERS[solver])
    (metric, linear), quantized = with_ridge(problem, solution.ridge), dense(solution)
    n_in = len(metric)
    upper = torch.linalg.cholesky(torch.linalg.inv(metric), upper=True)
    w = solve_right(linear, metric)
    if not problem.feedback_is_objective:
        w = problem.weight.clone()
    for number, start in enumerate(range(0, n_in, BLOCK)):
        stop = min(start + BLOCK, n_in)
        torch.testing.assert_close(seen.targets[number], w[:, start:stop], rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(seen.metrics[number], problem.objective.metric[start:stop, start:stop])
        errors = torch.zeros(len(w), stop - start).double()
        for j in range(start, stop):
            errors[:, j - start] = (w[:, j] - quantized[:, j]) / upper[j, j]
        w[:, stop:] -= errors @ upper[start:stop, stop:]


@pytest.mark.parametrize(("objective", "solver", "binarization"), cases(Feedback.none))
def test_without_feedback_every_block_is_fitted_to_the_unconstrained_minimiser(
    objective: str, binarization: str, solver: str
) -> None:
    layer = sample(KIND)
    problem, solution, seen = walk(layer, objective, binarization, ALL_SOLVERS[solver])
    metric, linear = with_ridge(problem, solution.ridge)
    torch.testing.assert_close(torch.cat(seen.targets, 1), solve_right(linear, metric), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("binarization", "solver", "objective"), pairs(BINARIZATIONS, SOLVERS, OBJECTIVES))
def test_with_a_diagonal_metric_no_error_is_fed_back(binarization: str, solver: str, objective: str) -> None:
    problem = sample("blocks").problem(OBJECTIVES[objective], diagonal=True)
    planes = replace(BINARIZATIONS[binarization], block_size=16)
    plain = replace(SOLVERS[solver], ridge=0.0, passes=0)  # type: ignore[type-var]
    results = [dense(run(problem, planes, replace(plain, feedback=feedback))) for feedback in Feedback]
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-8, atol=1e-8)


def test_with_a_diagonal_metric_error_feedback_is_plain_rounding() -> None:
    layer = sample(KIND)
    problem = layer.problem(OutputAlign(), diagonal=True)
    result = dense(run(problem, "row", ClosedForm()))
    assert torch.equal(result.sign(), layer.weight.sign())


@pytest.mark.parametrize("feedback", Feedback)
def test_feedback_matters_when_inputs_are_correlated(feedback: Feedback) -> None:
    problem = sample(KIND).problem(WeightAlign())
    plain, other = (dense(run(problem, "row", ClosedForm(feedback=f))) for f in (Feedback.none, feedback))
    assert torch.equal(plain, other) == (feedback is Feedback.none)


def test_the_documented_example() -> None:
    """Column 1 of W = (.4, 1) becomes 1; given that, the minimiser in column 2 is .7."""
    metric = torch.tensor([[1.0, 0.5], [0.5, 1.0]]).double()
    weight = torch.tensor([[0.4, 1.0]]).double()
    objective = Quadratic(metric, weight @ metric)

    class Ones(Planes):
        def initialise(self, target: Target) -> Block:
            seen.append(float(target.weight))
            block = super().initialise(target)
            block.row_scale = torch.ones_like(block.row_scale)
            return block

    class Frozen(ClosedForm):
        def fit(self, block: Block, quadratic: Any) -> None:
            """Keep the first code."""

    seen: list[float] = []
    run(Problem(weight, objective, metric), Ones(block_size=1, column_scale=False), Frozen(ridge=0.0))
    assert seen == pytest.approx([0.4, 0.7])
