"""Weights on demand: a part of a model has its weights in memory only while somebody holds it.

The tensors of such a part are on the meta device, and it is known for each in which safetensors file it is. Whoever works
with a part holds it (`resident`), and a part's own forward pass does so too, hence a model that is larger than memory runs
like any other. What replaces a tensor of a part stays in memory, until it is said where it can be read again (`stow`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import torch
from accelerate.utils import set_module_tensor_to_device
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from binllm.errors import BinllmError
from binllm.packing import binary_layers

_PART = "weights_on_demand"  # attribute of a module that is such a part


class Stored(NamedTuple):
    """A tensor in a safetensors file."""

    file: Path
    key: str

    def read(self, device: torch.device | str, dtype: torch.dtype) -> Tensor:
        """Read it, into memory of its own.

        Raises:
            BinllmError: The file cannot be read, or an entry is not finite.
        """
        try:
            with safe_open(self.file, framework="pt") as opened:
                # own, aligned memory: a file's mapping may lie at odd addresses, where kernels may round differently
                tensor = opened.get_tensor(self.key).to(device, dtype, copy=True).contiguous()
        except (SafetensorError, OSError) as error:
            raise BinllmError(f"{self.file}: tensor {self.key} cannot be read ({error})") from error
        if dtype.is_floating_point and not bool(torch.isfinite(tensor).all()):
            raise BinllmError(f"{self.file}: tensor {self.key} has entries that are NaN or infinite in {dtype}")
        return tensor


class _Part:
    """What is known of one part: where its tensors are, and who holds it.

    Attributes:
        stored: By name within the module.
        device: Where they are put.
        holders: How many hold it now.
        loaded: Those in memory that can be read again; one whose place is taken is not kept.
    """

    def __init__(self, stored: Mapping[str, Stored], device: torch.device):
        self.stored, self.device = dict(stored), device
        self.holders = 0
        self.loaded: WeakValueDictionary[str, Tensor] = WeakValueDictionary()

    def hold(self, module: nn.Module) -> None:
        if self.holders == 0:
            for name, tensor in list(_tensors(module)):
                if tensor.is_meta:
                    value = self.stored[name].read(self.device, tensor.dtype)
                    set_module_tensor_to_device(module, name, self.device, value)
            self.loaded.update((name, tensor) for name, tensor in _tensors(module) if name in self.stored)
        self.holders += 1

    def let_go(self, module: nn.Module) -> None:
        self.holders -= 1
        if self.holders == 0:
            for name, tensor in list(_tensors(module)):
                if self.loaded.get(name) is tensor:  # and not one that has taken its place
                    set_module_tensor_to_device(module, name, "meta")
            self.loaded.clear()
            for layer in binary_layers(module).values():
                layer.clear_cache()


def _tensors(module: nn.Module) -> Iterable[tuple[str, Tensor]]:
    return chain(module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False))


def _part_of(module: nn.Module) -> _Part | None:
    return module.__dict__.get(_PART)


def make_on_demand(module: nn.Module, stored: Mapping[str, Stored], device: torch.device) -> None:
    """Make a module a part of its own.

    Args:
        module: With tensors on the meta device.
        stored: Where each of them is, by name within the module.
        device: Where they are put while somebody holds the module.
    """
    forward = module.forward

    @wraps(forward)
    def held(*args: Any, **kwargs: Any) -> Any:
        with resident(module):
            return forward(*args, **kwargs)

    module.__dict__[_PART] = _Part(stored, device)
    module.forward = held


@contextmanager
def resident(module: nn.Module) -> Iterator[None]:
    """Hold a module's weights in memory for the time of a ``with`` block; an ordinary module's are there anyway.

    Raises:
        BinllmError: A weight cannot be read, or is not finite.
    """
    part = _part_of(module)
    if part is None:
        yield
        return
    part.hold(module)
    try:
        yield
    finally:
        part.let_go(module)


def stow(module: nn.Module, stored: Mapping[str, Stored]) -> None:
    """Say where tensors that took the place of others can be read again; nothing to do for an ordinary module.

    Args:
        module: The part.
        stored: Where, by name within the module.
    """
    part = _part_of(module)
    if part is not None:
        part.stored |= stored
        part.loaded.update((name, tensor) for name, tensor in _tensors(module) if name in stored)


def read_tensor(model: nn.Module, name: str, tensor: Tensor) -> Tensor:
    """A tensor of a model's state, out of its file where it is not in memory.

    Args:
        model: The model.
        name: Name of the tensor in the model's state.
        tensor: What the state has under this name.
    """
    module, steps = model, name.split(".")
    while tensor.is_meta:
        module = getattr(module, steps.pop(0))
        part = _part_of(module)
        if part is not None:
            tensor = part.stored[".".join(steps)].read("cpu", tensor.dtype)
    return tensor


def is_streamed(model: nn.Module) -> bool:
    """Whether some of a model's weights are in memory only while they are needed."""
    return any(_part_of(module) is not None for module in model.modules())


def device_of(model: nn.Module) -> torch.device:
    """Where a model computes."""
    parts = (_part_of(module) for module in model.modules())
    return next((part.device for part in parts if part is not None), None) or next(model.parameters()).device


def to_device(model: nn.Module, device: torch.device) -> Any:
    """Let a model compute on a device: ``model.to(device)`` of what is in memory, and of the rest when it is read."""
    for module in model.modules():
        part = _part_of(module)
        if part is not None:
            part.device = device
    return model._apply(lambda tensor: tensor if tensor.is_meta else tensor.to(device))
