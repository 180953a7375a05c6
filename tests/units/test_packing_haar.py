"""Binarized Haar coefficients: the weight is the synthesis of the formula, pairs that are not whole are refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers_codes import SHAPES, generator, random_haar

from binllm.errors import BinllmError
from binllm.packing import HaarCode
from binllm.packing.haar import haar

ROOT = 0.5**0.5


def entry(code: HaarCode, part: str, i: int, place: int, j: int) -> float:
    """Coefficient of row i at a place of its part's tensors; j is the input column it belongs to."""
    sign, group = (getattr(code, f"{part}{name}") for name in ("signs", "group"))
    g, k = j // code.block_size, int(group[i, place])
    if part:
        assert code.salient_scale is not None and code.salient_mean is not None
        return float(code.salient_mean[i, g, k]) + float(code.salient_scale[i, g, k]) * int(sign[i, place])
    band = j % 2 if code.axis == "row" else 0
    return float(code.mean[i, g, band]) + float(code.scale[i, g, band, k]) * int(sign[i, place])


def literal(code: HaarCode) -> torch.Tensor:
    """The formula pair by pair in float64."""
    (n_out, n_in), salient = code.shape, [] if code.salient is None else code.salient.tolist()
    weight = torch.zeros(code.shape, dtype=torch.float64)
    for i in range(n_out):
        even, odd, sign = i - i % 2, i - i % 2 + 1, 1 - 2 * (i % 2)
        plain = 0
        for j in range(n_in):
            if code.axis == "row":
                low, high = (entry(code, "", i, c, c) for c in (j - j % 2, j - j % 2 + 1))
                weight[i, j] = (low + (1 - 2 * (j % 2)) * high) * ROOT
            elif j not in salient:
                weight[i, j] = (entry(code, "", even, plain, j) + sign * entry(code, "", odd, plain, j)) * ROOT
                plain += 1
            if j in salient:
                low, high = (entry(code, "salient_", r, salient.index(j), j) for r in (even, odd))
                weight[i, j] += (low + sign * high) * ROOT
    return weight


@pytest.mark.parametrize("axis", ["row", "column"])
@pytest.mark.parametrize("salient", [0, 5, 60])
@pytest.mark.parametrize("shape", SHAPES[:4], ids=str)
def test_dense_is_the_formula(shape: tuple[int, int, int], salient: int, axis: str) -> None:
    code = random_haar(shape[:2], shape[2], generator(), axis, salient, torch.float64).validate()
    torch.testing.assert_close(code.dense(torch.float64), literal(code), rtol=1e-14, atol=1e-16)
    rounded = code.stored()
    torch.testing.assert_close(rounded.dense().double(), literal(rounded), rtol=1e-6, atol=1e-8)
    assert (rounded.dense(torch.float64) - literal(code)).abs().max() <= 2**-9 * literal(code).abs().max()


def test_the_documented_example() -> None:
    root = 2**0.5
    code = HaarCode(
        axis="row",
        signs=torch.ones(1, 2, dtype=torch.int8),
        group=torch.tensor([[0, 1]], dtype=torch.uint8),
        scale=torch.tensor([[[[root, 9.0], [9.0, root / 2]]]], dtype=torch.float64),
        mean=torch.zeros(1, 1, 2, dtype=torch.float64),
        block_size=128,
    )
    torch.testing.assert_close(code.validate().dense(torch.float64), torch.tensor([[1.5, 0.5]], dtype=torch.float64))


@pytest.mark.parametrize("dim", [0, 1])
def test_the_transform_is_orthogonal_and_its_own_inverse(dim: int) -> None:
    values = torch.randn(6, 10, generator=generator(), dtype=torch.float64)
    coefficients = haar(values, dim)
    torch.testing.assert_close(haar(coefficients, dim), values)
    torch.testing.assert_close(coefficients.norm(), values.norm())
    matrix = haar(torch.eye(values.shape[dim], dtype=torch.float64), 0)
    torch.testing.assert_close(coefficients, matrix @ values if dim == 0 else values @ matrix.T)
    assert haar(torch.ones(2, 2), dim).select(dim, 1).tolist() == [0.0, 0.0]


def test_two_equal_columns_have_no_high_band() -> None:
    code = random_haar((6, 32), 16, generator(), "row", 0, torch.float64)
    scale, mean = code.scale.clone(), code.mean.clone()
    scale[:, :, 1], mean[:, :, 1] = 0, 0
    weight = replace(code, scale=scale, mean=mean).dense(torch.float64)
    assert torch.equal(weight[:, 0::2], weight[:, 1::2])


def test_along_columns_the_salient_part_stands_alone_and_along_rows_it_is_added() -> None:
    for axis, alone in (("column", True), ("row", False)):
        code = random_haar((6, 32), 16, generator(), axis, 5, torch.float64)
        assert code.salient_scale is not None and code.salient_mean is not None
        off = {
            "salient_scale": torch.zeros_like(code.salient_scale),
            "salient_mean": torch.zeros_like(code.salient_mean),
        }
        plain, whole = replace(code, **off).dense(torch.float64), code.dense(torch.float64)
        changed = (plain != whole).any(0).nonzero()[:, 0]
        assert code.salient is not None and torch.equal(changed, code.salient)
        assert bool((plain[:, code.salient] == 0).all()) is alone


def tensors(code: HaarCode, cut: slice) -> dict[str, Any]:
    """The tensors by row, cut."""
    names = ("signs", "group", "scale", "mean", "salient_signs", "salient_group", "salient_scale", "salient_mean")
    return {name: getattr(code, name)[cut] for name in names}


BROKEN: dict[str, tuple[str, Any] | tuple[str, Any, str]] = {
    "unknown axis": ("axis", lambda a: "rows"),
    "zero sign": ("signs", lambda t: t * 0),
    "three groups": ("group", lambda t: t + 2),
    "one scale for both groups": ("scale", lambda t: t[..., 0]),
    "no band": ("scale", lambda t: t[:, :, 0]),
    "a mean for each group": ("mean", lambda t: torch.stack([t, t], -1)),
    "NaN": ("mean", lambda t: t * float("nan")),
    "unsorted columns": ("salient", lambda t: t.flip(0)),
    "column outside": ("salient", lambda t: t + 50),
    "no salient columns": ("salient", lambda t: None, "salient_signs"),
    "salient signs missing": ("salient_signs", lambda t: None),
    "three salient groups": ("salient_group", lambda t: t + 2),
    "salient scale missing": ("salient_scale", lambda t: None),
    "one salient mean": ("salient_mean", lambda t: t[..., 0]),
    "odd block": ("block_size", lambda b: 5),
    "no block": ("block_size", lambda b: 0),
    "an odd number of columns": ("signs", lambda t: t[:, 1:], "n_in"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_validate_names_what_is_wrong(case: str) -> None:
    code = random_haar((6, 50), 16, generator(), "row").validate()
    name, spoil, *other = BROKEN[case]
    with pytest.raises(ValueError, match=f"^{other[0] if other else name}:"):
        replace(code, **{name: spoil(getattr(code, name))}).validate()


@pytest.mark.parametrize("axis", ["row", "column"])
def test_an_odd_number_of_rows_cannot_be_transformed_along_columns(axis: str) -> None:
    code = random_haar((6, 50), 16, generator(), axis)
    with pytest.raises(ValueError, match="^n_out: is 5, .* must be even"):
        replace(code, **tensors(code, slice(5))).validate()


def test_rows_without_salient_columns_may_be_odd_in_number_and_blocks_along_columns_too() -> None:
    code = random_haar((6, 50), 16, generator(), "row", 0)
    odd = replace(code, **{name: getattr(code, name)[:5] for name in ("signs", "group", "scale", "mean")}).validate()
    assert torch.equal(odd.dense(), code.dense()[:5])
    one = random_haar((6, 50), 16, generator(), "column", 0)
    blocks = torch.arange(10) * 5 // 16
    code = replace(one, block_size=5, scale=one.scale[:, blocks], mean=one.mean[:, blocks]).validate()
    torch.testing.assert_close(code.dense().double(), literal(code), rtol=1e-6, atol=1e-8)


def test_scales_that_half_precision_cannot_hold_are_refused() -> None:
    code = random_haar((6, 50), 16, generator(), "row", dtype=torch.float64)
    for factor in (1e-8, 1e9):
        with pytest.raises(BinllmError, match="^scale = .* torch.float16 can hold"):
            replace(code, scale=code.scale * factor).stored()
    assert code.salient_mean is not None
    faded = replace(code, salient_mean=code.salient_mean * 1e-9)
    assert (faded.stored().dense() - faded.dense()).abs().max() <= 2**-9 * faded.dense().abs().max()
