"""Laws of the published methods' binarizations, whatever a block is made of."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers import PUBLISHED, Kind, Sample, generator, sample
from torch import Tensor

from binllm.binarization.uniform import clipped_grid, grid
from binllm.objectives import Objective, OutputAlign, WeightAlign
from binllm.plan import Plan
from binllm.solvers import Feedback, Rounding, Solution, solve

LAYER = sample(Kind(6, 44, 60))
OBJECTIVES: dict[str, Objective] = {"weight_align": WeightAlign(), "output_align": OutputAlign(alpha=0.25)}
methods = pytest.mark.parametrize("method", PUBLISHED)
objectives = pytest.mark.parametrize("objective", OBJECTIVES)


def solution(layer: Sample, method: str, objective: str) -> Solution:
    binarization, solver = PUBLISHED[method]
    plan = Plan(OBJECTIVES[objective], binarization, solver)
    problem = plan.problem(plan.objective, layer.weight, layer.statistics())
    return solve(problem, binarization, solver, torch.float64)


def dense(layer: Sample, method: str, objective: str) -> Tensor:
    return solution(layer, method, objective).code.dense(torch.float64)


@objectives
@methods
def test_the_code_stands_for_what_the_walk_ended_with(method: str, objective: str) -> None:
    found = solution(LAYER, method, objective)
    problem = Plan(OBJECTIVES[objective], *PUBLISHED[method]).problem(
        OBJECTIVES[objective], LAYER.weight, LAYER.statistics()
    )
    value = problem.objective.value(found.code.validate().dense(torch.float64))
    assert value == pytest.approx(found.trace[-1], rel=1e-9)


@objectives
@pytest.mark.parametrize("method", [name for name in PUBLISHED if not name.startswith("hbllm")])  # which pairs rows
def test_output_rows_may_be_permuted(method: str, objective: str) -> None:
    order = torch.randperm(len(LAYER.weight), generator=generator(3))
    permuted = replace(LAYER, weight=LAYER.weight[order])
    torch.testing.assert_close(dense(permuted, method, objective), dense(LAYER, method, objective)[order])


@objectives
@methods
def test_weights_and_inputs_may_be_scaled(method: str, objective: str) -> None:
    """Upwards: the published fits add 1e-8 to denominators. By powers of two, so that nothing is rounded otherwise."""
    scaled = Sample(LAYER.weight * 32, LAYER.x * 256, LAYER.x_hat * 256)
    wanted = dense(LAYER, method, objective) * 32
    torch.testing.assert_close(dense(scaled, method, objective), wanted, rtol=1e-5, atol=1e-5)


@methods
def test_quantized_weights_are_closer_than_nothing(method: str) -> None:
    """On weights without outliers: nearer to W than zero is, in the metric of the inputs."""
    error = LAYER.weight - dense(LAYER, method, "weight_align")
    gram = LAYER.statistics().gram
    assert float((error @ gram * error).sum()) < 0.7 * float((LAYER.weight @ gram * LAYER.weight).sum())


@methods
def test_bits_are_those_of_the_stored_tensors(method: str) -> None:
    code = solution(LAYER, method, "weight_align").code.stored()
    stored = sum(8 * t.numel() * t.itemsize for t in code.pack().values())
    assert code.spec().bits().linear_bits == stored


@pytest.mark.parametrize("bits", [2, 3])
def test_a_clipped_grid_leaves_no_more_error_than_the_full_one(bits: int) -> None:
    weight = torch.randn(64, 7, generator=generator(0), dtype=torch.float64) ** 3
    low, high = weight.aminmax(dim=0)
    errors = []
    for scale, zero in (grid(low, high, bits), clipped_grid(weight, low, high, bits)):
        level = (torch.round(weight / scale) + zero).clamp(0, 2**bits - 1)
        errors.append(((level - zero) * scale - weight).abs().pow(2.4).sum(0))
    assert bool((errors[1] <= errors[0]).all())
    assert float(errors[1].sum()) < 0.97 * float(errors[0].sum())


def test_a_solver_that_keeps_codes_is_not_asked_for_a_fit() -> None:
    class Keeping(Rounding):
        def fit(self, block: object, quadratic: object) -> None:
            raise AssertionError

    binarization = PUBLISHED["billm"][0]
    problem = Plan(WeightAlign(), binarization, Keeping()).problem(WeightAlign(), LAYER.weight, LAYER.statistics())
    found = solve(problem, binarization, Keeping())
    assert found.trace[0] == found.trace[-1]


@pytest.mark.parametrize("inside", [torch.float32, torch.float64])
@objectives
@methods
def test_feedback_in_float32_leaves_as_little_error(method: str, objective: str, inside: torch.dtype) -> None:
    binarization, solver = PUBLISHED[method]
    plan = Plan(OBJECTIVES[objective], binarization, solver)
    problem = plan.problem(plan.objective, LAYER.weight, LAYER.statistics())
    rounded = problem.to(torch.float32)
    assert rounded.feedback_is_objective == problem.feedback_is_objective
    found = solve(rounded, binarization, solver, inside).code.dense(torch.float64)
    exact = solve(problem, binarization, solver, inside).code.dense(torch.float64)
    assert problem.objective.value(found) == pytest.approx(problem.objective.value(exact), rel=1e-3)
    assert not torch.equal(found, exact) or solver.feedback is Feedback.none or binarization.block_size is None
