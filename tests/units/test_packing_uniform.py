"""Levels of a uniform grid: the weight is the formula, and what cannot be is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers_codes import SHAPES, generator, random_uniform

from binllm.errors import BinllmError
from binllm.packing import BinaryLinear, UniformCode


def literal(code: UniformCode) -> torch.Tensor:
    """The formula entry by entry in float64."""
    weight = torch.zeros(code.shape, dtype=torch.float64)
    for i in range(code.shape[0]):
        for j in range(code.shape[1]):
            g = j // code.block_size
            weight[i, j] = float(code.scale[i, g]) * (int(code.levels[i, j]) - int(code.zero[i, g]))
    return weight


@pytest.mark.parametrize("width", [2, 3, 4, 8])
@pytest.mark.parametrize("shape", SHAPES[:4], ids=str)
def test_dense_is_the_formula(shape: tuple[int, int, int], width: int) -> None:
    code = random_uniform(shape[:2], shape[2], generator(), width, torch.float64).validate()
    torch.testing.assert_close(code.dense(torch.float64), literal(code), rtol=1e-14, atol=0)
    rounded = code.stored()
    torch.testing.assert_close(rounded.dense().double(), literal(rounded), rtol=1e-6, atol=0)
    assert (rounded.dense(torch.float64) - literal(code)).abs().max() <= 2**-11 * literal(code).abs().max()


def test_the_documented_example() -> None:
    code = UniformCode(
        levels=torch.tensor([[0, 1, 3]], dtype=torch.uint8),
        scale=torch.tensor([[0.5]]),
        zero=torch.tensor([[1]], dtype=torch.uint8),
        level_bits=2,
        block_size=3,
    )
    assert code.validate().dense().tolist() == [[-0.5, 0.0, 1.0]]
    packed = BinaryLinear.from_code(code)
    assert packed.get_buffer("levels").tolist() == [[0b110100]]  # the first level in the lowest bits
    assert packed.get_buffer("zero").tolist() == [[1]]


BROKEN: dict[str, tuple[str, Any]] = {
    "level above the grid": ("levels", lambda t: t + 4),
    "levels of another dtype": ("levels", lambda t: t.int()),
    "nothing": ("levels", lambda t: t[:0]),
    "zero above the grid": ("zero", lambda t: t + 4),
    "zero of a block missing": ("zero", lambda t: t[:, 1:]),
    "scale of a block missing": ("scale", lambda t: t[:, 1:]),
    "integer scale": ("scale", lambda t: t.int()),
    "infinite scale": ("scale", lambda t: t / 0),
    "five bits": ("level_bits", lambda b: 5),
    "no block": ("block_size", lambda b: 0),
}


@pytest.mark.parametrize("case", BROKEN)
def test_validate_names_what_is_wrong(case: str) -> None:
    code = random_uniform((6, 50), 16, generator(), 2).validate()
    name, spoil = BROKEN[case]
    with pytest.raises(ValueError, match=f"^{name}:"):
        replace(code, **{name: spoil(getattr(code, name))}).validate()


def test_scales_that_half_precision_cannot_hold_are_refused() -> None:
    code = random_uniform((6, 50), 16, generator(), 2, torch.float64)
    for factor in (1e-8, 1e9):
        with pytest.raises(BinllmError, match="^scale = .* torch.float16 can hold"):
            replace(code, scale=code.scale * factor).stored()
        replace(code, scale=code.scale * factor).stored(torch.float32)
    dead = code.scale.clone()
    dead[2] = 1e-10
    assert replace(code, scale=dead).stored().dense()[2].abs().max() <= 2**-20
