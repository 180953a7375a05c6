"""Block loss of one layer at a time: what quantizing a single layer, under one objective, does to its block's output.

Everything else stays full precision, earlier blocks too, so that X̂ = X and only the layer and the objective matter.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from binllm.diagnostics.passes import installed, run_pass
from binllm.inner_loop import fit_layers, fitted_side_by_side
from binllm.measuring import Measured, moments_for
from binllm.models import linear_layers, stages
from binllm.objectives import Objective
from binllm.parallel import side_by_side
from binllm.plan import Plan
from binllm.statistics import Statistics, TokenWeights
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
    statistics = _statistics(streams, block, plan, objectives)
    targets = [streams.call(block, streams.x[span]) for span in spans]

    def fit(task: tuple[str, Objective]) -> nn.Module:
        name, objective = task
        measured = Measured(statistics[name, objective.token_weights])
        _, _, [packed] = fit_layers([linears[name]], objective, plan.binarization, measured, plan)
        return packed

    tasks = [(name, objective) for group in stages(block) for name in group for objective in objectives]
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


def _statistics(
    streams: DualStream, block: nn.Module, plan: Plan, objectives: list[Objective]
) -> dict[Weighted, Statistics]:
    linears, sums = linear_layers(block), []
    for group in stages(block):
        weights = [linears[name].weight for name in group]
        for kind in dict.fromkeys(objective.token_weights for objective in objectives):
            alike = [objective for objective in objectives if objective.token_weights is kind]
            sums.append((group, kind, moments_for(alike, weights, plan, streams.device)))
    for span in streams.spans:
        inputs = run_pass(streams, block, streams.x[span], {group[0]: None for group, _, _ in sums}).inputs
        for group, _, moments in sums:
            moments.add(inputs[group[0]], inputs[group[0]])
    found: dict[Weighted, Statistics] = {}
    for group, kind, moments in sums:
        parts = moments.statistics().split([linears[name].out_features for name in group])
        found |= {(name, kind): part for name, part in zip(group, parts, strict=True)}
    return found
