"""What a user chooses about an export."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ExportOptions:
    """What is written.

    Attributes:
        one_bit: Packed layers as `Q1_0`; without it they are written dense in F16, for comparison.
        refuse: Refuse a packed layer that is not one sign plane once column scales are folded away. Without it such a layer
            is written dense in the smallest of F16, BF16 and F32 that holds it exactly.
        pad: Pad sizes that are not multiples of 128 with zeros; without it, layers with such inputs are not `Q1_0`.
        exact_embeddings: Write the embedding, and an output layer that is not packed, in the smallest type that holds them
            exactly, and not rounded to F16.
    """

    one_bit: bool = True
    refuse: bool = False
    pad: bool = True
    exact_embeddings: bool = False
