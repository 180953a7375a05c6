"""Checks of options that binarizations share."""

from __future__ import annotations

from binllm.errors import bad_value


def check_block_size(block_size: int | None) -> None:
    """Check ``binarization.block_size``."""
    if block_size is not None and block_size < 1:
        raise bad_value(
            "binarization.block_size", block_size, "a whole number of at least 1, or null for the whole row"
        )


def check_most(most: int, block_size: int | None) -> None:
    """Check ``binarization.most``, the columns that a search ranks, before there is a layer."""
    if most < 2 or (block_size is not None and most > block_size):
        raise bad_value("binarization.most", most, f"2 to {block_size or 'the width of the layer'} (block_size)")


def check_width(most: int, width: int) -> None:
    """Check that a block has the columns that a search ranks.

    Raises:
        ValueError: It has fewer; the authors' code fails there, too.
    """
    if width < most:
        raise ValueError(
            f"binarization.most = {most}: a block has {width} columns only, allowed is 2 to {width} "
            "(the authors' code cannot take this shape)"
        )
