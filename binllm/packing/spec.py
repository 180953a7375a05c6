"""What a packed layer of sign planes consists of: the one description that layer, checkpoint and bit accounting share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from binllm.packing.bits import packed_size, unpack_bits, unpack_signs
from binllm.packing.columns import columns_bytes, columns_tensor, unpack_columns
from binllm.packing.protocol import LayerBits, Spec

if TYPE_CHECKING:
    from binllm.packing.code import BinaryCode


@dataclass(frozen=True)
class LayerSpec(Spec):
    """Shapes and dtypes of a packed `BinaryCode`.

    Attributes:
        groups: Magnitude groups of the plain columns, each with its own row scale; 1 or 2.
        salient: Number of input columns with a second, residual sign plane.
        column_scale: Whether there is a scale for each input column.
        row_mean: Whether there is a mean for each output row and block.
        salient_groups: Groups of the salient columns' own row scales, 0 to 2.
        column_scale_per_group: Whether each group has its own column scales.
        row_mean_per_cell: Whether each cell (plain and salient groups) has its own means.
        residual_column_scale: Whether the residual plane has its own column scales.
    """

    groups: int = 1
    salient: int = 0
    column_scale: bool = False
    row_mean: bool = False
    salient_groups: int = 0
    column_scale_per_group: bool = False
    row_mean_per_cell: bool = False
    residual_column_scale: bool = False

    kind: ClassVar[str] = "binary"
    payload: ClassVar[tuple[str, ...]] = ("signs", "residual_signs")

    @property
    def cells(self) -> int:
        """Sets of entries with a row scale of their own."""
        return self.groups + self.salient_groups

    @property
    def group_bit(self) -> bool:
        """Whether the group of each entry is stored."""
        return max(self.groups, self.salient_groups) > 1

    @property
    def in_range(self) -> bool:
        """See `Spec.in_range`."""
        return (
            self.groups in (1, 2)
            and self.salient_groups in (0, 1, 2)
            and 0 <= self.salient <= self.n_in
            and (self.salient > 0 or not (self.salient_groups or self.residual_column_scale))
            and (not self.column_scale_per_group or (self.column_scale and self.group_bit))
            and (not self.row_mean_per_cell or (self.row_mean and self.cells > 1))
        )

    def tensors(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """See `Spec.tensors`."""
        scale, by_block = self.torch_scale_dtype, (self.n_out, self.blocks)
        signs = ((self.n_out, packed_size(self.n_in)), torch.uint8)
        both = (2,) if self.salient_groups == 2 else ()
        stored = {"signs": signs, "row_scale": ((*by_block, self.cells), scale)}
        if self.group_bit:
            stored["group"] = signs
        if self.column_scale:
            stored["column_scale"] = ((self.n_in, *((2,) if self.column_scale_per_group else ())), scale)
        if self.row_mean:
            stored["row_mean"] = ((*by_block, *((self.cells,) if self.row_mean_per_cell else ())), scale)
        if self.salient:
            stored["salient"] = columns_tensor(self.n_in, self.salient)
            stored["residual_signs"] = ((self.n_out, packed_size(self.salient)), torch.uint8)
            stored["residual_scale"] = ((*by_block, *both), scale)
        if self.residual_column_scale:
            stored["residual_column_scale"] = ((self.salient, *both), scale)
        return stored

    def reader(self, tensors: Mapping[str, Tensor]) -> Callable[[int, int], BinaryCode]:
        """See `Spec.reader`."""
        from binllm.packing.code import BY_ROW, BinaryCode

        whole = {name: tensor for name, tensor in tensors.items() if name not in BY_ROW}
        if self.salient:
            whole["salient"] = unpack_columns(tensors["salient"], self.n_in)

        def rows(start: int, stop: int) -> BinaryCode:
            parts = {name: tensor[start:stop] for name, tensor in tensors.items() if name in BY_ROW}
            parts["signs"] = unpack_signs(parts["signs"], self.n_in)
            if "group" in parts:
                parts["group"] = unpack_bits(parts["group"], self.n_in)
            if self.salient:
                parts["residual_signs"] = unpack_signs(parts["residual_signs"], self.salient)
            return BinaryCode(block_size=self.block_size, salient_groups=self.salient_groups, **parts, **whole)

        return rows

    def bits(self) -> LayerBits:
        """See `Spec.bits`."""
        plane = 8 * self.n_out * packed_size(self.n_in)
        payload = plane + 8 * self.n_out * packed_size(self.salient)
        means = self.row_mean * (self.cells if self.row_mean_per_cell else 1)
        residuals = max(1, self.salient_groups)
        scales = self.n_out * self.blocks * (self.cells + means + (self.salient > 0) * residuals)
        scales += self.n_in * self.column_scale * (2 if self.column_scale_per_group else 1)
        scales += self.salient * self.residual_column_scale * residuals
        columns = 8 * columns_bytes(self.n_in, self.salient)
        return LayerBits(
            weights=self.n_out * self.n_in,
            sign_bits=self.n_out * (self.n_in + self.salient),
            payload_bits=payload,
            linear_bits=payload + plane * self.group_bit + columns + self.scale_bits * scales,
        )
