"""Configuration of the kernel that multiplies by packed weights."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class KernelName(Enum):
    """Kernels by name."""

    dense = "dense"
    torch = "torch"


@dataclass(frozen=True)
class KernelConfig:
    """The `kernel` group.

    Attributes:
        name: `dense` unpacks each weight once and keeps it; `torch` unpacks at every call and keeps only the
            bits.
    """

    name: KernelName = KernelName.dense
