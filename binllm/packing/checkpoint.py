"""Saves a packed model and loads it again, equal in every bit.

A checkpoint is a folder that transformers understands: config.json with a `quantization_config`, safetensors
files, generation config, tokenizer and a model card. It holds no time stamp and no path, so equal models give equal bytes,
and it appears under its name only when complete.
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from binllm.errors import BinllmError
from binllm.kernels import KernelName, check_kernel
from binllm.models.on_demand import read_tensor, to_device
from binllm.models.streaming import empty_model, stream_weights
from binllm.packing.card import Card, write_card
from binllm.packing.headers import (
    FORMAT_VERSION,
    INDEX_FILE,
    check_hashes,
    file_hash,
    read_config,
    read_headers,
    tensor_files,
)
from binllm.packing.layer import binary_layers, set_kernel
from binllm.packing.quantizer import BinllmQuantizationConfig, check_tensors, replace_layers
from binllm.tracking.atomic import replacing_folder


def save_checkpoint(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    folder: str | Path,
    header: dict[str, Any] | None = None,
    max_shard_size: int | str = "2GB",
) -> Path:
    """Write a packed model.

    Args:
        model: With `BinaryLinear` layers; every other tensor is saved in the smallest dtype that holds it
            exactly.
        tokenizer: Saved along, if there is one.
        folder: Replaced if it exists.
        header: Plain JSON values kept in `quantization_config.header`; leave out what changes from run to
            run. The model card names its `base_model` and `command`, if they are there.
        max_shard_size: Bytes of a tensor file at most, or a size such as "2GB".

    Returns:
        The folder.

    Raises:
        BinllmError: If the folder cannot be written; nothing half-written is left then.
    """
    folder = Path(folder)
    with _one_line_on_failure(folder), replacing_folder(folder) as partial:
        tensors, tied = _tensors_to_save(model)
        hashes = _write_tensors(model, tensors, partial, max_shard_size)
        _config_to_save(model, tied, header, hashes).save_pretrained(partial)
        if model.generation_config is not None:
            model.generation_config.save_pretrained(partial)
        if tokenizer is not None:
            tokenizer.save_pretrained(partial)
        write_card(partial, Card(**{key: (header or {}).get(key) for key in ("base_model", "command")}))
    return folder


def load_checkpoint(
    folder: str | Path,
    dtype: torch.dtype | None = None,
    kernel: str | KernelName = KernelName.dense,
    device: torch.device | str = "cpu",
    attn_implementation: str | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """Load a packed model; its logits equal those of the model that was saved, at equal dtype and attention.

    Args:
        folder: Written by `save_checkpoint`.
        dtype: Of everything that is not packed; None is the saved model's.
        kernel: Of the packed layers.
        device: On which the model is put.
        attn_implementation: As in `from_pretrained`; None is transformers' choice.

    Returns:
        The model in evaluation mode and its tokenizer, None if none was saved.

    Raises:
        BinllmError: If a file is missing, truncated or damaged, a tensor is missing, unexpected or wrongly
            shaped, or the checkpoint is of another version or no such checkpoint.
    """
    folder = Path(folder)
    check_kernel(kernel, device)
    read_config(folder)
    tensor_files(folder)
    options = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
    with _no_progress_bars():
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype or "auto", local_files_only=True, device_map={"": device}, **options
        )
    set_kernel(model, kernel)
    return model, _tokenizer(folder)


def stream_checkpoint(
    folder: str | Path,
    dtype: torch.dtype | None = None,
    kernel: str | KernelName = KernelName.dense,
    device: torch.device | str = "cpu",
    attn_implementation: str | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """As `load_checkpoint`, but every decoder block is read when it runs, and forgotten after."""
    folder = Path(folder)
    check_kernel(kernel, device)
    quantization, files = read_config(folder)["quantization_config"], tensor_files(folder)
    model = empty_model(folder, dtype, attn_implementation)
    replace_layers(model, quantization["layers"], model.dtype)
    check_tensors(model, read_headers(files))
    check_hashes(files, quantization.get("sha256", {}))
    stream_weights(model, files)
    set_kernel(model, kernel)
    return to_device(model, torch.device(device)), _tokenizer(folder)


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase | None:
    has_tokenizer = (folder / "tokenizer_config.json").is_file()
    return AutoTokenizer.from_pretrained(folder, local_files_only=True) if has_tokenizer else None


def _tensors_to_save(model: PreTrainedModel) -> tuple[dict[str, Tensor], bool]:
    """The tensors by name, tied ones once, and whether the model's tied tensors are tied in fact.

    Those that are not in memory stay on the meta device, in the dtype in which they are saved.
    """
    state, tied = model.state_dict(), True
    for target, source in model.get_expanded_tied_weights_keys(all_submodels=True).items():
        if target in state and source in state and state[target].data_ptr() == state[source].data_ptr():
            del state[target]
        else:
            tied = False
    packed = {f"{layer}.{name}" for layer, m in binary_layers(model).items() for name, _ in m.named_buffers()}
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in sorted(state.items()):
        read = read_tensor(model, name, tensor)
        saved = read.contiguous() if name in packed else _smallest_exact(read)
        address = saved.untyped_storage().data_ptr()
        if tensor.is_meta:
            tensors[name] = saved.to("meta")
        else:  # safetensors refuses memory shared in ways that transformers cannot tie
            tensors[name] = saved.clone() if address in seen else saved
            seen.add(address)
    return tensors, tied


def _smallest_exact(tensor: Tensor) -> Tensor:
    """Cast a float32 tensor to 16 bits where that loses nothing, as for models published in 16 bits."""
    if tensor.dtype == torch.float32:
        for dtype in (torch.bfloat16, torch.float16):
            cast = tensor.to(dtype)
            if torch.equal(cast.float(), tensor):
                return cast.contiguous()
    return tensor.contiguous()


def _write_tensors(
    model: PreTrainedModel, tensors: dict[str, Tensor], folder: Path, max_shard_size: int | str
) -> dict[str, str]:
    """Write the tensor files and, for more than one, their index; what is not in memory is read file by file.

    Returns:
        SHA-256 of every tensor file by its name.
    """
    split = split_torch_state_dict_into_shards(
        tensors, filename_pattern="model{suffix}.safetensors", max_shard_size=max_shard_size
    )
    hashes = {}
    for file, names in split.filename_to_tensors.items():
        content = {name: read_tensor(model, name, tensors[name]) for name in names}
        save_file(content, folder / file, metadata={"format": "pt"})
        del content
        (folder / file).chmod(0o644)  # safetensors writes files that only their owner may read
        hashes[file] = file_hash(folder / file)
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return hashes


def _config_to_save(model: PreTrainedModel, tied: bool, header: dict[str, Any] | None, hashes: dict[str, str]) -> Any:
    """The model's config with everything that loading needs, without touching the model."""
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.dtype = str(model.dtype).removeprefix("torch.")
    if not tied:
        config.tie_word_embeddings = False
    layers = {name: layer.spec.to_dict() for name, layer in binary_layers(model).items()}
    quantization = BinllmQuantizationConfig(layers, header, hashes, FORMAT_VERSION)
    config.quantization_config = quantization.to_dict()
    return config


@contextlib.contextmanager
def _one_line_on_failure(folder: Path) -> Iterator[None]:
    """Make the folder's parent, and turn what the disk refuses into the user's error."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        yield
    except (OSError, SafetensorError) as error:
        raise BinllmError(f"{folder}: the checkpoint cannot be written ({error})") from error


@contextlib.contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Keep transformers from drawing bars of its own into the run's."""
    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()
