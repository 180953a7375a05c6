"""Checks of codes: shapes, dtypes, devices, values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from binllm.packing.code import BinaryCode
    from binllm.packing.protocol import Code

MAX_GROUPS = 2  # the group of an entry is stored in one bit


def check_tensor(code: Code, name: str, dtype: torch.dtype | None, *shapes: tuple[int, ...]) -> None:
    """Check one tensor of a code.

    Args:
        code: The code.
        name: Of its field.
        dtype: That it must have; None for any floating point dtype and finite values.
        *shapes: Of which it must have one.

    Raises:
        ValueError: Naming the tensor, and how it is wrong.
    """
    tensor: Tensor | None = getattr(code, name)
    if tensor is None:
        raise ValueError(f"{name}: is missing")
    if tuple(tensor.shape) not in shapes:
        raise ValueError(f"{name}: shape is {tuple(tensor.shape)}, must be {' or '.join(map(str, shapes))}")
    if (dtype is not None and tensor.dtype != dtype) or (dtype is None and not tensor.is_floating_point()):
        raise ValueError(f"{name}: dtype is {tensor.dtype}, must be {dtype or 'floating point'}")
    if tensor.device != code.device:
        raise ValueError(f"{name}: is on {tensor.device}, the others are on {code.device}")
    if dtype is None and not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{name}: has an entry that is not finite")


def given(tensor: Tensor | None) -> Tensor:
    """A tensor that is there once the code has been checked."""
    assert tensor is not None
    return tensor


def check_absent(code: Code, name: str, needs: str) -> None:
    """Refuse a tensor that says something about what the code does not have (an empty one says nothing).

    Raises:
        ValueError: Naming the tensor and what it needs.
    """
    tensor: Tensor | None = getattr(code, name)
    if tensor is not None and tensor.numel():
        raise ValueError(f"{name}: is given without {needs}")


def check_matrix(code: Code, name: str, block_size: int) -> None:
    """Check that the code's largest tensor is a matrix and not empty, and the size of a block of columns."""
    tensor: Tensor = getattr(code, name)
    if tensor.ndim != 2 or not tensor.numel():
        raise ValueError(f"{name}: shape is {tuple(tensor.shape)}, must be (n_out, n_in) and not empty")
    if block_size < 1:
        raise ValueError(f"block_size: is {block_size}, must be at least 1")


def check_signs(name: str, signs: Tensor) -> None:
    """Check that every entry is -1 or +1."""
    if not bool((signs.abs() == 1).all()):
        raise ValueError(f"{name}: has an entry that is neither -1 nor +1")


def check_below(name: str, entries: Tensor, limit: int, where: str = "") -> None:
    """Check that unsigned entries are below a limit."""
    if entries.numel() and int(entries.max()) >= limit:
        raise ValueError(f"{name}: has entry {int(entries.max())}{where}, must be below {limit}")


def check_columns(name: str, columns: Tensor, n_in: int) -> None:
    """Check that column indices are strictly increasing and inside the matrix."""
    inside = int(columns[0]) >= 0 and int(columns[-1]) < n_in
    if not inside or bool((columns.diff() <= 0).any()):
        raise ValueError(f"{name}: must be strictly increasing column indices below n_in")


def validate(code: BinaryCode) -> None:
    """Check a `BinaryCode`.

    Raises:
        ValueError: Naming the first tensor that is wrong, and how.
    """
    check_matrix(code, "signs", code.block_size)
    if not 0 <= code.salient_groups <= MAX_GROUPS:
        raise ValueError(f"salient_groups: is {code.salient_groups}, must be 0, 1 or 2")
    if code.salient_groups and not code.salient_count:
        raise ValueError(f"salient_groups: is {code.salient_groups} without salient columns")
    if code.row_scale.ndim != 3 or not 1 <= code.groups <= MAX_GROUPS:
        wanted = f"1 or 2 groups + {code.salient_groups} salient ones"
        raise ValueError(f"row_scale: shape is {tuple(code.row_scale.shape)}, must be (n_out, blocks, {wanted})")
    _check_planes(code)
    _check_group(code)
    _check_scales(code)


def _check_planes(code: BinaryCode) -> None:
    """Check the signs and salient columns of both planes."""
    n_out, n_in = code.shape
    check_tensor(code, "signs", torch.int8, (n_out, n_in))
    check_signs("signs", code.signs)
    if not code.salient_count:
        for name in ("residual_signs", "residual_scale", "residual_column_scale"):
            check_absent(code, name, "salient columns")
        return
    check_tensor(code, "salient", torch.int64, (code.salient_count,))
    check_columns("salient", given(code.salient), n_in)
    check_tensor(code, "residual_signs", torch.int8, (n_out, code.salient_count))
    check_signs("residual_signs", given(code.residual_signs))


def _check_group(code: BinaryCode) -> None:
    """Check the magnitude groups; those of a class of columns with one group are all 0, as they are stored."""
    if max(code.groups, code.salient_groups) == 1:
        check_absent(code, "group", "a second magnitude group")
        return
    check_tensor(code, "group", torch.uint8, code.shape)
    group = given(code.group)
    if not code.salient_groups:
        check_below("group", group, code.groups)
        return
    plain = torch.ones(code.shape[1], dtype=torch.bool, device=code.device)
    plain[code.salient] = False
    check_below("group", group[:, plain], code.groups, " in a plain column")
    check_below("group", group[:, ~plain], code.salient_groups, " in a salient column")


def _check_scales(code: BinaryCode) -> None:
    """Check the scales and means."""
    n_in, by_block = code.shape[1], (code.shape[0], code.blocks)
    check_tensor(code, "row_scale", None, (*by_block, code.cells))
    per_group = [(n_in, 2)] if max(code.groups, code.salient_groups) == 2 else []
    per_cell = [(*by_block, code.cells)] if code.cells > 1 else []
    both = (2,) if code.salient_groups == 2 else ()
    if code.column_scale is not None:
        check_tensor(code, "column_scale", None, (n_in,), *per_group)
    if code.row_mean is not None:
        check_tensor(code, "row_mean", None, by_block, *per_cell)
    if code.salient_count:
        check_tensor(code, "residual_scale", None, (*by_block, *both))
        if code.residual_column_scale is not None:
            check_tensor(code, "residual_column_scale", None, (code.salient_count, *both))
