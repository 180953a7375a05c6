"""Scales rounded to the dtype in which they are saved, without silent loss.

float16 holds magnitudes from 2^-14 (below, precision fades) to 65504. Only the product of row and column scales matters, so
where one of them leaves that range both are first shifted by a power of two, the smallest that brings both inside but for
what may fade; this changes no product. A scale that then still loses more than one unit in the last place, measured against
the larger of itself and an eighth of the largest scale of its kind, is refused: a nearly dead group's tiny scale may fade,
with an error below the rounding error of the large scales, a whole matrix of tiny scales may not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from binllm.errors import bad_value

if TYPE_CHECKING:
    from binllm.packing.code import BinaryCode
    from binllm.packing.protocol import Code

    AnyCode = TypeVar("AnyCode", bound=Code)


FADES = 14  # powers of two below the largest scale of its kind; by such a one no shift is decided


def round_scales(code: AnyCode, dtype: torch.dtype, beside: Mapping[str, str] | None = None) -> AnyCode:
    """Round the scales of a code; a code whose scales have the dtype already comes back as it is.

    Args:
        code: Any code with finite scales.
        dtype: Floating point dtype to save the scales in.
        beside: Scales that add to others: their loss is measured against the largest of the scale named here.

    Returns:
        The code with every scale in `dtype`.

    Raises:
        BinllmError: If a scale overflows or loses its precision.
    """
    if all(scale.dtype == dtype for scale in code.scales.values()):
        return code
    scales = {name: scale.double() for name, scale in code.scales.items()}
    largest = {name: _largest(scale) for name, scale in scales.items()}
    largest |= {name: largest[other] for name, other in (beside or {}).items() if name in scales}
    return _rounded(code, scales, dtype, largest)


def round_binary(code: BinaryCode, dtype: torch.dtype) -> BinaryCode:
    """The same for a `BinaryCode`, whose row and column scales are first balanced against each other."""
    if all(scale.dtype == dtype for scale in code.scales.values()):
        return code
    scales = {name: scale.double() for name, scale in code.scales.items()}
    own_columns = "residual_column_scale" in scales
    _balance(scales, ("row_scale",) if own_columns else ("row_scale", "residual_scale"), "column_scale", dtype)
    _balance(scales, ("residual_scale",), "residual_column_scale", dtype)
    largest = {name: _largest(scale) for name, scale in scales.items()}
    product = largest["row_scale"] * largest.get("column_scale", 1.0)
    if own_columns:  # the products of the residual plane stand beside those of the first
        row, column = largest["residual_scale"], largest["residual_column_scale"]
        largest["residual_scale"] = max(row, product / column if column else 0.0)
        largest["residual_column_scale"] = max(column, product / row if row else 0.0)
    else:
        largest["residual_scale"] = largest["row_scale"]
    largest["row_mean"] = product
    return _rounded(code, scales, dtype, largest)


def _balance(scales: dict[str, Tensor], rows: tuple[str, ...], column: str, dtype: torch.dtype) -> None:
    """Shift row scales against the column scales that multiply them, in place."""
    if column not in scales:
        return
    present = [name for name in rows if name in scales]
    shift = balancing_shift([scales[name] for name in present], scales[column], dtype)
    for name in present:
        scales[name] = scales[name] * 2.0**shift
    scales[column] = scales[column] * 2.0**-shift


def balancing_shift(rows: Sequence[Tensor], column: Tensor, dtype: torch.dtype) -> int:
    """The smallest power of two that brings row and column scales, but what may fade, inside the normal range of a dtype.

    Args:
        rows: Scales of any shape that are multiplied by 2^shift.
        column: Those that are multiplied by 2^-shift.
        dtype: Floating point dtype with the range.

    Returns:
        The shift; if no shift keeps everything normal, one in the middle that avoids overflow as far as
        possible.
    """
    low = math.frexp(torch.finfo(dtype).smallest_normal)[1]
    high = math.frexp(torch.finfo(dtype).max)[1] - 1
    exponents = [_exponents(row, low, high) for row in rows]
    row_low, row_high = min(one for one, _ in exponents), max(one for _, one in exponents)
    column_low, column_high = _exponents(column, low, high)
    first, last = max(low - row_low, column_high - high), min(high - row_high, column_low - low)
    if first <= last:
        return min(max(0, first), last)
    return min(max((first + last) // 2, column_high - high), high - row_high)


def _exponents(scale: Tensor, low: int, high: int) -> tuple[int, int]:
    """Smallest and largest binary exponent of the entries that are not zero; what may fade is not asked about."""
    magnitude = scale[scale != 0].abs()
    if not magnitude.numel():
        return high, low  # asks for nothing
    largest = math.frexp(float(magnitude.max()))[1]
    return max(math.frexp(float(magnitude.min()))[1], largest - FADES), largest


def _rounded(code: AnyCode, scales: Mapping[str, Tensor], dtype: torch.dtype, largest: Mapping[str, float]) -> AnyCode:
    return replace(code, **{name: _round(name, scale, dtype, largest[name]) for name, scale in scales.items()})


def _largest(scale: Tensor) -> float:
    return float(scale.abs().max()) if scale.numel() else 0.0


def _round(name: str, scale: Tensor, dtype: torch.dtype, largest: float) -> Tensor:
    """Round one float64 tensor and refuse what the dtype cannot hold."""
    rounded = scale.to(dtype)
    lost = (rounded.double() - scale).abs() > torch.finfo(dtype).eps * scale.abs().clamp_min(largest / 8)
    wrong = lost | ~torch.isfinite(rounded)
    if bool(wrong.any()):
        value = f"{float(scale[wrong][0]):.4g}"
        raise bad_value(name, value, f"a scale that {dtype} can hold (largest {name}: {_largest(scale):.4g})")
    return rounded
