"""The quadratic family that all objectives are members of: one target, one metric, three transformations.

Every function here maps (layer statistics, weight) or a `Quadratic` to a `Quadratic`; see the table in docs/notation.md.
"""

from __future__ import annotations

import torch
from torch import Tensor

from binllm.quadratic import Quadratic
from binllm.statistics import Statistics


def weight_error(weight: Tensor) -> Quadratic:
    """``||W - Ŵ||²_F``: metric I, linear term W (n_out, n_in)."""
    return Quadratic(None, weight, float(weight.square().sum()), minimiser=weight)


def output_error(weight: Tensor, statistics: Statistics, alpha: float) -> Quadratic:
    """``||((1-α)X̂ + αX)Wᵀ - X̂Ŵᵀ||²/N``.

    α = 0 is naive output alignment (ARB-X), α = 1 the error against the full-precision output.

    Args:
        weight: W (n_out, n_in), float64; with α > 0 the one whose outputs' energy is in the statistics.
        statistics: Moments of the layer's input.
        alpha: Position of the target between the two streams, 0 to 1.

    Returns:
        ``A = G``, ``T = W((1-α)G + αC)``.
    """
    g, c = statistics.gram, statistics.cross_gram
    linear = weight @ _mixture((1 - alpha, g), (alpha, c))
    constant = float(target_energy(weight, statistics, alpha).sum())
    return Quadratic(g, linear, constant, minimiser=None if alpha else weight)


def target_energy(weight: Tensor, statistics: Statistics, alpha: float) -> Tensor:
    """Energy per token (n_out,) of each output of the target ``((1-α)X̂ + αX)Wᵀ``."""
    if alpha == 1:
        return statistics.output_energy
    moment = _mixture(((1 - alpha) ** 2, statistics.gram), (2 * alpha * (1 - alpha), statistics.cross_gram))
    energy = (weight @ moment).mul_(weight).sum(1)
    return energy + alpha**2 * statistics.output_energy if alpha else energy


def _mixture(*terms: tuple[float, Tensor]) -> Tensor:
    """A weighted sum; no copy is made for a weight of 0, nor of a term that stands alone with the weight 1."""
    present = [term for term in terms if term[0]]
    if [weight for weight, _ in present] == [1]:
        return present[0][1]
    total = present[0][0] * present[0][1]
    for weight, matrix in present[1:]:
        total += weight * matrix
    return total


def shrink(quadratic: Quadratic, weight: Tensor, shrinkage: float) -> Quadratic:
    """Isotropic shrinkage: ``(1-λ) Q + λ (tr A / n_in) ||W - Ŵ||²``, λ from 0 to 1."""
    if shrinkage == 0:
        return quadratic
    scale = quadratic.metric.diagonal().mean()
    metric = (1 - shrinkage) * quadratic.metric
    metric.diagonal().add_(shrinkage * scale)
    return Quadratic(
        metric,
        (1 - shrinkage) * quadratic.linear + shrinkage * scale * weight,
        (1 - shrinkage) * quadratic.constant + shrinkage * float(scale * weight.square().sum()),
    )


def temper(quadratic: Quadratic, weight: Tensor, tempering: float) -> Quadratic:
    """Spectral tempering: ``A_γ = c A^γ`` with ``tr A_γ = tr A``, ``T_γ = W A_γ + γ (T - W A)``, no inverse needed.

    γ = 1 is the objective itself, γ = 0 weight alignment times ``tr A / n_in``. In between it is the weight error under
    A_γ plus γ times (Q minus the weight error under A), and the constant with it.
    """
    if tempering == 1:
        return quadratic
    values, vectors = torch.linalg.eigh(quadratic.metric)
    powered = torch.ones_like(values) if tempering == 0 else values.clamp_min(0) ** tempering
    powered = powered * (values.sum() / powered.sum()) if float(powered.sum()) > 0 else powered
    metric = (vectors * powered) @ vectors.T
    metric = (metric + metric.T) / 2
    image, plain = weight @ metric, weight @ quadratic.metric
    linear = image + tempering * (quadratic.linear - plain)
    constant = (image * weight).sum() + tempering * (quadratic.constant - (plain * weight).sum())
    return Quadratic(metric, linear, float(constant))


def preserve_energy(
    quadratic: Quadratic, weight: Tensor, statistics: Statistics, alpha: float, ridge: float = 1e-3
) -> Quadratic:
    """Rescale each output's target so that its best continuous solution keeps the energy of the true output.

    The minimiser ``T A⁻¹`` is a Wiener filter: its output never has more energy than ``X Wᵀ``, often much less. Row i of T
    is multiplied by ``sqrt((W F Wᵀ)_ii / (T A⁻¹ Tᵀ)_ii)``, at most 4 so that a row without signal is not blown up.

    Args:
        quadratic: `output_error` of the same weight, statistics and alpha.
        weight: W (n_out, n_in), whose outputs' energy is in the statistics.
        statistics: Moments of the layer's input.
        alpha: Position of the target between the two streams.
        ridge: Relative ridge for the solve with A.
    """
    scale = quadratic.metric.diagonal().mean()
    scale = scale if float(scale) > 0 else torch.ones_like(scale)
    metric = quadratic.metric.clone()
    metric.diagonal().add_(ridge * scale)
    factor = torch.linalg.cholesky(metric)
    solved = torch.cholesky_solve(quadratic.linear.T, factor).T
    explained = (solved * quadratic.linear).sum(1)
    ratio = statistics.output_energy / explained.clamp_min(1e-300)
    gain = torch.where(explained > 0, ratio.sqrt(), 1.0).clamp(1.0, 4.0)
    energy = target_energy(weight, statistics, alpha) * gain.square()
    return Quadratic(quadratic.metric, quadratic.linear * gain[:, None], float(energy.sum()))
