"""What a kernel is: a function of a packed layer and its input."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor


class PackedLayer(Protocol):
    """What a kernel may ask of a layer, besides its stored tensors."""

    bias: Any

    def dense_weight(self, dtype: torch.dtype = ...) -> Tensor:
        """Reconstruct the weight (n_out, n_in)."""
        ...

    def cached_weight(self, dtype: torch.dtype) -> Tensor:
        """The weight (n_out, n_in), reconstructed once."""
        ...


class Kernel(Protocol):
    """Multiplies an input (..., n_in) by a layer's weight to (..., n_out), bias included."""

    def __call__(self, layer: Any, x: Tensor, /) -> Tensor:
        """Multiply."""
        ...
