"""A linear layer whose weight is a packed code of any kind."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from binllm.kernels import KernelName, get_kernel
from binllm.packing.panels import dense_by_rows
from binllm.packing.protocol import Code, Spec


class BinaryLinear(nn.Module):
    """y = x Ŵᵀ + bias with Ŵ given by a `Code`; bit-equal to `F.linear` with `code.dense(x.dtype)`.

    Its buffers are exactly the tensors that are saved (`Spec.tensors`): signs, groups and levels packed into bytes,
    salient columns as a bitmap or as int16/int32 indices, whichever is smaller, and the scales in their stored
    dtype, which `.to(dtype)` and `.half()` leave alone. The optional `bias` is an ordinary parameter without
    gradient.

    Attributes:
        spec: Shapes and dtypes of the stored tensors.
        in_features: n_in.
        out_features: n_out.
        kernel: Name of the kernel that computes the product.
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
        self.kernel = KernelName.dense
        self._dense: Tensor | None = None
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
        return self.spec.unpack(dict(self.named_buffers()))

    def dense_weight(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight (n_out, n_in), bit-equal to `to_code().dense(dtype)`, unpacked in panels of rows."""
        stored = dict(self.named_buffers())
        device = next(iter(stored.values())).device
        # A weight made under inference_mode could not be used when gradients are wanted later.
        with torch.inference_mode(False), torch.no_grad():
            read = self.spec.reader(stored)
            shape = (self.out_features, self.in_features)
            return dense_by_rows(lambda start, stop: read(start, stop).reconstruct(), shape, dtype, device)

    def cached_weight(self, dtype: torch.dtype) -> Tensor:
        """The dense weight, kept outside the state until the layer is moved or loaded."""
        if self._dense is None or self._dense.dtype != dtype:
            self._dense = self.dense_weight(dtype)
        return self._dense

    def clear_cache(self) -> None:
        """Forget the dense weight; needed only after writing into the buffers by hand."""
        self._dense = None

    def forward(self, x: Tensor) -> Tensor:
        """Multiply by the weight.

        Args:
            x: (..., n_in) floating point.

        Returns:
            (..., n_out) of the same dtype.
        """
        return get_kernel(self.kernel)(self, x)

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


def binary_layers(model: nn.Module) -> dict[str, BinaryLinear]:
    """Every packed layer of a model by its full name, in the model's order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, BinaryLinear)}


def set_kernel(model: nn.Module, name: str | KernelName) -> None:
    """Let every packed layer of a model compute with one kernel.

    Args:
        model: Any model.
        name: Name of a kernel.

    Raises:
        BinllmError: If there is no kernel of this name.
    """
    get_kernel(name)
    for layer in binary_layers(model).values():
        layer.kernel = KernelName[name] if isinstance(name, str) else name
        layer.clear_cache()
