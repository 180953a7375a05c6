"""Packed models as GGUF files that llama.cpp runs."""

from binllm.llamacpp.export import Export, Written, export_gguf
from binllm.llamacpp.options import ExportOptions

__all__ = ["Export", "ExportOptions", "Written", "export_gguf"]
