"""Layers that read one input share their column scales, and what is made of them is what llama.cpp can hold."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_llamacpp import TEXT, read_back, tokenizer
from transformers import PreTrainedModel

import binllm
from binllm.errors import BinllmError
from binllm.llamacpp import ExportOptions, export_gguf
from binllm.models.config import Family
from binllm.models.random import random_model
from binllm.packing import binary_layers


@cache
def tokens() -> torch.Tensor:
    return torch.randint(3, 250, (2, 48), generator=torch.Generator().manual_seed(0))


def quantized(family: str, *overrides: str) -> tuple[PreTrainedModel, list[Any]]:
    model = random_model(Family[family])
    common = ["method=q1_0", "solver=closed_form", "calibration.granularity=block"]
    return binllm.quantize(model, tokens=tokens(), overrides=[*common, *overrides], progress=False)


@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_the_preset_makes_models_that_fold_into_one_plane(family: str, tmp_path: Path):
    model, _ = quantized(family)
    export = export_gguf(model, tokenizer(), tmp_path / "m.gguf", ExportOptions(refuse=True, exact_embeddings=True))
    assert {tensor.type for tensor in export.tensors if tensor.linear} == {"Q1_0"}
    ids = torch.tensor([tokenizer()(TEXT)["input_ids"]])
    with torch.no_grad():
        wanted, found = model(input_ids=ids).logits, read_back(tmp_path / "m.gguf")(input_ids=ids).logits
    # Row scales that took up column scales are rounded to fp16 again, 2^-11 of each.
    assert (found - wanted).abs().mean() < 2e-3 * wanted.std()


def test_readers_of_one_input_share_scales_that_differ_from_column_to_column():
    model, records = quantized("llama")
    layers = {name.removeprefix("model.layers.0."): layer.to_code() for name, layer in binary_layers(model).items()}
    for names in (("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), ("mlp.gate_proj", "mlp.up_proj")):
        first, *others = (layers[name].column_scale for name in names)  # type: ignore[attr-defined]
        assert all(torch.equal(first, other) for other in others)
        assert len(first.unique()) > len(first) // 2
        assert sum(record.layer == "+".join(names) for record in records) == len(model.base_model.layers)  # type: ignore[union-attr, arg-type]
    assert layers["self_attn.o_proj"].column_scale is None  # type: ignore[attr-defined] - two heads read a row of v


def test_o_has_column_scales_where_every_head_has_its_own_values():
    model, _ = quantized("opt")
    codes = [layer.to_code() for name, layer in binary_layers(model).items() if name.endswith("out_proj")]
    assert codes and all(code.column_scale is not None for code in codes)  # type: ignore[attr-defined]


def test_without_column_scales_a_stack_is_its_layers():
    stacked, _ = quantized("llama", "binarization.column_scale=false")
    alone, _ = quantized("llama", "binarization=row")
    for name, layer in binary_layers(alone).items():
        assert torch.allclose(layer.dense_weight(), binary_layers(stacked)[name].dense_weight(), atol=1e-3)


def test_one_objective_for_the_layers_of_a_stack():
    with pytest.raises(BinllmError, match=r"objective.roles = v: allowed is all or none of q, k, v"):
        quantized("llama", "objective.roles=[v]")


@pytest.mark.parametrize("option", ["groups=2", "salient_columns=3", "row_mean=true"])
def test_more_than_a_plane_is_refused(option: str):
    with pytest.raises(BinllmError, match=f"binarization.{option.partition('=')[0]} = .* with binarization foldable"):
        quantized("llama", f"binarization.{option}")
