"""The bits of the formulas are the bytes in the files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_codes import EXTRAS, FAMILIES, SHAPES, generator, packed_model, random_code
from safetensors import safe_open

from binllm.packing import BinaryLinear, LayerSpec, binary_layers
from binllm.packing.accounting import checkpoint_bits, layer_bits
from binllm.packing.checkpoint import save_checkpoint


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("extras", EXTRAS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_layer_costs_what_its_tensors_take(
    shape: tuple[int, int, int], extras: dict[str, Any], dtype: torch.dtype
) -> None:
    code = random_code(shape[:2], shape[2], generator(), **extras).stored(dtype)
    stored = dict(BinaryLinear.from_code(code, torch.zeros(shape[0]), dtype).named_buffers())
    bits = layer_bits(code)
    assert bits.linear_bits == 8 * sum(t.nbytes for t in stored.values())
    assert bits.payload_bits == 8 * sum(stored[n].nbytes for n in stored if n in ("signs", "residual_signs"))
    assert bits.nominal == (code.signs.numel() + shape[0] * code.salient_count) / code.signs.numel()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_a_checkpoint_costs_what_its_layers_and_other_tensors_take(family: str, tied: bool, tmp_path: Path) -> None:
    model = packed_model(family, generator(), tied=tied)
    account = checkpoint_bits(save_checkpoint(model, None, tmp_path / "checkpoint"))
    layers = binary_layers(model)
    total = layer_bits(next(iter(layers.values())).spec)
    for layer in list(layers.values())[1:]:
        total += layer_bits(layer.spec)
    assert (account.nominal, account.payload, account.linear) == pytest.approx(
        (total.nominal, total.payload, total.linear)
    )
    assert (8 * account.payload_bytes, 8 * account.linear_bytes) == (total.payload_bits, total.linear_bits)
    others = sum(p.numel() for p in model.parameters())  # a tied parameter is listed once
    assert account.parameters == others + total.weights
    with safe_open(tmp_path / "checkpoint/model.safetensors", "pt") as saved:
        assert account.model_bytes == sum(saved.get_tensor(name).nbytes for name in saved.keys())  # noqa: SIM118
    assert account.model == 8 * account.model_bytes / account.parameters
    assert account.file_bytes == (tmp_path / "checkpoint/model.safetensors").stat().st_size


def test_figures_known_from_the_literature() -> None:
    side = 4096
    assert layer_bits(LayerSpec(side, side, 128)).linear == 1.125
    assert layer_bits(LayerSpec(side, side, 128, column_scale=True)).linear == 1.125 + 16 / side
    assert layer_bits(LayerSpec(side, side, side, column_scale=True)).linear == pytest.approx(1.0078, abs=1e-4)
    grouped = layer_bits(LayerSpec(side, side, 128, groups=2, salient=25, column_scale=True))
    assert grouped.nominal == 1 + 25 / side
    assert grouped.linear == pytest.approx(2 + 3 * 0.125 + 25 / side + 16 / side, abs=2e-3)
