"""The bits of the formulas are the bytes in the files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_codes import EXTRAS, FAMILIES, ONE_OF_EACH_KIND, SHAPES, SPECIMENS, generator, packed_model, random_code
from safetensors import safe_open

from binllm.packing import BinaryLinear, LayerSpec, Spec, binary_layers
from binllm.packing.accounting import checkpoint_bits, layer_bits
from binllm.packing.checkpoint import save_checkpoint
from binllm.packing.haar import HaarSpec
from binllm.packing.partial import PartialSpec
from binllm.packing.uniform import UniformSpec


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("specimen", SPECIMENS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_layer_costs_what_its_tensors_take(shape: tuple[int, int, int], specimen: str, dtype: torch.dtype) -> None:
    code = SPECIMENS[specimen](shape[:2], shape[2], generator()).stored(dtype)
    layer = BinaryLinear.from_code(code, torch.zeros(code.shape[0]), dtype)
    packed, bits = code.pack(), layer_bits(code)
    assert bits.weights == code.shape[0] * code.shape[1]
    assert bits.linear_bits == 8 * sum(tensor.nbytes for tensor in packed.values())
    assert bits.payload_bits == 8 * sum(packed[name].nbytes for name in packed.keys() & set(layer.spec.payload))
    assert bits == layer_bits(layer.spec)


@pytest.mark.parametrize("extras", EXTRAS, ids=str)
def test_the_literature_counts_the_signs(extras: dict[str, Any]) -> None:
    code = random_code((9, 37), 16, generator(), **extras)
    assert layer_bits(code).nominal == (code.signs.numel() + 9 * code.salient_count) / code.signs.numel()


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


@pytest.mark.parametrize("specimen", ONE_OF_EACH_KIND)
def test_each_kind_takes_on_disk_what_its_formula_says(specimen: str, tmp_path: Path) -> None:
    model = packed_model("llama", generator(), only=specimen)
    folder = save_checkpoint(model, None, tmp_path / "c")
    account, layers = checkpoint_bits(folder), binary_layers(model)
    formulas = [layer_bits(layer.spec) for layer in layers.values()]
    with safe_open(folder / "model.safetensors", "pt") as saved:
        names = [name for name in saved.keys() if name.rpartition(".")[0] in layers]  # noqa: SIM118
        on_disk = sum(saved.get_tensor(name).nbytes for name in names)
    assert 8 * on_disk == 8 * account.linear_bytes == sum(bits.linear_bits for bits in formulas)
    assert 8 * account.payload_bytes == sum(bits.payload_bits for bits in formulas)
    assert account.nominal == pytest.approx(
        sum(bits.sign_bits for bits in formulas) / sum(bits.weights for bits in formulas)
    )


SIDE, BLOCK, SALIENT = 4096, 128, 25
SECOND = 32 / SIDE  # the salient columns' second plane: 25 bits a row, in four bytes
SCALE = 16 / BLOCK  # a scale or mean for each row and block
CELLS: dict[str, Any] = {"groups": 2, "salient": SALIENT, "salient_groups": 1}
MEANS: dict[str, Any] = {"row_mean": True, "row_mean_per_cell": True}
COLUMNS: dict[str, Any] = {"column_scale": True, "column_scale_per_group": True, "residual_column_scale": True}
# the layer, all its bits per weight (signs, groups, scales), and the bits per weight that the literature prints
PUBLISHED: dict[str, tuple[Spec, float, float]] = {
    "one plane": (LayerSpec(SIDE, SIDE, BLOCK), 1.125, 1.0),
    "column scales": (LayerSpec(SIDE, SIDE, BLOCK, column_scale=True), 1.125 + 16 / SIDE, 1.0),
    "a scale per row and column": (LayerSpec(SIDE, SIDE, SIDE, column_scale=True), 1.0078, 1.0),
    "BiLLM": (LayerSpec(SIDE, SIDE, BLOCK, **CELLS, **MEANS), 2 + 7 * SCALE + SECOND, 1.006),
    "ARB-RC": (LayerSpec(SIDE, SIDE, BLOCK, **CELLS, **COLUMNS), 2 + 4 * SCALE + 32 / SIDE + SECOND, 1.006),
    "ARB-RC with CGB": (
        LayerSpec(SIDE, SIDE, BLOCK, **CELLS | {"salient_groups": 2}, **COLUMNS),
        2 + 6 * SCALE + 32 / SIDE + SECOND,
        1.006,
    ),
    "HBLLM-row": (HaarSpec(SIDE, SIDE, BLOCK, "row", SALIENT), 2 + 10 * SCALE + 2 * SECOND, 1.006),
    "HBLLM-column": (
        HaarSpec(SIDE, SIDE, BLOCK, "column", SALIENT),
        2 - 2 * 24 / SIDE + 7 * SCALE + 2 * SECOND,  # 4071 plain coefficients a row, in 509 bytes
        1.0,
    ),
    "PB-LLM": (PartialSpec(SIDE, SIDE, BLOCK, SIDE * SIDE // 10), 2.7 + 2 * SCALE + (16 + 8) / SIDE, 1.7),
    "GPTQ with 2 bits": (UniformSpec(SIDE, SIDE, 64, 2), 2 + (16 + 2) / 64, 2.0),
    "GPTQ with 3 bits": (UniformSpec(SIDE, SIDE, SIDE, 3), 3 + (16 + 8) / SIDE, 3.0),
}
ROUNDED = {"BiLLM": 2.88, "ARB-RC": 2.52, "ARB-RC with CGB": 2.77, "HBLLM-row": 3.27, "HBLLM-column": 2.88}


@pytest.mark.parametrize("method", PUBLISHED)
def test_recounts_of_published_methods(method: str) -> None:
    spec, linear, nominal = PUBLISHED[method]
    bits = layer_bits(spec)
    assert bits.linear == pytest.approx(linear, abs=1e-4)
    assert bits.nominal == pytest.approx(nominal, abs=2e-4)
    assert round(bits.linear, 2) == ROUNDED.get(method, round(linear, 2))


def test_one_plane_with_scales_in_blocks_takes_an_eighth_more_than_a_bit() -> None:
    assert layer_bits(LayerSpec(SIDE, SIDE, BLOCK)).linear == 1.125
    assert layer_bits(LayerSpec(SIDE, SIDE, BLOCK, column_scale=True)).linear == 1.125 + 16 / SIDE
