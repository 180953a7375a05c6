"""The cost benchmark: its line is the least squares line, and its quick form measures every point."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from experiments.benchmarks import cost


def test_the_line_through_points_on_a_line_is_that_line() -> None:
    fit = cost.linear_fit([1, 2, 4], [5.0, 7.0, 11.0])
    assert fit == pytest.approx({"slope": 2.0, "intercept": 3.0, "r_squared": 1.0})


def test_points_beside_the_line_lower_r_squared() -> None:
    # Derived by hand: y = x² at -1, 0, 1 has slope 0, mean 2/3, and no variance explained.
    fit = cost.linear_fit([-1, 0, 1], [1.0, 0.0, 1.0])
    assert fit["slope"] == pytest.approx(0.0, abs=1e-12)
    assert fit["r_squared"] == pytest.approx(0.0, abs=1e-12)


def test_the_random_model_depends_on_its_seed_only() -> None:
    torch.manual_seed(1)
    first = cost.random_llama(64, 1, seed=3).state_dict()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = cost.random_llama(64, 1, seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = cost.random_llama(64, 1, seed=4).state_dict()
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


def test_quick_measures_each_point_three_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "QUICK", cost.Sizes(width=64, length=16, depths=(1, 2), sequences=(1, 2)))
    out = tmp_path / "cost.json"
    assert cost.main(["--quick", "--out", str(out), "solver=closed_form"]) == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    counted = sorted((point["blocks"], point["tokens"]) for point in found["points"])
    assert counted == sorted([(1, 16), (2, 16), (1, 32)] * 3)
    assert all(0 < point["fit_seconds"] < point["seconds"] for point in found["points"])
    assert set(found["fits"]) == {"seconds_per_block", "seconds_per_token"}
    assert found["machine"]["cpu"]
