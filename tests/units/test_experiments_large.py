"""The benchmark of large models: its model is a function of the sizes, and what is extrapolated is what it says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from binllm.models import ModelConfig, Source, load_model
from experiments.benchmarks import large


def test_the_random_model_is_whole_and_the_same_every_time(tmp_path: Path) -> None:
    states = []
    for name in ("one", "other"):
        large.write_model(tmp_path / name, large.QUICK)
        config = ModelConfig(name=name, source=Source.folder, path=str(tmp_path / name))
        states.append(load_model(config).model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    matrices = [tensor for tensor in states[0].values() if tensor.dim() == 2]
    assert all(float(m.std()) == pytest.approx(m.shape[1] ** -0.5, rel=0.05) for m in matrices)
    first, second = (states[0][f"model.layers.{index}.self_attn.q_proj.weight"] for index in (0, 1))
    assert not torch.equal(first, second)


def test_the_whole_models_time_is_the_opening_and_the_mean_block_for_every_block(tmp_path: Path) -> None:
    sizes = replace(large.QUICK, layers=5, blocks=2)
    large.write_model(tmp_path / "model", sizes)
    large.measure(tmp_path / "model", "rtn", sizes, torch.get_num_threads(), tmp_path / "out.json")
    found = json.loads((tmp_path / "out.json").read_text())
    assert len(found["blocks"]) == 2
    for kind in ("seconds", "cpu_seconds"):
        mean = (found["blocks"][0][kind] + found["blocks"][1][kind]) / 2
        assert found[f"extrapolated_quantize_{kind}"] == pytest.approx(found["open"][kind] + 5 * mean)
    assert found["peak_memory_bytes"] >= max(one["peak_memory_bytes"] for one in found["blocks"][0]["layers"].values())
