"""llama.cpp runs what was exported, and computes what torch computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers_llamacpp import TEXT, planes_model, tokenizer
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

import binllm
from binllm.configuration import compose_run
from binllm.llamacpp import ExportOptions, export_gguf
from binllm.models import load_model
from binllm.schema import build
from experiments.common.llamacpp import Engine, agreement

pytest.importorskip("xllamacpp", reason="the extra llamacpp is not installed")

STORY = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw"
    " a big, red ball. She wanted to play with it, but it was too high. Her mom said: Lily, let us go home. Lily was sad."
)


@pytest.mark.parametrize("one_bit", [True, False])
@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_logits_agree_with_torch(family: str, one_bit: bool, tmp_path: Path):
    model = planes_model(family)
    export_gguf(model, tokenizer(), tmp_path / "m.gguf", ExportOptions(one_bit=one_bit))
    ids: list[int] = tokenizer()(TEXT)["input_ids"]  # type: ignore[assignment]
    engine = Engine(tmp_path / "m.gguf", vocabulary=512, context=128)
    with torch.no_grad():
        wanted = model(input_ids=torch.tensor([ids])).logits[0]
    error, same = agreement(wanted, engine.log_probabilities(ids))
    # Beside Q1_0 activations are rounded to int8, which a random model of width 64 does not average out.
    assert error < (0.04 if one_bit else 0.002)
    assert same >= 0.9
    assert engine.tokenize(TEXT) == ids


@pytest.mark.parametrize("kind", ["linear", "llama3"])
def test_rescaled_rotary_embeddings(kind: str, tmp_path: Path):
    model = planes_model("llama")
    ids = torch.tensor([tokenizer()(TEXT)["input_ids"]])
    with torch.no_grad():
        plain = model(input_ids=ids).logits[0]
        more = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
        rope = {"rope_type": kind, "rope_theta": 10000.0, "factor": 8.0} | (more if kind == "llama3" else {})
        model.config.rope_parameters = rope
        model.base_model.rotary_emb = LlamaRotaryEmbedding(model.config)
        wanted = model(input_ids=ids).logits[0]
    export_gguf(model, tokenizer(), tmp_path / "m.gguf", ExportOptions(one_bit=False))
    found = Engine(tmp_path / "m.gguf", vocabulary=512, context=128).log_probabilities(ids[0].tolist())
    assert agreement(wanted, found)[0] < 0.002 < agreement(plain, found)[0]


def test_a_trained_model_quantized_by_the_preset(tmp_path: Path):
    loaded = load_model(build(compose_run(["model=stories260k"]).model))
    ids: list[int] = loaded.tokenizer(STORY)["input_ids"][:64]  # type: ignore[index]
    model, _ = binllm.quantize(
        loaded.model,
        tokens=torch.tensor([ids, ids[::-1]]),
        overrides=["method=q1_0", "solver=closed_form"],
        progress=False,
    )
    export = export_gguf(model, loaded.tokenizer, tmp_path / "m.gguf", ExportOptions(refuse=True))
    assert export.bits_per_stored_weight == 1.125
    with torch.no_grad():
        wanted = model(input_ids=torch.tensor([ids])).logits[0]
    error, same = agreement(wanted, Engine(export.path, vocabulary=512, context=128).log_probabilities(ids))
    assert len(ids) == 64 and error < 0.02 and same >= 0.9
