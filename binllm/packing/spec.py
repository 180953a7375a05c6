"""What a packed layer consists of: the one description that layer, checkpoint and bit accounting share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from binllm.errors import BinllmError
from binllm.packing.bits import packed_size


@dataclass(frozen=True)
class LayerSpec:
    """Shapes and dtypes of one packed layer, as written to config.json.

    Attributes:
        n_out: Rows of the weight.
        n_in: Columns of the weight.
        block_size: Input columns that share a row scale; the last block may be narrower.
        groups: Magnitude groups, each with its own row scale; 1 or 2.
        salient: Number of input columns with a second, residual sign plane.
        column_scale: Whether there is a scale for each input column.
        row_mean: Whether there is a mean for each output row and block.
        bias: Whether the layer has a bias.
        scale_dtype: Name of the torch dtype that the scales are stored in.
    """

    n_out: int
    n_in: int
    block_size: int
    groups: int = 1
    salient: int = 0
    column_scale: bool = False
    row_mean: bool = False
    bias: bool = False
    scale_dtype: str = "float16"

    @property
    def blocks(self) -> int:
        """Blocks of input columns, the ragged last one included."""
        return -(-self.n_in // self.block_size)

    @property
    def index_dtype(self) -> torch.dtype:
        """Dtype of a salient column's index where indices are stored."""
        return torch.int16 if self.n_in <= 2**15 else torch.int32

    @property
    def salient_as_bitmap(self) -> bool:
        """Whether a bit for each input column takes fewer bytes than the indices of the salient ones."""
        return packed_size(self.n_in) < self.salient * self.index_dtype.itemsize

    def tensors(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape and dtype of every stored tensor by name, the bias left out (it is not part of the code)."""
        scale = getattr(torch, self.scale_dtype)
        signs = ((self.n_out, packed_size(self.n_in)), torch.uint8)
        stored = {"signs": signs, "row_scale": ((self.n_out, self.blocks, self.groups), scale)}
        if self.groups > 1:
            stored["group"] = signs
        if self.column_scale:
            stored["column_scale"] = ((self.n_in,), scale)
        if self.row_mean:
            stored["row_mean"] = ((self.n_out, self.blocks), scale)
        if self.salient:
            bitmap, indices = ((packed_size(self.n_in),), torch.uint8), ((self.salient,), self.index_dtype)
            stored["salient"] = bitmap if self.salient_as_bitmap else indices
            stored["residual_signs"] = ((self.n_out, packed_size(self.salient)), torch.uint8)
            stored["residual_scale"] = ((self.n_out, self.blocks), scale)
        return stored

    def to_dict(self) -> dict[str, Any]:
        """The specification as plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], layer: str) -> LayerSpec:
        """Read a specification from config.json.

        Args:
            values: What `to_dict` wrote.
            layer: Name of the layer, for the error.

        Raises:
            BinllmError: If a value is missing, unknown, of another type or out of range.
        """
        kinds = {f.name: {"int": int, "bool": bool, "str": str}[str(f.type)] for f in fields(cls)}
        wrong = sorted(set(values) ^ set(kinds)) or [k for k, v in values.items() if type(v) is not kinds[k]]
        if not wrong:
            small = min(values["n_out"], values["n_in"], values["block_size"]) < 1
            dtypes = {"float16", "bfloat16", "float32", "float64"}
            in_range = values["groups"] in (1, 2) and 0 <= values["salient"] <= values["n_in"]
            if not small and in_range and values["scale_dtype"] in dtypes:
                return cls(**values)
        named = f" ({', '.join(wrong)})" if wrong else ""
        raise BinllmError(f"config.json: the specification of layer {layer} is not valid{named}")
