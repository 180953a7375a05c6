"""The benchmark of the kernels: its bars are what it says, and its quick form measures every layer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from binllm.packing import BinaryLinear
from experiments.benchmarks import kernels

TIMING = kernels.Timing("a model", "row", 8192, 28672, 1, 1.0, 6.0, 29_000_000, 1.0, 0.6, 1e-3)


def test_each_bar_can_fail() -> None:
    assert kernels.bars([TIMING]) == {"speed": True, "bandwidth": True, "error": True}
    for bar, worse in {
        "speed": replace(TIMING, seconds=1.01),
        "bandwidth": replace(TIMING, bandwidth_share=0.59),
        "error": replace(TIMING, relative_error=2e-3),
    }.items():
        assert kernels.bars([TIMING, worse]) == {"speed": True, "bandwidth": True, "error": True} | {bar: False}


@pytest.mark.parametrize("n_in", [192, 4096])
def test_random_layers_are_valid(n_in: int) -> None:
    layer = kernels.random_layer(kernels.spec_of("best", 6, n_in), "torch", torch.device("cpu"), seed=1)
    code = layer.to_code().validate()
    assert torch.equal(BinaryLinear.from_code(code).get_buffer("salient"), layer.get_buffer("salient"))


def test_quick_measures_every_layer_and_says_what_is_exact(tmp_path: Path) -> None:
    out = tmp_path / "kernels.json"
    assert kernels.main(["--quick", "--out", str(out)]) == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    assert len(found["timings"]) == 2 * 2 * 2 and found["held"] == {}
    assert all(timing["seconds"] > 0 and timing["relative_error"] < 5e-3 for timing in found["timings"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is at hand")
def test_without_a_gpu_it_says_so_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert kernels.main([]) == 2
    assert "no CUDA device" in capsys.readouterr().err and not list(tmp_path.iterdir())
