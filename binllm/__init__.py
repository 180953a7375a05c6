"""binllm: 1-bit post-training quantization of large language models, from one configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from binllm.hook import register_with_transformers

__version__ = "0.1.0"

__all__ = ["load_checkpoint", "quantize", "save_checkpoint"]

if TYPE_CHECKING:
    from binllm.api import quantize
    from binllm.packing.checkpoint import load_checkpoint, save_checkpoint

_HOMES = {"quantize": "binllm.api"} | dict.fromkeys(("load_checkpoint", "save_checkpoint"), "binllm.packing.checkpoint")


def __getattr__(name: str) -> Any:
    """Import the public functions when they are first asked for: torch and transformers take seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module 'binllm' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


register_with_transformers()
