"""What a layer's moments say about the two ways in which output alignment fails: drift and lost energy."""

from __future__ import annotations

from torch import Tensor

from binllm.statistics import Statistics


def layer_diagnostics(weight: Tensor, weight_hat: Tensor, statistics: Statistics) -> dict[str, float]:
    """Drift of the layer's input and energy of its output.

    Args:
        weight: W (n_out, n_in), float64.
        weight_hat: Ŵ (n_out, n_in), float64.
        statistics: Moments of the layer's input.

    Returns:
        ``input_drift``: ``||X - X̂||_F / ||X||_F``, error accumulated before the layer.
        ``output_energy``: ``||X̂Ŵᵀ||² / ||XWᵀ||²``; well under 1 means that the layer's output lost energy (anisotropic
        distortion), which a later norm turns into a change of direction.
        ``output_error``: ``||XWᵀ - X̂Ŵᵀ||² / ||XWᵀ||²``, the same quantity for every objective.
        All dimensionless; 0 where the denominator is 0.
    """
    # Single precision is enough to look at, and these products would be a tenth of the fit's time.
    g, c, f = (m.float() for m in (statistics.gram, statistics.cross_gram, statistics.reference_gram))
    weight, weight_hat = weight.float(), weight_hat.float()
    input_energy = float(f.diagonal().sum())
    difference = float((f.diagonal() - 2 * c.diagonal() + g.diagonal()).sum())
    true = float(((weight @ f) * weight).sum())
    found = float(((weight_hat @ g) * weight_hat).sum())
    shared = float(((weight @ c) * weight_hat).sum())
    return {
        "input_drift": max(difference / input_energy, 0.0) ** 0.5 if input_energy > 0 else 0.0,
        "output_energy": found / true if true > 0 else 0.0,
        "output_error": max((true - 2 * shared + found) / true, 0.0) if true > 0 else 0.0,
    }
