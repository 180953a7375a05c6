"""Golden cases of a whole layer: calibrated on its inputs, then quantized block by block of columns.

The published code (``BRAGPTQ``) accumulates ``H = (2/n) Σ_j X_jᵀ X_j`` over n sequences, gives inputs that never occur the
weight 0 and the diagonal entry 1, damps H by a fraction of its mean diagonal and walks over the blocks. Here that is one
`Problem`: weight alignment with errors fed back in H; output alignment in H for ARB-X, whose own matrix is H / 2.

Differs from the published code: factors and feedback are float64, or float32 and the factor made as published if that fails
(`LayerCheck.run`); the search of ARB-X weighs inputs that never occur by H's 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from binllm.binarization import Cells
from binllm.binarization.partition import PLAIN
from binllm.errors import bad_value
from binllm.golden.files import Case, argument
from binllm.golden.groups import as_published, published_order
from binllm.golden.methods import METHODS, Method
from binllm.golden.outcome import Difference, Outcome, relative, relative_norm, settled
from binllm.objectives.family import weight_error
from binllm.quadratic import Problem, Quadratic
from binllm.solvers import Feedback

FUNCTION = "BRAGPTQ.add_batch (one call per sequence) then BRAGPTQ.fasterquant"
UP_LIM = 50  # the published code has it in the call
DIAGONAL = 1e-5  # relative norm: that the same inputs are calibrated on
MISSTORED = 1e-6  # relative norm: of the stored code from the weight fed back, both float32, where no sign is 0
CHAOTIC = 0.02  # relative change of the error under noise of 1e-6 in H, beyond which a case says nothing
SPREAD = 5  # times a recorded sensitivity, which is that to one draw of noise
SENSITIVITY = "sensitivity_to_1e_6_noise_in_H"


@dataclass(frozen=True)
class Tolerances:
    """What a layer's figures may differ by.

    Attributes:
        error: Of the reported error, relative.
        output_error: Of the relative output error, absolute.
        weight: Relative Frobenius norm; absolute for the relative weight error.
        groups: Fraction of the entries in another group.
    """

    error: float
    output_error: float
    weight: float
    groups: float

    @classmethod
    def of(cls, case: Case) -> Tolerances:
        """Those of the case's kind, or `SPREAD` times what noise of 1e-6 in H was seen to change if that is more."""
        output = case.argument("output_relative_error", float, 0.0)
        change = SPREAD * sensitivity(case, "relative_change_of_error")
        weight = sensitivity(case, "relative_frobenius_change_of_weight")
        # Recorded as the value under noise. Not beyond what the weight moved: a wrong value is not to allow for itself.
        moved = min(abs(sensitivity(case, "output_relative_error", output) - output), weight * output)
        if "real" in case.file.kind.lower():  # ill-conditioned inputs: a search may end at a neighbouring split
            usual = cls(error=0.02, output_error=0.02 * output, weight=0.1, groups=1e-2)
        else:
            usual = cls(error=1e-4, output_error=1e-4, weight=1e-2, groups=1e-3)
        return cls(
            error=max(usual.error, change),
            output_error=max(usual.output_error, change * output, SPREAD * moved),
            weight=max(usual.weight, SPREAD * weight),
            groups=max(usual.groups, SPREAD * sensitivity(case, "fraction_of_groups_changed")),
        )


def sensitivity(case: Case, key: str, usual: float = 0.0) -> float:
    """What was recorded under noise of 1e-6 in H; the usual value if nothing is recorded."""
    return argument(case.argument(SENSITIVITY, dict, {}), key, float, usual)


@dataclass(frozen=True)
class LayerCheck:
    """One layer.

    Attributes:
        case: With the published outputs and scalars.
        method: How it is quantized.
        order: See `published_order`.
        weight: W (n_out, n_in) float64.
        tokens: X (sequences, tokens, n_in) float64.
        block_size: Columns of a block.
        ridge: Of H, relative to its mean diagonal.
        feedback: Error feedback, none where the case disables it.
        errors: The published error, from the description and from the tensors, as far as recorded.
    """

    case: Case
    method: Method
    order: tuple[int, ...]
    weight: Tensor
    tokens: Tensor
    block_size: int
    ridge: float
    feedback: Feedback
    errors: list[float]

    @classmethod
    def of(cls, case: Case) -> LayerCheck:
        """Read a case.

        Raises:
            BinllmError: An unknown function or option, or a missing tensor.
            Unjudged: An option that this project does not have.
        """
        name = case.argument("function", str)
        if not ("BRAGPTQ" in name and "fasterquant" in name):
            raise bad_value("function", name, (FUNCTION,))
        method = Method.of(case, "salient_metric", UP_LIM)
        billm = case.argument("repository", str, "BiLLM" if method.name == METHODS[0] else "ARB-LLM") == "BiLLM"
        tokens = case.tensor("in.tokens").double()
        return cls(
            case=case,
            method=method,
            order=published_order(case, billm, method.salient_groups == 2),
            weight=case.tensor("in.weight").double(),
            tokens=tokens if tokens.ndim == 3 else tokens[None],
            block_size=case.argument("blocksize", int, 128),
            ridge=case.argument("percdamp", float, 0.01),
            feedback=Feedback.none if case.argument("disable_gptq", bool, False) else Feedback.diagonal,
            errors=_errors(case),
        )

    def run(self) -> Outcome:
        """The reported error, the output error, the weight and the groups; cases that noise moves are not judged.

        Factors and feedback are float64 as in every run of this project. A case that fails so is run in float32, the
        published precision: where it agrees, the difference was rounding that moved a search or a sign.
        """
        how = "in float32 as published, not in float64"
        return settled(self._run(torch.float64), lambda: self._run(torch.float32), how)

    def _run(self, dtype: torch.dtype) -> Outcome:
        hessian = self.hessian(dtype)
        solution, blocks = self.method.solve(self.problem(hessian), self.block_size, self.feedback, self.ridge)
        weight = torch.cat([block.dense() for block in blocks]).T.double()
        cell = torch.cat([block.cell for block in blocks]).T
        tolerances = Tolerances.of(self.case)
        differences = [
            *self._reported(solution.fed_back / 2, tolerances),
            *self._recorded(weight, float((cell[0] >= PLAIN).double().mean()), tolerances),
            *self._stored(weight, cell, tolerances),
        ]
        if not differences:
            return Outcome()
        code = _misstored(solution.code.dense(torch.float64), weight, blocks)
        differences.append(Difference("code", code, MISSTORED))
        diagonal = self.case.file.find("in.hessian_diag")
        if diagonal is not None:
            difference = relative_norm(hessian.diagonal() - diagonal, diagonal)
            differences.append(Difference("diagonal of H", difference, DIAGONAL))
        change = sensitivity(self.case, "relative_change_of_error")
        chaotic = f"noise of 1e-6 in H changes the published error by {change:.1%}" if change > CHAOTIC else ""
        return Outcome(differences, unjudged=chaotic)

    def hessian(self, dtype: torch.dtype) -> Tensor:
        """H (n_in, n_in), sequence by sequence as published, so that float32 rounds alike."""
        hessian = torch.zeros(self.tokens.shape[2], self.tokens.shape[2], dtype=dtype)
        for count, x in enumerate(self.tokens.to(dtype), start=1):
            scaled = math.sqrt(2 / count) * x.T
            hessian = hessian * ((count - 1) / count) + scaled @ scaled.T
        return hessian

    def problem(self, hessian: Tensor) -> Problem:
        """The layer's problem in the dtype of H, as the module's docstring has it."""
        dead = hessian.diagonal() == 0
        weight = self.weight.to(hessian.dtype).masked_fill(dead, 0.0)
        feedback = hessian + torch.diag(dead.to(hessian.dtype)) if bool(dead.any()) else hessian
        if not self.method.looks_at_inputs:
            return Problem(weight, weight_error(weight), feedback)
        linear = weight @ hessian
        return Problem(weight, Quadratic(hessian, linear, float((linear * weight).sum())), feedback)

    def _reported(self, error: float, tolerances: Tolerances) -> list[Difference]:
        """The difference from the published error, from the one farther off where it is recorded twice."""
        off = [relative(error, published) for published in self.errors]
        return [Difference("reported error, relative", max(off), tolerances.error)] if off else []

    def _recorded(self, weight: Tensor, salient: float, tolerances: Tolerances) -> list[Difference]:
        """Differences from the recorded scalars of a weight and a fraction of salient columns."""
        x, error = self.tokens.flatten(0, 1), weight - self.weight
        figures = {
            "output_relative_error": (
                "output error",
                relative_norm(x @ error.T, x @ self.weight.T),
                tolerances.output_error,
            ),
            "weight_relative_error": ("weight error", relative_norm(error, self.weight), tolerances.weight),
            "salient_fraction": ("salient fraction", salient, tolerances.groups),
        }
        recorded = self.case.scalars(*figures)
        return [
            Difference(what, abs(value - recorded[key]), allowed)
            for key, (what, value, allowed) in figures.items()
            if key in recorded
        ]

    def _stored(self, weight: Tensor, cell: Tensor, tolerances: Tolerances) -> list[Difference]:
        """Differences from the stored weight and groups."""
        published, group = self.case.output("weight"), self.case.output("group")
        differences = []
        if published is not None:
            difference = relative_norm(weight - published.double(), published)
            differences.append(Difference("weight, relative norm", difference, tolerances.weight))
        if group is not None:
            moved = (as_published(cell, self.order) != group).double().mean()
            differences.append(Difference("groups, fraction", float(moved), tolerances.groups))
        return differences


def _errors(case: Case) -> list[float]:
    stored = case.output("error")
    return [*([] if stored is None else [float(stored)]), *case.scalars("error").values()]


def _misstored(code: Tensor, weight: Tensor, blocks: list[Cells]) -> float:
    """Relative norm of the difference of the code from the weight (n_out, n_in), but for signs that are 0 in the blocks."""
    signs = torch.cat([block.signs for block in blocks], 1)
    stored = torch.cat([block.without_zeros().signs for block in blocks], 1)
    same = (signs == stored).all(0).T
    return relative_norm((code - weight) * same, weight)
