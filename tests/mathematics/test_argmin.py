"""Closed forms are minimisers: the derivative vanishes, and no small perturbation lowers the loss."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers import BINARIZATIONS, SEEDS, copy_block, random_block
from torch import Tensor

from binllm.binarization import Block
from binllm.solvers.updates import BlockQuadratic, update_column_scales, update_row_scales

ROW_PARAMETERS = ("row_scale", "residual_scale", "row_mean")
COLUMNS = [name for name, planes in BINARIZATIONS.items() if planes.column_scale]


def free(block: Block, names: tuple[str, ...]) -> list[str]:
    """Those of the parameters that the block has."""
    return [n for n in names if getattr(block, n) is not None and (n != "residual_scale" or bool(block.salient.any()))]


def loss(block: Block, quadratic: BlockQuadratic, name: str, value: Tensor) -> Tensor:
    return quadratic.rows(replace(block, **{name: value}))


def assert_minimal(block: Block, quadratic: BlockQuadratic, names: list[str]) -> None:
    best = quadratic.rows(block).sum()
    for name in names:
        value = getattr(block, name)
        variable = value.clone().requires_grad_()
        loss(block, quadratic, name, variable).sum().backward()
        gradient = variable.grad
        assert gradient is not None
        assert float(gradient.abs().max()) < 1e-9 * float(1 + quadratic.linear.abs().sum())
        for index in range(value.numel()):
            for step in (-1e-3, 1e-3):
                moved = value.flatten().clone()
                moved[index] += step
                assert float(loss(block, quadratic, name, moved.view_as(value)).sum()) > float(best)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("binarization", BINARIZATIONS)
def test_row_scales_residual_scale_and_row_mean_are_jointly_optimal(binarization: str, seed: int) -> None:
    block, quadratic = random_block(binarization, "dead", seed)  # 7 living columns for at most 4 parameters a row
    if len(block.row_scale) == 2:
        block.level[-4:-2] |= 4  # both groups have members that are seen
        block.level[-2:] &= 3
    update_row_scales(block, quadratic)
    assert_minimal(block, quadratic, free(block, ROW_PARAMETERS))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("binarization", COLUMNS)
def test_column_scales_are_optimal(binarization: str, seed: int) -> None:
    block, quadratic = random_block(binarization, "narrow", seed)
    update_column_scales(block, quadratic)
    assert_minimal(block, quadratic, ["column_scale"])


@pytest.mark.parametrize("shape", ["singular", "dead"])
@pytest.mark.parametrize("binarization", COLUMNS)
def test_singular_column_systems_are_solved_as_well_as_least_squares(binarization: str, shape: str) -> None:
    block, quadratic = random_block(binarization, shape, 0)
    block.row_scale, block.residual_scale = block.row_scale[:, :1], block.residual_scale[:1]  # one row: rank is low
    block.level = block.level[:, :1]
    block.row_mean = None if block.row_mean is None else block.row_mean[:1]
    quadratic = replace(quadratic, linear=quadratic.linear[:, :1])
    entries = block.unscaled()
    system = quadratic.metric * (entries @ entries.T)
    mean = 0.0 if block.row_mean is None else quadratic.metric.sum(1)[:, None] * block.row_mean
    force = (entries * (quadratic.linear - mean)).sum(1)
    least = copy_block(block)
    least.column_scale = torch.linalg.lstsq(system, force[:, None], driver="gelsd").solution[:, 0]
    update_column_scales(block, quadratic)
    reached, wanted = (float(quadratic.rows(b).sum()) for b in (block, least))
    assert reached == pytest.approx(wanted, rel=1e-9)


def test_the_row_scale_is_the_printed_formula() -> None:
    block, quadratic = random_block("row_column", "narrow", 0)
    d, target = (block.signs() * block.column_scale[:, None]).T, quadratic.linear.T
    wanted = [float(d[i] @ target[i] / (d[i] @ quadratic.metric @ d[i])) for i in range(len(d))]
    update_row_scales(block, quadratic)
    assert block.row_scale[0].tolist() == pytest.approx(wanted)


def test_the_column_scales_are_the_printed_formula() -> None:
    block, quadratic = random_block("row_column", "narrow", 0)
    e = (block.signs() * block.row_scale).T  # diag(a) B
    wanted = torch.linalg.solve(quadratic.metric * (e.T @ e), (e * quadratic.linear.T).sum(0))
    update_column_scales(block, quadratic)
    torch.testing.assert_close(block.column_scale, wanted)
