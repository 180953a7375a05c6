"""What a quantized weight matrix is, and the weight that it stands for.

Inside block g of `block_size` input columns, with c the magnitude group of entry (i, j):

    weight_hat[i, j] = row_mean[i, g] + column_scale[j] *
        (row_scale[i, g, c] * signs[i, j] + [j salient] * residual_scale[i, g] * residual_signs[i, j])

A worked 1 x 2 example with one block: signs (+1, -1), row_scale 2, column_scale (1, 3), row_mean 0.5, column
1 salient with residual sign +1 and residual_scale 0.5 gives (0.5 + 1 * 2, 0.5 + 3 * (-2 + 0.5)) = (2.5, -4).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

PANEL_ENTRIES = 2**18  # a panel of rows, its signs and its scales stay in the second-level cache
SCALES = ("row_scale", "column_scale", "row_mean", "residual_scale")
TENSORS = ("signs", "group", "salient", "residual_signs", *SCALES)


@dataclass(frozen=True, eq=False, kw_only=True)
class BinaryCode:
    """One quantized weight matrix (n_out, n_in), blocks = ceil(n_in / block_size), the last may be ragged.

    Attributes:
        signs: (n_out, n_in) int8 in {-1, +1}.
        row_scale: (n_out, blocks, groups) floating point.
        block_size: Input columns of a block.
        group: (n_out, n_in) uint8 in 0..groups-1; None when there is one magnitude group.
        column_scale: (n_in,) floating point, or None.
        row_mean: (n_out, blocks) floating point, or None.
        salient: (S,) int64, strictly increasing column indices of the residual plane; None or empty without
            one.
        residual_signs: (n_out, S) int8 in {-1, +1}, or None.
        residual_scale: (n_out, blocks) floating point, or None.
    """

    signs: Tensor
    row_scale: Tensor
    block_size: int
    group: Tensor | None = None
    column_scale: Tensor | None = None
    row_mean: Tensor | None = None
    salient: Tensor | None = None
    residual_signs: Tensor | None = None
    residual_scale: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(n_out, n_in)."""
        return self.signs.shape[0], self.signs.shape[1]

    @property
    def blocks(self) -> int:
        """Blocks of input columns, the ragged last one included."""
        return -(-self.shape[1] // self.block_size)

    @property
    def groups(self) -> int:
        """Magnitude groups."""
        return self.row_scale.shape[-1]

    @property
    def salient_count(self) -> int:
        """Input columns with a residual plane."""
        return 0 if self.salient is None else self.salient.numel()

    def validate(self) -> BinaryCode:
        """Check shapes, dtypes and values.

        Returns:
            The code itself.

        Raises:
            ValueError: Naming the first tensor that is wrong, and how.
        """
        from binllm.packing.validation import validate

        validate(self)
        return self

    def dense(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight that the code stands for.

        The arithmetic is done in float32 (float64 if a scale is float64), one rounding an operation in the
        order of the formula, and rounded to `dtype` at the end, so equal tensors give equal bits everywhere.

        Returns:
            (n_out, n_in) of the given dtype, on the device of the signs.
        """
        return dense_by_rows(self.rows, self.shape, dtype, self.signs.device)

    def stored(self, dtype: torch.dtype = torch.float16) -> BinaryCode:
        """The code with its scales rounded to the dtype in which they are saved.

        See `binllm.packing.rounding`. What runs must be this code, so that what runs is what is saved.

        Raises:
            BinllmError: If a scale cannot be held in this dtype.
        """
        from binllm.packing.rounding import round_scales

        return round_scales(self, dtype)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> BinaryCode:
        """Move every tensor and cast the scales, unchecked; to narrow them use `stored`."""
        moved = {}
        for name in TENSORS:
            tensor = getattr(self, name)
            if tensor is not None:
                moved[name] = tensor.to(device=device, dtype=dtype if name in SCALES else None)
        return replace(self, **moved)

    def rows(self, start: int, stop: int) -> BinaryCode:
        """The code of the output rows start..stop-1, as views."""
        by_row = ("signs", "group", "row_scale", "row_mean", "residual_signs", "residual_scale")
        parts = {name: getattr(self, name) for name in by_row}
        return replace(self, **{name: part[start:stop] for name, part in parts.items() if part is not None})


def dense_by_rows(
    rows: Callable[[int, int], BinaryCode], shape: tuple[int, int], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Reconstruct a weight panel by panel; a row does not depend on the others, so panels change no bit.

    Args:
        rows: Gives the code of the output rows start..stop-1.
        shape: (n_out, n_in).
        dtype: Of the result.
        device: Of the result.

    Returns:
        (n_out, n_in) dense weight.
    """
    n_out, n_in = shape
    weight = torch.empty(n_out, n_in, dtype=dtype, device=device)
    step = max(1, PANEL_ENTRIES // n_in)
    for start in range(0, n_out, step):
        stop = min(start + step, n_out)
        weight[start:stop] = _reconstruct(rows(start, stop))
    return weight


def _reconstruct(code: BinaryCode) -> Tensor:
    """Evaluate the formula for all rows at once, in separate operations so that each rounds once."""
    n_in = code.shape[1]
    double = any(s is not None and s.dtype == torch.float64 for s in (getattr(code, name) for name in SCALES))
    work = torch.float64 if double else torch.float32
    row_scale = code.row_scale.to(work)
    if code.group is None:
        weight = _spread(row_scale[..., 0], code.block_size, n_in)
    else:
        block = torch.arange(n_in, device=code.signs.device) // code.block_size
        weight = row_scale.flatten(1).gather(1, block * code.groups + code.group)
    weight = weight * code.signs
    if code.salient is not None and code.residual_scale is not None and code.residual_signs is not None:
        residual = code.residual_scale.to(work)[:, code.salient // code.block_size] * code.residual_signs
        weight[:, code.salient] += residual
    if code.column_scale is not None:
        weight *= code.column_scale.to(work)
    if code.row_mean is not None:
        weight += _spread(code.row_mean.to(work), code.block_size, n_in)
    return weight


def _spread(by_block: Tensor, block_size: int, n_in: int) -> Tensor:
    """Repeat (rows, blocks) over the columns of each block to (rows, n_in)."""
    rows, blocks = by_block.shape
    return by_block[:, :, None].expand(rows, blocks, block_size).reshape(rows, -1)[:, :n_in]
