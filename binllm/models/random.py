"""Tiny models with random weights, one for each architecture, for tests and dry runs."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
)

from binllm.models.config import Family

_VOCABULARY = 512  # that of the embedded tokenizer
_COMMON: dict[str, Any] = {
    "vocab_size": _VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": True,
}
# 176 = 128 + 48: the last linear layer has a whole block of 128 columns and a ragged one
_GATED: dict[str, Any] = _COMMON | {"intermediate_size": 176, "num_key_value_heads": 2}


def random_model(family: Family, seed: int = 0) -> PreTrainedModel:
    """Make a tiny model: width 64, 3 blocks, 4 heads (2 key/value heads but in OPT), vocabulary 512.

    Args:
        family: Architecture.
        seed: Seed of the weights, used by an own generator; torch's global generator is left as it was.

    Returns:
        The model in float32. Matrices have entries of variance 1/n_in; norms lie around 1 and biases around 0
        without being equal to them.
    """
    with torch.random.fork_rng(devices=[]):  # the constructors draw weights that are replaced below
        model = _BUILDERS[family]()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                parameter.copy_(noise / parameter.shape[-1] ** 0.5)
            else:
                parameter.copy_(0.1 * noise + (0.0 if name.endswith("bias") else 1.0))
    return model


def _llama() -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**_GATED))


def _phi3() -> PreTrainedModel:
    # the default padding token lies outside this vocabulary
    return Phi3ForCausalLM(Phi3Config(**_GATED, pad_token_id=None, sliding_window=None))


def _opt() -> PreTrainedModel:
    config = OPTConfig(**_COMMON, ffn_dim=176, word_embed_proj_dim=64, dropout=0.0, pad_token_id=1)
    return OPTForCausalLM(config)


_BUILDERS = {Family.llama: _llama, Family.phi3: _phi3, Family.opt: _opt}
