"""Golden cases of one call of a published binarizer: f(x, mask, ...) gives a dense matrix, zero outside the mask.

Here the mask is one cell of a partition, the rest another that is not looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from binllm.binarization.cell_fits import fit_alternating, fit_moments, fit_row_column, refit_to_inputs
from binllm.binarization.cells import Cells
from binllm.errors import bad_value
from binllm.golden.files import Case, argument
from binllm.golden.outcome import Difference, Outcome, relative

ENTRY = 1e-5  # of max |x|: what float32 may differ by from float64
ENTRY_INPUTS = 1e-4  # the same of the fit to the inputs, whose products of S are less well conditioned
FLIPPED = 1e-3  # of the entries may be on the other side of a tie, or at it, where the sign is 0
SCALAR = 1e-5  # relative, for the error that the fit minimises; the other one moves as much as the entries
EXACT = 1e-3  # of the target's energy: an error below this is itself rounding, and is compared with this
DEFAULT_ROUNDS = 15
ORDER = 2  # default of all functions


@dataclass(frozen=True)
class Function:
    """What a published function is here.

    Attributes:
        order: Sign planes; None: as the case says.
        rounds: Its name for the number of rounds over the weight error, or None if it has none.
        inputs: Whether it is refitted to the inputs, with ``iter2`` rounds.
        columns: Whether it has row and column scales and no mean.
    """

    order: int | None
    rounds: str | None
    inputs: bool = False
    columns: bool = False


FUNCTIONS = {
    "high_order_residual": Function(None, None),
    "high_order_residual_alternating_order1": Function(1, "iter"),
    "high_order_residual_alternating_mean": Function(2, "num_iters"),
    "high_order_residual_alternating_order1_x": Function(1, "iter", inputs=True),
    "high_order_residual_alternating_mean_x": Function(2, "num_iters", inputs=True),
    "high_order_residual_alternating_order1_rc_nomean": Function(1, "iter", columns=True),
    "high_order_residual_alternating_order2_rc_nomean": Function(2, "iter", columns=True),
}


@dataclass(frozen=True)
class BinarizerCheck:
    """One call.

    Attributes:
        function: What is called.
        order: Sign planes.
        rounds: Over the weight error.
        output_rounds: Over the output error.
        x: (n_out, width) float32.
        mask: (n_out, width) bool.
        gram: S (width, width), or None if the case has none.
        expected: (n_out, width), the published output.
        scalars: Reference errors ``sse_inside_mask`` and ``gram_error``, as far as recorded.
    """

    function: Function
    order: int
    rounds: int
    output_rounds: int
    x: Tensor
    mask: Tensor
    gram: Tensor | None
    expected: Tensor
    scalars: dict[str, float]

    @classmethod
    def of(cls, case: Case) -> BinarizerCheck:
        """Read a case.

        Raises:
            BinllmError: An unknown function, an argument that it cannot have, or a missing tensor.
        """
        name = case.argument("function", str)
        if name not in FUNCTIONS:
            raise bad_value(f"{case}: function", name, FUNCTIONS)
        function, args = FUNCTIONS[name], case.argument("args", dict, {})
        order = argument(case, args, "order", int, ORDER)
        allowed = (1, 2) if function.order is None else (function.order,)
        if order not in allowed:
            raise bad_value(f"{case}: order", order, " or ".join(map(str, allowed)))
        return cls(
            function=function,
            order=order,
            rounds=_rounds(case, args, function.rounds),
            output_rounds=_rounds(case, args, "iter2" if function.inputs else None),
            x=case.tensor(case.argument("x", str)).float(),
            mask=case.tensor(case.argument("mask", str)).bool(),
            gram=_gram(case, args, function.inputs),
            expected=case.tensor(f"out.{case.name}"),
            scalars={key: case.argument(key, float) for key in ("sse_inside_mask", "gram_error") if key in case.about},
        )

    def run(self) -> Outcome:
        """Entries, and the reference errors; these without the entries whose sign is another one at a tie."""
        mask, x = self.mask.double(), self.x.double()
        dense = self._dense().double() * mask
        tolerance = ENTRY_INPUTS if self.function.inputs else ENTRY
        difference = (dense - self.expected).abs() / x.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
        far = ~(difference <= tolerance)
        differences = [
            Difference(f"fraction of entries off by {tolerance:g} max|x|", float(far.double().mean()), FLIPPED),
            Difference("other entries, of max|x|", float(difference.masked_fill(far, 0).max()), tolerance),
        ]
        error, target = (x - torch.where(far, self.expected.double(), dense)) * mask, x * mask
        metrics = {"sse_inside_mask": None, "gram_error": self.gram}
        for key, expected in self.scalars.items():
            if key == "gram_error" and self.gram is None:
                continue
            value = relative(_energy(error, metrics[key]), expected, EXACT * _energy(target, metrics[key]))
            other = self.function.inputs and key == "sse_inside_mask"
            differences.append(Difference(key, value, tolerance if other else SCALAR))
        return Outcome(differences)

    def _dense(self) -> Tensor:
        cell = (~self.mask).T.to(torch.uint8).contiguous()
        cells = Cells.blank(cell, (self.order, 1), self.x.dtype, self.function.columns)
        target = self.x.T.contiguous()
        if self.function.columns:
            fit_row_column(cells, target, self.rounds)
        elif self.function.rounds is None:
            fit_moments(cells, target)
        else:
            fit_alternating(cells, target, self.rounds)
        if self.function.inputs and self.gram is not None:
            refit_to_inputs(cells, target, self.gram, self.output_rounds)
        return cells.dense().T


def _rounds(case: Case, args: dict[str, Any], key: str | None) -> int:
    return 0 if key is None else argument(case, args, key, int, DEFAULT_ROUNDS)


def _gram(case: Case, args: dict[str, Any], needed: bool) -> Tensor | None:
    """S as the case names it; for the reference error of a function without inputs that beside its x, if there is one."""
    if needed or "S" in args:
        return case.tensor(args.get("S")).float()
    beside = case.file.find(case.argument("x", str).removesuffix("x") + "S")
    return None if beside is None else beside.float()


def _energy(error: Tensor, metric: Tensor | None) -> float:
    """``tr(E S Eᵀ)``, with S = I for None."""
    return float((error * (error if metric is None else error @ metric.double())).sum())
