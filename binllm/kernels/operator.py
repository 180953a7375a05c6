"""A packed layer's product as one opaque operator, so that torch.compile need not look into a kernel.

The operator gets the layer's number, not its tensors: these never change while a compiled graph lives, and what a
kernel derives from them stays with the layer.
"""

from __future__ import annotations

import itertools
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

_layers: WeakValueDictionary[int, Any] = WeakValueDictionary()
_numbers = itertools.count()


def register(layer: Any) -> int:
    """Give a layer its number for `packed_linear`; the layer is not kept alive by it."""
    number = next(_numbers)
    _layers[number] = layer
    return number


@torch.library.custom_op("binllm::packed_linear", mutates_args=())
def packed_linear(x: Tensor, number: int) -> Tensor:
    """Multiply (..., n_in) by the weight of the layer with this number to (..., n_out)."""
    return _layers[number].multiply(x)


@packed_linear.register_fake
def _shape(x: Tensor, number: int) -> Tensor:
    return x.new_empty((*x.shape[:-1], _layers[number].out_features))


@torch.library.custom_op("binllm::packed_linear_backward", mutates_args=())
def packed_linear_backward(gradient: Tensor, number: int) -> Tensor:
    """The gradient (..., n_in) of the input, from that of the output (..., n_out)."""
    return gradient @ _layers[number].dense_weight(gradient.dtype)


@packed_linear_backward.register_fake
def _input_shape(gradient: Tensor, number: int) -> Tensor:
    return gradient.new_empty((*gradient.shape[:-1], _layers[number].in_features))


def _save(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
    ctx.number = inputs[1]


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
    return packed_linear_backward(gradient, ctx.number), None


packed_linear.register_autograd(_backward, setup_context=_save)
