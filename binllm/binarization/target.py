"""What a block of columns is to be fitted to."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Target:
    """One block of ``width`` input columns, as a binarization sees it.

    Attributes:
        weight: Continuous weights (n_out, width), with the errors of earlier blocks fed back.
        metric: The objective's (width, width), positive semi-definite.
        inputs: S (width, width), the metric in which columns are salient: the objective's where it looks at the inputs,
            their second moment where it does not (weight alignment), as in BiLLM and ARB-LLM.
        pivots: (width,) diagonal of U, the upper Cholesky factor of the layer's ``S⁻¹ = UᵀU``: one over the standard
            deviation of a column's input given the later ones; None where nothing asks for it.
    """

    weight: Tensor
    metric: Tensor
    inputs: Tensor
    pivots: Tensor | None = None

    def to(self, dtype: torch.dtype) -> Target:
        """The same in another precision."""
        tensors = {name: t.to(dtype) for name, t in vars(self).items() if t is not None}
        return replace(self, **tensors)
