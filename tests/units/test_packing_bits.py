"""Packing loses nothing, whatever the number of columns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers_codes import generator

from binllm.packing.bits import (
    count_ones,
    pack_bits,
    pack_levels,
    unpack_bits,
    unpack_flat_signs,
    unpack_levels,
    unpack_signs,
)


@pytest.mark.parametrize("n", [1, 7, 8, 9, 31, 64, 129])
@pytest.mark.parametrize("rows", [1, 5])
def test_unpacking_undoes_packing(rows: int, n: int) -> None:
    bits = torch.randint(0, 2, (rows, n), generator=generator(n), dtype=torch.uint8)
    assert torch.equal(unpack_bits(pack_bits(bits), n), bits)
    assert torch.equal(unpack_bits(pack_bits(bits.bool()), n), bits)


@pytest.mark.parametrize("n", [1, 8, 13])
def test_signs_pack_as_they_are(n: int) -> None:
    signs = (torch.randint(0, 2, (4, n), generator=generator(n)) * 2 - 1).to(torch.int8)
    unpacked = unpack_signs(pack_bits(signs), n)
    assert unpacked.dtype == torch.int8
    assert torch.equal(unpacked, signs)


def test_the_first_column_is_the_lowest_bit_and_unused_bits_are_zero() -> None:
    bits = torch.randint(0, 2, (3, 21), generator=generator(), dtype=torch.uint8)
    expected = np.packbits(bits.numpy(), axis=1, bitorder="little")
    assert np.array_equal(pack_bits(bits).numpy(), expected)
    assert int(pack_bits(torch.tensor([[1, 0, 0, 0, 0, 0, 0, 0, 0, 1]]))[0, 1]) == 2


def test_rows_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="17 bits a row need 3 bytes, not 2"):
        unpack_bits(torch.zeros(2, 2, dtype=torch.uint8), 17)


@pytest.mark.parametrize("width", [2, 3, 4, 8])
@pytest.mark.parametrize("n", [1, 5, 8, 50])
def test_levels_are_rows_of_bits_with_the_lowest_first(n: int, width: int) -> None:
    levels = torch.randint(0, 2**width, (7, n), generator=generator(n), dtype=torch.uint8)
    packed = pack_levels(levels, width)
    bits = levels.numpy()[..., None] >> np.arange(width) & 1
    assert np.array_equal(packed.numpy(), np.packbits(bits.reshape(7, -1), axis=1, bitorder="little"))
    assert torch.equal(unpack_levels(packed, n, width), levels)


def test_any_stretch_of_a_long_row_of_signs_can_be_read() -> None:
    signs = (torch.randint(0, 2, (43,), generator=generator()) * 2 - 1).to(torch.int8)
    packed = pack_bits(signs[None])[0]
    for start in range(44):
        for stop in range(start, 44):
            assert torch.equal(unpack_flat_signs(packed, start, stop), signs[start:stop])


def test_ones_are_counted_row_by_row() -> None:
    bits = torch.randint(0, 2, (5, 300), generator=generator())
    assert torch.equal(count_ones(pack_bits(bits)), bits.sum(1))
