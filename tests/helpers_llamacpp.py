"""Tiny packed models whose layers are single sign planes, for tests of the export to GGUF."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader
from helpers_codes import generator, random_code, signs
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from binllm.models.config import Family
from binllm.models.llama2c import load_llama2c_tokenizer
from binllm.models.loading import TINY_TOKENIZER
from binllm.models.random import random_model
from binllm.packing import BinaryCode, BinaryLinear

READ_TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
TEXT = "Once upon a time, there was a little girl named Lily. She saw a big cat"


def tokenizer() -> PreTrainedTokenizerFast:
    """The embedded one, of 512 tokens."""
    return load_llama2c_tokenizer(TINY_TOKENIZER)


def plane(linear: nn.Linear, source: torch.Generator, column_scale: torch.Tensor | None) -> BinaryCode:
    """Random signs with scales that keep the output's size."""
    shape = (linear.out_features, linear.in_features)
    code = random_code(shape, 128, source)
    size = 20 / linear.in_features**0.5  # random_code's scales lie around 1/20
    return replace(code, row_scale=code.row_scale * size, column_scale=column_scale)


def power_of_two(source: torch.Generator, size: int) -> torch.Tensor:
    """Column scales of both signs whose products with other scales need no rounding."""
    return 2.0 ** torch.randint(-1, 2, (size,), generator=source) * signs(source, size)


def planes_model(family: str, shared: bool = True) -> PreTrainedModel:
    """A tiny random model, every linear layer of its blocks one plane with column scales.

    Args:
        family: llama or phi3.
        shared: Whether the column scales have the form that folds away: shared by layers that read one input, and for
            `o` by the query heads of a key/value head.
    """
    model, source = random_model(Family[family]), generator()
    for block in model.base_model.layers:  # type: ignore[union-attr]
        scales: dict[tuple[str, ...], torch.Tensor] = {}
        for name, linear in [(n, m) for n, m in block.named_modules() if isinstance(m, nn.Linear)]:
            last = name.rpartition(".")[2]
            readers = next((group for group in READ_TOGETHER if last in group), (last,)) if shared else (last,)
            if readers not in scales:
                scales[readers] = power_of_two(source, linear.in_features)
                if last == "o_proj" and shared:  # 4 query heads of width 16, two for each key/value head
                    own = scales[readers].reshape(2, 2, 16)
                    scales[readers] = own[:, :1].expand(2, 2, 16).flatten().contiguous()
            block.set_submodule(name, BinaryLinear.from_code(plane(linear, source, scales[readers])))
    return model.eval()


def read_back(file: Path) -> PreTrainedModel:
    """The model of a GGUF file, read by the format's description and not by the code under test."""
    reader = GGUFReader(file)
    values = {name: field.contents() for name, field in reader.fields.items()}
    kind = values["general.architecture"]
    about = {name.removeprefix(f"{kind}."): value for name, value in values.items()}
    heads, head = about["attention.head_count"], about["attention.key_length"]
    config = {
        "hidden_size": about["embedding_length"],
        "intermediate_size": about["feed_forward_length"],
        "num_hidden_layers": about["block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": about["attention.head_count_kv"],
        "head_dim": head,
        "rms_norm_eps": about["attention.layer_norm_rms_epsilon"],
        "vocab_size": about["vocab_size"],
        "max_position_embeddings": about["context_length"],
        "rope_parameters": {"rope_type": "default", "rope_theta": about["rope.freq_base"]},
        "tie_word_embeddings": True,
    }
    if kind == "llama":
        model: PreTrainedModel = LlamaForCausalLM(LlamaConfig(**config))
    else:
        model = Phi3ForCausalLM(Phi3Config(**config, pad_token_id=None, sliding_window=None))
    state = dict(_tensor(tensor, kind, head) for tensor in reader.tensors)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert missing == ["lm_head.weight"] and not unexpected
    return model.eval()


NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def _tensor(tensor: Any, kind: str, head: int) -> tuple[str, torch.Tensor]:
    shape = tuple(int(size) for size in reversed(tensor.shape))
    weight = torch.from_numpy(_dense(tensor, shape).copy())
    *block, name, _ = tensor.name.split(".")
    if kind == "llama" and name in ("attn_q", "attn_k"):  # neighbouring channels are rotated together
        weight = weight.reshape(-1, head // 2, 2, shape[1]).transpose(1, 2).reshape(shape)
    own = "gate_up_proj" if kind == "phi3" and name == "ffn_up" else None
    place = f"model.layers.{block[1]}." if block else ""
    return f"{place}{f'mlp.{own}' if own else NAMES[name]}.weight", weight


def _dense(tensor: Any, shape: tuple[int, ...]) -> np.ndarray:
    if tensor.tensor_type is GGMLQuantizationType.Q1_0:
        blocks = tensor.data.reshape(-1, 18)
        bits = np.unpackbits(blocks[:, 2:], axis=1, bitorder="little").astype(np.float32)
        return ((2 * bits - 1) * blocks[:, :2].copy().view("<f2").astype(np.float32)).reshape(shape)
    if tensor.tensor_type is GGMLQuantizationType.BF16:
        return (tensor.data.view(np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(shape)
    return tensor.data.astype(np.float32).reshape(shape)
