"""Random binary codes and tiny packed models for tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM, Phi3Config, Phi3ForCausalLM
from transformers import PreTrainedModel as Model

from binllm.packing import BinaryCode, BinaryLinear

FAMILIES = ("llama", "phi3", "opt")
EXTRAS: tuple[dict[str, Any], ...] = (
    {},
    {"groups": 2},
    {"salient": 3},
    {"salient": 30},
    {"column_scale": True},
    {"row_mean": True},
    {"groups": 2, "salient": 5, "column_scale": True, "row_mean": True},
)
SHAPES = ((6, 64, 16), (5, 50, 16), (9, 37, 128), (1, 33, 8), (48, 40, 1))  # n_out, n_in, block_size


def generator(seed: int = 0) -> torch.Generator:
    """An explicit source of random numbers."""
    return torch.Generator().manual_seed(seed)


def random_code(
    shape: tuple[int, int],
    block_size: int,
    source: torch.Generator,
    *,
    groups: int = 1,
    salient: int = 0,
    column_scale: bool = False,
    row_mean: bool = False,
    dtype: torch.dtype = torch.float32,
) -> BinaryCode:
    """A valid code (n_out, n_in) with random tensors; `salient` is cut to the number of columns."""
    (n_out, n_in), salient = shape, min(salient, shape[1])
    blocks = -(-n_in // block_size)

    def signs(*size: int) -> torch.Tensor:
        return (torch.randint(0, 2, size, generator=source) * 2 - 1).to(torch.int8)

    def scale(*size: int, around: float = 0.05) -> torch.Tensor:
        return (around * (0.5 + torch.rand(size, generator=source, dtype=torch.float64))).to(dtype)

    return BinaryCode(
        signs=signs(n_out, n_in),
        row_scale=scale(n_out, blocks, groups),
        block_size=block_size,
        group=torch.randint(0, 2, shape, generator=source, dtype=torch.uint8) if groups == 2 else None,
        column_scale=scale(n_in, around=1.0) if column_scale else None,
        row_mean=scale(n_out, blocks, around=0.01) - 0.01 if row_mean else None,
        salient=torch.randperm(n_in, generator=source)[:salient].sort().values if salient else None,
        residual_signs=signs(n_out, salient) if salient else None,
        residual_scale=scale(n_out, blocks, around=0.02) if salient else None,
    )


def tiny_model(family: str, source: torch.Generator, *, tied: bool = True) -> Model:
    """A two-block random model whose widths (24, 40) are no multiple of a block."""
    sizes: dict[str, Any] = {
        "vocab_size": 61,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    sizes |= {"tie_word_embeddings": tied, "max_position_embeddings": 64}
    if family == "opt":
        model: Model = OPTForCausalLM(OPTConfig(ffn_dim=40, word_embed_proj_dim=24, pad_token_id=1, **sizes))
    elif family == "phi3":
        special: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        model = Phi3ForCausalLM(Phi3Config(intermediate_size=40, num_key_value_heads=2, **special, **sizes))
    else:
        model = LlamaForCausalLM(LlamaConfig(intermediate_size=40, num_key_value_heads=2, **sizes))
    for parameter in model.parameters():
        parameter.data.normal_(generator=source).mul_(0.1)
    return model.eval()


def packed_model(
    family: str, source: torch.Generator, *, tied: bool = True, extras: dict[str, Any] | None = None
) -> Model:
    """A tiny model with every linear layer of its blocks packed; without `extras`, each layer differs."""
    model = tiny_model(family, source, tied=tied)
    head = model.get_output_embeddings()
    linears = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head]
    for number, (name, linear) in enumerate(linears):
        options = EXTRAS[number % len(EXTRAS)] if extras is None else extras
        code = random_code((linear.out_features, linear.in_features), 16, source, **options)
        model.set_submodule(name, BinaryLinear.from_code(code, linear.bias))
    return model


def logits(model: Model) -> torch.Tensor:
    """Logits of a fixed pair of sequences, (2, 9, vocabulary)."""
    tokens = torch.arange(18).reshape(2, 9) * 3 + 5
    with torch.no_grad():
        return model(input_ids=tokens).logits
