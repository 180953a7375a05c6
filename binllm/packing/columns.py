"""A set of input columns, stored as sorted indices or as a bitmap, whichever takes fewer bytes."""

from __future__ import annotations

import torch
from torch import Tensor

from binllm.packing.bits import pack_bits, packed_size, unpack_bits


def columns_tensor(n_in: int, count: int) -> tuple[tuple[int, ...], torch.dtype]:
    """Shape and dtype in which `count` of `n_in` columns are stored."""
    index_dtype = torch.int16 if n_in <= 2**15 else torch.int32
    if packed_size(n_in) < count * index_dtype.itemsize:
        return (packed_size(n_in),), torch.uint8
    return (count,), index_dtype


def columns_bytes(n_in: int, count: int) -> int:
    """Bytes that `columns_tensor` takes."""
    return min(packed_size(n_in), count * (2 if n_in <= 2**15 else 4))


def pack_columns(columns: Tensor, n_in: int) -> Tensor:
    """Pack strictly increasing column indices (count,) int64."""
    dtype = columns_tensor(n_in, columns.numel())[1]
    return pack_bits(column_mask(columns, n_in)[None])[0] if dtype == torch.uint8 else columns.to(dtype)


def unpack_columns(stored: Tensor, n_in: int) -> Tensor:
    """Undo `pack_columns`: indices (count,) int64."""
    if stored.dtype == torch.uint8:
        return unpack_bits(stored[None], n_in)[0].nonzero()[:, 0]
    return stored.long()


def column_mask(columns: Tensor | None, n_in: int, device: torch.device | None = None) -> Tensor:
    """(n_in,) bool, True at the given columns; `device` matters where there are none."""
    mask = torch.zeros(n_in, dtype=torch.bool, device=device if columns is None else columns.device)
    if columns is not None:
        mask[columns] = True
    return mask
