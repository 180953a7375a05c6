"""One batch of calibration tokens through one block: as it was on X, as it is on X̂, and as it was on X̂."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from binllm.diagnostics.attention import Attended, attention_seen
from binllm.streams import DualStream


class View(NamedTuple):
    """A layer, or a block, in both models; all (sequences, length, features).

    Attributes:
        x: Its input in the full-precision model (for a block: its output).
        x_hat: The same in the quantized model.
        target: ``XWᵀ``, its full-precision output.
        conditioned: ``X̂Wᵀ``, what the unquantized layer makes of the quantized model's input.
        found: ``X̂Ŵᵀ``, its output in the quantized model.
    """

    x: Tensor
    x_hat: Tensor
    target: Tensor
    conditioned: Tensor
    found: Tensor


@dataclass(frozen=True)
class Pass:
    """What one run of a block over one batch shows.

    Attributes:
        inputs: By layer name, (sequences, length, n_in).
        outputs: By layer name without the bias, (sequences, length, n_out).
        attention: What attention got; None for a model that does not use the attention interface of transformers.
        output: The block's output, (sequences, length, hidden).
    """

    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    attention: Attended | None
    output: Tensor


@dataclass(frozen=True)
class Batch:
    """The three runs of a block over one batch.

    Attributes:
        full: The unquantized block on X.
        quantized: The quantized block on X̂.
        conditioned: Output of the unquantized block on X̂.
        x: Input X of the block.
        x_hat: Input X̂ of the block.
        linears: The unquantized layers by name.
    """

    full: Pass
    quantized: Pass
    conditioned: Tensor
    x: Tensor
    x_hat: Tensor
    linears: Mapping[str, nn.Linear]

    @cached_property
    def views(self) -> dict[str, View]:
        """Every layer by name, and the block itself under the empty name."""
        found: dict[str, View] = {}
        for name, linear in self.linears.items():
            x, x_hat = self.full.inputs[name], self.quantized.inputs[name]
            conditioned = torch.nn.functional.linear(x_hat, linear.weight)
            found[name] = View(x, x_hat, self.full.outputs[name], conditioned, self.quantized.outputs[name])
        y, y_hat = self.full.output, self.quantized.output
        return found | {"": View(y, y_hat, y, self.conditioned, y_hat)}


@torch.no_grad()
def run_batch(
    streams: DualStream, block: nn.Module, linears: Mapping[str, nn.Linear], x: Tensor, x_hat: Tensor
) -> Batch:
    """Run a finished block, and for the time of the call the block that it was.

    Args:
        streams: Knows how the model calls its blocks.
        block: The quantized block.
        linears: Its unquantized layers by name.
        x: Its input in the full-precision model (sequences, length, hidden).
        x_hat: Its input in the quantized model.
    """
    quantized = run_pass(streams, block, x_hat, linears)
    with installed(block, linears):
        full = run_pass(streams, block, x, linears)
        conditioned = run_pass(streams, block, x_hat, {}).output  # observed too: the same bits where X̂ = X
    return Batch(full, quantized, conditioned, x, x_hat, linears)


@torch.no_grad()
def run_pass(streams: DualStream, block: nn.Module, hidden: Tensor, names: Mapping[str, Any]) -> Pass:
    """Run a block on ``hidden`` (sequences, length, hidden) and keep what its layers ``names`` and its attention see."""
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}

    def keep(name: str, module: Any, args: tuple[Tensor, ...], output: Tensor) -> None:
        # By sequence, also where a block flattens its tokens (OPT before its feed-forward layers).
        inputs[name] = args[0].reshape(len(hidden), -1, args[0].shape[-1])
        output = output if module.bias is None else output - module.bias
        outputs[name] = output.reshape(len(hidden), -1, output.shape[-1])

    hooks = [block.get_submodule(n).register_forward_hook(lambda *seen, n=n: keep(n, *seen)) for n in names]
    try:
        with attention_seen(block) as calls:
            output = streams.call(block, hidden)
    finally:
        for hook in hooks:
            hook.remove()
    return Pass(inputs, outputs, calls[0] if calls else None, output)


@contextmanager
def installed(block: nn.Module, layers: Mapping[str, nn.Module]) -> Iterator[None]:
    """Put layers into a block for the time of a ``with`` block."""
    before = {name: block.get_submodule(name) for name in layers}
    for name, layer in layers.items():
        block.set_submodule(name, layer)
    try:
        yield
    finally:
        for name, layer in before.items():
            block.set_submodule(name, layer)
