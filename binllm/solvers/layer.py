"""The walk over a layer's blocks of columns: error feedback, then passes of block coordinate descent.

    A = R Rᵀ, R upper triangular;  W* = W + (T - W A) A⁻¹                    (unconstrained minimiser; QEP with α = 1)
    for each block b:                                                        (one greedy pass)
        V_b = W*_b + Σ_{h<b} E_h R_hb R_bb⁻¹                                 (absorbs the errors of earlier blocks)
        fit Ŵ_b to V_b in the metric R_bb R_bbᵀ;  E_b = W*_b - Ŵ_b
    for each pass, for each block b:
        fit Ŵ_b to the linear term T_b - Σ_{h≠b} Ŵ_h A_hb in the metric A_bb (coordinate descent on the joint problem)
    With U = R⁻¹ the upper Cholesky factor of A⁻¹ this is ``W_later -= (V_b - Ŵ_b) U_bb⁻¹ U_b,later`` of GPTQ, without the
    inverse: the minimum is ``‖(W* - Ŵ) R‖²``, a sum over blocks whose b-th term is ``‖(V_b - Ŵ_b) R_bb‖²``.
    Under GPTAQ's asymmetric calibration, with D = α(C - G) and P = striu(D Uᵀ) U, W*_later += V_b P_b,later as well.
    Weight alignment has A = I but feeds errors back in the metric of the inputs. It has no joint problem to descend on: a
    pass would undo the feedback, so each block gets the passes' rounds inside the greedy pass.

Example with two columns, block size 1, A = [[1, .5], [.5, 1]], W = [.4, 1]: R = [[√.75, .5], [0, 1]]. Column 1 rounds to
Ŵ = 1, error -.6, so column 2 becomes 1 + (-.6)(.5) = .7, which is also the minimiser of the quadratic given Ŵ_1 = 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from binllm.binarization import Binarization, Target
from binllm.parallel import LARGE, ahead, by_parts, one_thread
from binllm.quadratic import AmpRule, Problem
from binllm.solvers.amp import AmpCounts, Guard
from binllm.solvers.base import Feedback, Solution, Solver, Status
from binllm.solvers.linear_algebra import Factor, all_finite, by_columns, factorise, inverse_of_upper
from binllm.solvers.updates import BlockQuadratic, Running

Improvement = Callable[[Any, BlockQuadratic], None]


@torch.no_grad()
def solve(
    problem: Problem,
    binarization: Binarization,
    solver: Solver,
    dtype: torch.dtype = torch.float32,
    factor: Factor | None = None,
) -> Solution:
    """Quantize one weight matrix.

    Args:
        problem: Tensors in float64; in float32, factors and feedback are float32 as well.
        binarization: What Ŵ may be.
        solver: How a block is fitted, and how the walk goes.
        dtype: Arithmetic of the fits inside blocks; that of the factors and the feedback between blocks is the problem's.
        factor: Of the feedback metric, in panels that are the blocks; None: made here. Panels that are done with are let go.

    Returns:
        The code with unrounded scales, and how it was found.

    Raises:
        ValueError: The weight or the objective has NaN or infinite entries, or a fit overflows.
    """
    if not all_finite(problem.weight):
        raise ValueError("the weight has NaN or infinite entries")
    metric = problem.objective.matrix
    if not ((metric is None or all_finite(metric)) and all_finite(problem.objective.linear)):
        raise ValueError("the objective has NaN or infinite entries")
    torch.set_flush_denormal(True)  # vanishing scales made alternating updates ten times slower on CPU
    walk = _Walk(problem, binarization, solver, dtype, factor)
    small = problem.weight.numel() < LARGE
    with one_thread(small):
        value = problem.objective.value(walk.greedy())
    trace = [value + walk.gained, value]
    for _ in range(solver.passes if walk.joint else 0):
        with one_thread(small):
            trace.append(trace[-1] + walk.descend())
    status = Status.solved if walk.recoveries == 0 else Status.recovered
    if walk.counts.raised:
        status = Status.amp_raised
    code = binarization.assemble(walk.blocks)
    facts = {"ridge": walk.ridge, "recoveries": walk.recoveries, "fed_back": walk.fed_back}
    return Solution(code, status, trace, sweeps=solver.sweeps, amp=walk.counts, **facts)


@dataclass(frozen=True)
class _Coming:
    """What is known of a block b before the last one, a, is done.

    Attributes:
        own: R_bb (width, width).
        upper: Its inverse U_bb.
        carried: ``Σ_{h<a} E_h R_hb U_bb``, transposed (width, n_out): what errors of the blocks before ask of it.
        coupling: ``R_ab U_bb``, by which the last block's error comes to that; None if there is none or nothing is fed back.
    """

    own: Tensor
    upper: Tensor
    carried: Tensor
    coupling: Tensor | None


class _Walk:
    """State of the walk.

    Attributes:
        wanted: W* (n_out, n_in), the continuous weights; the problem's own tensor where that is what is wanted.
        errors: Of the finished blocks (n_in, n_out). Where W* is the walk's own, it is the same memory: a block's error
            takes the place of what was wanted of it.
        coming: Gives what is known of the next block before the last one is done.
        dense: Ŵ (n_out, n_in); None in the greedy pass, where only AMP asks for it.
        gained: By how much fits lowered what they minimise, from the first codes of the blocks in the greedy pass.
        factor: Of the feedback metric, in panels that are the blocks; the greedy pass lets go of those it is done with.
    """

    def __init__(
        self, problem: Problem, binarization: Binarization, solver: Solver, dtype: torch.dtype, factor: Factor | None
    ):
        self.problem, self.binarization, self.solver, self.dtype = problem, binarization, solver, dtype
        n_in = problem.weight.shape[1]
        width = binarization.block_size or n_in
        self.spans = [slice(s, min(s + width, n_in)) for s in range(0, n_in, width)]
        known = problem.objective.minimiser is problem.weight
        slope = None if known else problem.objective.gradient(problem.weight)
        pulled = slope is not None and bool(slope.any())
        slope = by_columns(slope) if slope is not None and pulled else None  # before there is a factor
        self.factor: Factor = factorise(problem.feedback, solver.ridge, width) if factor is None else factor
        self.wanted: Tensor = problem.weight if slope is None else self._minimiser(slope)
        if problem.drift is not None and not pulled:
            self.wanted = by_columns(self.wanted)  # the greedy pass moves it
        shared = self.wanted is not problem.weight
        self.errors = self.wanted.T if shared else self.wanted.new_empty(self.wanted.T.shape)
        self.ridge, self.recoveries = self.factor.ridge, self.factor.recoveries
        self.blocks: list[Any] = []
        self.counts = AmpCounts()
        self.coming: Callable[[], _Coming] = lambda: self._look_at(0)
        self.dense: Tensor | None = None
        self.fed_back = self.gained = 0.0
        # Where errors are fed back in another metric than the objective's, a pass over the objective would undo the
        # feedback: the extra rounds are then spent inside the greedy pass.
        self.joint = problem.feedback_is_objective or solver.feedback is Feedback.none

    def _minimiser(self, slope: Tensor) -> Tensor:
        """``W - (W A - T) A⁻¹``: the ridge pulls towards W and not towards zero. The slope is overwritten."""
        same = self.problem.feedback_is_objective
        factor = self.factor if same else factorise(self.problem.objective.metric, self.solver.ridge)
        return factor.solve_right_(slope).neg_().add_(self.problem.weight)

    def greedy(self) -> Tensor:
        """One pass from left to right with error feedback; returns Ŵ (n_out, n_in)."""
        drift = None if self.problem.drift is None else self.factor.correction(self.problem.drift)
        variance = cache(self.factor.variance)
        limits = cache(lambda: torch.stack(self.problem.weight.aminmax(dim=1)))
        for span in self.spans:
            self._greedy_block(span, limits, drift, variance)
        self.dense = self._fill(self.errors.T)
        return self.dense

    def _greedy_block(
        self, span: slice, limits: Callable[[], Tensor], drift: Tensor | None, variance: Callable[[], Tensor]
    ) -> None:
        """Fit the next block, and put its error down."""
        own, upper, carried = self._next()
        start = carried + self.wanted.T[span]
        self.errors[span] = carried
        del carried
        metric = self._block_metric(span, own)
        # Which columns are salient is a question to the inputs, also where the objective does not see them.
        inputs = metric if self.problem.feedback_is_objective else self.problem.feedback[span, span]
        columns = start.clone()  # solvers change it
        target = Target(columns, metric, inputs, upper, lambda: variance()[span], limits).to(self.dtype)
        block = self.binarization.initialise(target)
        running = Running.of(target, None if drift is None else drift[span, span].to(self.dtype))
        keeps = getattr(self.solver, "keeps_codes", False)
        fitted = self._dense(block) if keeps else self._fit(block, span, start, metric, running)
        self.blocks.append(block)
        if self.solver.feedback is not Feedback.none:
            drifted = running.correction()
            error = start.sub_(fitted) if drifted is None else start.add_(drifted).sub_(fitted)
            self.errors[span] = self._felt(own, error, upper) - self.errors[span]
        if drift is not None:
            self.wanted[:, span.stop :] += running.weight.T.to(drift.dtype) @ drift[span, span.stop :]

    def _fit(self, block: Any, span: slice, start: Tensor, metric: Tensor, running: Running) -> Tensor:
        """Fit a block of the greedy pass to what it starts from, and return what it then stands for (width, n_out)."""
        of_weights = self.problem.objective.matrix is None and not self.problem.feedback_is_objective
        terms = (metric, start if of_weights else metric @ start)
        first = block.dense().to(start.dtype)
        fitted = self._improve(self.solver.fit, block, span, terms, running)
        for _ in range(0 if self.joint else self.solver.passes):
            fitted = self._improve(self.solver.refine, block, span, terms, running)
        self.gained -= _difference(fitted, first, terms)
        return fitted

    def _fill(self, dense: Tensor) -> Tensor:
        """Write Ŵ of the finished blocks into a matrix (n_out, n_in), and return it."""

        def fill(done: tuple[Any, slice]) -> None:
            block, span = done
            dense[:, span] = block.dense().T

        by_parts(fill, list(zip(self.blocks, self.spans, strict=False)))
        return dense

    def _block_metric(self, span: slice, own: Tensor) -> Tensor:
        if self.solver.feedback is not Feedback.exact or not self.problem.feedback_is_objective:
            return self.problem.objective.metric_of(span)
        return own @ own.T

    def _next(self) -> tuple[Tensor, Tensor, Tensor]:
        """R_bb and U_bb of the next block, and what earlier errors ask of it, ``Σ_{h<b} E_h R_hb U_bb``, transposed.

        An idle thread then looks at the block after it, while this one is fitted.
        """
        coming, index = self.coming(), len(self.blocks)
        if coming.coupling is not None:
            coming.carried.addmm_(coming.coupling.T, self.errors[self.spans[index - 1]])
        if index > 0:  # the first block may ask for the whole factor: its panel goes with the second one's
            del self.factor.panels[: 2 if index == 1 else 1]
        if index + 1 < len(self.spans):
            self.coming = ahead(lambda: self._look_at(index + 1))
        return coming.own, coming.upper, coming.carried

    def _look_at(self, index: int) -> _Coming:
        """What is known of a block before the last one is done."""
        span, panel = self.spans[index], self.factor.panels[1 if index == 1 else 0]  # those before have gone
        own = panel[span].clone()
        upper = inverse_of_upper(own)
        if index == 0 or self.solver.feedback is Feedback.none:
            return _Coming(own, upper, self.errors.new_zeros(len(own), self.errors.shape[1]), None)
        last = self.spans[index - 1]
        earlier = panel[: last.start].T @ self.errors[: last.start]
        return _Coming(own, upper, upper.T @ earlier, panel[last] @ upper)

    def _felt(self, own: Tensor, error: Tensor, upper: Tensor) -> Tensor:
        """An error (width, n_out) as later blocks are to make up for it: itself, or divided by ``diag U_bb`` only."""
        if self.solver.feedback is Feedback.exact:
            self.fed_back += float((own.T @ error).square().sum())
            return error
        scaled = error / upper.diagonal()[:, None]
        self.fed_back += float(scaled.square().sum())
        return upper.T @ scaled

    def descend(self) -> float:
        """One pass of block coordinate descent on the joint problem.

        Returns:
            The change of the objective, summed over the blocks: negative but for rounding, or under AMP.
        """
        objective, change = self.problem.objective, 0.0
        assert self.dense is not None
        for block, span in zip(self.blocks, self.spans, strict=True):
            metric, old = objective.metric_of(span), self.dense[:, span].clone()
            others = objective.apply(self.dense, span) - old @ metric
            terms = (metric, (objective.linear[:, span] - others).T)
            new = self._improve(self.solver.refine, block, span, terms)
            self.dense[:, span] = new.T
            change += _difference(new, old.T, terms)
        return change

    def _improve(
        self,
        method: Improvement,
        block: Any,
        span: slice,
        terms: tuple[Tensor, Tensor],
        running: Running | None = None,
    ) -> Tensor:
        """Apply a fit for a metric and a linear term (width, n_out); return what the block now stands for (width, n_out)."""
        metric, linear = terms
        linear = linear.to(self.dtype, memory_format=torch.contiguous_format)
        method(block, BlockQuadratic(metric.to(self.dtype), linear, self._guard(span), running))
        return self._dense(block)

    def _dense(self, block: Any) -> Tensor:
        dense = block.dense().to(self.wanted.dtype)
        if not all_finite(dense):
            raise ValueError(f"a fit left the range of {self.dtype}; weights or inputs are too large")
        return dense

    def _guard(self, span: slice) -> Guard | None:
        amp = self.problem.amp
        if amp is None or amp.rule is AmpRule.off:
            return None
        # Whatever stands in the block's own place (its carried error, in the greedy pass) cancels in the offset.
        metric, dense = amp.metric[span, span], self._fill(self.wanted.clone()) if self.dense is None else self.dense
        dense = dense.to(metric.dtype)
        offset = dense @ amp.metric[:, span] - dense[:, span] @ metric
        return Guard(amp.rule, metric.to(self.dtype), offset.T.to(self.dtype).contiguous(), self.counts)


def _difference(new: Tensor, old: Tensor, terms: tuple[Tensor, Tensor]) -> float:
    """``Q(new) - Q(old)`` of one block (width, n_out), from the step, so that nothing large cancels."""
    metric, linear = terms
    return float(((metric @ (new + old)).sub_(linear, alpha=2) * (new - old)).sum())
