"""Sweeps over signs, residual signs and groups: the method's formula, and a coordinate-wise optimum at the end."""

from __future__ import annotations

import pytest
import torch
from helpers import BINARIZATIONS, SEEDS, SHAPES, copy_block, random_block
from torch import Tensor

from binllm.binarization import Block
from binllm.solvers.levels import sweep_levels
from binllm.solvers.updates import BlockQuadratic


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("binarization", ["row", "row_column"])
def test_one_plane_is_the_printed_sign_formula_column_by_column(binarization: str, shape: str, seed: int) -> None:
    block, quadratic = random_block(binarization, shape, seed)
    signs, a, b, metric = block.signs(), block.row_scale[0], block.column_scale, quadratic.metric
    for k in range(len(signs)):
        others = b * metric[:, k]
        others[k] = 0
        new = torch.sign(b[k] * a * (quadratic.linear[k] - a * (others @ signs)))
        signs[k] = torch.where(new == 0, signs[k], new)
    wanted = signs * a * b[:, None]
    sweep_levels(block, quadratic, regroup=True)
    torch.testing.assert_close(block.dense(), wanted)


def values(block: Block, k: int, regroup: bool) -> Tensor:
    """Every value that each entry of column k may take (levels, n_out)."""
    index, value = block.candidates(bool(block.salient[k]))
    value = value * block.column_scale[k] + (0 if block.row_mean is None else block.row_mean)
    foreign = (index >> 2)[:, None] != (block.level[k] >> 2)
    return value if regroup else torch.where(foreign, block.dense()[k], value)


@pytest.mark.parametrize("regroup", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("binarization", BINARIZATIONS)
def test_repeated_sweeps_end_where_no_single_entry_can_be_improved(
    binarization: str, shape: str, regroup: bool
) -> None:
    block, quadratic = random_block(binarization, shape, 0)
    for _ in range(100):
        before = block.dense()
        sweep_levels(block, quadratic, regroup)
        if torch.equal(before, block.dense()):
            break
    else:
        pytest.fail("no fixed point")
    best, weight = quadratic.rows(block), block.dense()
    for k in range(len(weight)):
        for value in values(block, k, regroup):
            moved = weight.clone()
            moved[k] = value
            loss = ((quadratic.metric @ moved - 2 * quadratic.linear) * moved).sum(0)
            assert bool((loss >= best - 1e-9 * best.abs()).all())


@pytest.mark.parametrize("shape", ["narrow", "panels"])
@pytest.mark.parametrize("binarization", BINARIZATIONS)
def test_without_regrouping_entries_stay_in_their_group_and_scales_stay(binarization: str, shape: str) -> None:
    block, quadratic = random_block(binarization, shape, 0)
    before = copy_block(block)
    sweep_levels(block, quadratic, regroup=False)
    assert torch.equal(before.level >> 2, block.level >> 2)
    assert torch.equal(before.row_scale.abs(), block.row_scale.abs())
    assert torch.equal(before.column_scale, block.column_scale)
    assert not torch.equal(before.dense(), block.dense())


@pytest.mark.parametrize("binarization", BINARIZATIONS)
def test_making_scales_positive_does_not_change_the_weight(binarization: str) -> None:
    block, _ = random_block(binarization, "panels", 0)
    before = block.dense()
    assert bool((block.row_scale < 0).any())
    block.make_scales_positive()
    assert torch.equal(before, block.dense())
    assert bool((block.row_scale >= 0).all())
    assert bool((block.residual_scale >= 0).all())


@pytest.mark.parametrize("sign", [1, -1])
def test_an_exact_zero_keeps_the_old_sign(sign: int) -> None:
    """By hand: A = [[2, 1], [1, 2]], Ŵ = (±1, 1), T_1 = 1 = A_12 Ŵ_2, so nothing speaks for either sign of Ŵ_1."""
    block, _ = random_block("row", "narrow", 0)
    block.level = torch.tensor([[0 if sign > 0 else 1], [0]], dtype=block.level.dtype)
    block.row_scale, block.column_scale = torch.ones(1, 1).double(), torch.ones(2).double()
    block.salient, block.residual_scale = torch.zeros(2, dtype=torch.bool), torch.zeros(1).double()
    metric = torch.tensor([[2.0, 1.0], [1.0, 2.0]]).double()
    sweep_levels(block, BlockQuadratic(metric, torch.tensor([[1.0], [9.0]]).double()), regroup=True)
    assert block.dense().tolist() == [[sign], [1]]


@pytest.mark.parametrize("regroup", [False, True])
@pytest.mark.parametrize("size", [0.1, 10.0])
@pytest.mark.parametrize("binarization", BINARIZATIONS)
def test_weights_that_are_exactly_zero_keep_their_sign_and_take_the_smaller_magnitude(
    binarization: str, size: float, regroup: bool
) -> None:
    """Pruned or padded weights under weight alignment; Q must not rise, whatever the size of the scales."""
    block, quadratic = random_block(binarization, "panels", 0)
    block.row_scale, block.residual_scale = block.row_scale * size, block.residual_scale * size
    if block.row_mean is not None:
        block.row_mean = torch.zeros_like(block.row_mean)
    block.make_scales_positive()
    identity = BlockQuadratic(torch.eye(71).double(), torch.zeros_like(quadratic.linear))
    before, signs, plain = identity.rows(block), block.signs(), ~block.salient
    sweep_levels(block, identity, regroup)
    assert bool((identity.rows(block) <= before).all())
    assert torch.equal(block.signs()[plain], signs[plain])
    if regroup:
        smallest = block.row_scale.min(0).values * block.column_scale.abs()[:, None]
        torch.testing.assert_close(block.dense().abs()[plain], smallest[plain])
