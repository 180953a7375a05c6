"""A code stands for exactly the weight of its formula, and rounding its scales is never a silent loss."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers_codes import EXTRAS, SHAPES, generator, random_code

from binllm.errors import BinllmError
from binllm.packing import BinaryCode
from binllm.packing import code as code_module

FULL: dict[str, Any] = {"groups": 2, "salient": 5, "column_scale": True, "row_mean": True}


def literal(code: BinaryCode) -> torch.Tensor:
    """The formula entry by entry in float64."""
    weight = torch.zeros(code.shape, dtype=torch.float64)
    salient = [] if code.salient is None else code.salient.tolist()
    for i in range(code.shape[0]):
        for j in range(code.shape[1]):
            g, c = j // code.block_size, 0 if code.group is None else int(code.group[i, j])
            value = float(code.row_scale[i, g, c]) * int(code.signs[i, j])
            if j in salient and code.residual_scale is not None and code.residual_signs is not None:
                value += float(code.residual_scale[i, g]) * int(code.residual_signs[i, salient.index(j)])
            value *= 1.0 if code.column_scale is None else float(code.column_scale[j])
            weight[i, j] = value + (0.0 if code.row_mean is None else float(code.row_mean[i, g]))
    return weight


@pytest.mark.parametrize("extras", EXTRAS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_dense_is_the_formula(shape: tuple[int, int, int], extras: dict[str, Any]) -> None:
    code = random_code(shape[:2], shape[2], generator(), dtype=torch.float64, **extras)
    torch.testing.assert_close(code.validate().dense(torch.float64), literal(code), rtol=1e-14, atol=1e-16)
    rounded = code.stored()
    torch.testing.assert_close(rounded.dense().double(), literal(rounded), rtol=1e-6, atol=1e-8)


def test_the_documented_example() -> None:
    code = BinaryCode(
        signs=torch.tensor([[1, -1]], dtype=torch.int8),
        row_scale=torch.tensor([[[2.0]]]),
        block_size=128,
        column_scale=torch.tensor([1.0, 3.0]),
        row_mean=torch.tensor([[0.5]]),
        salient=torch.tensor([1]),
        residual_signs=torch.tensor([[1]], dtype=torch.int8),
        residual_scale=torch.tensor([[0.5]]),
    )
    assert code.validate().dense().tolist() == [[2.5, -4.0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_panels_and_denormal_flushing_change_no_bit(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    code = random_code((23, 50), 16, generator(), **FULL).stored()
    whole = code.dense(dtype)
    monkeypatch.setattr(code_module, "PANEL_ENTRIES", 120)
    assert torch.equal(code.dense(dtype), whole)
    torch.set_flush_denormal(True)
    try:
        assert torch.equal(code.dense(dtype), whole)
    finally:
        torch.set_flush_denormal(False)
    assert torch.equal(code.dense(torch.float32).to(dtype), whole)


# what is wrong: the tensor, how it is spoilt, and the tensor named if that is another one
BROKEN: dict[str, tuple[str, Any] | tuple[str, Any, str]] = {
    "zero sign": ("signs", lambda t: t * 0),
    "sign dtype": ("signs", lambda t: t.float()),
    "group out of range": ("group", lambda t: t + 2),
    "group missing": ("group", lambda t: None),
    "infinite scale": ("row_scale", lambda t: t / 0),
    "NaN scale": ("column_scale", lambda t: t * float("nan")),
    "scale of a block missing": ("row_scale", lambda t: t[:, 1:]),
    "column scale too short": ("column_scale", lambda t: t[1:]),
    "mean of another shape": ("row_mean", lambda t: t.T.contiguous()),
    "unsorted columns": ("salient", lambda t: t.flip(0)),
    "column outside": ("salient", lambda t: t + 50),
    "residual scale missing": ("residual_scale", lambda t: None),
    "residual signs too many": ("residual_signs", lambda t: torch.cat([t, t], 1)),
    "salient columns missing": ("salient", lambda t: None, "residual_signs"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_validate_names_the_tensor_that_is_wrong(case: str) -> None:
    code = random_code((6, 50), 16, generator(), **FULL)
    name, spoil, *other = BROKEN[case]
    with pytest.raises(ValueError, match=f"^{other[0] if other else name}:"):
        replace(code, **{name: spoil(getattr(code, name))}).validate()


@pytest.mark.parametrize("extras", EXTRAS, ids=str)
def test_stored_scales_are_within_half_precision_and_rounding_again_changes_nothing(
    extras: dict[str, Any],
) -> None:
    code = random_code((9, 50), 16, generator(), dtype=torch.float64, **extras)
    stored = code.stored()
    assert stored.row_scale.dtype == torch.float16
    assert stored.stored() is stored
    bound = 3 * 2**-11 * code.dense(torch.float64).abs().max()
    assert (stored.dense(torch.float64) - code.dense(torch.float64)).abs().max() <= bound


@pytest.mark.parametrize("shift", [-40, -18, 18, 40])
def test_lopsided_row_and_column_scales_are_balanced_without_loss(shift: int) -> None:
    code = random_code((9, 50), 16, generator(), dtype=torch.float64, **FULL)
    assert code.column_scale is not None and code.residual_scale is not None
    lopsided = replace(
        code,
        row_scale=code.row_scale * 2.0**shift,
        residual_scale=code.residual_scale * 2.0**shift,
        column_scale=code.column_scale * 2.0**-shift,
    )
    assert torch.equal(lopsided.dense(torch.float64), code.dense(torch.float64))
    assert torch.equal(lopsided.stored().dense(), code.stored().dense())


def test_scales_that_half_precision_cannot_hold_are_refused() -> None:
    code = random_code((9, 50), 16, generator(), dtype=torch.float64)
    for factor in (1e-8, 1e-4, 1e9):
        with pytest.raises(BinllmError, match="^row_scale = .* torch.float16 can hold"):
            replace(code, row_scale=code.row_scale * factor).stored()
        replace(code, row_scale=code.row_scale * factor).stored(torch.float32)


def test_a_nearly_dead_row_is_kept_beside_live_ones() -> None:
    code = random_code((9, 50), 16, generator(), dtype=torch.float64)
    row_scale = code.row_scale.clone()
    row_scale[3] = 1e-9
    stored = replace(code, row_scale=row_scale).stored()
    assert stored.dense()[3].abs().max() <= 2**-25
    assert torch.equal(stored.dense()[4:], code.stored().dense()[4:])


def test_moving_casts_the_scales_only() -> None:
    code = random_code((6, 50), 16, generator(), **FULL).to(dtype=torch.float64)
    assert code.row_scale.dtype == torch.float64
    assert code.validate().signs.dtype == torch.int8
