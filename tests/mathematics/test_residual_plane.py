"""More levels never hurt: a residual plane, or a second magnitude group, on the same data."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers import BINARIZATIONS, SOLVERS, Sample, run, sample, target_of

from binllm.objectives import WeightAlign

N_IN = 23
WIDER = {
    **{(name, "salient_columns"): 0 for name, planes in BINARIZATIONS.items() if planes.salient_columns},
    **{(name, "groups"): 1 for name, planes in BINARIZATIONS.items() if planes.groups == 2},
    **{(name, "column_scale"): False for name, planes in BINARIZATIONS.items() if planes.column_scale},
    # With two groups, centring moves the first split of the magnitudes, which decides the local optimum.
    **{(name, "row_mean"): False for name, planes in BINARIZATIONS.items() if planes.row_mean and planes.groups == 1},
}


def layer(seed: int) -> Sample:
    return sample("ragged", seed)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("binarization", "part"), WIDER, ids=str)
def test_leaving_a_part_of_the_code_out_never_helps_weight_alignment(binarization: str, part: str, solver: str) -> None:
    with_part = replace(BINARIZATIONS[binarization], block_size=N_IN)
    without = replace(with_part, **{part: WIDER[binarization, part]})
    problem = layer(list(SOLVERS).index(solver)).problem(WeightAlign())
    wide, narrow = (run(problem, planes, SOLVERS[solver]).trace[-1] for planes in (with_part, without))
    assert wide <= narrow * (1 + 1e-9)


def test_salient_columns_are_those_with_the_most_weighted_energy() -> None:
    planes = replace(BINARIZATIONS["row_column_residual"], block_size=N_IN)
    source = layer(0)
    for diagonal in (torch.ones(N_IN).double(), torch.linspace(3, 0.01, N_IN).double()):
        target = source.weight.repeat(1, 2)[:, :N_IN]
        block = planes.initialise(target_of(target, torch.eye(N_IN).double(), torch.diag(diagonal)))
        size = (target.square().sum(0) * diagonal).tolist()
        wanted = sorted(range(N_IN), key=lambda j: -size[j])[: planes.salient_columns]
        assert sorted(block.salient.nonzero()[:, 0].tolist()) == sorted(wanted)
