"""What is done to the layer is done to the solution: scales, permutations, signs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch
from helpers import ALL_SOLVERS, BINARIZATIONS, OBJECTIVES, Kind, Sample, dense, generator, pairs, run, sample
from torch import Tensor

from binllm.binarization import Planes
from binllm.objectives import Objective
from binllm.quadratic import AmpRule

# Without sweeps over columns in their order, nothing depends on the order inside a block.
ORDER_FREE = {name: solver for name, solver in ALL_SOLVERS.items() if solver.sweeps == 0 and name != "gptq"}
# Three blocks, the last one ragged; narrower ones have rows whose scales are not determined (collinear signs).
BLOCK_SIZE = 16
LAYER = sample(Kind(6, 2 * BLOCK_SIZE + 11, 60))


def solution(layer: Sample, objective: str, solver: str, binarization: str, block_size: int = BLOCK_SIZE) -> Tensor:
    planes = replace(BINARIZATIONS[binarization], block_size=block_size)
    return dense(run(layer.problem(OBJECTIVES[objective]), planes, ALL_SOLVERS[solver]))


@cache
def original(*names: str | int) -> Tensor:
    """What becomes of the layer as it is."""
    return solution(LAYER, *names)  # type: ignore[arg-type]


def cases(where: Callable[[Objective, Planes], bool] = lambda objective, planes: True) -> pytest.MarkDecorator:
    names = pairs(BINARIZATIONS, ALL_SOLVERS, OBJECTIVES)
    chosen = [(b, s, o) for b, s, o in names if where(OBJECTIVES[o], BINARIZATIONS[b])]
    return pytest.mark.parametrize(("binarization", "solver", "objective"), chosen)


def either_sign(objective: Objective, planes: Planes) -> bool:
    """AMP rules that look at the sign of a gradient alone, and not of gradient times step, prefer one sign."""
    return getattr(objective, "amp_rule", AmpRule.off) in (AmpRule.off, AmpRule.agree)


def no_mean(objective: Objective, planes: Planes) -> bool:
    """A row mean is shared by columns of both signs."""
    return either_sign(objective, planes) and not planes.row_mean


def rows_apart(objective: Objective, planes: Planes) -> bool:
    """Column scales, the choice of salient columns, and AMP are shared by the rows."""
    shared = planes.column_scale or planes.salient_columns or LAYER.problem(objective).amp is not None
    return not shared


def close(actual: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(actual, wanted, rtol=1e-6, atol=1e-6 * float(wanted.abs().max()))


@cases()
def test_weights_and_inputs_may_be_scaled(binarization: str, solver: str, objective: str) -> None:
    scaled = Sample(LAYER.weight * 1e-3, LAYER.x * 300, LAYER.x_hat * 300)
    wanted = original(objective, solver, binarization) * 1e-3
    close(solution(scaled, objective, solver, binarization), wanted)


@cases()
def test_output_rows_may_be_permuted(binarization: str, solver: str, objective: str) -> None:
    order = torch.randperm(len(LAYER.weight), generator=generator(3))
    permuted = replace(LAYER, weight=LAYER.weight[order])
    wanted = original(objective, solver, binarization)[order]
    close(solution(permuted, objective, solver, binarization), wanted)


@cases(either_sign)
def test_output_rows_may_be_negated(binarization: str, solver: str, objective: str) -> None:
    signs = torch.tensor([1, -1] * 3).double()[:, None]
    wanted = original(objective, solver, binarization) * signs
    close(solution(replace(LAYER, weight=LAYER.weight * signs), objective, solver, binarization), wanted)


@cases(no_mean)
def test_input_columns_may_be_negated(binarization: str, solver: str, objective: str) -> None:
    signs = 1 - 2 * torch.randint(0, 2, (LAYER.weight.shape[1],), generator=generator(3)).double()
    negated = Sample(LAYER.weight * signs, LAYER.x * signs, LAYER.x_hat * signs)
    wanted = original(objective, solver, binarization) * signs
    close(solution(negated, objective, solver, binarization), wanted)


@pytest.mark.parametrize(("objective", "solver", "binarization"), pairs(OBJECTIVES, ORDER_FREE, BINARIZATIONS))
def test_input_columns_of_a_block_may_be_permuted(binarization: str, solver: str, objective: str) -> None:
    n_in = LAYER.weight.shape[1]
    order = torch.randperm(n_in, generator=generator(3))
    permuted = Sample(LAYER.weight[:, order], LAYER.x[..., order], LAYER.x_hat[..., order])
    wanted = original(objective, solver, binarization, n_in)[:, order]
    close(solution(permuted, objective, solver, binarization, n_in), wanted)


@cases(rows_apart)
def test_a_row_is_quantized_as_it_would_be_alone(binarization: str, solver: str, objective: str) -> None:
    alone = replace(LAYER, weight=LAYER.weight[2:3])
    wanted = original(objective, solver, binarization)[2:3]
    close(solution(alone, objective, solver, binarization), wanted)
