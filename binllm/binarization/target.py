"""What a block of columns is to be fitted to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Target:
    """One block of ``width`` input columns, as a binarization sees it.

    Attributes:
        columns: Continuous weights, with the errors of earlier blocks fed back (width, n_out): column after column.
        metric: The objective's (width, width), positive semi-definite.
        inputs: S (width, width), the metric in which columns are salient: the objective's where it looks at the inputs,
            their second moment where it does not (weight alignment), as in BiLLM and ARB-LLM.
        upper: U_bb (width, width), the block of the upper Cholesky factor of the layer's ``S⁻¹ = UᵀU``, S with its ridge.
            ``1 / U_jj²`` is the variance of column j's input given the later columns.
        variance: Gives the diagonal (width,) of the layer's ``S⁻¹``; a function, because it takes a whole inverse.
        limits: Gives the smallest and the largest weight of each row of the whole layer (2, n_out).
    """

    columns: Tensor
    metric: Tensor
    inputs: Tensor
    upper: Tensor
    variance: Callable[[], Tensor]
    limits: Callable[[], Tensor]

    @property
    def weight(self) -> Tensor:
        """The same weights (n_out, width), a view."""
        return self.columns.T

    def to(self, dtype: torch.dtype) -> Target:
        """The same in another precision."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors = {name: value.to(dtype) for name, value in values.items() if isinstance(value, Tensor)}
        functions = {"variance": lambda: self.variance().to(dtype), "limits": lambda: self.limits().to(dtype)}
        return replace(self, **tensors, **functions)
