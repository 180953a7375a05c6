"""The reference kernel: the weight is unpacked at every call, between calls only the bits are kept.

One layer's weight exists as a whole during its call. Multiplying panel by panel instead would bound that too,
but a matrix product of fewer rows takes other code paths in the BLAS libraries and differs in the last bit
(float32 and bfloat16 on CPU), and this kernel is the one that others are compared with bit for bit.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from binllm.kernels.protocol import PackedLayer


def unpacking(layer: PackedLayer, x: Tensor) -> Tensor:
    """Multiply (..., n_in) by the weight unpacked for this call to (..., n_out)."""
    bias = None if layer.bias is None else layer.bias.to(x.dtype)
    return functional.linear(x, layer.dense_weight(x.dtype), bias)
