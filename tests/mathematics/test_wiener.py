"""The best continuous solution is a Wiener filter: its output never has more energy than the target."""

from __future__ import annotations

import pytest
import torch
from helpers import SEEDS, sample

from binllm.objectives import OutputAlign, family


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", ["whole", "ragged", "dead", "singular"])
def test_filtered_energy_is_below_the_true_energy_in_every_direction(kind: str, seed: int) -> None:
    layer = sample(kind, seed)
    s = layer.statistics()
    inverse = torch.linalg.pinv(s.gram, hermitian=True)
    y = layer.tokens()[0] @ layer.weight.T
    true = y.T @ y
    filtered = layer.weight @ s.cross_gram @ inverse @ s.cross_gram.T @ layer.weight.T
    gap = torch.linalg.eigvalsh(true - filtered)
    assert float(gap[0]) >= -1e-9 * float(true.trace())


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_every_target_of_the_family_is_filtered(seed: int, alpha: float) -> None:
    layer = sample("ragged", seed)
    s = layer.statistics()
    quadratic = layer.problem(OutputAlign(alpha=alpha)).objective
    explained = (torch.linalg.solve(s.gram, quadratic.linear.T).T * quadratic.linear).sum(1)
    energy = family.target_energy(layer.weight, s, alpha)
    assert bool((explained <= energy * (1 + 1e-12)).all())
    assert bool((explained >= energy * (1 - 1e-12)).all()) == (alpha == 0)  # nothing is lost where nothing drifts
