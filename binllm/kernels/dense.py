"""The kernel for evaluation: the weight is reconstructed once and kept, a product costs as ever."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from binllm.kernels.protocol import PackedLayer


def dense(layer: PackedLayer, x: Tensor) -> Tensor:
    """Multiply (..., n_in) by the kept dense weight to (..., n_out)."""
    weight = layer.kept(("dense", x.dtype), lambda: layer.dense_weight(x.dtype))
    bias = None if layer.bias is None else layer.bias.to(x.dtype)
    return functional.linear(x, weight, bias)
