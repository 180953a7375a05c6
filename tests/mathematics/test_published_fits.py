"""The fits of BiLLM and ARB-LLM give what the published code gives, and do what the papers derive."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

import pytest
import torch
from helpers import generator, normal
from torch import Tensor

from binllm.binarization.cell_fits import (
    PANEL,
    fit_alternating,
    fit_moments,
    fit_row_column,
    nearest_signs,
    refit_to_inputs,
)
from binllm.binarization.cells import Cells
from binllm.errors import BinllmError
from binllm.golden.binarizers import BinarizerCheck
from binllm.golden.files import Case, GoldenFile
from binllm.golden.outcome import Verdict
from binllm.solvers.arb import Arb
from binllm.solvers.updates import BlockQuadratic, Running, update_column_scales, update_row_scales

GOLDEN = GoldenFile.read(Path(__file__).parent.parent / "golden" / "binarizers.safetensors")
ORDERS = (1, 1, 2, 2)


def fit(rule: str, cells: Cells, target: Tensor, gram: Tensor) -> None:
    """Fit as the published function of that name does."""
    if rule == "hor":
        fit_moments(cells, target)
    elif rule == "arbrc":
        fit_row_column(cells, target, 15)
    else:
        fit_alternating(cells, target, 15)
    if rule == "arbx":
        refit_to_inputs(cells, target, gram, 15)


def partition(n_out: int = 7, width: int = 24, column_scales: bool = False) -> tuple[Cells, Tensor, Tensor]:
    """Four cells as in ARB-LLM's CGB, the last empty in row 0; weights Wᵀ and a Gram matrix, float64."""
    source = generator(n_out)
    target = normal(width, n_out, source=source)
    cell = (target.abs() > 1).to(torch.uint8)
    cell[::5] += 2
    cell[:, 0].clamp_max_(2)
    x = normal(40, width, source=source) @ normal(width, width, source=source)
    return Cells.blank(cell, ORDERS, torch.float64, column_scales), target, x.T @ x


def by_cell(cells: Cells, error: Tensor, metric: Tensor) -> Tensor:
    """``e S eᵀ`` (cells, n_out) of the errors Eᵀ (width, n_out) in each cell alone."""
    own = [cells.mask(c) * error for c in range(len(cells.orders))]
    return torch.stack([(e * (metric @ e)).sum(0) for e in own])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("case", GOLDEN.cases.values(), ids=lambda case: case.name)
def test_a_fit_equals_the_published_code(case: Case, dtype: torch.dtype) -> None:
    check = BinarizerCheck.of(case)
    assert check.gram is not None
    outcome = check.run_in(dtype)
    assert outcome.verdict is Verdict.passed, str(outcome)
    assert {"sse_inside_mask", "gram_error"} < {each.what for each in outcome.differences}


def test_moments_of_a_row_by_hand() -> None:
    """Row (1, 2, 4, 9): mean 4, magnitudes of the rest 3, 2, 0, 5; an entry at the mean has no sign."""
    cells = Cells.blank(torch.zeros(4, 1, dtype=torch.uint8), (1,), torch.float64)
    fit_moments(cells, torch.tensor([[1.0], [2], [4], [9]], dtype=torch.float64))
    assert cells.dense()[:, 0].tolist() == [1.5, 1.5, 4, 6.5]
    assert cells.signs[0, :, 0].tolist() == [-1, -1, 0, 1]
    assert cells.without_zeros().dense()[:, 0].tolist() == [1.5, 1.5, 6.5, 6.5]
    assert cells.signs[0, 2, 0] == 0, "the original keeps its zero"


def test_only_signs_that_are_stored_lose_their_zeros() -> None:
    cells, _, _ = partition()
    signs = cells.without_zeros().signs
    assert bool((signs[0] == 1).all())
    torch.testing.assert_close(signs[1] == 1, cells.cell >= 2)


@pytest.mark.parametrize("rule", ["hor", "arb"])
def test_rows_do_not_see_each_other(rule: str) -> None:
    """A row gets what it gets alone, on whichever side of a panel's edge it is."""
    cells, target, gram = partition(n_out=2 * PANEL + 1)
    fit(rule, cells, target, gram)
    dense = cells.dense()
    for row in (0, PANEL - 1, PANEL, 2 * PANEL):
        alone = Cells.blank(cells.cell[:, row, None], ORDERS, torch.float64)
        fit(rule, alone, target[:, row, None], gram)
        torch.testing.assert_close(dense[:, row], alone.dense()[:, 0])


@pytest.mark.parametrize("rule", ["hor", "arb", "arbx", "arbrc"])
def test_cells_do_not_see_each_other(rule: str) -> None:
    """In a partition every cell gets what it gets alone against the rest, and nothing where it is empty."""
    cells, target, gram = partition(column_scales=rule == "arbrc")
    fit(rule, cells, target, gram)
    dense = cells.dense()
    for c, order in enumerate(ORDERS):
        alone = Cells.blank((cells.cell != c).to(torch.uint8), (order, 1), torch.float64, rule == "arbrc")
        fit(rule, alone, target, gram)
        inside = cells.cell == c
        torch.testing.assert_close(dense[inside], alone.dense()[inside])
        empty = ~inside.any(0)
        assert not cells.row_scale[:, c, empty].any()
        assert cells.mean is None or not cells.mean[c, empty].any()
    assert bool((cells.cell != 3).all(0)[0]), "row 0 tries an empty cell"


@pytest.mark.parametrize(("method", "column_scales"), [(fit_alternating, False), (fit_row_column, True)])
def test_rounds_never_raise_the_weight_error(method: Callable[[Cells, Tensor, int], None], column_scales: bool) -> None:
    errors = []
    for rounds in range(12):
        cells, target, _ = partition(column_scales=column_scales)
        method(cells, target, rounds)
        errors.append(by_cell(cells, target - cells.dense(), torch.eye(len(target)).double()).sum(1))
    change = torch.stack(errors).diff(dim=0)
    assert bool((change <= 1e-9).all())
    assert bool((change[0] < 0).all()), "every cell gains from the first round"


@pytest.mark.parametrize("tokens", [1, 2, 40])
def test_rounds_never_raise_a_cells_output_error(tokens: int) -> None:
    """Row by row, also with fewer tokens than columns; the signs stay."""
    start, target, _ = partition()
    fit_alternating(start, target, 15)
    x = normal(tokens, len(target), source=generator(tokens))
    gram, signs, errors = x.T @ x, start.signs.clone(), []
    for rounds in range(6):
        cells = Cells.blank(start.cell, ORDERS, torch.float64)
        fit_alternating(cells, target, 15)
        refit_to_inputs(cells, target, gram, rounds)
        torch.testing.assert_close(cells.signs, signs)
        errors.append(by_cell(cells, target - cells.dense(), gram))
    change = torch.stack(errors).diff(dim=0)
    assert bool((change <= 1e-9 * errors[0].sum()).all())
    assert float(change[0].sum()) < -0.01 * float(errors[0].sum())


def test_the_refit_to_inputs_keeps_what_the_inputs_do_not_see() -> None:
    cells, target, gram = partition()
    fit_alternating(cells, target, 15)
    dead = (cells.cell >= 2).any(1)
    gram[dead] = 0
    gram[:, dead] = 0
    old = cells.dense()
    refit_to_inputs(cells, target, gram, 15)
    torch.testing.assert_close(cells.dense()[dead], old[dead], rtol=0, atol=0)
    assert not bool((cells.dense()[~dead] == old[~dead]).all())


def test_the_refit_to_inputs_does_not_follow_rounding() -> None:
    """S projects onto what is orthogonal to the signs: all that float32 sees of their scale is rounding."""
    target = normal(100, 1, source=generator(0)).float()
    cells = Cells.blank(torch.zeros(100, 1, dtype=torch.uint8), (1,), torch.float32)
    fit_moments(cells, target)
    signs, old = cells.signs[0].double(), cells.row_scale[0].clone()
    refit_to_inputs(cells, target, (torch.eye(100) - signs @ signs.T / 100).float(), 15)
    torch.testing.assert_close(cells.row_scale[0], old, rtol=1e-2, atol=0)


@pytest.mark.parametrize("order", [1, 2])
def test_the_refit_to_inputs_approaches_the_joint_minimiser(order: int) -> None:
    """With one cell nothing is ignored, and its rounds end where mean and scales solve one system together."""
    _, target, gram = partition()
    cells = Cells.blank(torch.zeros(target.shape, dtype=torch.uint8), (order,), torch.float64)
    fit_alternating(cells, target, 15)
    joint = Cells.blank(cells.cell, (order,), torch.float64)
    fit_alternating(joint, target, 15)
    refit_to_inputs(cells, target, gram, 3000)
    update_row_scales(joint, BlockQuadratic(gram, gram @ target))
    torch.testing.assert_close(cells.dense(), joint.dense(), rtol=1e-6, atol=1e-6)


def test_nearest_signs_are_the_best_of_four() -> None:
    """For scales of either sign and size; an exact zero is given to the first plane's -1."""
    source = generator(0)
    x, a, b = normal(50, 40, source=source), normal(40, source=source), normal(50, 40, source=source)
    x[0] = 0
    s, t = nearest_signs(x, a, b)
    assert bool((s.abs() == 1).all() and (t.abs() == 1).all() and (s[0] == -1).all())
    values = torch.stack([p * a + q * b for p, q in product((-1, 1), repeat=2)])
    torch.testing.assert_close((s * a + t * b - x).abs(), (values - x).abs().min(0).values)


@pytest.mark.parametrize("column_scales", [False, True])
def test_two_planes_end_with_the_nearest_of_their_values(column_scales: bool) -> None:
    cells, target, gram = partition(column_scales=column_scales)
    fit("arbrc" if column_scales else "arb", cells, target, gram)
    distance = (target - cells.dense()).abs()
    salient, signs = cells.cell >= 2, cells.signs
    for first, second in product((-1, 1), repeat=2):
        cells.signs = torch.stack([torch.full_like(signs[0], first), torch.full_like(signs[1], second)])
        other = (target - cells.dense()).abs()
        assert bool((distance <= other + 1e-12)[salient].all())


@pytest.mark.parametrize("rule", ["arb", "arbrc"])
def test_the_basis_gives_the_dense_weight(rule: str) -> None:
    cells, target, gram = partition(column_scales=rule == "arbrc")
    fit(rule, cells, target, gram)
    rows, values = cells.basis()
    torch.testing.assert_close((rows * values[:, None]).sum(0), cells.dense())
    changed = normal(*values.shape, source=generator(0))
    cells.set_row_parameters(changed)
    torch.testing.assert_close((rows * changed[:, None]).sum(0), cells.dense())


@pytest.mark.parametrize("rule", ["hor", "arb", "arbrc"])
def test_row_scales_can_be_updated_for_any_metric(rule: str) -> None:
    """All cells jointly; column scales of cells are not for the update that knows one a column."""
    cells, target, gram = partition(column_scales=rule == "arbrc")
    fit(rule, cells, target, gram)
    quadratic = BlockQuadratic(gram, gram @ target)
    before, old = quadratic.rows(cells), cells.dense()
    update_column_scales(cells, quadratic)
    torch.testing.assert_close(cells.dense(), old, rtol=0, atol=0)
    update_row_scales(cells, quadratic)
    assert bool((quadratic.rows(cells) < before).all())
    assert not cells.row_scale[:, 3, 0].any(), "empty in this row"


def quadratic_of(target: Tensor, metric: Tensor) -> BlockQuadratic:
    return BlockQuadratic(metric, metric @ target, running=Running(target.clone(), torch.eye(len(metric)).to(metric)))


@pytest.mark.parametrize(
    ("solver", "metric", "rule"),
    [
        (Arb(), "identity", "arb"),
        (Arb(), "multiple", "arb"),
        (Arb(output_iterations=0), "gram", "arb"),
        (Arb(), "gram", "arbx"),
        (Arb(), "gram", "arbrc"),
        (Arb(), "identity", "arbrc"),
    ],
)
def test_the_rule_follows_from_factors_and_objective(solver: Arb, metric: str, rule: str) -> None:
    cells, target, gram = partition(column_scales=rule == "arbrc")
    expected, _, _ = partition(column_scales=rule == "arbrc")
    identity = torch.eye(len(gram), dtype=gram.dtype)
    metrics = {"gram": gram, "identity": identity, "multiple": 0.3 * identity}
    solver.fit(cells, quadratic_of(target, metrics[metric]))
    fit(rule, expected, target, gram)
    torch.testing.assert_close(cells.dense(), expected.dense(), rtol=0, atol=0)


@pytest.mark.parametrize("solver", [Arb()])
def test_a_further_pass_lowers_the_objective(solver: Arb) -> None:
    cells, target, gram = partition()
    quadratic = quadratic_of(target, gram)
    solver.fit(cells, quadratic)
    before = quadratic.rows(cells)
    solver.refine(cells, quadratic)
    assert bool((quadratic.rows(cells) < before).all())


def test_a_fit_refuses_cells_of_the_other_kind() -> None:
    with_means, target, gram = partition()
    with_columns, _, _ = partition(column_scales=True)
    for method in (
        fit_moments,
        partial(fit_alternating, iterations=1),
        partial(refit_to_inputs, gram=gram, iterations=1),
    ):
        with pytest.raises(ValueError, match="without column scales"):
            method(with_columns, target)
    with pytest.raises(ValueError, match="without means"):
        fit_row_column(with_means, target, 1)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"iterations": 0}, "solver.iterations"),
        ({"output_iterations": -1}, "solver.output_iterations"),
        ({"ridge": 2.0}, "solver.ridge"),
        ({"passes": -1}, "solver.passes"),
    ],
)
def test_options_are_checked(options: dict, key: str) -> None:
    with pytest.raises(BinllmError, match=key):
        Arb(**options)
