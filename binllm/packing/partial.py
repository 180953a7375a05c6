"""Salient entries with eight bits, the others with their sign (PB-LLM, 2310.00034).

Inside block g of `block_size` input columns:

    weight_hat[i, j] = salient_scale[i] * (levels[i, j] - salient_zero[i])          where mask[i, j]
                     = row_mean[i, g] + row_scale[i, g] * signs[i, j]               elsewhere

A worked 1 x 3 example with one block, the last entry salient: signs (+1, -1, 0), row_mean 0.5, row_scale 2,
levels (0, 0, 7), salient_zero 3, salient_scale 0.25 gives (2.5, -1.5, 1).

Differs from the published code: there a plain weight that equals its block's mean exactly becomes the mean, here
every plain entry has a sign.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from binllm.packing.bits import count_ones, pack_bits, packed_size, unpack_bits, unpack_flat_signs
from binllm.packing.panels import spread
from binllm.packing.protocol import Code, LayerBits, Spec, dtype_name
from binllm.packing.rounding import round_scales
from binllm.packing.validation import check_matrix, check_tensor

LEVEL_BITS = 8
BY_BLOCK = ("row_scale", "row_mean")
BY_ROW = ("salient_scale", "salient_zero")


@dataclass(frozen=True, eq=False, kw_only=True)
class PartialCode(Code):
    """Signs with a few entries of eight bits anywhere; blocks = ceil(n_in / block_size), the last may be ragged.

    Attributes:
        mask: (n_out, n_in) bool, True at the salient entries.
        signs: (n_out, n_in) int8, -1 or +1 at the plain entries and 0 at the salient ones.
        levels: (n_out, n_in) uint8, any level at the salient entries and 0 at the plain ones.
        row_scale: (n_out, blocks) floating point, of the plain entries.
        row_mean: (n_out, blocks) floating point, of the plain entries.
        salient_scale: (n_out,) floating point, step of the salient entries' grid.
        salient_zero: (n_out,) uint8, the level that stands for 0.
        block_size: Input columns of a block; n_in for one scale over the whole row.
    """

    mask: Tensor
    signs: Tensor
    levels: Tensor
    row_scale: Tensor
    row_mean: Tensor
    salient_scale: Tensor
    salient_zero: Tensor
    block_size: int

    @property
    def shape(self) -> tuple[int, int]:
        """(n_out, n_in)."""
        return self.signs.shape[0], self.signs.shape[1]

    def validate(self) -> PartialCode:
        """See `Code.validate`."""
        check_matrix(self, "signs", self.block_size)
        n_out, n_in = self.shape
        for name, dtype in (("mask", torch.bool), ("signs", torch.int8), ("levels", torch.uint8)):
            check_tensor(self, name, dtype, self.shape)
        if bool((self.signs.abs() != ~self.mask).any()):
            raise ValueError("signs: must be -1 or +1 at every plain entry and 0 at every salient one")
        if bool(self.levels[~self.mask].any()):
            raise ValueError("levels: must be 0 at every plain entry")
        for name in BY_BLOCK:
            check_tensor(self, name, None, (n_out, -(-n_in // self.block_size)))
        check_tensor(self, "salient_scale", None, (n_out,))
        check_tensor(self, "salient_zero", torch.uint8, (n_out,))
        return self

    def stored(self, dtype: torch.dtype = torch.float16) -> PartialCode:
        """See `Code.stored`."""
        return round_scales(self, dtype, beside={"row_mean": "row_scale"})

    def spec(self, bias: bool = False) -> PartialSpec:
        """See `Code.spec`."""
        scale_dtype = dtype_name(self.row_scale.dtype)
        return PartialSpec(*self.shape, self.block_size, int(self.mask.sum()), bias=bias, scale_dtype=scale_dtype)

    def pack(self) -> dict[str, Tensor]:
        """See `Code.pack`."""
        signs = pack_bits(self.signs[~self.mask][None])[0]
        packed = {"mask": pack_bits(self.mask), "signs": signs, "levels": self.levels[self.mask]}
        return packed | {name: getattr(self, name) for name in BY_BLOCK + BY_ROW}

    def rows(self, start: int, stop: int) -> PartialCode:
        """See `Code.rows`."""
        names = ("mask", "signs", "levels", *BY_BLOCK, *BY_ROW)
        return replace(self, **{name: getattr(self, name)[start:stop] for name in names})

    def reconstruct(self) -> Tensor:
        """See `Code.reconstruct`."""
        n_in, work = self.shape[1], self.work_dtype
        plain = spread(self.row_scale.to(work), self.block_size, n_in) * self.signs
        plain = plain + spread(self.row_mean.to(work), self.block_size, n_in)
        steps = self.levels.to(work) - self.salient_zero.to(work)[:, None]
        return torch.where(self.mask, steps * self.salient_scale.to(work)[:, None], plain)


@dataclass(frozen=True)
class PartialSpec(Spec):
    """Shapes and dtypes of a packed `PartialCode`.

    The mask is packed row by row; the plain entries' signs and the salient entries' levels each follow one another
    without gaps, row after row.

    Attributes:
        salient: Number of salient entries.
    """

    salient: int

    kind: ClassVar[str] = "partial"
    payload: ClassVar[tuple[str, ...]] = ("signs", "levels")

    @property
    def in_range(self) -> bool:
        """See `Spec.in_range`."""
        return 0 <= self.salient <= self.n_out * self.n_in

    @property
    def plain(self) -> int:
        """Number of entries with one sign bit."""
        return self.n_out * self.n_in - self.salient

    def tensors(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """See `Spec.tensors`."""
        by_block = ((self.n_out, self.blocks), self.torch_scale_dtype)
        return {
            "mask": ((self.n_out, packed_size(self.n_in)), torch.uint8),
            "signs": ((packed_size(self.plain),), torch.uint8),
            "levels": ((self.salient,), torch.uint8),
            "row_scale": by_block,
            "row_mean": by_block,
            "salient_scale": ((self.n_out,), self.torch_scale_dtype),
            "salient_zero": ((self.n_out,), torch.uint8),
        }

    def reader(self, tensors: Mapping[str, Tensor]) -> Callable[[int, int], PartialCode]:
        """See `Spec.reader`."""
        before = [0, *count_ones(tensors["mask"]).cumsum(0).tolist()]  # salient entries above each row

        def rows(start: int, stop: int) -> PartialCode:
            mask = unpack_bits(tensors["mask"][start:stop], self.n_in).bool()
            first, last = before[start], before[stop]
            plain = unpack_flat_signs(tensors["signs"], start * self.n_in - first, stop * self.n_in - last)
            zeros = torch.zeros(mask.shape, dtype=torch.uint8, device=mask.device)
            return PartialCode(
                mask=mask,
                signs=zeros.view(torch.int8).masked_scatter(~mask, plain),
                levels=zeros.masked_scatter(mask, tensors["levels"][first:last]),
                block_size=self.block_size,
                **{name: tensors[name][start:stop] for name in BY_BLOCK + BY_ROW},
            )

        return rows

    def bits(self) -> LayerBits:
        """See `Spec.bits`."""
        payload = 8 * packed_size(self.plain) + LEVEL_BITS * self.salient
        mask = 8 * self.n_out * packed_size(self.n_in)
        zeros, scales = LEVEL_BITS * self.n_out, self.n_out * (2 * self.blocks + 1)
        return LayerBits(
            weights=self.n_out * self.n_in,
            sign_bits=self.plain + LEVEL_BITS * self.salient,
            payload_bits=payload,
            linear_bits=payload + mask + zeros + self.scale_bits * scales,
        )
