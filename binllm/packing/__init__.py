"""Quantized weights as bits: the code, the packed layer, the checkpoint and what it costs."""

from binllm.packing.code import BinaryCode
from binllm.packing.layer import BinaryLinear, binary_layers, set_kernel, spec_of
from binllm.packing.spec import LayerSpec

__all__ = ["BinaryCode", "BinaryLinear", "LayerSpec", "binary_layers", "set_kernel", "spec_of"]
