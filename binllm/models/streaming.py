"""A model that is not loaded: built without weights, which are read from its safetensors files block by block."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from binllm.models.families import decoder_blocks
from binllm.models.on_demand import Stored, make_on_demand
from binllm.packing.headers import read_headers

CPU = torch.device("cpu")


def empty_model(
    folder: Path, dtype: torch.dtype | None, attention: str | None, trust_remote_code: bool = False
) -> PreTrainedModel:
    """Build a model as `from_pretrained` does, with every parameter on the meta device.

    Args:
        folder: In the layout of transformers.
        dtype: Of the parameters; None is the folder's own.
        attention: Attention implementation; None is transformers' choice.
        trust_remote_code: Let the folder run its own Python code.

    Returns:
        The model in evaluation mode; buffers that are no weights, such as rotary frequencies, are in memory.
    """
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
    options: dict[str, Any] = {} if attention is None else {"attn_implementation": attention}
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(
            config, dtype=dtype or config.dtype or torch.float32, trust_remote_code=trust_remote_code, **options
        )
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    return model.requires_grad_(False).eval()


def unlike_the_files(model: PreTrainedModel, files: Iterable[Path]) -> list[str]:
    """Names of the model's tensors that its files do not hold, or hold in another shape."""
    headers, tied = read_headers(files), model.get_expanded_tied_weights_keys(all_submodels=True)
    wanted = {tied.get(name, name): tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    return [name for name, shape in sorted(wanted.items()) if name not in headers or headers[name].shape != shape]


def stream_weights(model: PreTrainedModel, files: Iterable[Path]) -> None:
    """Let an empty model read its weights: a decoder block as a whole, every other module by itself.

    Args:
        model: Its tensors are named as in the files; tied ones may be there once.
        files: The safetensors files.
    """
    stored = {name: Stored(file, name) for file in files for name in read_headers([file])}
    for target, source in model.get_expanded_tied_weights_keys(all_submodels=True).items():
        stored.setdefault(target, stored[source])
    path, blocks = decoder_blocks(model)
    inside = {module for block in blocks for module in block.modules()}
    parts: list[tuple[str, nn.Module, Iterable[str]]] = [
        (f"{path}.{name}", block, block.state_dict()) for name, block in blocks.named_children()
    ]
    for name, module in model.named_modules():
        own = [tensor for tensor in module.state_dict() if "." not in tensor]
        parts += [(name, module, own)] if own and module not in inside else []
    for name, module, tensors in parts:
        make_on_demand(module, {tensor: stored[f"{name}.{tensor}"] for tensor in tensors}, CPU)
