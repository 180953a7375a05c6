"""The reference kernel `torch`: a panel of output rows is unpacked, multiplied and forgotten.

Every kind of code, every device, every dtype; between calls only the bits are kept, and during a call one panel of
the weight exists. A product of fewer rows takes other code paths in the BLAS libraries than the whole one, so this
kernel equals `dense` up to rounding, and itself to the bit.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from binllm.kernels.protocol import PackedLayer


def by_panels(layer: PackedLayer, x: Tensor) -> Tensor:
    """Multiply (..., n_in) by the weight, panel by panel of rows, to (..., n_out); differentiable in x."""
    parts = [functional.linear(x, rows) for _, rows in layer.panels(x.dtype)]
    y = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
    return y if layer.bias is None else y + layer.bias.to(x.dtype)
