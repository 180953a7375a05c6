"""Diagnostics: pure functions of tensors, logged with every layer under stable names."""

from binllm.diagnostics.layer import layer_diagnostics

__all__ = ["layer_diagnostics"]
