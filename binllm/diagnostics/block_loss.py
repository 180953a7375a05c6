"""Block loss of one layer at a time: what quantizing a single layer, under one objective, does to its block's output.

Everything else stays full precision, earlier blocks too, so that X̂ = X and only the layer and the objective matter.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from binllm.diagnostics.passes import installed, run_pass
from binllm.inner_loop import Measured, fit_layers, fitted_side_by_side
from binllm.models import linear_layers, stages
from binllm.objectives import Objective
from binllm.parallel import side_by_side
from binllm.plan import Plan
from binllm.statistics import Moments, Statistics, TokenWeights
from binllm.streams import DualStream

Weighted = tuple[str, TokenWeights]


def relative_loss(target: Tensor, found: Tensor) -> list[float]:
    """``||found - target||² / ||target||²`` of every sequence; both (sequences, length, hidden)."""
    target, found = target.double().flatten(1), found.double().flatten(1)
    return ((found - target).square().sum(1) / target.square().sum(1)).tolist()


@torch.no_grad()
def block_losses(
    streams: DualStream, block: nn.Module, plan: Plan, objectives: list[Objective], spans: list[slice]
) -> Iterator[tuple[str, str, list[float]]]:
    """Quantize every layer of a block alone, under every objective.

    Args:
        streams: Both streams before the block.
        block: The unquantized block; it is unquantized again at the end.
        plan: Binarization, solver and calibration; its objectives play no part.
        objectives: Under which a layer is fitted, to all calibration tokens.
        spans: The batches on which the loss is measured.

    Yields:
        (layer name, objective's name, loss of every sequence).
    """
    linears = linear_layers(block)
    statistics = _statistics(streams, block, {objective.token_weights for objective in objectives})
    reader = {name: group[0] for group in stages(block) for name in group}
    targets = [streams.call(block, streams.x[span]) for span in spans]

    def fit(task: tuple[str, Objective]) -> nn.Module:
        name, objective = task
        measured = Measured(statistics[reader[name], objective.token_weights])
        _, _, [packed] = fit_layers([linears[name]], objective, plan.binarization, measured, plan)
        return packed

    tasks = [(name, objective) for name in reader for objective in objectives]
    for (name, objective), packed in zip(
        tasks, side_by_side(fit, tasks, fitted_side_by_side(block, linears)), strict=True
    ):
        with installed(block, {name: packed}):
            outputs = [streams.call(block, streams.x[span]) for span in spans]
        yield (
            name,
            objective.name,
            [loss for pair in zip(targets, outputs, strict=True) for loss in relative_loss(*pair)],
        )


def _statistics(streams: DualStream, block: nn.Module, weights: set[TokenWeights]) -> dict[Weighted, Statistics]:
    linears = linear_layers(block)
    readers = [group[0] for group in stages(block)]
    device = streams.device
    found = {
        (name, weight): Moments(linears[name].in_features, weight, device) for name in readers for weight in weights
    }
    for span in streams.spans:
        inputs = run_pass(streams, block, streams.x[span], dict.fromkeys(readers)).inputs
        for (name, _), moments in found.items():
            moments.add(inputs[name], inputs[name])
    return {key: moments.statistics() for key, moments in found.items()}
