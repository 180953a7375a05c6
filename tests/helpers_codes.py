"""Random codes of every kind and tiny packed models for tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM, Phi3Config, Phi3ForCausalLM
from transformers import PreTrainedModel as Model

from binllm.packing import BinaryCode, BinaryLinear, Code, HaarCode, PartialCode, UniformCode

FAMILIES = ("llama", "phi3", "opt")
EXTRAS: tuple[dict[str, Any], ...] = (
    {},
    {"groups": 2},
    {"salient": 3},
    {"salient": 30},
    {"column_scale": True},
    {"row_mean": True},
    {"groups": 2, "salient": 5, "column_scale": True, "row_mean": True},
    {"groups": 2, "salient": 5, "salient_groups": 1, "row_mean": True, "own": True},  # BiLLM, and one more mean
    {"groups": 2, "salient": 5, "salient_groups": 1, "column_scale": True, "own": True},  # ARB-RC
    {"groups": 2, "salient": 5, "salient_groups": 2, "column_scale": True, "own": True},  # with CGB
    {"groups": 2, "salient": 5, "salient_groups": 2, "column_scale": True, "row_mean": True},
    {"salient": 4, "salient_groups": 2, "column_scale": True, "row_mean": True, "own": True},
    {"salient": 9, "salient_groups": 1},
)
SHAPES = ((6, 64, 16), (5, 50, 16), (9, 37, 128), (1, 33, 8), (48, 40, 1))  # n_out, n_in, block_size


def generator(seed: int = 0) -> torch.Generator:
    """An explicit source of random numbers."""
    return torch.Generator().manual_seed(seed)


def signs(source: torch.Generator, *size: int) -> Tensor:
    """Random signs, int8."""
    return (torch.randint(0, 2, size, generator=source) * 2 - 1).to(torch.int8)


def bits(source: torch.Generator, *size: int, below: int = 2) -> Tensor:
    """Random unsigned numbers, uint8."""
    return torch.randint(0, below, size, generator=source, dtype=torch.uint8)


def scale(source: torch.Generator, dtype: torch.dtype, *size: int, around: float = 0.05) -> Tensor:
    """Random scales between half and one and a half of `around`."""
    return (around * (0.5 + torch.rand(size, generator=source, dtype=torch.float64))).to(dtype)


def columns(source: torch.Generator, n_in: int, count: int) -> Tensor:
    """Random increasing column indices."""
    return torch.randperm(n_in, generator=source)[:count].sort().values


def random_code(
    shape: tuple[int, int],
    block_size: int,
    source: torch.Generator,
    *,
    groups: int = 1,
    salient: int = 0,
    column_scale: bool = False,
    row_mean: bool = False,
    salient_groups: int = 0,
    own: bool = False,
    dtype: torch.dtype = torch.float32,
) -> BinaryCode:
    """A valid code (n_out, n_in) with random tensors; `salient` is cut to the number of columns.

    `own`: column scales, where there are any, for each group and for the residual plane, means for each cell.
    """
    (n_out, n_in), salient = shape, min(salient, shape[1])
    blocks, cells = -(-n_in // block_size), groups + salient_groups
    two_groups = max(groups, salient_groups) == 2
    own_columns = own and column_scale and salient > 0
    both = (2,) if salient_groups == 2 else ()
    code = BinaryCode(
        signs=signs(source, n_out, n_in),
        row_scale=scale(source, dtype, n_out, blocks, cells),
        block_size=block_size,
        group=bits(source, *shape) if two_groups else None,
        column_scale=scale(source, dtype, n_in, *((2,) if own and two_groups else ()), around=1)
        if column_scale
        else None,
        row_mean=scale(source, dtype, n_out, blocks, *((cells,) if own else ()), around=0.01) - 0.01
        if row_mean
        else None,
        salient=columns(source, n_in, salient) if salient else None,
        residual_signs=signs(source, n_out, salient) if salient else None,
        residual_scale=scale(source, dtype, n_out, blocks, *both, around=0.02) if salient else None,
        residual_column_scale=scale(source, dtype, salient, *both, around=1) if own_columns else None,
        salient_groups=salient_groups,
    )
    if code.group is not None and code.salient is not None and salient_groups:
        code.group[:, code.salient] *= salient_groups == 2
        plain = [j for j in range(n_in) if j not in code.salient.tolist()]
        code.group[:, plain] *= groups == 2
    return code


def random_uniform(
    shape: tuple[int, int],
    block_size: int,
    source: torch.Generator,
    level_bits: int,
    dtype: torch.dtype = torch.float32,
) -> UniformCode:
    """Random levels of a uniform grid."""
    by_block, below = (shape[0], -(-shape[1] // block_size)), 2**level_bits
    return UniformCode(
        levels=bits(source, *shape, below=below),
        scale=scale(source, dtype, *by_block),
        zero=bits(source, *by_block, below=below),
        level_bits=level_bits,
        block_size=block_size,
    )


def random_partial(
    shape: tuple[int, int],
    block_size: int,
    source: torch.Generator,
    fraction: float = 0.1,
    dtype: torch.dtype = torch.float32,
) -> PartialCode:
    """Random signs with a fraction of salient entries of eight bits."""
    by_block = (shape[0], -(-shape[1] // block_size))
    mask = torch.rand(shape, generator=source) < fraction
    return PartialCode(
        mask=mask,
        signs=signs(source, *shape).masked_fill(mask, 0),
        levels=bits(source, *shape, below=256).masked_fill(~mask, 0),
        row_scale=scale(source, dtype, *by_block),
        row_mean=scale(source, dtype, *by_block, around=0.01) - 0.01,
        salient_scale=scale(source, dtype, shape[0], around=0.01),
        salient_zero=bits(source, shape[0], below=256),
        block_size=block_size,
    )


def random_haar(
    shape: tuple[int, int],
    block_size: int,
    source: torch.Generator,
    axis: str,
    salient: int = 5,
    dtype: torch.dtype = torch.float32,
) -> HaarCode:
    """Random Haar coefficients; shape and block size are made even, one column at least stays plain."""
    n_out, n_in, block_size = (n + n % 2 for n in (*shape, block_size))
    salient = min(salient, n_in - 1)
    n_plain, bands = (n_in, 2) if axis == "row" else (n_in - salient, 1)
    by_block = (n_out, -(-n_in // block_size))
    code = HaarCode(
        axis=axis,
        signs=signs(source, n_out, n_plain),
        group=bits(source, n_out, n_plain),
        scale=scale(source, dtype, *by_block, bands, 2),
        mean=scale(source, dtype, *by_block, bands, around=0.01) - 0.01,
        block_size=block_size,
    )
    if not salient:
        return code
    return replace(
        code,
        salient=columns(source, n_in, salient),
        salient_signs=signs(source, n_out, salient),
        salient_group=bits(source, n_out, salient),
        salient_scale=scale(source, dtype, *by_block, 2, around=0.02),
        salient_mean=scale(source, dtype, *by_block, 2, around=0.01) - 0.01,
    )


# Called with (shape, block_size, source) and an optional dtype of the scales.
SPECIMENS: dict[str, Callable[..., Code]] = {
    **{f"binary {extras}": partial(random_code, **extras) for extras in EXTRAS},
    **{f"uniform of {width} bits": partial(random_uniform, level_bits=width) for width in (2, 3, 4, 8)},
    "partial": random_partial,
    "partial without salient entries": partial(random_partial, fraction=0.0),
    "haar of rows": partial(random_haar, axis="row"),
    "haar of columns": partial(random_haar, axis="column"),
    "haar without salient columns": partial(random_haar, axis="row", salient=0),
}
ONE_OF_EACH_KIND = (
    *(f"binary {EXTRAS[number]}" for number in (6, 9)),
    *("uniform of 3 bits", "partial", "partial without salient entries", "haar of rows", "haar of columns"),
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


def packed_model(family: str, source: torch.Generator, *, tied: bool = True, only: str | None = None) -> Model:
    """A tiny model with every linear layer of its blocks packed: as the specimen `only`, or each as another one."""
    model = tiny_model(family, source, tied=tied)
    head = model.get_output_embeddings()
    linears = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head]
    for number, (name, linear) in enumerate(linears):
        specimen = list(SPECIMENS)[number % len(SPECIMENS)] if only is None else only
        code = SPECIMENS[specimen]((linear.out_features, linear.in_features), 16, source)
        model.set_submodule(name, BinaryLinear.from_code(code, linear.bias))
    return model


def logits(model: Model) -> torch.Tensor:
    """Logits of a fixed pair of sequences, (2, 9, vocabulary)."""
    tokens = torch.arange(18).reshape(2, 9) * 3 + 5
    with torch.no_grad():
        return model(input_ids=tokens).logits
