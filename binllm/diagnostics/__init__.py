"""Diagnostics: why a method works or fails, measured block by block while a model is quantized; see docs/diagnostics.md."""

from binllm.diagnostics.config import DiagnosticsConfig
from binllm.diagnostics.table import read_diagnostics

__all__ = ["DiagnosticsConfig", "read_diagnostics"]
