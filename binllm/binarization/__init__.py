"""What a quantized weight may be. Importing this registers the options."""

from binllm.binarization.block import Block
from binllm.binarization.planes import Planes
from binllm.binarization.target import Target

__all__ = ["Block", "Planes", "Target"]
