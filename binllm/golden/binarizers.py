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
from binllm.golden.outcome import Difference, Outcome, Unjudged, relative, settled

ENTRY = 1e-5  # of max |x|: what float32 may differ by from float64
ENTRY_INPUTS = 1e-4  # the same of the fit to the inputs, whose products of S are less well conditioned
FLIPPED = 1e-3  # of the entries may be on the other side of a tie, or at it, where the sign is 0
SCALAR = 1e-5  # relative, for the error that the fit minimises; the other one moves as much as the entries
WIDER = 10  # times these at most, where the published code was itself seen to differ from float64
EXACT = 1e-3  # of the target's energy: an error below this is itself rounding, and is compared with this
DEFAULT_ROUNDS = 15
ORDER = 2  # default where the function's name does not say it


@dataclass(frozen=True)
class Function:
    """What a published function is here.

    Attributes:
        order: Sign planes, as its name says; None: as the case says.
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
        case: With reference errors ``sse_inside_mask`` and ``gram_error``, as far as recorded.
        function: What is called.
        order: Sign planes.
        rounds: Over the weight error.
        output_rounds: Over the output error.
        x: (n_out, width) float32.
        mask: (n_out, width) bool.
        gram: S (width, width), or None if the case has none.
        expected: (n_out, width), the published output, or None.
    """

    case: Case
    function: Function
    order: int
    rounds: int
    output_rounds: int
    x: Tensor
    mask: Tensor
    gram: Tensor | None
    expected: Tensor | None

    @classmethod
    def of(cls, case: Case) -> BinarizerCheck:
        """Read a case.

        Raises:
            BinllmError: An unknown function, an argument that it cannot have, or a missing tensor.
            Unjudged: A missing file, or more sign planes than this project has.
        """
        name = case.argument("function", str)
        if name not in FUNCTIONS:
            raise bad_value("function", name, FUNCTIONS)
        function, args = FUNCTIONS[name], case.argument("args", dict, {})
        return cls(
            case=case,
            function=function,
            order=_order(args, function.order),
            rounds=_rounds(args, function.rounds),
            output_rounds=_rounds(args, "iter2" if function.inputs else None),
            x=case.tensor(case.argument("x", str)).float(),
            mask=case.tensor(case.argument("mask", str)).bool(),
            gram=_gram(case, args, function.inputs),
            expected=case.output(),
        )

    def run(self) -> Outcome:
        """Entries, and the reference errors; in float32 as published, and in float64 if that fails."""
        how = "in float64, not in float32 as published"
        return settled(self.run_in(torch.float32), lambda: self.run_in(torch.float64), how)

    def run_in(self, dtype: torch.dtype) -> Outcome:
        """The same in one precision."""
        mask, x = self.mask.double(), self.x.double()
        dense = self._dense(dtype).double() * mask
        expected = dense if self.expected is None else self.expected.double()
        allowed, scale = Tolerances.of(self), x.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
        difference = (dense - expected).abs() / scale
        far = ~(difference <= allowed.entry)
        entries = [
            Difference(
                f"fraction of entries off by {allowed.entry:.2g} max|x|", float(far.double().mean()), allowed.far
            ),
            Difference("other entries, of max|x|", float(difference.masked_fill(far, 0).max()), allowed.entry),
        ]
        error = (x - torch.where(far, expected, dense)) * mask
        return Outcome([*([] if self.expected is None else entries), *self._scalars(error, x * mask, allowed)])

    def _scalars(self, error: Tensor, target: Tensor, allowed: Tolerances) -> list[Difference]:
        """Reference errors, without the entries whose sign is another one at a tie."""
        differences = []
        for key, expected in self.case.scalars("sse_inside_mask", "gram_error").items():
            metric = self.gram if key == "gram_error" else None
            if key == "gram_error" and metric is None:
                continue
            value = relative(_energy(error, metric), expected, EXACT * _energy(target, metric))
            other = self.function.inputs and metric is None
            differences.append(Difference(key, value, allowed.entry if other else allowed.scalar))
        return differences

    def _dense(self, dtype: torch.dtype) -> Tensor:
        cell = (~self.mask).T.to(torch.uint8).contiguous()
        cells = Cells.blank(cell, (self.order, 1), dtype, self.function.columns)
        target = self.x.T.to(dtype).contiguous()
        if self.function.columns:
            fit_row_column(cells, target, self.rounds)
        elif self.function.rounds is None:
            fit_moments(cells, target)
        else:
            fit_alternating(cells, target, self.rounds)
        if self.function.inputs and self.gram is not None:
            refit_to_inputs(cells, target, self.gram.to(dtype), self.output_rounds)
        return cells.dense().T


@dataclass(frozen=True)
class Tolerances:
    """What a call's figures may differ by.

    Attributes:
        entry: Of max |x|.
        far: Fraction of the entries that may differ by more, as their sign is another one.
        scalar: Relative, of the error that the fit minimises.
    """

    entry: float
    far: float
    scalar: float

    @classmethod
    def of(cls, check: BinarizerCheck) -> Tolerances:
        """The usual ones, and what the published output was seen to differ from a float64 run of it, up to a limit."""
        rounding = check.case.argument("float64_difference", dict, {})
        entry, scale = ENTRY_INPUTS if check.function.inputs else ENTRY, float(check.x.abs().max())
        off = argument(rounding, "frac_off", float, 0.0)
        # The largest difference is one of rounding only where no entry has another sign.
        largest = 0.0 if off or not scale else argument(rounding, "max_abs", float, 0.0) / scale
        return cls(
            entry=_widened(entry, largest),
            far=_widened(FLIPPED, off),
            scalar=_widened(SCALAR, argument(rounding, "rel_obj", float, 0.0)),
        )


def _widened(usual: float, seen: float) -> float:
    return max(usual, min(usual + seen, WIDER * usual))  # the usual one where NaN was recorded


def _order(args: dict[str, Any], own: int | None) -> int:
    order, allowed = argument(args, "order", int, own or ORDER), (1, 2) if own is None else (own,)
    if own is None and order > max(allowed):
        raise Unjudged(f"order = {order}: this project has one or two sign planes")
    if order not in allowed:
        raise bad_value("order", order, " or ".join(map(str, allowed)))
    return order


def _rounds(args: dict[str, Any], key: str | None) -> int:
    return 0 if key is None else argument(args, key, int, DEFAULT_ROUNDS)


def _gram(case: Case, args: dict[str, Any], needed: bool) -> Tensor | None:
    """S as the case names it; for the reference error of a function without inputs that beside its x, if there is one."""
    if needed or "S" in args:
        return case.tensor(args.get("S")).float()
    beside = case.file.find(case.argument("x", str).removesuffix("x") + "S")
    return None if beside is None else beside.float()


def _energy(error: Tensor, metric: Tensor | None) -> float:
    """``tr(E S Eᵀ)``, with S = I for None."""
    return float((error * (error if metric is None else error @ metric.double())).sum())
