"""What the series of a run are called on axes and in menus. The definitions are in docs/diagnostics.md."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A series.

    Attributes:
        title: In words.
        axis: With its unit; dimensionless quantities are relative to something, which is named.
        log: Whether it is drawn on a logarithmic axis.
        over: What ``index`` counts; empty for a scalar.
    """

    title: str
    axis: str
    log: bool = False
    over: str = ""


RELATIVE_ERROR = "relative squared error"
METRICS = {
    "stream/weight_error": Metric("weight error", "‖W - Ŵ‖² / ‖W‖²"),
    "stream/conditioned_error": Metric("conditioned error", "‖X̂Wᵀ - X̂Ŵᵀ‖² / ‖X̂Wᵀ‖²", log=True),
    "stream/conditioned_similarity": Metric("conditioned similarity", "mean cos(X̂Wᵀ, X̂Ŵᵀ)"),
    "stream/output_error": Metric("output error", "‖XWᵀ - X̂Ŵᵀ‖² / ‖XWᵀ‖²", log=True),
    "stream/output_similarity": Metric("output similarity", "mean cos(XWᵀ, X̂Ŵᵀ)"),
    "stream/drift": Metric("drift of the stream", "‖X - X̂‖ / ‖X‖"),
    "stream/output_energy": Metric("energy of the output", "‖X̂Ŵᵀ‖² / ‖XWᵀ‖²", log=True),
    "tokens/conditioned_error": Metric("token similarity, conditioned", RELATIVE_ERROR, log=True),
    "tokens/output_error": Metric("token similarity, output", RELATIVE_ERROR, log=True),
    "attention/kl": Metric("attention: divergence", "KL divergence, nats", log=True, over="head"),
    "attention/total_variation": Metric("attention: total variation", "total variation, 0 to 1", over="head"),
    "attention/probability_cosine": Metric("attention: probabilities", "cosine similarity", over="head"),
    "attention/logit_cosine": Metric("attention: logits", "cosine similarity", over="head"),
    "attention/proxy_output_error": Metric("token-similarity proxy", RELATIVE_ERROR, log=True),
    "anisotropy/error_spectrum": Metric("spectrum of the error", "eigenvalue, relative", log=True, over="rank"),
    "anisotropy/error_log_variance": Metric("spread of the error spectrum", "variance of log eigenvalues"),
    "anisotropy/error_condition": Metric("condition of the error spectrum", "largest / least eigenvalue", log=True),
    "anisotropy/effective_rank_x": Metric("effective rank, X", "directions"),
    "anisotropy/effective_rank_x_hat": Metric("effective rank, X̂", "directions"),
    "anisotropy/mean_cosine_x": Metric("mean cosine between tokens, X", "cosine similarity"),
    "anisotropy/mean_cosine_x_hat": Metric("mean cosine between tokens, X̂", "cosine similarity"),
    "anisotropy/top_energy_x": Metric("energy of the top 1%, X", "share of the energy"),
    "anisotropy/top_energy_x_hat": Metric("energy of the top 1%, X̂", "share of the energy"),
    "anisotropy/massive_x": Metric("massive activations, X", "largest / mean magnitude", log=True),
    "anisotropy/massive_x_hat": Metric("massive activations, X̂", "largest / mean magnitude", log=True),
    "accumulation/total": Metric("error after the block", "squared error / ‖f(X)‖²", log=True),
    "accumulation/inherited": Metric("inherited error", "squared error / ‖f(X)‖²", log=True),
    "accumulation/new": Metric("new error", "squared error / ‖f(X)‖²", log=True),
    "layer/relative_error_weight": Metric("weight error of a layer", "‖W - Ŵ‖² / ‖W‖²"),
    "layer/relative_error_target": Metric("objective over the energy of its target", "Q / ‖target‖²", log=True),
    "layer/q_before": Metric("objective without what the fits gained", "Q, mean squared error per token", log=True),
    "layer/q_after": Metric("objective of the kept code", "Q, mean squared error per token", log=True),
    "layer/amp_rejected": Metric("entries that AMP held back", "entries"),
    "layer/seconds": Metric("time", "seconds"),
    "input_drift": Metric("drift of the stream", "‖X - X̂‖ / ‖X‖"),
    "output_energy": Metric("energy of the output", "‖X̂Ŵᵀ‖² / ‖XWᵀ‖²", log=True),
    "output_error": Metric("output error", "‖XWᵀ - X̂Ŵᵀ‖² / ‖XWᵀ‖²", log=True),
}
BLOCK_LOSS = "block_loss/"
LOSS_AXIS = "‖block(X; layer quantized) - block(X)‖² / ‖block(X)‖²"


def metric_of(name: str) -> Metric:
    """What is known of a series; an unknown one goes by its name."""
    if name.startswith(BLOCK_LOSS):
        objective = name.removeprefix(BLOCK_LOSS)
        return Metric(f"block loss of one layer under {objective}", LOSS_AXIS, log=True, over="calibration sequence")
    return METRICS.get(name, Metric(name, name))
