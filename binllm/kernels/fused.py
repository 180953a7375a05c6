"""The kernel `triton`: a layer of sign planes multiplied by its bits, decode and prefill alike.

Each distinct set of inputs is laid out once (`arrange`), each term of the layer is one launch (`plane_product`), and the
sums are float32 until the end. Equal inputs give equal bits: no atomics. The weight never exists, except where a
gradient is wanted: then the dense product, which torch can differentiate, is taken.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from binllm.kernels.arrange import arrange
from binllm.kernels.by_panels import by_panels
from binllm.kernels.fallback import fall_back
from binllm.kernels.plane_product import add_product, splits_of
from binllm.kernels.protocol import PackedLayer
from binllm.kernels.terms import Inputs, Term, terms_of

DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def fused(layer: PackedLayer, x: Tensor) -> Tensor:
    """Multiply (..., n_in) by the packed weight to (..., n_out)."""
    if x.dtype not in DTYPES:
        fall_back(layer, f"it takes inputs of float16, bfloat16 and float32, not {x.dtype}")
        return by_panels(layer, x)
    if torch.is_grad_enabled() and x.requires_grad:
        return functional.linear(x, layer.dense_weight(x.dtype), layer.bias)
    terms = layer.kept("terms", lambda: terms_of(layer.spec, layer.stored))
    y = multiply(terms, x.reshape(-1, x.shape[-1]).contiguous(), layer.out_features)
    if layer.bias is not None:
        y = y + layer.bias
    return y.to(x.dtype).reshape(*x.shape[:-1], layer.out_features)


def multiply(terms: list[Term], x: Tensor, n_out: int) -> Tensor:
    """Sum the terms.

    Args:
        terms: Of one layer, on the device of x.
        x: (tokens, n_in), contiguous.
        n_out: Rows of the layer.

    Returns:
        (tokens, n_out) float32.
    """
    if not len(x):
        return x.new_empty(0, n_out, dtype=torch.float32)
    splits = splits_of(n_out, len(x), terms[0].inputs.blocks, x.device)
    out = torch.empty(splits, len(x), n_out, dtype=torch.float32, device=x.device)
    arranged: dict[Inputs, Tensor] = {}
    for number, term in enumerate(terms):
        if term.inputs not in arranged:
            arranged[term.inputs] = arrange(term.inputs, x)
        add_product(term, arranged[term.inputs], out, begin=number == 0)
    return out[0] if splits == 1 else out.sum(0)
