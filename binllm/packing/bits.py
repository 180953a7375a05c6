"""Rows of bits, and of numbers of a few bits, in bytes: eight bits to a byte, the first column in the lowest bit.

Every row starts at a byte of its own, so that rows can be sliced without unpacking; the unused high bits of a
row's last byte are zero.
"""

from __future__ import annotations

import torch
from torch import Tensor


def packed_size(n: int) -> int:
    """Bytes that a row of n bits takes."""
    return -(-n // 8)


def pack_bits(bits: Tensor) -> Tensor:
    """Pack a matrix of bits row by row.

    Args:
        bits: (rows, n) bool or integer; an entry above zero is a one, so signs in {-1, +1} pack as they are.

    Returns:
        (rows, ceil(n / 8)) uint8 on the same device.
    """
    rows, n = bits.shape
    ones = (bits > 0).to(torch.uint8)
    ones = torch.nn.functional.pad(ones, (0, 8 * packed_size(n) - n)).reshape(rows, packed_size(n), 8)
    packed = ones[..., 0].clone()
    for position in range(1, 8):
        packed |= ones[..., position] << position
    return packed


def unpack_bits(packed: Tensor, n: int) -> Tensor:
    """Undo `pack_bits`.

    Args:
        packed: (rows, ceil(n / 8)) uint8.
        n: Columns of the matrix.

    Returns:
        (rows, n) uint8 with entries 0 and 1.

    Raises:
        ValueError: If the packed rows are not ceil(n / 8) bytes long.
    """
    return _look_up(packed, n, zero=0)


def unpack_signs(packed: Tensor, n: int) -> Tensor:
    """Unpack signs.

    Args:
        packed: (rows, ceil(n / 8)) uint8 as `pack_bits` makes it from signs.
        n: Columns of the matrix.

    Returns:
        (rows, n) int8 with entries -1 and +1.
    """
    return _look_up(packed, n, zero=-1).view(torch.int8)


def unpack_flat_signs(packed: Tensor, start: int, stop: int) -> Tensor:
    """Unpack the signs start..stop-1 of one long row.

    Args:
        packed: (bytes,) uint8, one row as `pack_bits` makes it from signs.
        start: First sign.
        stop: One after the last.

    Returns:
        (stop - start,) int8 with entries -1 and +1.
    """
    first, last = start // 8, packed_size(stop)
    return unpack_signs(packed[None, first:last], 8 * (last - first))[0, start - 8 * first : stop - 8 * first]


def count_ones(packed: Tensor) -> Tensor:
    """Number of ones in each packed row, (rows,) int64."""
    byte = torch.arange(256, device=packed.device, dtype=torch.int16)[:, None]
    ones = (byte >> torch.arange(8, device=packed.device, dtype=torch.int16) & 1).sum(1).to(torch.uint8)
    return ones[packed.int()].sum(1, dtype=torch.int64)


def pack_levels(levels: Tensor, width: int) -> Tensor:
    """Pack a matrix of unsigned numbers row by row, each in `width` bits, the lowest bit first.

    Args:
        levels: (rows, n) uint8 below 2^width.
        width: Bits of a number, 1 to 8.

    Returns:
        (rows, ceil(n * width / 8)) uint8.
    """
    if width == 8:
        return levels
    position = torch.arange(width, device=levels.device, dtype=torch.uint8)
    panels = levels.split(max(1, 2**22 // levels.shape[1]))  # a bit of eight takes a byte of its own here
    return torch.cat([pack_bits((panel[..., None] >> position & 1).flatten(1)) for panel in panels])


def unpack_levels(packed: Tensor, n: int, width: int) -> Tensor:
    """Undo `pack_levels`: (rows, n) uint8."""
    if width == 8:
        return packed
    bits = unpack_bits(packed, n * width)
    levels = bits[:, ::width].clone()
    for position in range(1, width):
        levels |= bits[:, position::width] << position
    return levels


def _look_up(packed: Tensor, n: int, zero: int) -> Tensor:
    """Replace each byte by its eight entries (uint8 storage), those of a zero bit being `zero`."""
    if packed.shape[-1] != packed_size(n):
        raise ValueError(f"{n} bits a row need {packed_size(n)} bytes, not {packed.shape[-1]}")
    device = packed.device
    byte = torch.arange(256, device=device, dtype=torch.int16)[:, None]
    bit = byte >> torch.arange(8, device=device, dtype=torch.int16) & 1
    entries = torch.where(bit == 1, 1, zero).to(torch.int8)
    # Eight entries are read and written as one 64-bit word: one gather a byte instead of one a bit.
    words = entries.view(torch.int64).reshape(256)[packed.int()]
    return words.view(torch.uint8)[..., :n]
