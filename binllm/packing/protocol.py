"""What every kind of quantized weight offers, and what its stored form consists of.

A `Code` stands for a dense weight; its `Spec` names the tensors that are stored, reads them back and counts
their bits. Layer, checkpoint, resume and accounting know these two only; the kinds are listed in
`binllm.packing.kinds`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from binllm.errors import BinllmError
from binllm.packing.panels import dense_by_rows

SCALE_DTYPES = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True)
class LayerBits:
    """Bits of one packed layer, or of several added up.

    Attributes:
        weights: Entries of the weight matrix.
        sign_bits: Bits of signs and levels, as the literature counts.
        payload_bits: The same as stored, rounded up to bytes.
        linear_bits: Everything stored for the layer, the bias left out.
    """

    weights: int
    sign_bits: int
    payload_bits: int
    linear_bits: int

    @property
    def nominal(self) -> float:
        """Bits per weight as the literature counts."""
        return self.sign_bits / self.weights

    @property
    def payload(self) -> float:
        """Bits per weight of the stored signs and levels."""
        return self.payload_bits / self.weights

    @property
    def linear(self) -> float:
        """Bits per weight of everything stored for the layer."""
        return self.linear_bits / self.weights

    def __add__(self, other: LayerBits) -> LayerBits:
        """Bits of both."""
        return LayerBits(
            self.weights + other.weights,
            self.sign_bits + other.sign_bits,
            self.payload_bits + other.payload_bits,
            self.linear_bits + other.linear_bits,
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Code(ABC):
    """One quantized weight matrix (n_out, n_in) as tensors; its floating point tensors are its scales."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(n_out, n_in)."""

    @abstractmethod
    def validate(self) -> Self:
        """Check shapes, dtypes, devices and values.

        Returns:
            The code itself.

        Raises:
            ValueError: Naming the first tensor that is wrong, and how.
        """

    @abstractmethod
    def stored(self, dtype: torch.dtype = torch.float16) -> Self:
        """The code with its scales rounded to the dtype in which they are saved.

        See `binllm.packing.rounding`. What runs must be this code, so that what runs is what is saved.

        Raises:
            BinllmError: If a scale cannot be held in this dtype.
        """

    @abstractmethod
    def spec(self, bias: bool = False) -> Spec:
        """What the packed layer of this code consists of; the scales have the dtype that they have here."""

    @abstractmethod
    def pack(self) -> dict[str, Tensor]:
        """The tensors to store, those of `spec().tensors()`, on the code's device."""

    @abstractmethod
    def rows(self, start: int, stop: int) -> Self:
        """The code of the output rows start..stop-1, as views; start is even, stop too unless it is n_out."""

    @abstractmethod
    def reconstruct(self) -> Tensor:
        """Evaluate the formula for all rows at once, (n_out, n_in) in `work_dtype`, each operation rounding once."""

    def dense(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight that the code stands for.

        The arithmetic is done in float32 (float64 if a scale is float64), one rounding an operation in the
        order of the formula, and rounded to `dtype` at the end, so equal tensors give equal bits everywhere.

        Returns:
            (n_out, n_in) of the given dtype, on the device of the code.
        """
        return dense_by_rows(lambda start, stop: self.rows(start, stop).reconstruct(), self.shape, dtype, self.device)

    def bits(self) -> LayerBits:
        """What the packed layer takes; the scales count in the dtype they have."""
        return self.spec().bits()

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move every tensor and cast the scales, unchecked; to narrow them use `stored`."""
        moved = {n: t.to(device=device, dtype=dtype if t.is_floating_point() else None) for n, t in self._tensors()}
        return replace(self, **moved)

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self._tensors()[0][1].device

    @property
    def scales(self) -> dict[str, Tensor]:
        """The floating point tensors by name."""
        return {name: tensor for name, tensor in self._tensors() if tensor.is_floating_point()}

    @property
    def work_dtype(self) -> torch.dtype:
        """Dtype of the arithmetic: float64 if a scale is float64, else float32."""
        double = any(scale.dtype == torch.float64 for scale in self.scales.values())
        return torch.float64 if double else torch.float32

    def _tensors(self) -> list[tuple[str, Tensor]]:
        values = [(f.name, getattr(self, f.name)) for f in fields(self)]
        return [(name, value) for name, value in values if isinstance(value, Tensor)]


@dataclass(frozen=True)
class Spec(ABC):
    """Shapes and dtypes of one packed layer, as written to config.json; each kind adds its own values.

    Attributes:
        n_out: Rows of the weight.
        n_in: Columns of the weight.
        block_size: Input columns that share a row's scale; the last block may be narrower. At least n_in: one
            scale for the whole row.
        bias: Whether the layer has a bias.
        scale_dtype: Name of the torch dtype that the scales are stored in.
    """

    n_out: int
    n_in: int
    block_size: int
    bias: bool = field(default=False, kw_only=True)
    scale_dtype: str = field(default="float16", kw_only=True)

    kind: ClassVar[str]
    payload: ClassVar[tuple[str, ...]]
    """Names of the stored tensors that hold signs and levels."""

    @abstractmethod
    def tensors(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape and dtype of every stored tensor by name, the bias left out (it is not part of the code)."""

    @abstractmethod
    def reader(self, tensors: Mapping[str, Tensor]) -> Callable[[int, int], Code]:
        """A function of (start, stop) that unpacks these rows of the stored tensors; start as in `Code.rows`."""

    @abstractmethod
    def bits(self) -> LayerBits:
        """What the layer takes, by formula."""

    @property
    @abstractmethod
    def in_range(self) -> bool:
        """Whether the kind's own values are possible, those in common being so."""

    def unpack(self, tensors: Mapping[str, Tensor], rows: tuple[int, int] | None = None) -> Code:
        """Undo `Code.pack`.

        Args:
            tensors: As stored.
            rows: First row and the one after the last; None for all. Several panels of one layer are cheaper
                from one `reader`.
        """
        return self.reader(tensors)(*(rows or (0, self.n_out)))

    @property
    def blocks(self) -> int:
        """Blocks of input columns, the ragged last one included."""
        return -(-self.n_in // self.block_size)

    @property
    def torch_scale_dtype(self) -> torch.dtype:
        """Dtype of the stored scales."""
        return getattr(torch, self.scale_dtype)

    @property
    def scale_bits(self) -> int:
        """Bits of a stored scale."""
        return torch.finfo(self.torch_scale_dtype).bits

    def to_dict(self) -> dict[str, Any]:
        """The specification as plain values for JSON, its kind under `kind`."""
        return {"kind": self.kind} | asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], layer: str) -> Self:
        """Read a specification of this kind from config.json; `binllm.packing.kinds.spec_from_dict` reads any.

        Args:
            values: What `to_dict` wrote.
            layer: Name of the layer, for the error.

        Raises:
            BinllmError: If a value is missing, unknown, of another type or out of range.
        """
        kinds = {"kind": str} | {f.name: {"int": int, "bool": bool, "str": str}[str(f.type)] for f in fields(cls)}
        wrong = sorted(set(values) ^ set(kinds)) or [k for k, v in values.items() if type(v) is not kinds[k]]
        if not wrong:
            small = min(values["n_out"], values["n_in"], values["block_size"]) < 1
            spec = cls(**{name: value for name, value in values.items() if name != "kind"})
            if not small and values["kind"] == cls.kind and spec.scale_dtype in SCALE_DTYPES and spec.in_range:
                return spec
        named = f" ({', '.join(wrong)})" if wrong else ""
        raise BinllmError(f"config.json: the specification of layer {layer} is not valid{named}")


def dtype_name(dtype: torch.dtype) -> str:
    """Name of a torch dtype without its module, as in `Spec.scale_dtype`."""
    return str(dtype).removeprefix("torch.")
