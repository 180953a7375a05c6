"""Checks of options that binarizations share."""

from __future__ import annotations

from binllm.errors import bad_value


def check_block_size(block_size: int | None) -> None:
    """Check ``binarization.block_size``."""
    if block_size is not None and block_size < 1:
        raise bad_value(
            "binarization.block_size", block_size, "a whole number of at least 1, or null for the whole row"
        )
