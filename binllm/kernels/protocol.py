"""What a kernel is: a function of a packed layer and its input."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

Kept = TypeVar("Kept")


class PackedLayer(Protocol):
    """What a kernel may ask of a layer.

    Attributes:
        name: Full name in the model; empty if nobody said it.
        spec: A `binllm.packing.Spec`.
        out_features: n_out.
        bias: (n_out,) or None.
    """

    name: str
    spec: Any
    out_features: int
    bias: Any

    @property
    def device(self) -> torch.device:
        """Where the stored tensors are."""
        ...

    @property
    def stored(self) -> dict[str, Tensor]:
        """The stored tensors by name."""
        ...

    def dense_weight(self, dtype: torch.dtype = ...) -> Tensor:
        """Reconstruct the weight (n_out, n_in)."""
        ...

    def panels(self, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        """The weight panel by panel of rows."""
        ...

    def kept(self, key: Hashable, make: Callable[[], Kept]) -> Kept:
        """What was made under this key, until the layer is moved or loaded."""
        ...


class Kernel(Protocol):
    """Multiplies an input (..., n_in) by a layer's weight to (..., n_out), bias included."""

    def __call__(self, layer: Any, x: Tensor, /) -> Tensor:
        """Multiply."""
        ...
