"""What the layers of a wave are fitted to: the moments of their inputs, as far as their objectives look at them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from binllm.objectives import Objective, reads_reference
from binllm.plan import Plan
from binllm.stacking import Stack
from binllm.statistics import Moments, Statistics
from binllm.streams import DualStream

Wave = Sequence[tuple[Sequence[str], Sequence[Stack]]]  # groups of layers that read one input, and their stacks


class Measured:
    """Statistics that a layer is fitted to, until it takes them.

    A wide layer's moments are larger than all else; they are not to outlive what is made of them.
    """

    def __init__(self, statistics: Statistics):
        self._statistics: Statistics | None = statistics

    def take(self) -> Statistics:
        """The statistics, once."""
        statistics, self._statistics = self._statistics, None
        assert statistics is not None
        return statistics


class Layer(NamedTuple):
    """A linear layer, or several that are fitted as one, whose inputs have been measured."""

    stack: Stack
    measured: Measured


def moments_for(
    objectives: Sequence[Objective], weights: Sequence[Tensor], plan: Plan, device: torch.device
) -> Moments:
    """The moments of an input, of which nothing has been added yet.

    Args:
        objectives: Of the layers that read it, all with the same weighting of tokens.
        weights: Of these layers (n_out, n_in).
        plan: What is done to them.
        device: Where the sums are.
    """
    outputs = weights if any(map(reads_reference, objectives)) else ()
    cross = any(map(plan.reads_cross, objectives))
    return Moments(weights[0].shape[1], objectives[0].token_weights, device, outputs, cross)


def measure(streams: DualStream, block: nn.Module, inputs: dict[str, Tensor], wave: Wave, plan: Plan) -> list[Layer]:
    """Measure what the layers of a wave read, as the partly quantized block sees it.

    Args:
        streams: Both streams before the block.
        block: The block as it stands.
        inputs: What the first layer of each group reads in the full-precision stream, (sequences, length, n_in).
        wave: The layers.
        plan: What is done to them.

    Returns:
        The layers with the moments of their inputs.
    """
    sums: list[tuple[str, Moments]] = []
    together = [(group[0], stacks) for group, stacked in wave for stacks in _by_weighting(stacked)]
    for name, stacks in together:
        weights = [weight for stack in stacks for weight in _weights(block, stack)]
        objectives = [stack.objective for stack in stacks]
        sums.append((name, moments_for(objectives, weights, plan, streams.device)))
    streams.measure(block, inputs, sums)
    found: dict[str, Measured] = {}
    for (_, stacks), (_, moments) in zip(together, sums, strict=True):
        outputs = [sum(map(len, _weights(block, stack))) for stack in stacks]
        parts = moments.statistics().split(outputs)
        found |= {stack.label: Measured(part) for stack, part in zip(stacks, parts, strict=True)}
    return [Layer(stack, found[stack.label]) for _, stacked in wave for stack in stacked]


def _by_weighting(stacked: Sequence[Stack]) -> list[list[Stack]]:
    kinds = dict.fromkeys(stack.objective.token_weights for stack in stacked)
    return [[stack for stack in stacked if stack.objective.token_weights is kind] for kind in kinds]


def _weights(block: nn.Module, stack: Stack) -> list[Tensor]:
    return [block.get_submodule(name).weight.detach() for name in stack.names]  # type: ignore[operator]
