"""Binarized Haar coefficients (HBLLM): the weight is the one-level synthesis of a plain and a salient part.

The transform of a pair (x, y) is low = (x + y)/√2, high = (x - y)/√2, its own inverse; coefficients stay where the
pair was, low in the even place and high in the odd one. Axis `row` pairs input columns 2k, 2k+1 inside a block
(along a row), axis `column` pairs output rows 2k, 2k+1. In block g of `block_size` input columns, with k the
magnitude group and t the band of coefficient (i, j) (axis row: j mod 2; axis column: t is 0, each coefficient row
lies in one band):

    plain[i, j]   = mean[i, g, t] + scale[i, g, t, k] * signs[i, j]
    salient[i, s] = salient_mean[i, g, k] + salient_scale[i, g, k] * salient_signs[i, s]
    weight_hat    = haar_axis(plain) + [salient columns] haar_column(salient)

With axis row there are plain coefficients for every column, with axis column for the columns that are not salient
only: there the salient part stands alone.

A worked 1 x 2 example, axis row, one block: signs (+1, +1), groups (0, 1), mean (0, 0), scale of band low (√2, 9),
of band high (9, √2/2) gives coefficients (√2, √2/2) and the weight (1.5, 0.5).

Differs from the published code, whose inverse multiplies by 0.70703125 (1/√2 rounded to half precision, 1.1e-4 too
small): here by 1/√2 in the precision of the arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from binllm.packing.bits import pack_bits, packed_size, unpack_bits, unpack_signs
from binllm.packing.columns import column_mask, columns_bytes, columns_tensor, pack_columns, unpack_columns
from binllm.packing.panels import pick
from binllm.packing.protocol import Code, LayerBits, Spec, dtype_name
from binllm.packing.rounding import round_scales
from binllm.packing.validation import (
    check_absent,
    check_below,
    check_columns,
    check_matrix,
    check_signs,
    check_tensor,
    given,
)

AXES = ("row", "column")
GROUPS = 2
PLAIN = ("signs", "group", "scale", "mean")
SALIENT = ("salient_signs", "salient_group", "salient_scale", "salient_mean")


def haar(values: Tensor, dim: int) -> Tensor:
    """One level of the Haar transform, its own inverse.

    Args:
        values: Any shape, an even number of entries along `dim`; entries 2k and 2k+1 are a pair.
        dim: 0 or 1 of a matrix: 1 pairs columns (axis row), 0 pairs rows (axis column).

    Returns:
        Of the same shape: (x + y)/√2 in the even places, (x - y)/√2 in the odd ones.
    """
    first, second = values.unflatten(dim, (-1, 2)).unbind(dim + 1)
    return (torch.stack([first + second, first - second], dim + 1) * 0.5**0.5).flatten(dim, dim + 1)


@dataclass(frozen=True, eq=False, kw_only=True)
class HaarCode(Code):
    """Signs of Haar coefficients in two magnitude groups; blocks = ceil(n_in / block_size), the last may be ragged.

    S salient columns; n_plain = n_in and bands = 2 with axis row, n_plain = n_in - S and bands = 1 with axis column.

    Attributes:
        axis: "row" (HBLLM-row) or "column" (HBLLM-column), of the plain part.
        signs: (n_out, n_plain) int8 in {-1, +1}, plain columns in their order.
        group: (n_out, n_plain) uint8, 0 or 1.
        scale: (n_out, blocks, bands, 2) floating point; band 0 is low, 1 high.
        mean: (n_out, blocks, bands) floating point, shared by the two groups.
        block_size: Input columns of a block; even with axis row, unless there is one block.
        salient: (S,) int64, strictly increasing column indices, or None.
        salient_signs: (n_out, S) int8 in {-1, +1}, coefficients along columns, or None.
        salient_group: (n_out, S) uint8, 0 or 1, or None.
        salient_scale: (n_out, blocks, 2) floating point, or None.
        salient_mean: (n_out, blocks, 2) floating point, one for each group, or None.
    """

    axis: str
    signs: Tensor
    group: Tensor
    scale: Tensor
    mean: Tensor
    block_size: int
    salient: Tensor | None = None
    salient_signs: Tensor | None = None
    salient_group: Tensor | None = None
    salient_scale: Tensor | None = None
    salient_mean: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(n_out, n_in)."""
        return self.signs.shape[0], self.signs.shape[1] + (self.axis == "column") * self.salient_count

    @property
    def salient_count(self) -> int:
        """Salient input columns."""
        return 0 if self.salient is None else self.salient.numel()

    def validate(self) -> HaarCode:
        """See `Code.validate`; also raises ValueError where there is no whole number of pairs."""
        check_matrix(self, "signs", self.block_size)
        if self.axis not in AXES:
            raise ValueError(f"axis: is {self.axis!r}, must be one of {AXES}")
        (n_out, n_in), count = self.shape, self.salient_count
        if problem := _unpaired(self.axis, self.shape, self.block_size, count):
            raise ValueError(problem)
        blocks, bands = -(-n_in // self.block_size), _bands(self.axis)
        _check_coefficients(self, "", tuple(self.signs.shape))
        check_tensor(self, "scale", None, (n_out, blocks, bands, GROUPS))
        check_tensor(self, "mean", None, (n_out, blocks, bands))
        if not count:
            for name in SALIENT:
                check_absent(self, name, "salient columns")
            return self
        check_tensor(self, "salient", torch.int64, (count,))
        check_columns("salient", given(self.salient), n_in)
        _check_coefficients(self, "salient_", (n_out, count))
        check_tensor(self, "salient_scale", None, (n_out, blocks, GROUPS))
        check_tensor(self, "salient_mean", None, (n_out, blocks, GROUPS))
        return self

    def stored(self, dtype: torch.dtype = torch.float16) -> HaarCode:
        """See `Code.stored`."""
        return round_scales(self, dtype, beside=dict.fromkeys(("mean", "salient_scale", "salient_mean"), "scale"))

    def spec(self, bias: bool = False) -> HaarSpec:
        """See `Code.spec`."""
        own = {"axis": self.axis, "salient": self.salient_count}
        return HaarSpec(*self.shape, self.block_size, **own, bias=bias, scale_dtype=dtype_name(self.scale.dtype))

    def pack(self) -> dict[str, Tensor]:
        """See `Code.pack`."""
        tensors = {name: getattr(self, name) for name in self.spec().tensors()}
        packed = {n: pack_bits(t) for n, t in tensors.items() if n.endswith(("signs", "group"))}
        if "salient" in tensors:
            packed["salient"] = pack_columns(tensors["salient"], self.shape[1])
        return tensors | packed

    def rows(self, start: int, stop: int) -> HaarCode:
        """See `Code.rows`."""
        parts = {name: getattr(self, name) for name in PLAIN + SALIENT}
        return replace(self, **{name: part[start:stop] for name, part in parts.items() if part is not None})

    def reconstruct(self) -> Tensor:
        """See `Code.reconstruct`."""
        n_in, work = self.shape[1], self.work_dtype
        block = torch.arange(n_in, device=self.device) // self.block_size
        if self.axis == "row":
            band = torch.arange(n_in, device=self.device) % 2
            scale = pick(self.scale.to(work).flatten(2), block, GROUPS * band + self.group)
            weight = haar(scale * self.signs + pick(self.mean.to(work), block, band), 1)
        else:
            plain = ~column_mask(self.salient, n_in, self.device)
            scale = pick(self.scale.to(work)[:, :, 0], block[plain], self.group)
            weight = torch.zeros(self.shape, dtype=work, device=self.device)
            weight[:, plain] = haar(scale * self.signs + pick(self.mean.to(work), block[plain], None), 0)
        if self.salient_count:
            salient = given(self.salient)
            weight[:, salient] += haar(self._salient_coefficients(block[salient], work), 0)
        return weight

    def _salient_coefficients(self, block: Tensor, work: torch.dtype) -> Tensor:
        """Coefficients (n_out, S) of the salient part; block (S,) of each of its columns."""
        both = (given(self.salient_scale), given(self.salient_mean))
        scale, mean = (pick(values.to(work), block, self.salient_group) for values in both)
        return scale * given(self.salient_signs) + mean


@dataclass(frozen=True)
class HaarSpec(Spec):
    """Shapes and dtypes of a packed `HaarCode`.

    Attributes:
        axis: "row" or "column".
        salient: Number of salient columns.
    """

    axis: str
    salient: int = 0

    kind: ClassVar[str] = "haar"
    payload: ClassVar[tuple[str, ...]] = ("signs", "salient_signs")

    @property
    def n_plain(self) -> int:
        """Columns of plain coefficients."""
        return self.n_in - (self.axis == "column") * self.salient

    @property
    def in_range(self) -> bool:
        """See `Spec.in_range`."""
        if self.axis not in AXES or not 0 <= self.salient <= self.n_in or not self.n_plain:
            return False
        return not _unpaired(self.axis, (self.n_out, self.n_in), self.block_size, self.salient)

    def tensors(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """See `Spec.tensors`."""
        plane = ((self.n_out, packed_size(self.n_plain)), torch.uint8)
        by_band = (self.n_out, self.blocks, _bands(self.axis))
        stored = {"signs": plane, "group": plane}
        stored |= {"scale": ((*by_band, GROUPS), self.torch_scale_dtype), "mean": (by_band, self.torch_scale_dtype)}
        if self.salient:
            plane = ((self.n_out, packed_size(self.salient)), torch.uint8)
            by_group = ((self.n_out, self.blocks, GROUPS), self.torch_scale_dtype)
            stored |= {"salient": columns_tensor(self.n_in, self.salient)}
            stored |= dict(zip(SALIENT, (plane, plane, by_group, by_group), strict=True))
        return stored

    def reader(self, tensors: Mapping[str, Tensor]) -> Callable[[int, int], HaarCode]:
        """See `Spec.reader`."""
        columns = unpack_columns(tensors["salient"], self.n_in) if self.salient else None
        wide = {"signs": self.n_plain, "group": self.n_plain} | dict.fromkeys(SALIENT[:2], self.salient)

        def rows(start: int, stop: int) -> HaarCode:
            parts = {name: tensors[name][start:stop] for name in PLAIN + (SALIENT if self.salient else ())}
            for name in parts.keys() & wide:
                unpack = unpack_signs if name.endswith("signs") else unpack_bits
                parts[name] = unpack(parts[name], wide[name])
            return HaarCode(axis=self.axis, block_size=self.block_size, salient=columns, **parts)

        return rows

    def bits(self) -> LayerBits:
        """See `Spec.bits`."""
        payload = 8 * self.n_out * (packed_size(self.n_plain) + packed_size(self.salient))
        a_block = (GROUPS + 1) * _bands(self.axis) + (self.salient > 0) * 2 * GROUPS
        columns = 8 * columns_bytes(self.n_in, self.salient)
        return LayerBits(
            weights=self.n_out * self.n_in,
            sign_bits=self.n_out * (self.n_plain + self.salient),
            payload_bits=payload,
            linear_bits=2 * payload + columns + self.scale_bits * self.n_out * self.blocks * a_block,
        )


def _bands(axis: str) -> int:
    """Bands that a coefficient row crosses."""
    return 2 if axis == "row" else 1


def _unpaired(axis: str, shape: tuple[int, int], block_size: int, salient: int) -> str | None:
    """Says what is not a whole number of pairs."""
    n_out, n_in = shape
    if axis == "row" and n_in % 2:
        return f"n_in: is {n_in}, axis row pairs input columns, must be even"
    if axis == "row" and block_size % 2 and block_size < n_in:
        return f"block_size: is {block_size}, axis row pairs input columns inside a block, must be even"
    if (axis == "column" or salient) and n_out % 2:
        return f"n_out: is {n_out}, the transform along columns pairs output rows, must be even"
    return None


def _check_coefficients(code: HaarCode, prefix: str, shape: tuple[int, ...]) -> None:
    """Check signs and groups of one part."""
    check_tensor(code, f"{prefix}signs", torch.int8, shape)
    check_tensor(code, f"{prefix}group", torch.uint8, shape)
    check_signs(f"{prefix}signs", getattr(code, f"{prefix}signs"))
    check_below(f"{prefix}group", getattr(code, f"{prefix}group"), GROUPS)
