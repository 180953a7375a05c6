"""Kernels: how an input is multiplied by packed weights. They never see how the bits were found."""

from __future__ import annotations

from binllm.kernels.choice import check_kernel, choose, kernel_name
from binllm.kernels.config import KernelConfig, KernelName
from binllm.kernels.operator import packed_linear, register
from binllm.kernels.protocol import Kernel, PackedLayer

__all__ = [
    "Kernel",
    "KernelConfig",
    "KernelName",
    "PackedLayer",
    "check_kernel",
    "choose",
    "kernel_name",
    "packed_linear",
    "register",
]
