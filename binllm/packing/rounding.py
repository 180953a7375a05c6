"""Scales rounded to the dtype in which they are saved, without silent loss.

float16 holds magnitudes from 2^-14 (below, precision fades) to 65504. Only the product of row and column
scales matters, so where one of them leaves that range both are first shifted by a power of two, the smallest
that brings both inside; this changes no product. A scale that then still loses more than one unit in the last
place, measured against the larger of itself and an eighth of the largest scale of its kind, is refused: a
nearly dead group's tiny scale may fade, with an error below the rounding error of the large scales, a whole
matrix of tiny scales may not.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from binllm.errors import bad_value

if TYPE_CHECKING:
    from binllm.packing.code import BinaryCode


def round_scales(code: BinaryCode, dtype: torch.dtype) -> BinaryCode:
    """Round the scales of a code; a code whose scales have the dtype already comes back as it is.

    Args:
        code: Any code with finite scales.
        dtype: Floating point dtype to save the scales in.

    Returns:
        The code with every scale in `dtype`.

    Raises:
        BinllmError: If a scale overflows or loses its precision.
    """
    names = [n for n in ("row_scale", "residual_scale", "column_scale", "row_mean") if getattr(code, n) is not None]
    if all(getattr(code, name).dtype == dtype for name in names):
        return code
    scales: dict[str, Tensor] = {name: getattr(code, name).double() for name in names}
    if "column_scale" in scales:
        rows = [scales[n].flatten() for n in ("row_scale", "residual_scale") if n in scales]
        shift = balancing_shift(torch.cat(rows), scales["column_scale"], dtype)
        for name in ("row_scale", "residual_scale"):
            if name in scales:
                scales[name] = scales[name] * 2.0**shift
        scales["column_scale"] = scales["column_scale"] * 2.0**-shift
    largest = {name: _largest(scale) for name, scale in scales.items()}
    largest["residual_scale"] = largest["row_scale"]
    largest["row_mean"] = largest["row_scale"] * largest.get("column_scale", 1.0)
    return replace(code, **{name: _round(name, s, dtype, largest[name]) for name, s in scales.items()})


def balancing_shift(row: Tensor, column: Tensor, dtype: torch.dtype) -> int:
    """The smallest power of two that brings row and column scales inside the normal range of a dtype.

    Args:
        row: (any,) scales that are multiplied by 2^shift.
        column: (any,) scales that are multiplied by 2^-shift.
        dtype: Floating point dtype with the range.

    Returns:
        The shift; if no shift keeps everything normal, one in the middle that avoids overflow as far as
        possible.
    """
    low = math.frexp(torch.finfo(dtype).smallest_normal)[1]
    high = math.frexp(torch.finfo(dtype).max)[1] - 1
    row_low, row_high = _exponents(row, low, high)
    column_low, column_high = _exponents(column, low, high)
    first, last = max(low - row_low, column_high - high), min(high - row_high, column_low - low)
    if first <= last:
        return min(max(0, first), last)
    return min(max((first + last) // 2, column_high - high), high - row_high)


def _exponents(scale: Tensor, low: int, high: int) -> tuple[int, int]:
    """Smallest and largest binary exponent of the entries that are not zero."""
    magnitude = scale[scale != 0].abs()
    if not magnitude.numel():
        return high, low  # asks for nothing
    return math.frexp(float(magnitude.min()))[1], math.frexp(float(magnitude.max()))[1]


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
