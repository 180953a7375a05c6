"""Checks of a binary code: shapes, dtypes, values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from binllm.packing.code import BinaryCode

MAX_GROUPS = 2  # the group of an entry is stored in one bit


def validate(code: BinaryCode) -> None:
    """Check a code.

    Raises:
        ValueError: Naming the first tensor that is wrong, and how.
    """
    if code.signs.ndim != 2 or not code.signs.numel():
        raise ValueError(f"signs: shape is {tuple(code.signs.shape)}, must be (n_out, n_in) and not empty")
    if code.block_size < 1:
        raise ValueError(f"block_size: is {code.block_size}, must be at least 1")
    if code.row_scale.ndim != 3 or not 1 <= code.groups <= MAX_GROUPS:
        raise ValueError(f"row_scale: shape is {tuple(code.row_scale.shape)}, must be (n_out, blocks, 1 or 2 groups)")
    _check_shapes(code)
    _check_values(code)


def _check_shapes(code: BinaryCode) -> None:
    """Compare every tensor's presence, shape, dtype and device with what the others ask for."""
    n_out, n_in = code.shape
    count, scale = code.salient_count, None
    expected: dict[str, tuple[bool, tuple[int, ...], torch.dtype | None]] = {
        "signs": (True, (n_out, n_in), torch.int8),
        "row_scale": (True, (n_out, code.blocks, code.groups), scale),
        "group": (code.groups > 1, (n_out, n_in), torch.uint8),
        "column_scale": (code.column_scale is not None, (n_in,), scale),
        "row_mean": (code.row_mean is not None, (n_out, code.blocks), scale),
        "salient": (count > 0, (count,), torch.int64),
        "residual_signs": (count > 0, (n_out, count), torch.int8),
        "residual_scale": (count > 0, (n_out, code.blocks), scale),
    }
    for name, (present, shape, dtype) in expected.items():
        tensor = getattr(code, name)
        if tensor is None:
            if present:
                raise ValueError(f"{name}: is missing")
            continue
        if not present:
            if tensor.numel():
                needs = "a second magnitude group" if name == "group" else "salient columns"
                raise ValueError(f"{name}: is given without {needs}")
            continue
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name}: shape is {tuple(tensor.shape)}, must be {shape}")
        if (dtype is not None and tensor.dtype != dtype) or (dtype is None and not tensor.is_floating_point()):
            raise ValueError(f"{name}: dtype is {tensor.dtype}, must be {dtype or 'floating point'}")
        if tensor.device != code.signs.device:
            raise ValueError(f"{name}: is on {tensor.device}, the signs are on {code.signs.device}")


def _check_values(code: BinaryCode) -> None:
    """Check signs, groups, column indices and that every scale is finite."""
    for name in ("signs", "residual_signs"):
        tensor = getattr(code, name)
        if tensor is not None and not bool((tensor.abs() == 1).all()):
            raise ValueError(f"{name}: has an entry that is neither -1 nor +1")
    if code.group is not None and int(code.group.max()) >= code.groups:
        raise ValueError(f"group: has entry {int(code.group.max())}, must be below {code.groups}")
    for name in ("row_scale", "column_scale", "row_mean", "residual_scale"):
        tensor = getattr(code, name)
        if tensor is not None and not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{name}: has an entry that is not finite")
    if code.salient is not None and code.salient.numel():
        inside = int(code.salient[0]) >= 0 and int(code.salient[-1]) < code.shape[1]
        if not inside or bool((code.salient.diff() <= 0).any()):
            raise ValueError("salient: must be strictly increasing column indices below n_in")
