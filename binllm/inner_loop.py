"""The inner loop: decoder block by decoder block, measure, fit, replace. Read this first."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from binllm.binarization import Binarization
from binllm.distributed import Ranks
from binllm.errors import BinllmError
from binllm.measuring import Layer, Measured, measure, moments_for
from binllm.models import decoder_blocks, layer_roles, resident, stages
from binllm.objectives import Objective
from binllm.packing import BinaryLinear, Code, binary_layers
from binllm.packing.accounting import layer_bits
from binllm.parallel import LARGE, side_by_side
from binllm.plan import Granularity, Plan
from binllm.quadratic import Problem, Quadratic, relative_error
from binllm.solvers import Solution, solve
from binllm.stacking import Stack, stacks
from binllm.streams import DualStream
from binllm.streams.head import head_inputs
from binllm.streams.storage import Activations
from binllm.tracking.memory import measure_peak
from binllm.tracking.records import LayerRecord

HEAD = "head"


class Events(NamedTuple):
    """What the loop tells its surroundings.

    Attributes:
        begin: Called with (block index, block, streams) before anything happens to a block.
        layer: Called with (block index, layer name) before a layer is fitted.
        block: Called with (block index, block, streams, records of the block) when a block is finished.
    """

    begin: Callable[[int, nn.Module, DualStream], None] = lambda index, block, streams: None
    layer: Callable[[int, str], None] = lambda index, name: None
    block: Callable[[int, nn.Module, DualStream, list[LayerRecord]], None] = lambda index, block, streams, records: None


def open_streams(model: nn.Module, ids: Tensor, plan: Plan, ranks: Ranks = Ranks()) -> DualStream:
    """Both streams before the first block; ids (sequences, length) int64, those of all processes."""
    _, blocks = decoder_blocks(model)
    plan.check_roles([role.value for role in layer_roles(blocks[0]).values()])
    return DualStream(model, blocks, ids, plan.calibration.batch, Activations(plan.calibration.storage), ranks)


def quantize_blocks(streams: DualStream, plan: Plan, events: Events | None = None, start: int = 0) -> list[LayerRecord]:
    """Quantize the linear layers of all decoder blocks in place.

    Args:
        streams: Both streams before block ``start``; earlier blocks are quantized already.
        plan: What is done to each layer.
        events: Told about progress.
        start: First block to do.

    Returns:
        One record per layer.

    Raises:
        BinllmError: A layer cannot be quantized; it is named.
    """
    events = events or Events()
    records: list[LayerRecord] = []
    for index in range(start, len(streams.blocks)):
        block = streams.blocks[index]
        with resident(block):
            events.begin(index, block, streams)
            done = _quantize_block(streams, index, plan, events.layer)
            events.block(index, block, streams, done)
        records += done
    return records


def _quantize_block(
    streams: DualStream, index: int, plan: Plan, begins: Callable[[int, str], None]
) -> list[LayerRecord]:
    """One block: the full-precision stream moves on, then moments and fits wave by wave, then the quantized stream."""
    block = streams.blocks[index]
    groups, roles = stages(block), {name: role.value for name, role in layer_roles(block).items()}
    readers = [group[0] for group in groups]
    inputs = dict(zip(readers, streams.advance_reference(block, readers), strict=True))
    together = fitted_side_by_side(block, roles)
    fitted = list(zip(groups, stacks(plan, block, groups, roles), strict=True))
    done: list[LayerRecord] = []
    for wave in [fitted] if plan.calibration.granularity is Granularity.block else [[one] for one in fitted]:
        layers = measure(streams, block, {group[0]: inputs.pop(group[0]) for group, _ in wave}, wave, plan)
        if not together:
            _clear_caches(block)  # of large layers they take as much memory as a fit may need
        done += side_by_side(partial(_quantize_layer, block, index, plan, begins), layers, together)
    streams.advance_quantized(block)
    _clear_caches(block)
    return done


def _clear_caches(block: nn.Module) -> None:
    for layer in binary_layers(block).values():
        layer.clear_cache()


def quantize_head(model: nn.Module, streams: DualStream, plan: Plan) -> list[LayerRecord]:
    """Quantize the output layer in place, if the plan asks for it; both streams stand after the last block.

    Tied embeddings are untied: the embedding stays as it is.
    """
    if not plan.calibration.head:
        return []
    head = model.get_output_embeddings()  # type: ignore[operator]
    name = next(n for n, module in model.named_modules() if module is head)
    stack = Stack((name,), HEAD, plan.objective_of(HEAD, is_last=False), plan.binarization)
    with resident(head):
        moments = moments_for([stack.objective], [head.weight], plan, streams.device)
        for x, x_hat in head_inputs(model, head, streams):
            moments.add(x, x_hat)
        moments.add_over(streams.ranks)
        layer = Layer(stack, Measured(moments.statistics()))
        return [_quantize_layer(model, len(streams.blocks), plan, lambda index, name: None, layer)]


def fitted_side_by_side(block: nn.Module, names: Iterable[str]) -> bool:
    """Whether the layers are fitted side by side: on a CPU, unless one alone keeps all threads busy."""
    weights: list[Tensor] = [block.get_submodule(name).weight for name in names]  # type: ignore[misc]
    return all(w.device.type == "cpu" and w.numel() < LARGE for w in weights)


def _quantize_layer(
    block: nn.Module, index: int, plan: Plan, begins: Callable[[int, str], None], layer: Layer
) -> LayerRecord:
    """Fit a linear layer, or several as one, and put the packed ones in their place."""
    stack = layer.stack
    begins(index, stack.label)
    linears: list[Any] = [block.get_submodule(name) for name in stack.names]
    weight = _stacked(linears)
    begun = time.perf_counter()
    with measure_peak() as peak:
        try:
            quadratic, solution, packed = fit_layers(linears, stack.objective, stack.binarization, layer.measured, plan)
        except ValueError as error:
            raise BinllmError(f"model: block {index} layer {stack.label} cannot be quantized: {error}") from error
        for name, one in zip(stack.names, packed, strict=True):
            block.set_submodule(name, one)
    facts = {"block": index, "layer": stack.label, "role": stack.role, "objective": stack.objective.name}
    cost = {"seconds": time.perf_counter() - begun, "peak_memory_bytes": peak.bytes}
    return _record(facts | cost, (weight.double(), quadratic), solution, packed)


def fit_layers(
    linears: Sequence[nn.Linear], objective: Objective, binarization: Binarization, measured: Measured, plan: Plan
) -> tuple[Quadratic, Solution, list[BinaryLinear]]:
    """Quantize linear layers that read one input as one, or a single one; they stay as they are.

    Args:
        linears: The layers.
        objective: What they are fitted to; the plan's own objectives play no part.
        binarization: What their weight may be; nor does the plan's.
        measured: Moments of their inputs, which are taken.
        plan: How they are fitted.

    Returns:
        What was minimised, and what else of the problem nobody needs is gone; the solution; the packed layers.

    Raises:
        ValueError: They cannot be quantized: entries that are not finite.
    """
    problem, means = _problem(objective, _stacked(linears), measured, plan)
    between, inside = (
        getattr(torch, one.value) for one in (plan.calibration.feedback_dtype, plan.calibration.fit_dtype)
    )
    solution = solve(problem.to(between), binarization, plan.solver, inside)
    code, packed, start = solution.code.stored(), [], 0
    for linear in linears:
        stop = start + len(linear.weight)
        rows: Any = code if len(linears) == 1 else code.rows(start, stop)  # type: ignore[attr-defined]
        packed.append(_pack(linear, rows, means, plan.calibration.correct_bias))
        start = stop
    return problem.objective, solution, packed


def _problem(
    objective: Objective, weight: Tensor, measured: Measured, plan: Plan
) -> tuple[Problem, tuple[Tensor, Tensor]]:
    """The problem, and the mean input in both streams; what else was measured ends here."""
    statistics = measured.take()
    return plan.problem(objective, weight, statistics), (statistics.mean, statistics.mean_hat)


def _stacked(linears: Sequence[Any]) -> Tensor:
    """The weights of layers, row under row."""
    weights = [linear.weight.detach() for linear in linears]
    return weights[0] if len(weights) == 1 else torch.cat(weights)


def _pack(linear: nn.Linear, code: Code, means: tuple[Tensor, Tensor], correct_bias: bool) -> BinaryLinear:
    bias = None if linear.bias is None else linear.bias.detach()
    packed = BinaryLinear.from_code(code, bias)
    if bias is not None and correct_bias:
        weight, weight_hat = linear.weight.double(), packed.dense_weight(torch.float64)
        shift = weight @ means[0] - weight_hat @ means[1]
        packed.bias.data.copy_(bias + shift.to(bias.dtype))  # type: ignore[union-attr]
    return packed.to(linear.weight.device)


def _record(
    facts: dict[str, Any],
    asked: tuple[Tensor, Quadratic],
    solution: Solution,
    packed: list[BinaryLinear],
) -> LayerRecord:
    weight, quadratic = asked
    dense = [layer.dense_weight(torch.float64) for layer in packed]
    weight_hat = dense[0] if len(dense) == 1 else torch.cat(dense)
    after = quadratic.value(weight_hat)
    bits = [layer_bits(layer.spec) for layer in packed]
    return LayerRecord(
        **facts,
        n_out=weight.shape[0],
        n_in=weight.shape[1],
        q_before=solution.trace[0],
        q_after=after,
        relative_error_weight=relative_error(weight, weight_hat),
        relative_error_target=after / quadratic.constant if quadratic.constant > 0 else 0.0,
        ridge=solution.ridge,
        recoveries=solution.recoveries,
        amp_accepted=solution.amp.accepted,
        amp_rejected=solution.amp.rejected,
        amp_raised_q=solution.amp.raised,
        sweeps=solution.sweeps,
        status=solution.status.name,
        payload_bits=sum(one.payload_bits for one in bits),
        stored_bits=sum(one.linear_bits for one in bits),
    )
