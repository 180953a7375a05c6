"""The benchmark of whole layers: every published method makes what its literal oracle makes, and its quick form runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from experiments.benchmarks import layers


@pytest.mark.parametrize("method", layers.METHODS)
def test_a_whole_layer_is_that_of_the_literal_published_method(method: str) -> None:
    """Three blocks of columns: searches, fits, and errors fed back, the last block absorbing those of both others."""
    plan = layers.plan_for(method)
    problem = layers.random_problem(plan, (12, 320), tokens=3)
    wanted = layers.METHODS[method](problem.weight, problem.feedback)
    found = layers.ours(plan, problem)
    assert float((found - wanted).norm() / wanted.norm()) < 1e-5  # fits are float32 here and float64 there


def test_quick_writes_what_it_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "QUICK", layers.Sizes((4, 192), ((4, 64), (4, 128)), model=False, repeats=1))
    monkeypatch.setattr(layers, "METHODS", {"billm": layers.METHODS["billm"]})
    monkeypatch.setattr(layers, "growth", lambda sizes, method: {"seconds_per_entry": {"slope": 1.0, "r_squared": 1.0}})
    out = tmp_path / "layers.json"
    torch_threads = torch.get_num_threads()
    assert layers.main(["--quick", "--threads", str(torch_threads), "--out", str(out)]) == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    assert [row["method"] for row in found["layers"]] == ["billm"]
    assert all(row[precision]["difference"] < 1e-5 for row in found["layers"] for precision in ("float64", "float32"))
    assert [row["method"] for row in found["memory"]] == ["billm"]
