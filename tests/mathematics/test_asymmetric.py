"""Asymmetric calibration and GPTQ, against loops written down column by column."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers import BINARIZATIONS, BLOCK, SOLVERS, Sample, dense, run, sample
from torch import Tensor

from binllm.asymmetric import Asymmetric, AsymmetricRule
from binllm.errors import BinllmError
from binllm.objectives import OutputAlign, WeightAlign
from binllm.plan import Plan
from binllm.quadratic import Problem
from binllm.solvers import Gptq

RIDGE = 0.01
QEP = Asymmetric(rule=AsymmetricRule.qep)


def problem_of(layer: Sample, asymmetric: Asymmetric, objective: object | None = None) -> Problem:
    plan = Plan(WeightAlign(), BINARIZATIONS["row"], SOLVERS["closed_form"], asymmetric=asymmetric)
    return plan.problem(objective or WeightAlign(), layer.weight, layer.statistics())  # type: ignore[arg-type]


def column_by_column(problem: Problem) -> Tensor:
    """GPTQ, and GPTAQ with a drift: one column at a time over the whole layer; scales from the block's running weights."""
    metric = problem.feedback + RIDGE * problem.feedback.diagonal().mean() * torch.eye(len(problem.feedback))
    upper = torch.linalg.cholesky(torch.linalg.inv(metric), upper=True)
    drift = torch.zeros_like(upper)
    if problem.drift is not None:
        drift = torch.triu(problem.drift @ upper.T, 1) @ upper
    w, out = problem.weight.clone(), torch.zeros_like(problem.weight)
    scale = torch.zeros(0)
    for k in range(w.shape[1]):
        if k % BLOCK == 0:
            scale = w[:, k : k + BLOCK].abs().mean(1)
        turn = w[:, k].clone()
        out[:, k] = scale * turn.sign()
        w[:, k:] -= ((turn - out[:, k]) / upper[k, k])[:, None] * upper[k, k:]
        w[:, k + 1 :] += turn[:, None] * drift[k, k + 1 :]
    return out


@pytest.mark.parametrize("kind", ["whole", "ragged", "narrow", "dead"])
@pytest.mark.parametrize("rule", [AsymmetricRule.none, AsymmetricRule.gptaq])
def test_gptq_is_the_loop_over_columns(rule: AsymmetricRule, kind: str) -> None:
    problem = problem_of(sample(kind), Asymmetric(rule=rule, alpha=0.25))
    found = dense(run(problem, "row", Gptq(ridge=RIDGE)))
    torch.testing.assert_close(found, column_by_column(problem), rtol=1e-8, atol=1e-8)


def test_gptaq_changes_the_result() -> None:
    rules = (AsymmetricRule.none, AsymmetricRule.gptaq)
    plain, drifted = (
        dense(run(problem_of(sample("ragged"), Asymmetric(rule=r, alpha=0.25)), "row", Gptq())) for r in rules
    )
    assert not torch.equal(plain, drifted)


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
def test_qep_moves_the_target_of_output_alignment_towards_the_true_output(alpha: float) -> None:
    """``W* G = W((1-α)G + αC)``: QEP under the naive objective is the interpolated one."""
    layer = sample("ragged")
    found = problem_of(layer, Asymmetric(rule=AsymmetricRule.qep, alpha=alpha, ridge=0.0), OutputAlign())
    wanted = OutputAlign(alpha=alpha).quadratic(layer.weight, layer.statistics())
    torch.testing.assert_close(found.objective.linear, wanted.linear, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("objective", [OutputAlign(alpha=0.25), OutputAlign(preserve_energy=True)])
def test_qep_is_refused_where_the_target_is_in_the_full_precision_stream(objective: OutputAlign) -> None:
    for objectives in ((objective, WeightAlign()), (WeightAlign(), objective)):
        with pytest.raises(BinllmError, match=r"asymmetric.rule = qep: allowed is none or gptaq with .*output_align"):
            Plan(objectives[0], BINARIZATIONS["row"], SOLVERS["closed_form"], objectives[1], asymmetric=QEP)


def test_where_the_streams_agree_nothing_is_corrected() -> None:
    layer = sample("ragged")
    layer = replace(layer, x_hat=layer.x)
    for rule in AsymmetricRule:
        problem = problem_of(layer, Asymmetric(rule=rule, alpha=1.0))
        torch.testing.assert_close(problem.weight, layer.weight, rtol=1e-10, atol=1e-10)
        assert problem.drift is None or float(problem.drift.abs().max()) < 1e-12
