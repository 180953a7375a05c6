"""Every update only lowers its own loss; what the loss does not see stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from helpers import BINARIZATIONS, SEEDS, SHAPES, SOLVERS, copy_block, random_block
from torch import Tensor

from binllm.binarization import Block
from binllm.solvers.levels import sweep_levels
from binllm.solvers.updates import BlockQuadratic, update_column_scales, update_row_scales

Update = Callable[[Block, BlockQuadratic], None]
ROW_UPDATES: dict[str, Update] = {
    "row_scales": update_row_scales,
    "signs": partial(sweep_levels, regroup=False),
    "levels": partial(sweep_levels, regroup=True),
}
UPDATES = {**ROW_UPDATES, "column_scales": update_column_scales}


def parameters(block: Block) -> list[Tensor]:
    means = [] if block.row_mean is None else [block.row_mean]
    return [block.level, block.row_scale, block.column_scale, block.residual_scale, *means]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("binarization", BINARIZATIONS)
def test_an_update_never_raises_its_loss(binarization: str, update: str, shape: str) -> None:
    lowered = 0
    for seed in SEEDS:
        block, quadratic = random_block(binarization, shape, seed)
        before = quadratic.rows(block)
        UPDATES[update](block, quadratic)
        change = quadratic.rows(block) - before
        if update == "column_scales":  # shared by all rows, so only the sum falls
            change = change.sum()
        assert bool((change <= 1e-10 * before.abs().sum()).all())
        lowered += int((change < 0).sum())
    assert lowered > 0 or (update == "column_scales" and not BINARIZATIONS[binarization].column_scale)


@pytest.mark.parametrize("update", ["row_scales", "column_scales", "levels"])
@pytest.mark.parametrize("binarization", BINARIZATIONS)
def test_an_update_is_done_when_it_is_repeated(binarization: str, update: str) -> None:
    """A closed form is idempotent; a sweep reaches a fixed point."""
    block, quadratic = random_block(binarization, "narrow", 0)
    for _ in range(20 if update == "levels" else 1):
        UPDATES[update](block, quadratic)
    once = copy_block(block)
    UPDATES[update](block, quadratic)
    for old, new in zip(parameters(once), parameters(block), strict=True):
        torch.testing.assert_close(new, old, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("binarization", BINARIZATIONS)
def test_a_zero_loss_moves_nothing(binarization: str, update: str) -> None:
    block, quadratic = random_block(binarization, "narrow", 0)
    block.make_scales_positive()  # a change of the representation only, which sweeps may make
    before = copy_block(block)
    zero = BlockQuadratic(torch.zeros_like(quadratic.metric), torch.zeros_like(quadratic.linear))
    UPDATES[update](block, zero)
    for old, new in zip(parameters(before), parameters(block), strict=True):
        assert torch.equal(old, new)


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("binarization", BINARIZATIONS)
def test_dead_columns_keep_their_scales_and_levels(binarization: str, update: str) -> None:
    block, quadratic = random_block(binarization, "dead", 0)
    block.make_scales_positive()
    dead = slice(0, SHAPES["dead"].dead)
    before = copy_block(block)
    UPDATES[update](block, quadratic)
    assert torch.equal(before.level[dead], block.level[dead])
    assert torch.equal(before.column_scale[dead], block.column_scale[dead])
    assert not all(torch.equal(a, b) for a, b in zip(parameters(before), parameters(block), strict=True)) or (
        update == "column_scales" and not block.scales_columns
    )


@pytest.mark.parametrize("binarization", [n for n, b in BINARIZATIONS.items() if b.groups == 2])
def test_a_magnitude_group_without_members_keeps_its_scale(binarization: str) -> None:
    block, quadratic = random_block(binarization, "panels", 0)
    block.level = block.level & 3
    before = block.row_scale.clone()
    update_row_scales(block, quadratic)
    assert torch.equal(block.row_scale[1], before[1])
    assert not bool((block.row_scale[0] == before[0]).any())


@pytest.mark.parametrize("binarization", BINARIZATIONS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_fit_and_its_refinement_never_raise_their_loss(solver: str, binarization: str) -> None:
    for shape in ("narrow", "singular"):
        block, quadratic = random_block(binarization, shape, 1)
        for improve in (SOLVERS[solver].fit, SOLVERS[solver].refine):
            before = quadratic.rows(block).sum()
            improve(block, quadratic)
            assert float(quadratic.rows(block).sum()) <= float(before + 1e-10 * before.abs())
