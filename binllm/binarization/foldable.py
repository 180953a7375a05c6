"""One sign plane whose column scales can be folded into what comes before the layer, as llama.cpp's `Q1_0` needs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from binllm.binarization.planes import Planes
from binllm.errors import bad_value
from binllm.registry import register


@register("binarization", "foldable")
@dataclass(frozen=True)
class Foldable(Planes):
    """`Planes` with one plane, and column scales that the layers which read one input share.

    Those layers are fitted as one problem, their rows stacked, so that the shared scales are the best for all of them
    (`binllm.stacking`). `o` has column scales only where every query head has a key/value head of its own.
    """

    name: str = "foldable"

    shares_columns: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, wanted in (("groups", 1), ("salient_columns", 0), ("row_mean", False)):
            if getattr(self, key) != wanted:
                raise bad_value(f"binarization.{key}", getattr(self, key), f"{wanted} with binarization foldable")
