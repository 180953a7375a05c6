"""GGUF files are converted once, exactly, and never half."""

import gguf
import numpy as np
import pytest
import torch

from binllm.errors import BinllmError
from binllm.models import Family, ModelConfig, Source, load_model
from binllm.models import gguf as reader
from binllm.models.llama2c import _read_tokens
from binllm.models.loading import TINY_TOKENIZER
from binllm.models.random import random_model

IDS = torch.arange(12)[None] + 260
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def interleave(weight: np.ndarray, heads: int) -> np.ndarray:
    """GGUF keeps the rotary pairs of q and k beside each other."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path, model) -> None:
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    tokens = _read_tokens(TINY_TOKENIZER)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([token.replace(" ", "▁") for token, _ in tokens])
    writer.add_token_scores([score for _, score in tokens])
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * (len(tokens) - 259))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    writer.add_tensor("token_embd.weight", state["model.embed_tokens.weight"])
    writer.add_tensor("output_norm.weight", state["model.norm.weight"])
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for layer in range(config.num_hidden_layers):
        for own, other in NAMES.items():
            weight = state[f"model.layers.{layer}.{own}.weight"]
            weight = interleave(weight, heads[other]) if other in heads else weight
            writer.add_tensor(f"blk.{layer}.{other}.weight", np.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def original():
    return random_model(Family.llama, seed=4).eval()


@pytest.fixture
def file(tmp_path, monkeypatch, original):
    monkeypatch.setenv("BINLLM_CACHE", str(tmp_path / "cache"))
    write_gguf(tmp_path / "tiny.gguf", original)
    return tmp_path / "tiny.gguf"


def load(file):
    return load_model(ModelConfig(name="m", source=Source.gguf, path=str(file)))


def test_a_gguf_model_is_the_same_function_cold_and_from_the_cache(file, original, monkeypatch, capfd):
    cold = load(file)
    assert capfd.readouterr() == ("", "")
    torch.testing.assert_close(cold.model(IDS).logits, original(IDS).logits, rtol=0, atol=1e-6)
    monkeypatch.setattr(reader, "_convert", lambda *_: pytest.fail("converted again"))
    warm = load(file)
    assert torch.equal(cold.model(IDS).logits, warm.model(IDS).logits)
    assert cold.origin == warm.origin == f"gguf tiny.gguf sha256:{reader.file_hash(file)}"
    assert cold.tokenizer("Once upon").input_ids == warm.tokenizer("Once upon").input_ids


def test_a_loaded_gguf_model_can_be_saved(file, tmp_path):
    loaded = load(file)
    loaded.model.save_pretrained(tmp_path / "saved")
    assert not hasattr(loaded.model.config, "quantization_config")
    assert (tmp_path / "saved" / "model.safetensors").exists()


def test_a_gguf_file_cut_in_half_is_refused_and_leaves_nothing(file, tmp_path):
    whole = file.read_bytes()
    for part in (len(whole) // 2, 200, 20):
        file.write_bytes(whole[:part])
        with pytest.raises(BinllmError, match="model.path = .*cut or damaged") as caught:
            load(file)
        assert "\n" not in str(caught.value)
    assert list((tmp_path / "cache" / "models").iterdir()) == []


def test_what_is_no_gguf_file_is_refused(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"something else")
    with pytest.raises(BinllmError, match="does not start with GGUF"):
        load(tmp_path / "a.gguf")


def test_a_damaged_copy_is_made_again(file, tmp_path):
    first = load(file)
    shard = next((tmp_path / "cache" / "models").rglob("model.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-50])
    assert torch.equal(load(file).model(IDS).logits, first.model(IDS).logits)


def test_it_loads_without_a_cache(file, tmp_path, monkeypatch, original):
    (tmp_path / "a_file").write_text("")
    monkeypatch.setenv("BINLLM_CACHE", str(tmp_path / "a_file"))
    torch.testing.assert_close(load(file).model(IDS).logits, original(IDS).logits, rtol=0, atol=1e-6)
