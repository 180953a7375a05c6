"""Token similarity: which tokens look alike, in the full-precision and in the quantized model.

``S(Y)`` is the similarity matrix ``YYᵀ`` of one sequence with every row divided by its norm. It is what attention matrix
preservation (2512.21651) stands on: attention in the next block is made of such products.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from binllm.diagnostics.stream import Comparison, compare


def similarity(y: Tensor) -> Tensor:
    """``YYᵀ``, rows normalised to norm 1.

    Args:
        y: (sequences, length, features), any floating dtype.

    Returns:
        (sequences, length, length), float32 at least; the row of a zero token is zero.
    """
    y = y.to(torch.promote_types(y.dtype, torch.float32))
    return torch.nn.functional.normalize(y @ y.mT, dim=-1)


@dataclass(frozen=True)
class TokenDrift:
    """Token similarities of one layer's output, or of a whole block's.

    Attributes:
        conditioned: ``S(X̂Wᵀ)`` against ``S(X̂Ŵᵀ)``.
        output: ``S(XWᵀ)`` against ``S(X̂Ŵᵀ)``.
    """

    conditioned: Comparison
    output: Comparison

    def __add__(self, other: TokenDrift) -> TokenDrift:
        return TokenDrift(self.conditioned + other.conditioned, self.output + other.output)

    def numbers(self) -> dict[str, list[float]]:
        """``||S - Ŝ||²_F / ||S||²_F``, which is twice one minus the mean cosine of the rows: 0 to 4."""
        return {
            "conditioned_error": [self.conditioned.relative_error],
            "output_error": [self.output.relative_error],
        }


@dataclass(frozen=True)
class Proxy:
    """The token similarity of a block's input, ``S(X)`` against ``S(X̂)``: what should predict its attention's drift."""

    similarity: Comparison

    def __add__(self, other: Proxy) -> Proxy:
        return Proxy(self.similarity + other.similarity)

    def numbers(self) -> dict[str, list[float]]:
        """``||S - Ŝ||²_F / ||S||²_F``."""
        return {"proxy_output_error": [self.similarity.relative_error]}


def token_drift(target: Tensor, conditioned: Tensor, found: Tensor) -> TokenDrift:
    """Compare the similarity matrices of ``XWᵀ``, ``X̂Wᵀ`` and ``X̂Ŵᵀ``, each (sequences, length, features)."""
    matrix = similarity(found)
    return TokenDrift(compare(similarity(conditioned), matrix), compare(similarity(target), matrix))
