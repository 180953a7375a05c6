"""Dense weights from codes, panel of rows by panel of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

PANEL_ENTRIES = 2**18  # a panel of rows, its signs and its scales stay in the second-level cache
PANEL_ENTRIES_CUDA = 2**24  # a GPU wants large panels, each of its launches costs as much as a small one


def panels(shape: tuple[int, int], device: torch.device) -> Iterator[slice]:
    """Cut the rows of a matrix (n_out, n_in) into panels; each begins with an even row, so pairs stay together."""
    n_out, n_in = shape
    entries = PANEL_ENTRIES_CUDA if device.type == "cuda" else PANEL_ENTRIES
    step = 2 * max(1, entries // (2 * n_in))
    for start in range(0, n_out, step):
        yield slice(start, min(start + step, n_out))


def dense_by_rows(
    rows: Callable[[int, int], Tensor], shape: tuple[int, int], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Reconstruct a weight panel by panel; a row depends on its neighbour in a pair at most, so panels change no bit.

    Args:
        rows: Gives the weight of the output rows start..stop-1; start is always even, so pairs stay together.
        shape: (n_out, n_in).
        dtype: Of the result.
        device: Of the result.

    Returns:
        (n_out, n_in) dense weight.
    """
    weight = torch.empty(shape, dtype=dtype, device=device)
    for panel in panels(shape, device):
        weight[panel] = rows(panel.start, panel.stop)
    return weight


def spread(by_block: Tensor, block_size: int, n_in: int) -> Tensor:
    """Repeat (rows, blocks) over the columns of each block to (rows, n_in)."""
    rows, blocks = by_block.shape
    if blocks == 1:
        return by_block.expand(rows, n_in)
    return by_block[:, :, None].expand(rows, blocks, block_size).reshape(rows, -1)[:, :n_in]


def pick(by_block: Tensor, block: Tensor, index: Tensor | None) -> Tensor:
    """Look up the value of each entry.

    Args:
        by_block: (rows, blocks, choices).
        block: (columns,) int64, block of each column.
        index: (rows, columns) or (columns,), which of the choices; None: the first.

    Returns:
        (rows, columns): ``by_block[i, block[j], index[i, j]]``.
    """
    rows, _, choices = by_block.shape
    if index is None:
        return by_block[:, block, 0]
    return by_block.flatten(1).gather(1, (block * choices + index).expand(rows, -1))
