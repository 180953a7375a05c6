"""Which kernel a layer gets: by name, by device, and aloud where it is another one than was asked for.

A device that cannot run the kernel asked for is an error, since the whole model would run otherwise than the user
said. A single layer that the kernel does not cover (another kind of code) runs with `torch`, with one warning.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch

from binllm.errors import BinllmError, bad_value
from binllm.kernels.by_panels import by_panels
from binllm.kernels.config import KernelName
from binllm.kernels.dense import dense
from binllm.kernels.fallback import fall_back
from binllm.kernels.protocol import Kernel, PackedLayer

COVERED = "binary"
"""The kind of code whose planes the Triton kernels read."""


def kernel_name(name: str | KernelName) -> KernelName:
    """Find a kernel by its name.

    Raises:
        BinllmError: If there is none of this name.
    """
    if isinstance(name, KernelName):
        return name
    if name not in KernelName.__members__:
        raise bad_value("kernel.name", name, KernelName.__members__)
    return KernelName[name]


def check_kernel(name: str | KernelName, device: torch.device | str) -> KernelName:
    """Refuse a kernel that a device cannot run.

    Returns:
        The kernel's name.

    Raises:
        BinllmError: Naming kernel, device, reason, and what can be had.
    """
    found, device = kernel_name(name), torch.device(device)
    if found is KernelName.triton and (reason := _cannot_run(device)):
        others = ", ".join(other for other in KernelName.__members__ if other != found.value)
        raise BinllmError(f"kernel.name = {found.value}: cannot run on {device} ({reason}); allowed are {others}")
    return found


def choose(name: KernelName, layer: PackedLayer) -> Kernel:
    """The kernel of a layer on the device where it is.

    Raises:
        BinllmError: As `check_kernel`.
    """
    device = layer.device
    if name is KernelName.dense or (name is KernelName.auto and device.type != "cuda"):
        return dense
    if name is KernelName.torch:
        return by_panels
    reason = _cannot_run(device) if name is KernelName.auto else None
    if not reason:
        check_kernel(name, device)
        kind = layer.spec.kind
        reason = None if kind == COVERED else f"it reads codes of kind '{COVERED}', this one is '{kind}'"
    if reason:
        fall_back(layer, reason)
        return by_panels
    from binllm.kernels.fused import fused

    return fused


def _cannot_run(device: torch.device) -> str | None:
    """Why the Triton kernels cannot run on a device."""
    if find_spec("triton") is None:
        return "the package triton is not installed"
    from binllm.kernels.interpreter import INTERPRETED

    if device.type == "cuda" or INTERPRETED:
        return None
    return "Triton needs a CUDA device, or its interpreter: TRITON_INTERPRET=1"
