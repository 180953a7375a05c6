"""Against all sign vectors with their best scale: no solver beats them, and a diagonal metric makes it equal."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from helpers import OBJECTIVES, SOLVERS, Kind, dense, run, sample

from binllm.objectives import OutputAlign, WeightAlign
from binllm.quadratic import Quadratic
from binllm.solvers import Alternating

N_IN = 7
KIND = Kind(1, N_IN, 30)


def optimum(quadratic: Quadratic) -> float:
    """The least Q over all ``a B`` with B in {-1, +1}^n, for one row."""
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=N_IN))).double()
    gain = (signs @ quadratic.linear[0]) ** 2 / ((signs @ quadratic.metric) * signs).sum(1)
    return quadratic.constant - float(gain.max())


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_no_solver_is_better_than_brute_force(solver: str, objective: str) -> None:
    for seed in range(2):
        problem = sample(KIND, seed).problem(OBJECTIVES[objective])
        reached = problem.objective.value(dense(run(problem, "row", solver)))
        assert reached >= optimum(problem.objective) - 1e-9 * problem.objective.constant


@pytest.mark.parametrize("objective", [n for n, o in OBJECTIVES.items() if sample(KIND).problem(o).amp is None])
@pytest.mark.parametrize("solver", SOLVERS)
def test_with_a_diagonal_metric_every_solver_finds_the_optimum(solver: str, objective: str) -> None:
    for seed in range(2):
        problem = sample(KIND, seed).problem(OBJECTIVES[objective], diagonal=True)
        solution = run(problem, "row", replace(SOLVERS[solver], ridge=0.0))  # type: ignore[type-var]
        wanted = optimum(problem.objective)
        assert problem.objective.value(dense(solution)) == pytest.approx(wanted, abs=1e-9 * problem.objective.constant)


def test_sweeps_come_close_to_the_optimum_and_closer_than_rounding() -> None:
    excess = []
    for seed in range(30):
        problem = sample(KIND, seed).problem(OutputAlign(alpha=1.0))
        best = optimum(problem.objective)
        swept, rounded = (run(problem, "row", Alternating(20, signs=signs)) for signs in (True, False))
        excess.append([problem.objective.value(dense(s)) / best - 1 for s in (swept, rounded)])
    swept, rounded = torch.tensor(excess).mean(0).tolist()
    assert swept < 0.5 * rounded


def test_weight_alignment_of_a_row_is_the_mean_magnitude_with_the_weights_signs() -> None:
    layer = sample(KIND)
    wanted = layer.weight.abs().mean() * layer.weight.sign()
    torch.testing.assert_close(dense(run(layer.problem(WeightAlign()), "row", "alternating")), wanted)
