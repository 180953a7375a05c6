"""Signs with a few entries of eight bits: the weight is the formula, no bit is spent on gaps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers_codes import SHAPES, generator, random_partial

from binllm.errors import BinllmError
from binllm.packing import BinaryLinear, PartialCode


def literal(code: PartialCode) -> torch.Tensor:
    """The formula entry by entry in float64."""
    weight = torch.zeros(code.shape, dtype=torch.float64)
    for i in range(code.shape[0]):
        for j in range(code.shape[1]):
            g = j // code.block_size
            if code.mask[i, j]:
                weight[i, j] = float(code.salient_scale[i]) * (int(code.levels[i, j]) - int(code.salient_zero[i]))
            else:
                weight[i, j] = float(code.row_mean[i, g]) + float(code.row_scale[i, g]) * int(code.signs[i, j])
    return weight


@pytest.mark.parametrize("fraction", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("shape", SHAPES[:4], ids=str)
def test_dense_is_the_formula(shape: tuple[int, int, int], fraction: float) -> None:
    code = random_partial(shape[:2], shape[2], generator(), fraction, torch.float64).validate()
    torch.testing.assert_close(code.dense(torch.float64), literal(code), rtol=1e-14, atol=1e-17)
    rounded = code.stored()
    torch.testing.assert_close(rounded.dense().double(), literal(rounded), rtol=1e-6, atol=1e-8)
    assert (rounded.dense(torch.float64) - literal(code)).abs().max() <= 2**-10 * literal(code).abs().max()


def example() -> PartialCode:
    """The example of the documentation."""
    return PartialCode(
        mask=torch.tensor([[False, False, True]]),
        signs=torch.tensor([[1, -1, 0]], dtype=torch.int8),
        levels=torch.tensor([[0, 0, 7]], dtype=torch.uint8),
        row_scale=torch.tensor([[2.0]]),
        row_mean=torch.tensor([[0.5]]),
        salient_scale=torch.tensor([0.25]),
        salient_zero=torch.tensor([3], dtype=torch.uint8),
        block_size=3,
    )


def test_the_documented_example() -> None:
    assert example().validate().dense().tolist() == [[2.5, -1.5, 1.0]]


def test_signs_and_levels_follow_one_another_across_rows() -> None:
    mask = torch.tensor([[0, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 0]]).bool()
    code = random_partial((4, 3), 3, generator())
    signs = torch.tensor([[1, 0, 1], [0, -1, 1], [1, -1, -1], [0, 0, 1]], dtype=torch.int8)
    levels = torch.tensor([[0, 9, 0], [8, 0, 0], [0, 0, 0], [7, 200, 0]], dtype=torch.uint8)
    layer = BinaryLinear.from_code(replace(code, mask=mask, signs=signs, levels=levels))
    assert layer.get_buffer("signs").tolist() == [0b10011011]  # eight plain entries, one byte
    assert layer.get_buffer("levels").tolist() == [9, 8, 7, 200]
    assert layer.get_buffer("mask").tolist() == [[2], [1], [0], [3]]


BROKEN: dict[str, tuple[str, Any] | tuple[str, Any, str]] = {
    "a plain sign of zero": ("signs", lambda t: torch.zeros_like(t)),
    "a salient sign": ("signs", lambda t: torch.ones_like(t)),
    "mask of numbers": ("mask", lambda t: t.to(torch.uint8)),
    "mask of another shape": ("mask", lambda t: t[:, 1:]),
    "mask of other entries": ("mask", lambda t: ~t, "signs"),
    "a level at a plain entry": ("levels", lambda t: t + 1),
    "signed levels": ("levels", lambda t: t.to(torch.int8)),
    "a scale for all blocks": ("row_scale", lambda t: t[:, :1]),
    "no mean": ("row_mean", lambda t: None),
    "NaN": ("row_mean", lambda t: t * float("nan")),
    "salient scales by block": ("salient_scale", lambda t: t[:, None]),
    "half a zero point": ("salient_zero", lambda t: t / 2),
    "no block": ("block_size", lambda b: 0),
}


@pytest.mark.parametrize("case", BROKEN)
def test_validate_names_what_is_wrong(case: str) -> None:
    code = random_partial((6, 50), 16, generator()).validate()
    name, spoil, *other = BROKEN[case]
    with pytest.raises(ValueError, match=f"^{other[0] if other else name}:"):
        replace(code, **{name: spoil(getattr(code, name))}).validate()


def test_scales_that_half_precision_cannot_hold_are_refused() -> None:
    code = random_partial((6, 50), 16, generator(), dtype=torch.float64)
    for name in ("row_scale", "salient_scale"):
        for factor in (1e-8, 1e9):
            with pytest.raises(BinllmError, match=f"^{name} = .* torch.float16 can hold"):
                replace(code, **{name: getattr(code, name) * factor}).stored()
    faded = replace(code, row_mean=code.row_mean * 1e-9)
    assert (faded.stored().dense() - faded.dense()).abs().max() <= 2**-10 * faded.dense().abs().max()
