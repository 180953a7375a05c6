"""Where objectives coincide: X̂ = X, α = 0, λ = 1, γ = 0, γ = 1, and orthonormal inputs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers import BINARIZATIONS, OBJECTIVES, SOLVERS, Sample, dense, generator, normal, run, sample

from binllm.objectives import OutputAlign, WeightAlign, family, reads_reference
from binllm.plan import Plan
from binllm.quadratic import Quadratic
from binllm.statistics import Moments

ALPHAS = (0.0, 0.25, 1.0)


def assert_same(first: Quadratic, second: Quadratic, factor: float = 1.0) -> None:
    torch.testing.assert_close(first.metric, second.metric * factor)
    torch.testing.assert_close(first.linear, second.linear * factor)
    assert first.constant == pytest.approx(second.constant * factor)


def white(seed: int = 0) -> Sample:
    """Both streams equal, with second moment I."""
    layer = sample("ragged", seed)
    n = layer.weight.shape[1]
    x = torch.linalg.qr(normal(40, n, source=generator(seed)))[0] * 40**0.5
    return Sample(layer.weight, x[None], x[None])


@pytest.mark.parametrize("alpha", ALPHAS)
def test_without_drift_every_target_is_the_naive_one(alpha: float) -> None:
    layer = sample("ragged")
    still = replace(layer, x_hat=layer.x)
    naive = still.problem(OutputAlign(alpha=0.0)).objective
    assert_same(still.problem(OutputAlign(alpha=alpha)).objective, naive)
    torch.testing.assert_close(naive.linear, layer.weight @ naive.metric)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_orthonormal_inputs_make_output_alignment_weight_alignment(alpha: float) -> None:
    layer = white()
    assert_same(layer.problem(OutputAlign(alpha=alpha)).objective, layer.problem(WeightAlign()).objective)


def test_alpha_zero_does_not_look_at_the_full_precision_stream() -> None:
    layer = sample("ragged")
    other = replace(layer, x=layer.x.flip(1) * 3)
    assert_same(layer.problem(OutputAlign()).objective, other.problem(OutputAlign()).objective)


@pytest.mark.parametrize("name", [name for name, one in OBJECTIVES.items() if not reads_reference(one)])
def test_what_an_objective_says_it_does_not_read_need_not_be_measured(name: str) -> None:
    layer, objective = sample("ragged"), OBJECTIVES[name]
    moments = Moments(layer.weight.shape[1], objective.token_weights, cross=False)
    moments.add(layer.x, layer.x_hat)
    plan = Plan(objective, BINARIZATIONS["row"], SOLVERS["closed_form"])
    found = plan.problem(objective, layer.weight, moments.statistics())
    assert_same(found.objective, layer.problem(objective).objective)
    torch.testing.assert_close(found.feedback, layer.problem(objective).feedback)


def test_alpha_one_has_the_full_precision_output_as_target() -> None:
    layer = sample("ragged")
    x, x_hat = layer.tokens()
    quadratic = layer.problem(OutputAlign(alpha=1.0)).objective
    torch.testing.assert_close(quadratic.linear, layer.weight @ x.T @ x_hat)
    assert quadratic.constant == pytest.approx(float((x @ layer.weight.T).square().sum()))


@pytest.mark.parametrize("option", [{"shrinkage": 1.0}, {"tempering": 0.0}], ids=str)
@pytest.mark.parametrize("alpha", ALPHAS)
def test_full_shrinkage_and_full_tempering_are_weight_alignment(alpha: float, option: dict[str, float]) -> None:
    layer = sample("ragged")
    mean = float(layer.statistics().gram.diagonal().mean())
    quadratic = layer.problem(OutputAlign(alpha=alpha, **option)).objective
    assert_same(quadratic, layer.problem(WeightAlign()).objective, mean)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_gentle_tempering_is_the_objective_itself(alpha: float) -> None:
    layer = sample("ragged")
    plain = family.output_error(layer.weight, layer.statistics(), alpha)
    assert_same(family.temper(plain, layer.weight, 1.0), plain)
    near = family.temper(plain, layer.weight, 1 - 1e-9)
    torch.testing.assert_close(near.metric, plain.metric, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(near.linear, plain.linear, rtol=1e-6, atol=1e-7)
    assert near.constant == pytest.approx(plain.constant, rel=1e-6)


def test_tempering_keeps_the_trace_and_takes_the_power_of_the_spectrum() -> None:
    layer = sample("ragged")
    plain = family.output_error(layer.weight, layer.statistics(), 1.0)
    half = family.temper(plain, layer.weight, 0.5).metric
    assert float(half.trace()) == pytest.approx(float(plain.metric.trace()))
    squared = half @ half
    torch.testing.assert_close(squared / squared.trace(), plain.metric / plain.metric.trace())


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("binarization", ["row", "row_column_groups"])
def test_solvers_see_only_the_quadratic(binarization: str, solver: str) -> None:
    layer = white()
    by_weight = run(layer.problem(WeightAlign()), binarization, solver)
    by_output = run(layer.problem(OutputAlign(alpha=1.0)), binarization, solver)
    torch.testing.assert_close(dense(by_output), dense(by_weight), rtol=1e-7, atol=1e-7)
