"""A linear layer whose weight is a packed code of any kind."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from binllm.kernels import Kernel, KernelName, check_kernel, choose, kernel_name, packed_linear, register
from binllm.packing.panels import dense_by_rows, panels
from binllm.packing.protocol import Code, Spec

Kept = TypeVar("Kept")


class BinaryLinear(nn.Module):
    """y = x Ŵᵀ + bias with Ŵ given by a `Code`; with the kernel `dense` bit-equal to `F.linear` with `code.dense(x.dtype)`.

    Its buffers are exactly the tensors that are saved (`Spec.tensors`): signs, groups and levels packed into bytes,
    salient columns as a bitmap or as int16/int32 indices, whichever is smaller, and the scales in their stored
    dtype, which `.to(dtype)` and `.half()` leave alone. The optional `bias` is an ordinary parameter without
    gradient.

    Attributes:
        spec: Shapes and dtypes of the stored tensors.
        in_features: n_in.
        out_features: n_out.
        kernel: Name of the kernel that computes the product; `set_kernel` sets that of a whole model.
        name: Full name in the model, for messages; empty until `set_kernel` says it.
    """

    def __init__(self, spec: Spec, device: torch.device | str | None = None, dtype: torch.dtype | None = None):
        """Make a layer whose tensors wait to be loaded.

        Args:
            spec: What the layer consists of.
            device: Of the tensors; may be the meta device.
            dtype: Of the bias, if there is one.
        """
        super().__init__()
        self.spec = spec
        self.in_features, self.out_features = spec.n_in, spec.n_out
        self.kernel, self.name = KernelName.dense, ""
        self._kept: dict[Hashable, Any] = {}
        self._number = register(self)
        for name, (shape, stored) in spec.tensors().items():
            self.register_buffer(name, torch.empty(shape, dtype=stored, device=device))
        bias = torch.empty(spec.n_out, dtype=dtype, device=device) if spec.bias else None
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    @classmethod
    def empty(
        cls, spec: Spec, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> BinaryLinear:
        """The constructor under the name that says what it makes."""
        return cls(spec, device, dtype)

    @classmethod
    def from_code(cls, code: Code, bias: Tensor | None = None, dtype: torch.dtype = torch.float16) -> BinaryLinear:
        """Pack a code.

        Args:
            code: A valid code.
            bias: (n_out,) kept in its dtype, or None.
            dtype: In which the scales are stored; if they are not yet, they are rounded by
                `Code.stored`.

        Returns:
            The layer, on the code's device.

        Raises:
            ValueError: If the code is not valid.
            BinllmError: If a scale cannot be held in this dtype.
        """
        code = code.validate().stored(dtype)
        layer = cls(code.spec(bias is not None), code.device, None if bias is None else bias.dtype)
        for name, tensor in code.pack().items():
            getattr(layer, name).copy_(tensor)
        if bias is not None and layer.bias is not None:
            layer.bias.data.copy_(bias.detach())
        return layer

    def to_code(self) -> Code:
        """Unpack: the code that `from_code` was given, with its scales in the stored dtype."""
        return self.spec.unpack(self.stored)

    @property
    def stored(self) -> dict[str, Tensor]:
        """The stored tensors by name, the bias left out."""
        return dict(self.named_buffers())

    @property
    def device(self) -> torch.device:
        """Where the stored tensors are."""
        return next(self.buffers()).device

    def dense_weight(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight (n_out, n_in), bit-equal to `to_code().dense(dtype)`, unpacked in panels of rows."""
        # A weight made under inference_mode could not be used when gradients are wanted later.
        with torch.inference_mode(False), torch.no_grad():
            read, shape = self._reader(), (self.out_features, self.in_features)
            return dense_by_rows(lambda start, stop: read(start, stop).reconstruct(), shape, dtype, self.device)

    def panels(self, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        """The same weight panel by panel: which rows, and (rows, n_in)."""
        for panel in panels((self.out_features, self.in_features), self.device):
            with torch.inference_mode(False), torch.no_grad():
                rows = self._reader()(panel.start, panel.stop).reconstruct().to(dtype)
            yield panel, rows

    def kept(self, key: Hashable, make: Callable[[], Kept]) -> Kept:
        """What was made under this key, kept outside the state until the layer is moved or loaded."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def clear_cache(self) -> None:
        """Forget what is kept; needed only after writing into the buffers by hand."""
        self._kept = {}

    def forward(self, x: Tensor) -> Tensor:
        """Multiply by the weight.

        Args:
            x: (..., n_in) floating point.

        Returns:
            (..., n_out) of the same dtype.
        """
        if torch.compiler.is_compiling():
            return packed_linear(x, self._number)
        return self.multiply(x)

    def multiply(self, x: Tensor) -> Tensor:
        """`forward` by the chosen kernel, called at once."""
        kernel: Kernel = self.kept(self.kernel, lambda: choose(self.kernel, self))
        return kernel(self, x)

    def _reader(self) -> Callable[[int, int], Code]:
        return self.kept("reader", lambda: self.spec.reader(self.stored))

    def extra_repr(self) -> str:
        """Shown in the model's print."""
        return f"{self.spec}, kernel={self.kernel.value}"

    def _apply(self, fn: Any, recurse: bool = True) -> BinaryLinear:
        """Move the tensors, but never cast a stored one: the scales' dtype is part of the format."""
        stored = {id(buffer) for buffer in self.buffers()}

        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if id(tensor) in stored and moved.dtype != tensor.dtype else moved

        self.clear_cache()
        return super()._apply(move, recurse)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.clear_cache()
        super()._load_from_state_dict(*args, **kwargs)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy is a layer of its own: what the original keeps and its number stay with the original."""
        super().__setstate__(state | {"_kept": {}})
        self._number = register(self)


def binary_layers(model: nn.Module) -> dict[str, BinaryLinear]:
    """Every packed layer of a model by its full name, in the model's order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, BinaryLinear)}


def set_kernel(model: nn.Module, name: str | KernelName) -> None:
    """Let every packed layer of a model compute with one kernel.

    Args:
        model: Any model.
        name: Name of a kernel.

    Raises:
        BinllmError: If there is no kernel of this name, or a layer's device cannot run it.
    """
    kernel = kernel_name(name)
    for path, layer in binary_layers(model).items():
        check_kernel(kernel, layer.device)
        layer.kernel, layer.name = kernel, path
        layer.clear_cache()
