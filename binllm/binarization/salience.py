"""How salient a weight is: the map that published methods rank and search."""

from __future__ import annotations

from enum import Enum

from torch import Tensor

from binllm.binarization.target import Target


class Salience(Enum):
    """``magnitude``: w. ``hessian``: ``w² / U_jj²``, the code of BiLLM, ARB-LLM and PB-LLM, with 1/U_jj² the variance of
    input j given the later ones. ``hessian_paper``: ``w² / [S⁻¹]_jj²``, as their papers print it."""

    magnitude = "magnitude"
    hessian = "hessian"
    hessian_paper = "hessian_paper"


def salience_map(salience: Salience, target: Target) -> Tensor:
    """The map (width, n_out), transposed; signed for ``magnitude``, otherwise not negative.

    Differs between code and paper: BiLLM (2402.04291) prints ``w² / [H⁻¹]_jj²``; its code has the Cholesky factor of H⁻¹ in
    H's place, so that ``U_jj²`` is compared, one power less and of the columns that are not quantized yet.
    """
    if salience is Salience.magnitude:
        return target.columns
    spread = target.upper.diagonal() if salience is Salience.hessian else target.variance()
    return target.columns.square() / spread.square()[:, None]
