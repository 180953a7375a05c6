"""The vocabulary between objectives and solvers: a quadratic function of the quantized weight."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from binllm.parallel import by_parts

PANEL = 128  # rows of a weight whose values are found at once, so that nothing of its size is made
COLUMNS = 256  # columns of it: A is symmetric, so that a block of them needs only the columns before it


class AmpRule(Enum):
    """Which proposals of an update attention matrix preservation (AMP) lets through; see `binllm.solvers.amp`."""

    off = "off"
    agree = "agree"
    positive = "positive"
    signed = "signed"


@dataclass(frozen=True)
class Quadratic:
    """``Q(Ŵ) = tr(Ŵ A Ŵᵀ) - 2 tr(Ŵ Tᵀ) + constant``, a mean squared error per token.

    Attributes:
        matrix: A (n_in, n_in), symmetric positive semi-definite, or None where it is I: it is not held then, and no product
            with it is made.
        linear: T (n_out, n_in).
        constant: Energy of the target, so that Q is the squared error itself and not only up to a constant.
        minimiser: W where T is ``W A``, so that no weight is better than W; None where that is not known.
    """

    matrix: Tensor | None
    linear: Tensor
    constant: float = 0.0
    minimiser: Tensor | None = None

    @property
    def metric(self) -> Tensor:
        """A as a matrix."""
        return self._identity(self.linear.shape[1]) if self.matrix is None else self.matrix

    def metric_of(self, span: slice) -> Tensor:
        """A of a block of columns (width, width)."""
        return self._identity(span.stop - span.start) if self.matrix is None else self.matrix[span, span]

    def _identity(self, size: int) -> Tensor:
        return torch.eye(size, dtype=self.linear.dtype, device=self.linear.device)

    def value(self, weight_hat: Tensor) -> float:
        """Q of ``weight_hat`` (n_out, n_in); idle threads take panels of rows."""
        return float(torch.cat(by_parts(self._of_rows, self._panels(weight_hat))).sum()) + self.constant

    def rows(self, weight_hat: Tensor) -> Tensor:
        """The contribution (n_out,) of every output row to Q, without the constant: rows do not interact."""
        return torch.cat([self._of_rows(panel) for panel in self._panels(weight_hat)])

    def _panels(self, weight_hat: Tensor) -> list[tuple[Tensor, Tensor]]:
        return list(zip(weight_hat.split(PANEL), self.linear.split(PANEL), strict=True))

    def _of_rows(self, panel: tuple[Tensor, Tensor]) -> Tensor:
        w, linear = panel[0].to(panel[1].dtype), panel[1]
        if self.matrix is None:
            return w.sub(linear, alpha=2).mul_(w).sum(1)
        total = w.new_zeros(len(w))
        for start in range(0, w.shape[1], COLUMNS):
            own = slice(start, start + COLUMNS)
            image = w[:, own] @ self.matrix[own, own]
            image.addmm_(w[:, :start], self.matrix[:start, own], alpha=2).sub_(linear[:, own], alpha=2)
            total += image.mul_(w[:, own]).sum(1)
        return total

    def apply(self, rows: Tensor, span: slice = slice(None)) -> Tensor:
        """``rows A`` (m, n_in), or a block of its columns."""
        return rows[:, span] if self.matrix is None else rows @ self.matrix[:, span]

    def gradient(self, weight_hat: Tensor) -> Tensor:
        """Half the gradient of Q, ``Ŵ A - T`` (n_out, n_in)."""
        return self.apply(weight_hat.to(self.linear.dtype)) - self.linear


class Amp:
    """Data of attention matrix preservation: ``L_AMP = ||W C Ŵᵀ||²_F = tr(Ŵ H Ŵᵀ)`` must not fall.

    Args:
        image: ``W C`` (n_out, n_in).
        rule: Which proposals are accepted.
    """

    def __init__(self, image: Tensor, rule: AmpRule):
        self.rule = rule
        self._image: Tensor | None = image
        self._metric: Tensor | None = None

    @property
    def metric(self) -> Tensor:
        """``H = (W C)ᵀ (W C)`` (n_in, n_in) scaled to trace n_in, so that half the gradient of L_AMP is along ``Ŵ H``.

        Only the sign of the gradient matters, so the positive factor is free; this one keeps float32 safe. It is made when
        it is first asked for, in place of the image: a wide layer's matrices are larger than all else.
        """
        if self._image is not None:
            metric, self._image = self._image.T @ self._image, None
            mean = float(metric.diagonal().mean())
            self._metric = metric.div_(mean) if mean > 0 else metric
        assert self._metric is not None
        return self._metric


@dataclass(frozen=True)
class Problem:
    """All that a solver sees of a layer.

    Attributes:
        weight: W (n_out, n_in), float64.
        objective: What is minimised.
        feedback: Metric (n_in, n_in) in which error feedback lets later columns absorb the error of earlier ones. For an
            objective on outputs it is the objective's own metric; for weight alignment it is the second moment of the
            quantized stream, as in BiLLM and ARB-LLM (with the metric I, error feedback would be plain rounding).
        amp: Attention matrix preservation, or None.
        drift: ``α(C - G)`` (n_in, n_in) where error feedback is asymmetric (GPTAQ), or None.
    """

    weight: Tensor
    objective: Quadratic
    feedback: Tensor
    amp: Amp | None = None
    drift: Tensor | None = None

    @property
    def feedback_is_objective(self) -> bool:
        """Whether blocks are fitted in the same metric that feeds errors back."""
        return self.feedback is self.objective.matrix

    def to(self, dtype: torch.dtype) -> Problem:
        """The same in another precision, but for AMP's data; what is one tensor here is one there."""
        made: dict[int, Tensor] = {}

        def cast(tensor: Tensor) -> Tensor:
            if id(tensor) not in made:
                made[id(tensor)] = tensor.to(dtype)
            return made[id(tensor)]

        def all_cast(thing: Any) -> dict[str, Any]:
            held = {field.name: getattr(thing, field.name) for field in fields(thing)}
            return {name: cast(value) for name, value in held.items() if isinstance(value, Tensor)}

        objective = replace(self.objective, **all_cast(self.objective))
        return replace(self, **all_cast(self), objective=objective)


def relative_error(weight: Tensor, weight_hat: Tensor) -> float:
    """``||W - Ŵ||²_F / ||W||²_F``; 0 for a zero matrix that is reproduced exactly."""
    energy = float(weight.double().square().sum())
    error = float((weight.double() - weight_hat.double()).square_().sum())
    return error / energy if energy > 0 else (0.0 if error == 0 else float(torch.inf))
