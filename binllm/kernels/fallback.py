"""Saying aloud that a layer runs with another kernel than was asked for."""

from __future__ import annotations

import warnings

from binllm.kernels.protocol import PackedLayer

_told: set[str] = set()  # reasons that have been warned about, one warning each


def fall_back(layer: PackedLayer, reason: str) -> None:
    """Warn, once for each reason, that a layer does not run with the Triton kernels."""
    if reason not in _told:
        _told.add(reason)
        who = f"layer {layer.name}" if layer.name else "a layer"
        warnings.warn(f"kernel triton: {who}, and any other like it, runs with kernel torch: {reason}", stacklevel=3)
