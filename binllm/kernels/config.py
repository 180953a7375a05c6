"""Configuration of the kernel that multiplies by packed weights."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class KernelName(Enum):
    """Kernels by name."""

    auto = "auto"
    dense = "dense"
    torch = "torch"
    triton = "triton"


@dataclass(frozen=True)
class KernelConfig:
    """The `kernel` group.

    Attributes:
        name: `dense` unpacks each weight once and keeps it; `torch` unpacks a panel of rows at a time, at every call,
            and keeps only the bits; `triton` multiplies by the bits themselves on a CUDA device; `auto` is `triton` on
            a CUDA device and `dense` elsewhere.
    """

    name: KernelName = KernelName.dense
