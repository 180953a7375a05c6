"""Packed models as GGUF files that llama.cpp runs."""

from binllm.llamacpp.export import Export, Written, export_gguf
from binllm.llamacpp.matrix import DenseType
from binllm.llamacpp.options import ExportOptions, Otherwise, Weights

__all__ = ["DenseType", "Export", "ExportOptions", "Otherwise", "Weights", "Written", "export_gguf"]
