"""What llama.cpp has to know of an architecture: which models can be written, their metadata, their blocks' tensors."""

from __future__ import annotations

from typing import Any

import torch
from gguf import GGUFWriter
from torch import Tensor, nn
from transformers import PreTrainedModel

from binllm.errors import BinllmError, bad_value
from binllm.llamacpp.folding import Pieces
from binllm.llamacpp.geometry import Geometry
from binllm.llamacpp.matrix import Dense, Matrix, Plane, matrix_of
from binllm.models.families import ROLE_OF_NAME
from binllm.packing import BinaryLinear

ARCHITECTURES = ("llama", "phi3")
"""Known model types, by the name that transformers and llama.cpp share."""

TENSOR_OF = {
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "o": "attn_output",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}
FUSED = {"qkv": ("q", "k", "v"), "gate_up": ("gate", "up")}
FUSED_TENSOR_OF = {"qkv": "attn_qkv", "gate_up": "ffn_up"}


def check_exportable(model: PreTrainedModel) -> None:
    """Refuse a model that llama.cpp, or this export, would not compute as transformers does.

    Raises:
        BinllmError: Naming the architecture, or the option of it that is not supported.
    """
    config: Any = model.config
    if config.model_type not in ARCHITECTURES:
        raise bad_value("CHECKPOINT", config.model_type, f"an architecture with RMSNorm: {' or '.join(ARCHITECTURES)}")
    biased = next((name for name, part in model.named_modules() if getattr(part, "bias", None) is not None), None)
    if biased:
        raise bad_value("CHECKPOINT", biased, "layers without bias in an export to GGUF")
    if config.hidden_act != "silu":
        raise bad_value("hidden_act", config.hidden_act, "silu in an export to GGUF")
    rope: dict[str, Any] = config.rope_parameters
    known = ("default", "linear", "llama3") if config.model_type == "llama" else ("default",)
    if rope["rope_type"] not in known:
        raise bad_value("rope_parameters.rope_type", rope["rope_type"], f"{', '.join(known)} in an export to GGUF")
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise bad_value("partial_rotary_factor", rope["partial_rotary_factor"], "1 in an export to GGUF")


def write_metadata(writer: GGUFWriter, config: Any, geometry: Geometry, norm_eps: float) -> None:
    """Write the sizes and constants that llama.cpp builds the graph from."""
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(geometry.hidden)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(geometry.intermediate)
    writer.add_head_count(geometry.heads)
    writer.add_head_count_kv(geometry.kv_heads)
    writer.add_key_length(geometry.head)
    writer.add_value_length(geometry.head)
    writer.add_rope_dimension_count(geometry.head)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(norm_eps)
    writer.add_vocab_size(config.vocab_size)
    if config.model_type == "phi3" and getattr(config, "sliding_window", None):
        writer.add_sliding_window(config.sliding_window)


def rope_factors(model: PreTrainedModel) -> Tensor | None:
    """What llama.cpp divides the rotary frequencies by, (head / 2,) float32; None where all are 1."""
    rotary: Any = next(part for part in model.modules() if hasattr(part, "inv_freq"))
    frequencies = rotary.inv_freq.double().cpu()
    exponent = torch.arange(len(frequencies), dtype=torch.float64) / len(frequencies)
    config: Any = model.config
    factors = config.rope_parameters["rope_theta"] ** -exponent / frequencies
    return None if torch.allclose(factors, torch.ones_like(factors), rtol=1e-5) else factors.float()


def pieces_of(block: nn.Module, geometry: Geometry) -> Pieces:
    """Take a decoder block apart."""
    matrices: dict[str, Matrix] = {}
    layers: dict[str, str] = {}
    for name, layer in block.named_modules():
        if not isinstance(layer, BinaryLinear | nn.Linear):
            continue
        role, start = ROLE_OF_NAME[name.rpartition(".")[2]].value, 0
        for piece in FUSED.get(role, (role,)):
            stop = start + geometry.shape(piece)[0]
            matrices[piece] = matrix_of_layer(layer, start, stop)
            layers[piece], start = name, stop
    norms: list[Any] = [getattr(block, name) for name in ("input_layernorm", "post_attention_layernorm")]
    attention, feed_forward = (norm.weight.detach().cpu().double() for norm in norms)
    return Pieces(matrices, attention, feed_forward, layers)


def matrix_of_layer(layer: nn.Module, start: int = 0, stop: int | None = None) -> Matrix:
    """Some rows of a layer, packed or not."""
    if isinstance(layer, BinaryLinear):
        return matrix_of(layer.to_code().rows(start, layer.out_features if stop is None else stop))
    weight: Tensor = layer.weight  # type: ignore[assignment]
    return Dense(weight.detach().cpu().float()[start:stop])


def tensors_of(matrices: dict[str, Matrix], model_type: str, geometry: Geometry) -> dict[str, Matrix]:
    """A block's matrices under llama.cpp's names and in its order of rows, fused layers put together again.

    In the query and key heads of a LLaMA, llama.cpp rotates neighbouring channels, transformers those half a head apart.
    """
    if model_type == "llama":
        order = torch.arange(geometry.head).reshape(2, -1).T.flatten()
        for piece in ("q", "k"):
            rows = torch.arange(matrices[piece].shape[0]).reshape(-1, geometry.head)[:, order].flatten()
            matrices[piece] = matrices[piece].rows(rows)
        return {TENSOR_OF[piece]: matrix for piece, matrix in matrices.items()}
    fused = {FUSED_TENSOR_OF[role]: _stacked([matrices[p] for p in pieces]) for role, pieces in FUSED.items()}
    return fused | {TENSOR_OF[piece]: matrices[piece] for piece in ("o", "down")}


def _stacked(parts: list[Matrix]) -> Matrix:
    """The rows of several matrices of one kind in one."""
    if isinstance(parts[0], Plane):
        planes = [part for part in parts if isinstance(part, Plane)]
        signs, scale = torch.cat([p.signs for p in planes]), torch.cat([p.scale for p in planes])
        return Plane(signs, scale, None, parts[0].code)
    dense = [part for part in parts if isinstance(part, Dense)]
    if len(dense) != len(parts):
        raise BinllmError("a fused layer is written in one type")
    return Dense(torch.cat([part.weight for part in dense]), dense[0].reason)
