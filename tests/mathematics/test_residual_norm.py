"""The quadratic is the squared residual itself, constant included, computed here from X, X̂, W and Ŵ."""

from __future__ import annotations

import pytest
import torch
from helpers import KINDS, OBJECTIVES, generator, normal, sample
from torch import Tensor

from binllm import quadratic as quadratics
from binllm.objectives import OutputAlign, WeightAlign, family
from binllm.quadratic import Quadratic
from binllm.statistics import TokenWeights

ALPHAS = (0.0, 0.25, 1.0)


def candidates(weight: Tensor) -> list[Tensor]:
    """W itself, zero, and random matrices."""
    source = generator(9)
    return [weight, torch.zeros_like(weight), *(normal(*weight.shape, source=source) for _ in range(2))]


def same(quadratic: Quadratic, residual: list[float], weights: list[Tensor]) -> None:
    values = [quadratic.value(w) for w in weights]
    assert values == pytest.approx(residual, rel=1e-10, abs=1e-10 * (1 + quadratic.constant))


@pytest.mark.parametrize("columns", [1, 3, 4])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_blocks_of_columns_and_rows_add_up(name: str, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each column asks the metric for those before it only: layers of the other tests are one block."""
    layer = sample("ragged")
    quadratic = layer.problem(OBJECTIVES[name]).objective
    points = candidates(layer.weight)
    expected = [float((w @ quadratic.metric * w - 2 * quadratic.linear * w).sum()) + quadratic.constant for w in points]
    monkeypatch.setattr(quadratics, "COLUMNS", columns)
    monkeypatch.setattr(quadratics, "PANEL", 2)
    same(quadratic, expected, points)


@pytest.mark.parametrize("kind", KINDS)
def test_weight_alignment(kind: str) -> None:
    layer = sample(kind)
    points = candidates(layer.weight)
    quadratic = layer.problem(WeightAlign()).objective
    same(quadratic, [float((layer.weight - w).square().sum()) for w in points], points)


@pytest.mark.parametrize("weights", TokenWeights)
@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("kind", KINDS)
def test_output_alignment_of_every_target(kind: str, alpha: float, weights: TokenWeights) -> None:
    layer = sample(kind)
    points = candidates(layer.weight)
    x, x_hat = layer.tokens(weights)
    target = ((1 - alpha) * x_hat + alpha * x) @ layer.weight.T
    quadratic = layer.problem(OutputAlign(alpha=alpha, token_weights=weights)).objective
    same(quadratic, [float((target - x_hat @ w.T).square().sum()) for w in points], points)


@pytest.mark.parametrize("shrinkage", [0.1, 1.0])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_shrinkage_adds_an_isotropic_weight_error(alpha: float, shrinkage: float) -> None:
    layer = sample("ragged")
    points = candidates(layer.weight)
    plain = layer.problem(OutputAlign(alpha=alpha)).objective
    mean = float(plain.metric.diagonal().mean())
    wanted = [
        (1 - shrinkage) * plain.value(w) + shrinkage * mean * float((layer.weight - w).square().sum()) for w in points
    ]
    same(layer.problem(OutputAlign(alpha=alpha, shrinkage=shrinkage)).objective, wanted, points)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_energy_preservation_is_the_residual_against_rescaled_targets(alpha: float) -> None:
    layer = sample("ragged")
    points = candidates(layer.weight)
    x, x_hat = layer.tokens()
    plain = layer.problem(OutputAlign(alpha=alpha)).objective
    rescaled = layer.problem(OutputAlign(alpha=alpha, preserve_energy=True)).objective
    gain = (rescaled.linear * plain.linear).sum(1) / plain.linear.square().sum(1)
    torch.testing.assert_close(rescaled.linear, gain[:, None] * plain.linear)
    target = ((1 - alpha) * x_hat + alpha * x) @ layer.weight.T * gain
    same(rescaled, [float((target - x_hat @ w.T).square().sum()) for w in points], points)


def test_energy_preservation_keeps_the_energy_where_the_gain_is_within_its_bounds() -> None:
    layer = sample("ragged")
    statistics = layer.statistics()
    plain = family.output_error(layer.weight, statistics, 1.0)
    rescaled = family.preserve_energy(plain, layer.weight, statistics, 1.0, ridge=0.0)
    x, x_hat = layer.tokens()
    best = torch.linalg.solve(rescaled.metric, rescaled.linear.T).T
    before = torch.linalg.solve(plain.metric, plain.linear.T).T
    energy, wanted, lost = ((y.square()).sum(0) for y in (x_hat @ best.T, x @ layer.weight.T, x_hat @ before.T))
    assert bool((lost < 0.99 * wanted).all())  # the Wiener filter loses some, so there is something to restore
    torch.testing.assert_close(energy, wanted)


def test_the_gain_of_energy_preservation_is_bounded() -> None:
    layer = sample("ragged")
    statistics = layer.statistics()
    plain = family.output_error(layer.weight, statistics, 1.0)
    faint = Quadratic(plain.metric, plain.linear * 1e-3, plain.constant)
    loud = Quadratic(plain.metric, plain.linear * 1e3, plain.constant)
    for quadratic, gain in ((faint, 4.0), (loud, 1.0)):
        rescaled = family.preserve_energy(quadratic, layer.weight, statistics, 1.0)
        torch.testing.assert_close(rescaled.linear, gain * quadratic.linear)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_metric_is_symmetric_and_positive_and_the_gradient_is_that_of_the_value(kind: str, name: str) -> None:
    layer = sample(kind)
    quadratic = layer.problem(OBJECTIVES[name]).objective
    torch.testing.assert_close(quadratic.metric, quadratic.metric.T, rtol=0, atol=0)
    eigenvalues = torch.linalg.eigvalsh(quadratic.metric)
    assert float(eigenvalues[0]) >= -1e-12 * float(eigenvalues[-1])
    point = normal(*layer.weight.shape, source=generator(1)).requires_grad_()
    quadratic.rows(point).sum().backward()
    torch.testing.assert_close(quadratic.gradient(point.detach()), point.grad / 2)
    assert quadratic.value(point.detach()) == pytest.approx(
        float(quadratic.rows(point.detach()).sum()) + quadratic.constant
    )


@pytest.mark.parametrize("name", [n for n, o in OBJECTIVES.items() if getattr(o, "tempering", 1.0) == 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_an_untempered_objective_is_never_negative(kind: str, name: str) -> None:
    quadratic = sample(kind).problem(OBJECTIVES[name]).objective
    best = quadratic.linear @ torch.linalg.pinv(quadratic.metric, hermitian=True)
    assert quadratic.value(best) >= -1e-9 * quadratic.constant
