"""A code stands for exactly the weight of its formula, and rounding its scales is never a silent loss."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers_codes import EXTRAS, SHAPES, generator, random_code

from binllm.errors import BinllmError
from binllm.packing import BinaryCode

FULL: dict[str, Any] = {"groups": 2, "salient": 5, "column_scale": True, "row_mean": True}
OWN: dict[str, Any] = {**FULL, "salient_groups": 2, "own": True}


def literal(code: BinaryCode) -> torch.Tensor:
    """The formula entry by entry in float64."""
    weight = torch.zeros(code.shape, dtype=torch.float64)
    salient = [] if code.salient is None else code.salient.tolist()

    def at(tensor: torch.Tensor | None, *index: int, missing: float = 1.0) -> float:
        """An entry; trailing indices that the tensor does not have are left out."""
        return missing if tensor is None else float(tensor[index[: tensor.ndim]])

    for i in range(code.shape[0]):
        for j in range(code.shape[1]):
            g, k = j // code.block_size, int(at(code.group, i, j, missing=0))
            c = k + code.groups if code.salient_groups and j in salient else k
            column = at(code.column_scale, j, k)
            value = at(code.row_mean, i, g, c, missing=0) + column * at(code.row_scale, i, g, c) * int(code.signs[i, j])
            if j in salient:
                s = salient.index(j)
                own = at(code.residual_column_scale, s, k, missing=column)
                value += own * at(code.residual_scale, i, g, k) * at(code.residual_signs, i, s)
            weight[i, j] = value
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
    cells = {"row_scale": torch.tensor([[[2.0, 4.0]]]), "residual_column_scale": torch.tensor([2.0])}
    assert replace(code, salient_groups=1, **cells).validate().dense().tolist() == [[2.5, -10.5]]


def test_a_residual_column_scale_equal_to_the_columns_changes_nothing_but_rounding() -> None:
    code = random_code((9, 50), 16, generator(), dtype=torch.float64, **FULL)
    assert code.column_scale is not None and code.salient is not None
    own = replace(code, residual_column_scale=code.column_scale[code.salient])
    torch.testing.assert_close(own.dense(torch.float64), code.dense(torch.float64), rtol=0, atol=1e-16)


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
    "column scales of three groups": ("column_scale", lambda t: t[:, None].expand(-1, 3)),
    "means of one cell": ("row_mean", lambda t: t[..., None]),
    "more salient groups than cells": ("salient_groups", lambda t: 2, "row_scale"),
    "three salient groups": ("salient_groups", lambda t: 3),
    "a salient group without a group bit": ("salient_groups", lambda t: 1, "group"),
    "residual column scales of two groups": ("residual_column_scale", lambda t: torch.ones(5, 2)),
}
OWN_BROKEN: dict[str, tuple[str, Any] | tuple[str, Any, str]] = {
    "one residual scale for two groups": ("residual_scale", lambda t: t[..., 0]),
    "means of two cells": ("row_mean", lambda t: t[..., :2]),
    "NaN residual column scale": ("residual_column_scale", lambda t: t * float("nan")),
    "one residual column scale for two groups": ("residual_column_scale", lambda t: t[:, 0]),
    "cells of the plain columns only": ("row_scale", lambda t: t[..., :2], "row_scale"),
    "group out of range": ("group", lambda t: t + 1),
    "no salient columns": ("salient", lambda t: None, "salient_groups"),
}


@pytest.mark.parametrize(
    ("options", "case"),
    [(FULL, c) for c in BROKEN.values()] + [(OWN, c) for c in OWN_BROKEN.values()],
    ids=[*BROKEN, *(f"own {name}" for name in OWN_BROKEN)],
)
def test_validate_names_the_tensor_that_is_wrong(options: dict[str, Any], case: tuple[Any, ...]) -> None:
    code = random_code((6, 50), 16, generator(), **options).validate()
    name, spoil, *other = case
    with pytest.raises(ValueError, match=f"^{other[0] if other else name}:"):
        replace(code, **{name: spoil(getattr(code, name))}).validate()


@pytest.mark.parametrize(("groups", "salient_groups", "where"), [(2, 1, "salient"), (1, 2, "plain")])
def test_a_class_of_columns_with_one_group_has_no_other(groups: int, salient_groups: int, where: str) -> None:
    code = random_code((6, 50), 16, generator(), groups=groups, salient=5, salient_groups=salient_groups).validate()
    with pytest.raises(ValueError, match=f"^group: has entry 1 in a {where} column, must be below 1"):
        replace(code, group=torch.ones_like(code.signs, dtype=torch.uint8)).validate()


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


@pytest.mark.parametrize("shift", [-40, -18, 18, 40])
def test_each_plane_is_balanced_by_itself_where_it_has_column_scales_of_its_own(shift: int) -> None:
    code = random_code((9, 50), 16, generator(), dtype=torch.float64, **OWN)
    assert code.column_scale is not None and code.residual_scale is not None and code.residual_column_scale is not None
    lopsided = replace(
        code,
        row_scale=code.row_scale * 2.0**shift,
        column_scale=code.column_scale * 2.0**-shift,
        residual_scale=code.residual_scale * 2.0**-shift,
        residual_column_scale=code.residual_column_scale * 2.0**shift,
    )
    assert torch.equal(lopsided.stored().dense(), code.stored().dense())


@pytest.mark.parametrize("name", ["residual_scale", "residual_column_scale"])
def test_a_residual_plane_far_below_the_first_may_fade(name: str) -> None:
    code = random_code((9, 50), 16, generator(), dtype=torch.float64, **OWN)
    faded = replace(code, **{name: getattr(code, name) * 1e-12})
    assert (faded.stored().dense() - faded.dense()).abs().max() <= 3 * 2**-11 * faded.dense().abs().max()


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


def test_dead_scales_of_a_plane_do_not_decide_how_it_is_balanced() -> None:
    """As ARB-RC leaves them, where 1e-8 in a denominator lets a plane die out."""
    code = random_code((9, 50), 16, generator(), dtype=torch.float64, **OWN)
    assert code.residual_scale is not None and code.residual_column_scale is not None
    rows, columns = code.residual_scale.clone(), code.residual_column_scale.clone()
    rows[3], columns[0] = 1e-22, columns[0] * 1e-6
    dying = replace(code, residual_scale=rows, residual_column_scale=columns)
    bound = 3 * 2**-11 * code.dense(torch.float64).abs().max()
    assert (dying.stored().dense(torch.float64) - dying.dense(torch.float64)).abs().max() <= bound


def test_small_row_scales_beside_a_large_residual_are_held_by_a_shift() -> None:
    code = random_code((9, 50), 16, generator(), dtype=torch.float64, **FULL)
    assert code.column_scale is not None and code.residual_scale is not None
    small = replace(
        code,
        row_scale=torch.full_like(code.row_scale, 1.2377 * 2**-18),
        residual_scale=torch.ones_like(code.residual_scale),
        column_scale=torch.ones_like(code.column_scale),
        row_mean=None if code.row_mean is None else torch.zeros_like(code.row_mean),
    )
    stored = small.stored()
    torch.testing.assert_close(stored.dense(torch.float64), small.dense(torch.float64), rtol=2**-10, atol=1e-9)


def test_moving_casts_the_scales_only() -> None:
    code = random_code((6, 50), 16, generator(), **FULL).to(dtype=torch.float64)
    assert code.row_scale.dtype == torch.float64
    assert code.validate().signs.dtype == torch.int8
