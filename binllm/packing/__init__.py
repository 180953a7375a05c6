"""Quantized weights as bits: the code, the packed layer, the checkpoint and what it costs."""

from binllm.packing.code import BinaryCode
from binllm.packing.haar import HaarCode
from binllm.packing.kinds import spec_from_dict
from binllm.packing.layer import BinaryLinear, binary_layers, set_kernel
from binllm.packing.partial import PartialCode
from binllm.packing.protocol import Code, Spec
from binllm.packing.spec import LayerSpec
from binllm.packing.uniform import UniformCode

__all__ = [
    "BinaryCode",
    "BinaryLinear",
    "Code",
    "HaarCode",
    "LayerSpec",
    "PartialCode",
    "Spec",
    "UniformCode",
    "binary_layers",
    "set_kernel",
    "spec_from_dict",
]
