"""Dead columns, singular moments, zeros and NaN: handled or refused, never passed on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers import BINARIZATIONS, OBJECTIVES, SOLVERS, Sample, dense, pairs, run, sample, target_of

from binllm.objectives import OutputAlign
from binllm.plan import Plan
from binllm.quadratic import relative_error
from binllm.solvers import ClosedForm, Feedback, Solution, Status, solve
from binllm.solvers.linear_algebra import by_columns, factorise, inverse_of_upper

# Objectives whose metric is positive definite even where the second moment is not.
REGULAR = ["interpolated_shrunk", "output_error_shrunk", "wholly_shrunk", "wholly_tempered", "everything", "amp_shrunk"]
MOMENTS = ("gram", "cross_gram", "output_energy", "mean", "mean_hat")


def silent(kind: str) -> Sample:
    """A layer whose inputs are all zero."""
    layer = sample(kind)
    return replace(layer, x=torch.zeros_like(layer.x), x_hat=torch.zeros_like(layer.x_hat))


def pruned(kind: str) -> Sample:
    """A layer with a row and two columns of zeros in its weight."""
    weight = sample(kind).weight.clone()
    weight[0], weight[:, :2] = 0, 0
    return replace(sample(kind), weight=weight)


HARD = {
    "dead": sample("dead"),
    "singular": sample("singular"),
    "silent": silent("ragged"),
    "pruned": pruned("ragged"),
    "empty": replace(sample("ragged"), weight=torch.zeros(6, 19).double()),
    "single": replace(sample("ragged"), weight=sample("ragged").weight[:1]),
}


def assert_finite(solution: Solution) -> None:
    solution.code.validate()
    for name in ("row_scale", "column_scale", "residual_scale", "row_mean"):
        scale = getattr(solution.code, name)
        assert scale is None or bool(torch.isfinite(scale).all())
    assert all(value == value and abs(value) < float("inf") for value in solution.trace)


@pytest.mark.parametrize(
    ("binarization", "solver", "layer", "objective"), pairs(BINARIZATIONS, SOLVERS, HARD, OBJECTIVES)
)
def test_every_solver_gives_hard_layers_a_finite_code(
    binarization: str, solver: str, layer: str, objective: str
) -> None:
    problem = HARD[layer].problem(OBJECTIVES[objective])
    assert_finite(solve(problem, BINARIZATIONS[binarization], SOLVERS[solver], torch.float32))


@pytest.mark.parametrize(("layer", "objective", "binarization"), pairs(HARD, OBJECTIVES, BINARIZATIONS))
def test_every_objective_gives_hard_layers_a_finite_code(layer: str, objective: str, binarization: str) -> None:
    problem = HARD[layer].problem(OBJECTIVES[objective])
    assert_finite(solve(problem, BINARIZATIONS[binarization], SOLVERS["closed_form_no_ridge"], torch.float32))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_zero_weight_is_reproduced(objective: str) -> None:
    solution = run(HARD["empty"].problem(OBJECTIVES[objective]), "row_column_groups", "alternating")
    assert float(dense(solution).abs().max()) == 0


@pytest.mark.parametrize("binarization", BINARIZATIONS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_dead_input_column_does_not_disturb_the_others(binarization: str, solver: str) -> None:
    """Without feedback, so that the columns alone share the fit; the weight in a dead column does not matter."""
    layer = sample("dead")
    alive = layer.x_hat.abs().sum((0, 1)) > 0
    assert int(alive.sum()) == layer.weight.shape[1] - 3
    other = torch.where(alive, layer.weight, 100.0)
    # The row mean, the typical column scale and the split of magnitudes start from all columns, dead ones too.
    planes = replace(BINARIZATIONS[binarization], column_scale=False, row_mean=False, groups=1)
    plain = replace(SOLVERS[solver], feedback=Feedback.none)  # type: ignore[type-var]
    both = (replace(layer, weight=w).problem(OutputAlign()) for w in (layer.weight, other))
    first, second = (dense(run(problem, planes, plain)) for problem in both)
    torch.testing.assert_close(first[:, alive], second[:, alive], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("kind", ["singular", "dead", "ragged"])
def test_a_recovery_is_recorded(kind: str, objective: str) -> None:
    problem = sample(kind).problem(OBJECTIVES[objective])
    smallest = float(torch.linalg.eigvalsh(problem.feedback)[0] / problem.feedback.diagonal().mean())
    solution = run(problem, "row", ClosedForm(ridge=0.0))
    raised = smallest < 1e-12  # shrinkage and tempering repair what the moments lack
    assert raised == (kind != "ragged" and objective not in REGULAR)
    assert (solution.recoveries, solution.ridge) == ((1, 1e-10) if raised else (0, 0.0))
    if problem.amp is None:
        assert solution.status is (Status.recovered if raised else Status.solved)


def test_a_factor_is_that_of_the_metric_with_its_ridge() -> None:
    gram = sample("ragged").statistics().gram
    for ridge in (0.0, 0.01, 1.0):
        factor = factorise(gram, ridge, width=8)  # three panels
        wanted = gram + ridge * gram.diagonal().mean() * torch.eye(len(gram)).double()
        torch.testing.assert_close(factor.upper @ factor.upper.T, wanted)
        upper = factor.inverse_upper()
        torch.testing.assert_close(upper.T @ upper @ wanted, torch.eye(len(gram)).double())
        torch.testing.assert_close(factor.solve_right_(by_columns(wanted[:2])), torch.eye(len(gram)).double()[:2])
        assert torch.equal(upper, upper.triu()) and torch.equal(factor.upper, factor.upper.triu())
        torch.testing.assert_close(inverse_of_upper(factor.upper[1:3, 1:3]), upper[1:3, 1:3])
        torch.testing.assert_close(factor.variance(), torch.linalg.inv(wanted).diagonal())
        drift = gram.triu() - 2 * gram
        torch.testing.assert_close(factor.correction(drift), torch.triu(drift @ upper.T, 1) @ upper)
        assert (factor.ridge, factor.recoveries) == (ridge, 0)


def test_a_pivot_at_rounding_level_is_a_failed_factorisation() -> None:
    factor = factorise(torch.tensor([[1.0, 1.0], [1.0, 1.0 + 1e-15]], dtype=torch.float64), 0.0)
    assert (factor.ridge, factor.recoveries) == (1e-10, 1)


@pytest.mark.parametrize("binarization", BINARIZATIONS)
def test_a_block_without_input_starts_with_the_size_of_its_weights(binarization: str) -> None:
    weight = sample("narrow").weight
    block = BINARIZATIONS[binarization].initialise(target_of(weight, torch.zeros(5, 5).double()))
    size = weight.abs().mean(1)
    assert bool((block.row_scale > 0.1 * size).all())
    assert bool((block.row_scale < 5 * size).all())


def test_a_matrix_that_is_not_positive_semi_definite_is_refused() -> None:
    with pytest.raises(ValueError, match="not positive semi-definite"):
        factorise(torch.diag(torch.tensor([5.0, -4.0])).double(), 0.01)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_nan_in_a_weight_is_refused(objective: str, value: float) -> None:
    layer = sample("ragged")
    problem = layer.problem(OBJECTIVES[objective])
    broken = layer.weight.clone()
    broken[1, 2] = value
    with pytest.raises(ValueError, match="weight has NaN"):
        replace(layer, weight=broken).problem(OBJECTIVES[objective])
    with pytest.raises(ValueError, match="weight has NaN"):
        run(replace(problem, weight=broken), "row", "closed_form")


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_nan_in_a_moment_is_refused(objective: str, moment: str) -> None:
    layer, chosen = sample("ragged"), OBJECTIVES[objective]
    statistics = layer.statistics()
    broken = getattr(statistics, moment).clone()
    broken[1] = float("nan")
    plan = Plan(chosen, BINARIZATIONS["row"], SOLVERS["closed_form"])
    with pytest.raises(ValueError, match="moments of the input have NaN"):
        plan.problem(chosen, layer.weight, replace(statistics, **{moment: broken}))


@pytest.mark.parametrize("part", ["matrix", "linear"])
@pytest.mark.parametrize("binarization", BINARIZATIONS)
def test_a_users_objective_with_nan_is_refused(binarization: str, part: str) -> None:
    problem = sample("ragged").problem(OBJECTIVES["output_error"])
    broken = getattr(problem.objective, part).clone()
    broken[1, 2] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        run(replace(problem, objective=replace(problem.objective, **{part: broken})), binarization, "alternating")


@pytest.mark.parametrize("binarization", BINARIZATIONS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_fit_that_leaves_the_range_of_its_dtype_is_an_error_and_ends(solver: str, binarization: str) -> None:
    layer = sample("ragged")
    problem = replace(layer, weight=layer.weight * 1e38).problem(OBJECTIVES["interpolated"])
    with pytest.raises(ValueError, match=r"range of torch\.float32"):
        solve(problem, BINARIZATIONS[binarization], SOLVERS[solver], torch.float32)
    assert_finite(run(problem, binarization, solver))


def test_relative_error() -> None:
    weight = torch.tensor([[3.0, 4.0]])
    assert relative_error(weight, torch.zeros(1, 2)) == 1.0
    assert relative_error(weight, torch.tensor([[3.0, 3.0]])) == pytest.approx(1 / 25)
    assert relative_error(torch.zeros(1, 2), torch.zeros(1, 2)) == 0.0
    assert relative_error(torch.zeros(1, 2), weight) == float("inf")
