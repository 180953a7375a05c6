"""Kernels: how an input is multiplied by packed weights. They never see how the bits were found."""

from __future__ import annotations

from binllm.errors import bad_value
from binllm.kernels.config import KernelConfig, KernelName
from binllm.kernels.dense import dense
from binllm.kernels.protocol import Kernel
from binllm.kernels.unpacking import unpacking

KERNELS: dict[KernelName, Kernel] = {KernelName.dense: dense, KernelName.torch: unpacking}

__all__ = ["KERNELS", "Kernel", "KernelConfig", "KernelName", "get_kernel"]


def get_kernel(name: str | KernelName) -> Kernel:
    """Find a kernel by its name.

    Raises:
        BinllmError: If there is none of this name.
    """
    if isinstance(name, str):
        if name not in KernelName.__members__:
            raise bad_value("kernel.name", name, KernelName.__members__)
        name = KernelName[name]
    return KERNELS[name]
