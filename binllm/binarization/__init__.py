"""What a quantized weight may be. Importing this registers the options."""

from binllm.binarization.base import Binarization, Columnwise
from binllm.binarization.block import Block
from binllm.binarization.cells import Cells
from binllm.binarization.foldable import Foldable
from binllm.binarization.haar import Haar
from binllm.binarization.partial import Partial
from binllm.binarization.partition import Partition
from binllm.binarization.planes import Planes
from binllm.binarization.target import Target
from binllm.binarization.uniform import Uniform

__all__ = [
    "Binarization",
    "Block",
    "Cells",
    "Columnwise",
    "Foldable",
    "Haar",
    "Partial",
    "Partition",
    "Planes",
    "Target",
    "Uniform",
]
