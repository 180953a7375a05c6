"""A LLaMA model in Phi-3's architecture is the same function; twins are alike but for their norms, and studied once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from binllm.errors import BinllmError
from binllm.models import Attention, Family, ModelConfig, Source, load_model
from binllm.models.random import random_model
from experiments.families import fused, layernorm, phi3, twins
from experiments.families.twins import NORMS, WINDOW, twin

IDS = torch.arange(24).view(2, 12) * 7 % 512


@pytest.mark.parametrize("attention", Attention)
def test_the_written_phi3_model_gives_the_logits_of_the_llama_model(attention: Attention, tmp_path: Path) -> None:
    llama = load_model(ModelConfig("tiny", source=Source.random, family=Family.llama, seed=3, attention=attention))
    overrides = ["model=tiny_llama", "model.seed=3", f"model.attention={attention.value}"]
    assert phi3.main([str(tmp_path / "out"), *overrides]) == 0
    found = load_model(ModelConfig("out", source=Source.folder, path=str(tmp_path / "out"), attention=attention))
    assert found.model.config.model_type == "phi3"
    assert found.tokenizer.get_vocab() == llama.tokenizer.get_vocab()
    # In float64, for a product may add in another order where a matrix is higher.
    logits, expected = (loaded.model.double()(IDS).logits for loaded in (found, llama))
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("unlike", [{"attention_bias": True}, {"mlp_bias": True}, {"head_dim": 8}])
def test_what_phi3_lacks_is_refused(unlike: dict) -> None:
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4}
    with torch.random.fork_rng(devices=[]):
        model = LlamaForCausalLM(LlamaConfig(vocab_size=8, **shape, **unlike))
    with pytest.raises(BinllmError, match="Phi-3"):
        phi3.as_phi3(model)


def test_other_architectures_are_refused() -> None:
    with pytest.raises(BinllmError, match="model = opt: allowed is a model of type llama"):
        phi3.as_phi3(random_model(Family.opt))


def test_parts_of_fused_matrices_are_found_again() -> None:
    llama = random_model(Family.llama)
    for own, found in zip(fused.weights(llama), fused.weights(phi3.as_phi3(llama)), strict=True):
        assert own.keys() == found.keys() == set(fused.PARTS)
        assert all(torch.equal(own[part], found[part]) for part in own)


def test_twins_differ_in_their_norms_alone() -> None:
    models = {norm: twin(norm, seed=1) for norm in NORMS}
    states = [model.state_dict() for model in models.values()]
    assert states[0].keys() - states[1].keys() == {name for name in states[0] if name.endswith("norm.bias")}
    assert all(torch.equal(states[0][name], tensor) for name, tensor in states[1].items())
    kinds = [{type(one) for one in model.modules() if "Norm" in type(one).__name__} for model in models.values()]
    assert kinds == [{nn.LayerNorm}, {nn.RMSNorm}]
    ids = torch.arange(WINDOW)[None] % 512
    logits = [model(ids).logits for model in models.values()]
    assert not torch.allclose(logits[0], logits[1], atol=1e-3)


def test_a_layernorm_model_reexpressed_with_rmsnorm_is_the_same_function() -> None:
    model = twin("layernorm", seed=2).double().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():  # trained ones have biases, and weights that are not 1
        if parameter.dim() == 1:
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    other = twins.reexpressed(model)
    assert not any(isinstance(module, nn.LayerNorm) for module in other.modules())
    ids = torch.arange(WINDOW)[None] * 5 % 512
    torch.testing.assert_close(other(ids).logits, model(ids).logits, rtol=0, atol=1e-10)


def test_the_study_of_twins_goes_on_and_is_done_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in (
        (twins, "WIDTH", 32), (twins, "BLOCKS", 1), (layernorm, "ROWS", 2), (layernorm, "LENGTH", 130),
        (layernorm, "STEPS", 2), (layernorm, "DRAWS", 1), (layernorm, "OBJECTIVES", ("weight_align", "output_align")),
        (layernorm, "SETTINGS", (*layernorm.SETTINGS, "solver=closed_form", "evaluation.windows=2", "dataset.sequences=4")),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    command, file = ["--seeds", "7", "--out", str(tmp_path)], tmp_path / "layernorm.json"
    assert layernorm.main(command) == 0
    whole = json.loads(file.read_text())
    assert len(whole["twins"]) == 3 and len(whole["runs"]) == 3 * 2
    same = [row["perplexity"] for row in whole["twins"] if row["form"] != "rmsnorm"]
    assert same[0] == pytest.approx(same[1], rel=1e-5)
    table = (tmp_path / "layernorm.md").read_text()
    gains = [layernorm.gain(whole, form, 7, "output_align") for form in layernorm.FORMS]
    assert f"| {gains[2]:+.4f} | {gains[0] - gains[1]:+.4f} | {gains[0] - gains[2]:+.4f} |" in table
    kept = {**whole, "runs": whole["runs"][:3]}
    file.write_text(json.dumps(kept))
    monkeypatch.setattr(layernorm, "train", None)  # the twins are there
    assert layernorm.main(command) == 0
    assert json.loads(file.read_text()) == whole
