"""Passes of block coordinate descent: the trace never rises, and ends at the value of the code that is returned."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from helpers import BINARIZATIONS, KINDS, OBJECTIVES, SOLVERS, dense, pairs, run, sample

from binllm.quadratic import Problem
from binllm.solvers import Feedback, Solver, Status


def passes_on_the_joint_problem(problem: Problem, solver: Solver) -> int:
    """None where errors are fed back in another metric than the objective's: a pass would undo the feedback."""
    joint = problem.feedback_is_objective or solver.feedback is Feedback.none
    return solver.passes if joint else 0


WITHOUT_AMP = {name: o for name, o in OBJECTIVES.items() if sample("whole").problem(o).amp is None}


@pytest.mark.parametrize(
    ("binarization", "solver", "kind", "objective"), pairs(BINARIZATIONS, SOLVERS, KINDS, WITHOUT_AMP)
)
def test_a_further_pass_never_raises_the_objective(binarization: str, solver: str, kind: str, objective: str) -> None:
    problem = sample(kind).problem(OBJECTIVES[objective])
    trace = run(problem, binarization, replace(SOLVERS[solver], passes=3)).trace  # type: ignore[type-var]
    assert len(trace) == 2 + passes_on_the_joint_problem(problem, replace(SOLVERS[solver], passes=3))
    slack = 1e-9 * problem.objective.constant
    assert all(later <= earlier + slack for earlier, later in pairwise(trace))


@pytest.mark.parametrize(("binarization", "solver", "objective"), pairs(BINARIZATIONS, SOLVERS, OBJECTIVES))
def test_the_trace_ends_at_the_value_of_the_code(binarization: str, solver: str, objective: str) -> None:
    problem = sample("ragged").problem(OBJECTIVES[objective])
    solution = run(problem, binarization, solver)
    solution.code.validate()
    planes, n_in = BINARIZATIONS[binarization], problem.weight.shape[1]
    assert solution.code.shape == tuple(problem.weight.shape)
    assert solution.code.block_size == planes.block_size
    assert len(solution.trace) == 2 + passes_on_the_joint_problem(problem, SOLVERS[solver])
    assert problem.objective.value(dense(solution)) == pytest.approx(solution.trace[-1], rel=1e-9)
    salient = planes.salient_columns
    assert solution.code.salient_count == sum(-(-salient * min(8, n_in - s) // 8) for s in range(0, n_in, 8))


def test_fits_improve_on_first_codes_and_passes_on_the_greedy_pass() -> None:
    problem = sample("ragged").problem(OBJECTIVES["output_error"])
    trace = run(problem, "row_column", "coordinate_descent").trace
    assert trace[-1] < 0.99 * trace[1]
    assert trace[1] < 0.99 * trace[0]


@pytest.mark.parametrize("solver", SOLVERS)
def test_solving_twice_gives_the_same_bits(solver: str) -> None:
    problem = sample("ragged").problem(OBJECTIVES["interpolated_shrunk"])
    first, second = (run(problem, "everything", solver) for _ in range(2))
    assert torch.equal(dense(first), dense(second))
    assert first.status is Status.solved


@pytest.mark.parametrize("feedback", [Feedback.exact, Feedback.diagonal])
def test_passes_do_not_undo_the_feedback_of_weight_alignment(feedback: Feedback) -> None:
    problem = sample("ragged").problem(OBJECTIVES["weight_align"])
    none = dense(run(problem, "row_column", replace(SOLVERS["coordinate_descent"], feedback=Feedback.none)))
    fed_back = dense(run(problem, "row_column", replace(SOLVERS["coordinate_descent"], feedback=feedback, passes=3)))

    def output_error(weight_hat: torch.Tensor) -> float:
        error = weight_hat - problem.weight
        return float(((error @ problem.feedback) * error).sum())

    assert output_error(fed_back) < 0.9 * output_error(none)
