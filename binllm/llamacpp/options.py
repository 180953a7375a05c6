"""What a user chooses about an export."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from binllm.llamacpp.matrix import DenseType


class Weights(Enum):
    """How packed layers are written: as ``q1_0``, or all dense in ``f16`` for comparison."""

    q1_0 = "q1_0"
    f16 = "f16"


class Otherwise(Enum):
    """What happens to a packed layer that `Q1_0` cannot hold: written dense and ``exact``, or the export is ``refused``."""

    exact = "exact"
    refuse = "refuse"


@dataclass(frozen=True)
class ExportOptions:
    """What is written.

    Attributes:
        weights: Type of the packed layers.
        otherwise: For packed layers that are not one sign plane once column scales are folded away.
        pad: Whether sizes that are not multiples of 128 are padded with zeros; without it, layers with such inputs are not
            `Q1_0`.
        embeddings: Type of the embedding, and of an output layer that is not packed.
    """

    weights: Weights = Weights.q1_0
    otherwise: Otherwise = Otherwise.exact
    pad: bool = True
    embeddings: DenseType = DenseType.f16


