"""The dual stream: activations of the full-precision and of the quantized model, side by side."""

from binllm.streams.dual import DualStream
from binllm.streams.storage import Storage

__all__ = ["DualStream", "Storage"]
